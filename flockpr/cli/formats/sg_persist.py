"""What ``sg_persist --in --read-full-status`` (sg3_utils) prints."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from flockpr.cli.formats import checks
from flockpr.cli.formats.registry import Registrant, Registry, Source, Wanted, Written
from flockpr.spc.codes import ReservationType
from flockpr.tools.sg_text import TYPES

TITLE = "output of sg_persist --read-full-status"
_HEAD = re.compile(r"  PR generation=0x([0-9a-f]{1,8})")
_KEY = re.compile(r"    Key=0x([0-9a-f]{1,16})")
_PORT = re.compile(r"      Relative port address: 0x([0-9a-f]{1,4})")
_SCOPE = re.compile(r"      scope: LU_SCOPE,  ?type: (.+)")
_WHO = "      Transport Id of initiator:"
_ISCSI = re.compile(r"        iSCSI (?:name|world wide unique port id): (\S+)")
_HOLDER, _NOT_HOLDER = "      << Reservation holder >>", "      not reservation holder"
_ALL, _ONE = "      All target ports bit set", "      All target ports bit clear"
_NOBODY = "  No full status descriptors"


def recognise(data: bytes) -> bool:
    """Whether it looks like this."""
    return b"PR generation=0x" in data


def write(source: Source, _wanted: Wanted) -> Written:
    """The text of a state."""
    from flockpr.core.prin import decide
    from flockpr.spc.cdb import PersistentReserveIn
    from flockpr.spc.codes import InAction
    from flockpr.tools.sg_persist_output import full_status_lines, inquiry_lines

    asked = PersistentReserveIn(InAction.READ_FULL_STATUS, 1 << 30)
    data = decide(source.state, asked, source.config).reply.data
    lines = [*inquiry_lines(), *full_status_lines(data)]
    losses = ["APTPL: it is in --report-capabilities"]
    some = sum(one.all_target_ports for one in source.state.registrations)
    if some > sum(line == _ALL for line in lines) * len(source.config.target_ports):
        losses.append("ALL_TG_PT of those that are not at all target ports with one key any more")
    return Written("".join(f"{line}\n" for line in lines).encode(), tuple(losses))


# ------------------------------------------------------------------ reading


def read(data: bytes) -> Registry:
    """What such a text says.

    Raises:
        ConfigError: It is none, or not of that option.
    """
    text = checks.text_of(data)
    if not text.endswith("\n"):
        raise checks.wrong("end", "the last line has no end: the text was cut short")
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if "PR generation=" in line]
    if len(heads) != 1 or not (head := _HEAD.fullmatch(lines[heads[0]])):
        raise checks.wrong(
            "PR generation",
            "not once, or of another option: --read-full-status alone says who is registered",
        )
    found = [*_descriptors(lines, heads[0] + 1)]
    registrants = [registrant for registrant, _ in found]
    kinds = {kind for _, kind in found if kind is not None}
    if len(kinds) > 1:
        raise checks.wrong("reservation", "two types of reservation")
    kind = next(iter(kinds), None)
    holders = [n for n, (_, held) in enumerate(found) if held is not None]
    holder = checks.one_holder(kind, holders)
    generation = int(head[1], 16)
    return Registry(tuple(registrants), kind, holder, generation, None, (checks.NO_APTPL,))


def _descriptors(
    lines: Sequence[str], first: int
) -> list[tuple[Registrant, ReservationType | None]]:
    rest = [number for number in range(first, len(lines)) if lines[number].strip()]
    if [lines[number] for number in rest[:1]] == [_NOBODY]:
        rest = rest[2:] if len(rest) > 1 and "no registered IT nexuses" in lines[rest[1]] else []
    starts = [number for number in rest if _KEY.fullmatch(lines[number])]
    if rest and starts[:1] != rest[:1]:
        raise checks.wrong(f"line {rest[0] + 1}", f"{lines[rest[0]][:60]!r} is not expected")
    bounds = itertools.pairwise([*starts, len(lines)])
    return [_descriptor(lines[a:b], f"line {a + 1}") for a, b in bounds]


def _descriptor(lines: Sequence[str], where: str) -> tuple[Registrant, ReservationType | None]:
    key = _KEY.fullmatch(lines[0])
    assert key is not None
    rest = [line for line in lines[1:] if line.strip()]
    every = rest[:1] == [_ALL]
    port = _PORT.fullmatch(rest[1]) if rest[:1] == [_ONE] and len(rest) > 1 else None
    if not every and port is None:
        raise checks.wrong(where, "no target port")
    rest = rest[1 if every else 2 :]
    kind = None
    if rest[:1] == [_HOLDER]:
        kind = _type(rest[1] if len(rest) > 1 else "", where)
        rest = rest[2:]
    elif rest[:1] == [_NOT_HOLDER]:
        rest = rest[1:]
    else:
        raise checks.wrong(where, "neither holder nor not")
    name, iscsi = _who(rest, where)
    number = None if port is None else int(port[1], 16)
    return Registrant(name, checks.key_of(key[1], 16, where), number, every, iscsi), kind


def _type(line: str, where: str) -> ReservationType:
    found = _SCOPE.fullmatch(line)
    if found is None or found[1] not in TYPES:
        raise checks.wrong(where, f"{line[:60]!r} is no scope and type")
    return checks.type_of(TYPES.index(found[1]), where)


def _who(lines: Sequence[str], where: str) -> tuple[str, bool]:
    """The initiator, and whether it has an iSCSI name; of others their lines, as one word."""
    if len(lines) < 2 or lines[0] != _WHO:
        raise checks.wrong(where, "no TransportID")
    found = _ISCSI.fullmatch(lines[1])
    if found is not None and len(lines) == 2:
        return found[1].lower(), True
    words = "".join(line.strip() + " " for line in lines[1:]).split()
    return "-".join(words).lower(), False
