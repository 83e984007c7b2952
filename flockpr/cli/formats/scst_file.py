"""SCST's file of a device, ``/var/lib/scst/pr/<device>``, bytes, version 1.

Signature and version have 8 bytes each in the byte order of the machine; then a byte each for
APTPL, whether there is a reservation, its type and its scope. Each registration is a byte for the
holder, a TransportID, the key with its highest byte first, and 2 bytes for the relative target
port, again as the machine has them. The signature is written last: zeros are a file that was
being written.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from flockpr.cli.formats import checks
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted, Written
from flockpr.cli.formats.transport_ids import encoded, length_at, named

TITLE = "SCST file of a device"
_SIGN = 0xBBEEEEAAEEBBDD77
_VERSION = 1
_HEAD = 20
_ORDERS: tuple[Order, ...] = ("little", "big")
Order: TypeAlias = Literal["little", "big"]


def recognise(data: bytes) -> bool:
    """Whether it looks like this."""
    return _order(data) is not None


def _order(data: bytes) -> Order | None:
    for order in _ORDERS:
        if data[:8] == _SIGN.to_bytes(8, order):
            return order
    return None


def write(source: Source, _wanted: Wanted) -> Written:
    """The file of a state, as a little-endian machine (x86, ARM) writes it."""
    registry = source.registry()
    data = _SIGN.to_bytes(8, "little") + _VERSION.to_bytes(8, "little")
    reserved = registry.type is not None
    data += bytes((int(bool(registry.aptpl)), int(reserved), registry.type or 0, 0))
    for number, one in enumerate(registry.registrants):
        data += bytes((int(number == registry.holder),)) + encoded(one.initiator)
        data += one.key.to_bytes(8, "big") + (one.target_port or 0).to_bytes(2, "little")
    losses = ["PRGENERATION: SCST counts anew", "the byte order: that of x86 and ARM"]
    if any(one.all_target_ports for one in registry.registrants):
        losses.append(checks.ALL_PORTS)
    return Written(data, tuple(losses))


def read(data: bytes) -> Registry:
    """What such a file says.

    Raises:
        ConfigError: It is none, or one that was cut short.
    """
    order = _order(data)
    if order is None:
        raise checks.wrong("byte 0", "no signature of SCST: perhaps it was being written")
    if len(data) < _HEAD or int.from_bytes(data[8:16], order) != _VERSION:
        raise checks.wrong("byte 8", f"not version {_VERSION}, or cut short")
    aptpl, reserved, type_, scope = data[16:_HEAD]
    kind = checks.type_of(type_, "byte 18") if reserved else None
    if reserved and scope:
        raise checks.wrong("byte 19", "a scope that is not the logical unit")
    registrants: list[Registrant] = []
    holders: list[int] = []
    place = _HEAD
    while place < len(data):
        where = f"byte {place}"
        holders += [len(registrants)] if data[place] else []
        size = length_at(data, place + 1, where)
        name, iscsi = named(data[place + 1 : place + 1 + size], where)
        place += 1 + size
        if place + 10 > len(data):
            raise checks.wrong(where, "the registration is cut short")
        key = int.from_bytes(data[place : place + 8], "big")
        port = int.from_bytes(data[place + 8 : place + 10], order)
        checks.key_of(str(key), 10, where)
        registrants.append(Registrant(name, key, port, iscsi=iscsi))
        place += 10
    notes = (checks.NO_GENERATION, checks.ALL_PORTS)
    holder = checks.one_holder(kind, holders)
    return Registry(tuple(registrants), kind, holder, None, bool(aptpl), notes)
