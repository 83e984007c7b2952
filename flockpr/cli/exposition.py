"""The numbers of a root: collected, and in Prometheus' text format."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from flockpr.errors import StoreError

_CONFLICT = 0x18

METRICS: Final = {
    "flockpr_up": "1 where the logical unit could be read.",
    "flockpr_look_seconds": "How long looking at the logical unit took.",
    "flockpr_transaction": "Number of its newest transaction.",
    "flockpr_generation": "PRGENERATION.",
    "flockpr_committed_seconds": "Time since its newest transaction.",
    "flockpr_reservation": "1 for the reservation that is held: its type and holder.",
    "flockpr_registrants": "Registrations by liveness.",
    "flockpr_stale_seconds": "Time since the host of a registrant that is gone was heard of.",
    "flockpr_holder_alive": "1 where somebody stands for the holder of the reservation, else 0.",
    "flockpr_attentions": "Initiators that have unit attentions waiting.",
    "flockpr_conflicts": "RESERVATION CONFLICTs of an initiator that the journals still have.",
    "flockpr_events": "Events of a kind that the journals still have.",
    "flockpr_permits": "Permits of a host's targets.",
    "flockpr_waiting": "Processes that wait for permits of hosts that do not answer.",
    "flockpr_host_contact_seconds": "Time since a host was heard of.",
    "flockpr_host_fenced": "1 for a host that was declared fenced.",
}
"""Every metric, a gauge, and what it says."""


@attrs.frozen
class Sample:
    """One number.

    Attributes:
        name: Of the metric.
        labels: Its labels.
        value: It.
    """

    name: str
    labels: Mapping[str, str]
    value: float


def collect(root: str, lun: str | None = None) -> list[Sample]:
    """The numbers of a root now; a logical unit that cannot be read is down, and hides no other.

    Args:
        root: The root.
        lun: One logical unit; None: all.

    Raises:
        StoreError: The root cannot be read, or there is no such logical unit.
    """
    from flockpr.cli.status_documents import names_of
    from flockpr.gate.overview import Overview

    overview = Overview.of(root)
    gates: list[Any] = []
    stale: dict[str, list[Mapping[str, Any]]] = {}
    samples: list[Sample] = []
    for name in names_of(root, lun):
        begun = time.monotonic()
        try:
            found = list(_of_lun(root, name, gates, stale))
            found.append(Sample("flockpr_up", {"lun": name}, 1))
        except StoreError:
            found = [Sample("flockpr_up", {"lun": name}, 0)]
        samples += found
        spent = time.monotonic() - begun
        samples.append(Sample("flockpr_look_seconds", {"lun": name}, round(spent, 6)))
    hosts = [overview.host_to_json(number) for number in overview.concerned(gates)]
    ages: dict[str, float | None] = {}
    for one in hosts:  # of a host that was booted anew, the last one, which comes first
        ages.setdefault(str(one["host"]), one["age_s"])
    samples += [one for name, gone in stale.items() for one in of_stale(name, gone, ages)]
    return samples + list(_of_hosts(hosts))


def _of_lun(
    root: str, name: str, gates: list[Any], stale: dict[str, list[Mapping[str, Any]]]
) -> Iterator[Sample]:
    from flockpr.gate.overview import look
    from flockpr.unit_view import UnitView

    with UnitView.of(os.path.join(root, name)) as unit:
        status = unit.status().to_json()
        yield from of_status(name, status)
        stale[name] = [one for one in status["registrations"] if one["liveness"] == "gone"]
        yield from _of_journals(name, unit.refusals(), unit.events())
        gate = look(root, unit.identity)
    if gate is not None:
        gates.append(gate)
        yield from _of_gate(name, root, gate)


def of_status(name: str, status: Mapping[str, Any]) -> Iterator[Sample]:
    """What a status says."""
    lun = {"lun": name}
    yield Sample("flockpr_transaction", lun, status["number"])
    yield Sample("flockpr_generation", lun, status["generation"])
    if status["age_s"] is not None:
        yield Sample("flockpr_committed_seconds", lun, round(status["age_s"], 3))
    yield Sample("flockpr_attentions", lun, len(status["attentions"]))
    counts = collections.Counter(one["liveness"] for one in status["registrations"])
    for liveness in ("alive", "gone", "unknown"):
        yield Sample("flockpr_registrants", {**lun, "liveness": liveness}, counts[liveness])
    reservation = status["reservation"]
    if reservation is None:
        return
    holder = reservation["holder"]
    initiator = "" if holder is None else holder["initiator"]
    labels = {**lun, "type": str(reservation["type"]), "initiator": initiator}
    yield Sample("flockpr_reservation", labels, 1)
    holders = [one["liveness"] for one in status["registrations"] if one["holder"]]
    yield Sample("flockpr_holder_alive", lun, int("alive" in holders))


def of_stale(
    name: str, gone: Iterable[Mapping[str, Any]], ages: Mapping[str, float | None]
) -> Iterator[Sample]:
    """How long nobody has stood for registrants, at the least.

    Args:
        name: Of the logical unit.
        gone: Its registrations for which nobody stands.
        ages: By host, seconds since it was heard of; one of which nothing is known has none.
    """
    for one in gone:
        age = ages.get(str(one["host"]))
        if age is not None:
            labels = {"lun": name, "initiator": str(one["initiator"]), "host": str(one["host"])}
            yield Sample("flockpr_stale_seconds", labels, round(age, 3))


def _of_journals(
    name: str, refusals: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> Iterator[Sample]:
    conflicts = collections.Counter(
        str(one.get("initiator")) for one in refusals if one.get("status") == _CONFLICT
    )
    for initiator, count in sorted(conflicts.items()):
        yield Sample("flockpr_conflicts", {"lun": name, "initiator": initiator}, count)
    kinds = collections.Counter(str(one.get("event")) for one in events)
    for kind, count in sorted(kinds.items()):
        yield Sample("flockpr_events", {"lun": name, "event": kind}, count)


def _of_gate(name: str, root: str, gate: Any) -> Iterator[Sample]:
    from flockpr.gate.overview import Overview

    document = Overview.of(root).gate_to_json(gate)
    for one in document["permits"]:
        labels = {"lun": name, "host": str(one["host"] or one["number"])}
        yield Sample("flockpr_permits", labels, one["count"])
    yield Sample("flockpr_waiting", {"lun": name}, len(document["waits"]))


def _of_hosts(hosts: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    for one in hosts:
        host = {"host": str(one["host"] or one["number"]), "number": str(one["number"])}
        if one["age_s"] is not None:
            yield Sample("flockpr_host_contact_seconds", host, round(one["age_s"], 3))
        yield Sample("flockpr_host_fenced", host, int(one["fenced"] is not None))


def render(samples: Iterable[Sample]) -> str:
    """The text format, version 0.0.4: metric by metric, in the order of `METRICS`."""
    by_name: dict[str, list[Sample]] = {name: [] for name in METRICS}
    for one in samples:
        by_name[one.name].append(one)
    lines = []
    for name, found in by_name.items():
        if found:
            lines += [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(one.labels)} {one.value:g}" for one in found]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + ",".join(escaped) + "}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
