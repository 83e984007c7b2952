"""TransportIDs of foreign files as text, and the other way round."""

from __future__ import annotations

from flockpr.cli.formats import checks
from flockpr.spc.transport_id import (
    FibreChannel,
    InitiatorPort,
    Sas,
    Srp,
    TransportIdFault,
    encode,
    parse_transport_id,
)


def named(data: bytes, where: str) -> tuple[str, bool]:
    """The initiator port as text, and whether it has an iSCSI name.

    Raises:
        ConfigError: It is no TransportID.
    """
    found = parse_transport_id(data)
    match found:
        case InitiatorPort():
            return found.text, True
        case FibreChannel(port_name):
            return f"fcp:0x{port_name:016x}", False
        case Srp(identifier):
            return f"srp:0x{identifier:032x}", False
        case Sas(address):
            return f"sas:0x{address:016x}", False
        case TransportIdFault():
            raise checks.wrong(where, "no TransportID")
    return f"transport-id:{data.hex()}", False


def length_at(data: bytes, offset: int, where: str) -> int:
    """Bytes of the TransportID that begins there.

    Raises:
        ConfigError: It goes on beyond the end.
    """
    iscsi = offset < len(data) and data[offset] & 0x0F == 0x05
    size = 4 + int.from_bytes(data[offset + 2 : offset + 4], "big") if iscsi else 24
    if offset + size > len(data):
        raise checks.wrong(where, "the TransportID is cut short")
    return size


def encoded(name: str) -> bytes:
    """The TransportID of an initiator port."""
    return encode(InitiatorPort.from_text(name))
