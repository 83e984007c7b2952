"""How hosts and gates look: lines for people, from the documents of `--json` (docs/cli.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flockpr.cli.text import duration, printable, table

_DAY = 86400.0
_HEADINGS = ("HOST", "NUMBER", "DOORS", "LAST CONTACT", "STATE")


def host_lines(hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of hosts, and the proofs of those that are declared fenced."""
    if not hosts:
        return ["no host has said anything yet"]
    rows = [
        (
            host["host"] or "unknown",
            str(host["number"]),
            " ".join(host["doors"]),
            "never" if host["age_s"] is None else f"{duration(host['age_s'])} ago",
            _state(host),
        )
        for host in hosts
    ]
    lines = table(_HEADINGS, rows)
    for host in hosts:
        if (declared := host["fenced"]) is not None:
            who = f"{declared['user']} on {declared['declared_on']}, {declared['time']}"
            lines.append(printable(f"{_label(host)} was declared fenced by {who}:"))
            lines.append(printable(f"  {declared['proof']}"))
    return lines


def _state(host: Mapping[str, Any]) -> str:
    words = ["this host"] if host["here"] else []
    words += ["declared fenced"] if host["fenced"] is not None else []
    return ", ".join(words)


def gate_lines(document: Mapping[str, Any]) -> list[str]:
    """Lines about the gate of one logical unit."""
    gate = document["gate"]
    if gate is None:
        return [f"{printable(document['name'])}: no image, so there is no gate"]
    return [f"{printable(document['name'])}: {printable(gate['image'])}", *detail_lines(gate)]


def current(
    hosts: Sequence[Mapping[str, Any]], luns: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The hosts that somebody who looks at logical units wants to hear of: those that have to do
    with one now, or were heard of within a day.
    """
    concerned = set()
    for gate in [lun["gate"] for lun in luns if lun.get("gate")]:
        concerned |= {one["number"] for one in (*gate["permits"], *gate["knocks"])}
        for wait in gate["waits"]:
            concerned |= {wait["number"], *(one["number"] for one in wait["for"])}
    return [
        host
        for host in hosts
        if host["number"] in concerned or (host["age_s"] is not None and host["age_s"] < _DAY)
    ]


def busy(gate: Mapping[str, Any] | None) -> bool:
    """Whether there is anything to say of a gate."""
    return gate is not None and any(
        gate[key] for key in ("permits", "narrowing", "knocks", "waits")
    )


def detail_lines(gate: Mapping[str, Any]) -> list[str]:
    """Permits, knocks and waits."""
    permits = [f"{_label(one)}{_silent(one)}{_times(one['count'])}" for one in gate["permits"]]
    if gate["narrowing"]:
        narrowers = [one for one in gate["knocks"] if one["number"] in gate["narrowers"]]
        hosts = " or ".join(f"{_label(one)}{_silent(one)}" for one in narrowers)
        whose = f" of {hosts}" if hosts else ""
        permits.append(f"a command{whose} that takes access away has those of all others")
    lines = [f"  permits: {', '.join(permits) or 'nobody'}"]
    for one in gate["knocks"]:
        whom = "all" if one["everybody"] else "silent hosts alone"
        lines.append(f"  knocks: {_label(one)}{_silent(one)}, for {whom}")
    for one in gate["waits"]:
        age = "" if one["age_s"] is None else f", for {duration(one['age_s'])} now"
        lines.append(f"  waits: {_label(one)} (pid {one['pid']}) for {_hosts(one['for'])}{age}")
    return [printable(line) for line in lines]


def force_lines(document: Mapping[str, Any], *, already: bool) -> list[str]:
    """Lines about a host that was, or would be, declared fenced."""
    host = document["host"]
    name = f"{host['host'] or 'host'} {host['number']}"
    luns = ", ".join(one["name"] for one in document["luns"]) or "none"
    age = host["age_s"]
    seen = "never heard of" if age is None else f"last heard of {duration(age)} ago"
    lines = [f"{name}: {seen}; it is in the way for: {luns}"]
    if already:
        declared = host["fenced"] or {}
        lines.append(f"was declared fenced already, at {declared.get('time')}: {document['proof']}")
    elif document["done"]:
        lines.append("declared fenced: commands wait for it no longer, on any host")
        lines.append("reboot it before its target is started again")
    else:
        lines.append("it did not answer: it gave nothing back, and rings on if it rang")
        lines.append("nothing was done; with --yes it is declared fenced, until it was rebooted:")
        lines.append(f"  proof: {document['proof']}")
        lines.append("if it can still write, that destroys data")
        if document["fresh"]:
            lines.append("it seems to live: that needs --yes-it-is-fenced")
    if document["stuck"]:
        lines.append(f"that does not help where it has all permits: {', '.join(document['stuck'])}")
        lines.append("  see 'A host has all permits' in docs/when-it-breaks.md")
    return [printable(line) for line in lines]


def _hosts(hosts: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(map(_label, hosts)) or "nobody"


def _label(host: Mapping[str, Any]) -> str:
    return str(host["host"] or f"host {host['number']}")


def _silent(host: Mapping[str, Any]) -> str:
    return " (silent)" if host["silent"] else ""


def _times(count: int) -> str:
    return f" x{count}" if count > 1 else ""
