"""What can be said of the state of a logical unit: sentences, and the least that helps."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flockpr.unit_status import view_lags

_CONFLICT = 0x18
_SHOWN_REFUSALS = 3

Finding = dict[str, Any]
"""`kind`, `text` and `remedy`, as `--json` shows them (docs/cli.md)."""


def examine(
    status: Mapping[str, Any], refusals: Sequence[Mapping[str, Any]], nexus: str | None = None
) -> list[Finding]:
    """Look at one logical unit.

    Args:
        status: `UnitStatus.to_json`.
        refusals: What its journals have.
        nexus: The initiator that is asked about; None: all that were refused lately.
    """
    findings = [_finding("reservation", _reservation(status))]
    findings += _stale(status)
    findings += _told(status)
    conflicts = _conflicts(refusals)
    names = [nexus] if nexus is not None else list(conflicts)[-_SHOWN_REFUSALS:]
    for name in names:
        findings.append(_explained(status, name, conflicts.get(name, [])))
    if view_lags(status):
        text = (
            "registry.json lags behind the transactions; readers of that file see an older state."
        )
        findings.append(_finding("published", text, "any command to it, or a daemon, writes it"))
    return findings


def _finding(kind: str, text: str, remedy: str = "") -> Finding:
    return {"kind": kind, "text": text, "remedy": remedy}


def _reservation(status: Mapping[str, Any]) -> str:
    reservation, spc2 = status["reservation"], status["spc2"]
    count = len(status["registrations"])
    people = f"{count} initiator{'s are' if count != 1 else ' is'} registered"
    if reservation is None and spc2 is not None:
        return (
            f"{spc2['initiator']} holds it with an SPC-2 RESERVE: every other initiator's commands "
            "conflict, PERSISTENT RESERVE included, until it sends RELEASE or its session ends."
        )
    if reservation is None:
        return f"No reservation is held, so everybody may read and write; {people}."
    held = (
        "every registrant" if reservation["holder"] is None else reservation["holder"]["initiator"]
    )
    return f"{reservation['type_name']}, held by {held}; {people}. {_allowed(reservation['type'])}"


def _allowed(type_: int) -> str:
    """Who may do what under a reservation of a type (SPC-4 5.13.1, table of conflicts)."""
    exclusive = type_ in (3, 6, 8)
    who = "the holder" if type_ in (1, 3) else "registered initiators"
    if exclusive:
        return f"Only {who} may read and write."
    return f"Only {who} may write; everybody may read."


def _stale(status: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for one in status["registrations"]:
        if one["liveness"] == "alive":
            continue
        name = one["initiator"]
        where = f", last served on {one['host']}" if one["host"] else ""
        holds = " It holds the reservation." if one["holder"] else ""
        if one["liveness"] == "gone":
            text = f"{name} is registered and nobody stands for it any more{where}.{holds}"
            remedy = f"flockpr doctor {status['name']} --evict {name}"
            findings.append(_finding("stale", text, remedy))
        else:
            text = f"Whether {name} is alive cannot be told{where}.{holds}"
            findings.append(_finding("unknown", text, "see why `flockpr status` says unknown"))
    return findings


def _told(status: Mapping[str, Any]) -> list[Finding]:
    return [
        _finding(
            "attention",
            f"The next command of {one['initiator']} is answered with a unit attention "
            f"({', '.join(one['codes'])}) and not carried out; the one after that is.",
        )
        for one in status["attentions"]
    ]


def _conflicts(refusals: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Conflicts by initiator, those who met one last at the end."""
    found: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    known = [one for one in refusals if one.get("status") == _CONFLICT and one.get("initiator")]
    for one in sorted(known, key=lambda record: str(record.get("time"))):
        name = str(one["initiator"])
        before = found.pop(name, [])
        found[name] = [*before, one]
    return dict(found)


def _explained(
    status: Mapping[str, Any], name: str, conflicts: Sequence[Mapping[str, Any]]
) -> Finding:
    own = [one for one in status["registrations"] if one["initiator"] == name.lower()]
    text = f"{name} {_rights(status, own)}"
    if conflicts:
        last = conflicts[-1]
        times = "once" if len(conflicts) == 1 else f"{len(conflicts)} times"
        text += (
            f" It met RESERVATION CONFLICT {times} as far as the journals go, last at "
            f"{last.get('time')} with {last.get('action')}{_why(last, own)}."
        )
    return _finding("nexus", text, _way_in(status, own))


def _rights(status: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> str:
    reservation = status["reservation"]
    if reservation is None and status["spc2"] is None:
        return f"{_registered(own)}, and may read and write, since no reservation is held."
    if reservation is None:
        return f"{_registered(own)}; the SPC-2 reservation decides."
    holds = any(one["holder"] for one in own)
    type_ = reservation["type"]
    writes = holds or (bool(own) and type_ in (5, 6, 7, 8))
    reads = writes or type_ in (1, 5, 7)
    may = {(True, True): "may read and write", (True, False): "may read and not write"}
    return f"{_registered(own)}, and {may.get((reads, writes), 'may neither read nor write')}."


def _registered(own: Sequence[Mapping[str, Any]]) -> str:
    if not own:
        return "is not registered"
    keys = ", ".join(f"key {one['key']} at port {one['target_port']}" for one in own)
    return f"is registered with {keys}"


def _why(refused: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> str:
    """Why that command conflicted, as far as the present state tells."""
    key = refused.get("key")
    if not own:
        return ", which only registered initiators may send" if key is not None else ""
    if key is not None and key not in [one["key"] for one in own]:
        return f" and key {key}, which is not its own"
    return ""


def _way_in(status: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> str:
    reservation = status["reservation"]
    if own or reservation is None or reservation["type"] in (1, 3):
        return ""
    return "REGISTER AND IGNORE EXISTING KEY, as cluster software sends when a node joins"
