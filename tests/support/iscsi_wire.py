"""iSCSI PDUs as an initiator sees them, written from RFC 7143 alone for the tests.

Nothing of the package is imported here: a mistake in the target's own layer cannot cancel
out one in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

BHS_LENGTH = 48
NO_TAG = 0xFFFFFFFF
"""The reserved Initiator Task Tag and Target Transfer Tag (RFC 7143 11.2.1.8, 11.7.4)."""

# What an initiator sends (RFC 7143 11.2.1.2).
NOP_OUT, COMMAND, TASK_REQUEST, LOGIN, TEXT, DATA_OUT, LOGOUT = range(7)
SNACK = 0x10
# What a target sends.
NOP_IN, RESPONSE, TASK_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE = range(
    0x20, 0x27
)
R2T, ASYNCHRONOUS, REJECT = 0x31, 0x32, 0x3F

FINAL = 0x80
CONTINUE = 0x40


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC32C as RFC 7143 13.1 wants it: generator 1EDC6F41h, reflected, inverted at both ends."""
    value = 0xFFFFFFFF
    table = _CRC_TABLE
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def digest(data: bytes) -> bytes:
    """A CRC32C as it travels: the lowest byte first (RFC 7143 13.1)."""
    return crc32c(data).to_bytes(4, "little")


def padded(data: bytes) -> bytes:
    """Filled up with zeroes to a multiple of four bytes (RFC 7143 11.1)."""
    return data + bytes(-len(data) % 4)


def encode_lun(lun: int) -> bytes:
    """A LUN in the eight bytes of a PDU: peripheral device, above 255 flat space addressing."""
    if lun < 256:
        return bytes((0, lun, 0, 0, 0, 0, 0, 0))
    return (0x4000 | lun).to_bytes(2, "big") + bytes(6)


def encode_text(keys: Mapping[str, str | None] | Iterable[tuple[str, str]]) -> bytes:
    """Key=value pairs, each ended by a null; a value of None is left out (RFC 7143 6.1)."""
    pairs = keys.items() if isinstance(keys, Mapping) else keys
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs if value is not None)


def decode_text(data: bytes) -> list[tuple[str, str]]:
    """The pairs of a text; ValueError when it is not well formed."""
    pairs = []
    for item in data.split(b"\0"):
        if item:
            key, sign, value = item.decode().partition("=")
            if not sign:
                raise ValueError(f"no '=' in {item!r}")
            pairs.append((key, value))
    return pairs


def _word(at: int) -> property:
    """Four bytes of the header."""

    def get(self: Pdu) -> int:
        return int.from_bytes(self.header[at : at + 4], "big")

    def put(self: Pdu, value: int) -> None:
        self.header[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")

    return property(get, put)


def _byte(at: int) -> property:
    """One byte of the header."""

    def get(self: Pdu) -> int:
        return self.header[at]

    def put(self: Pdu, value: int) -> None:
        self.header[at] = value

    return property(get, put)


@attrs.define
class Pdu:
    """One PDU: its 48 bytes of basic header, additional headers and data, without digests.

    The fields that share a place carry each PDU's own name for it.
    """

    header: bytearray = attrs.field(factory=lambda: bytearray(BHS_LENGTH))
    ahs: bytes = b""
    data: bytes = b""

    flags = _byte(1)
    byte_2 = _byte(2)
    status = _byte(3)
    itt = _word(16)
    ttt = _word(20)
    expected_length = _word(20)
    cmd_sn = _word(24)
    stat_sn = _word(24)
    exp_stat_sn = _word(28)
    exp_cmd_sn = _word(28)
    max_cmd_sn = _word(32)
    ref_cmd_sn = _word(32)
    data_sn = _word(36)
    buffer_offset = _word(40)
    residual = _word(44)

    @property
    def opcode(self) -> int:
        """The six bits of the operation code."""
        return self.header[0] & 0x3F

    @property
    def immediate(self) -> bool:
        """Whether it is marked for immediate delivery."""
        return bool(self.header[0] & 0x40)

    @property
    def lun(self) -> bytes:
        """The eight bytes of the logical unit number."""
        return bytes(self.header[8:16])

    def encode(self, *, header_digest: bool = False, data_digest: bool = False) -> bytes:
        """Header, additional headers, padded data and what digests there are, as they travel.

        The lengths in the header are set by what is there; `seal` must not be needed.
        """
        self.seal()
        return self.encode_as_is(header_digest=header_digest, data_digest=data_digest)

    def seal(self) -> Pdu:
        """Write the lengths of additional headers and data into the header."""
        self.header[4] = len(padded(self.ahs)) // 4
        self.header[5:8] = len(self.data).to_bytes(3, "big")
        return self

    def encode_as_is(self, *, header_digest: bool = False, data_digest: bool = False) -> bytes:
        """As `encode`, with whatever lengths the header claims: lies stay lies."""
        out = bytes(self.header) + padded(self.ahs)
        if header_digest:
            out += digest(out)
        if self.data:
            body = padded(self.data)
            out += body
            if data_digest:
                out += digest(body)
        return out


def pdu(
    opcode: int,
    flags: int = FINAL,
    *,
    immediate: bool = False,
    lun: int = 0,
    data: bytes = b"",
    ahs: bytes = b"",
    **fields: int,
) -> Pdu:
    """A PDU with these fields, by the names of `Pdu`."""
    made = Pdu(ahs=ahs, data=data)
    made.header[0] = opcode | immediate << 6
    made.header[8:16] = encode_lun(lun)
    made.flags = flags
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class PduReader:
    """Cuts a stream of bytes into PDUs.

    Attributes:
        header_digest: Whether headers carry a CRC32C now.
        data_digest: Whether data segments do.
    """

    def __init__(self) -> None:
        self.header_digest = False
        self.data_digest = False
        self._stream = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._stream += data

    @property
    def pending(self) -> int:
        """Bytes that are there and belong to no whole PDU yet."""
        return len(self._stream)

    def __iter__(self) -> Iterator[Pdu]:
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Pdu | None:
        """The next whole PDU; ValueError when a digest is wrong."""
        stream = self._stream
        if len(stream) < BHS_LENGTH:
            return None
        ahs_length = stream[4] * 4
        length = int.from_bytes(stream[5:8], "big")
        head = BHS_LENGTH + ahs_length
        body = head + 4 * self.header_digest
        whole = body + length + -length % 4 + 4 * (self.data_digest and length > 0)
        if len(stream) < whole:
            return None
        taken = bytes(stream[:whole])
        del stream[:whole]
        if self.header_digest and digest(taken[:head]) != taken[head:body]:
            raise ValueError("wrong header digest")
        if self.data_digest and length and digest(taken[body : whole - 4]) != taken[whole - 4 :]:
            raise ValueError("wrong data digest")
        return Pdu(
            bytearray(taken[:BHS_LENGTH]), taken[BHS_LENGTH:head], taken[body : body + length]
        )
