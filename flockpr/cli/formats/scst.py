"""SCST's sysfs attribute ``pr_state``, text, version 1."""

from __future__ import annotations

import re

from flockpr.cli.formats import checks
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted, Written
from flockpr.cli.formats.transport_ids import encoded, named

TITLE = "SCST pr_state"
_VERSION = "version 1"
_PAGE = 4096
"""What a sysfs attribute takes, a NUL included."""
_RESERVATION = re.compile(r"reservation ([0-9a-fA-F]{1,2}) ([0-9a-fA-F]{1,2})")
_REGISTRANT = re.compile(r"registrant (\d+) ([0-9a-fA-F]{1,16}) ([01]) (\d+) ([0-9a-fA-F]+)")


def recognise(data: bytes) -> bool:
    """Whether it looks like this."""
    return data.startswith(b"version ")


def write(source: Source, _wanted: Wanted) -> Written:
    """The text of a state."""
    registry = source.registry()
    lines = [_VERSION, f"generation {registry.generation}"]
    if registry.type is not None:
        lines.append(f"reservation {registry.type:02x} 00")
    everybody = registry.type is not None and registry.type.all_registrants
    for number, one in enumerate(registry.registrants):
        tid = encoded(one.initiator)
        holder = int(everybody or number == registry.holder)
        lines.append(f"registrant {one.target_port} {one.key:016x} {holder} {len(tid)} {tid.hex()}")
    losses = ["APTPL: SCST keeps its own"]
    if any(one.all_target_ports for one in registry.registrants):
        losses.append(checks.ALL_PORTS)
    data = "".join(f"{line}\n" for line in lines).encode()
    if len(data) >= _PAGE:
        losses.append(f"{len(data)} bytes: the attribute takes {_PAGE - 1}; use scst-file instead")
    return Written(data, tuple(losses))


def read(data: bytes) -> Registry:
    """What such a text says.

    Raises:
        ConfigError: It is none, or one that was cut short.
    """
    text = checks.text_of(data.rstrip(b"\0"))
    if not text.endswith("\n"):
        raise checks.wrong("end", "the last line has no end: the file was cut short")
    lines = text.splitlines()
    if lines[0] != _VERSION:
        raise checks.wrong("line 1", f"{lines[0][:40]!r} is not {_VERSION!r}")
    registrants: list[Registrant] = []
    holders: list[int] = []
    kind = generation = None
    for number, line in enumerate(lines[1:], start=2):
        where = f"line {number}"
        if not line:
            continue
        if line.startswith("generation ") and generation is None:
            generation = checks.number(line.split(" ", 1)[1], 10, 0xFFFF_FFFF, where)
        elif (found := _RESERVATION.fullmatch(line)) and kind is None:
            kind = checks.type_of(int(found[1], 16), where)
            if int(found[2], 16):
                raise checks.wrong(where, "a scope that is not the logical unit")
        elif found := _REGISTRANT.fullmatch(line):
            holders += [len(registrants)] if found[3] == "1" else []
            registrants.append(_registrant(found, where))
        else:
            raise checks.wrong(where, f"{line[:60]!r} is not expected")
    notes = [checks.NO_APTPL, checks.ALL_PORTS]
    notes += [checks.NO_GENERATION] if generation is None else []
    holder = checks.one_holder(kind, holders)
    return Registry(tuple(registrants), kind, holder, generation, None, tuple(notes))


def _registrant(found: re.Match[str], where: str) -> Registrant:
    tid = found[5]
    if len(tid) != 2 * int(found[4]):
        raise checks.wrong(where, f"a TransportID of {len(tid) // 2} bytes, not {found[4]}")
    name, iscsi = named(bytes.fromhex(tid), where)
    port = checks.number(found[1], 10, 0xFFFF, where)
    return Registrant(name, checks.key_of(found[2], 16, where), port, iscsi=iscsi)
