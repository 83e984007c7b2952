"""The documents of `flockpr status` and `flockpr watch`: what `--json` prints (docs/cli.md)."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from flockpr.cli.common import error_document, note, report
from flockpr.cli.exit_codes import ExitCode
from flockpr.cli.promise_view import promise_document
from flockpr.errors import StoreError

if TYPE_CHECKING:
    from flockpr.filesystems import Terms
    from flockpr.gate.overview import LunGate, Overview
    from flockpr.store.identity import LunIdentity
    from flockpr.unit_view import UnitView

LOOK_BACK = 64
"""Transactions that are looked at for when somebody registered: each is a file."""
_REGISTERING = ("REGISTER", "REGISTER AND IGNORE EXISTING KEY")


@attrs.frozen
class Collected:
    """What was found.

    Attributes:
        hosts: The hosts that have to do with the logical units.
        luns: A document for each logical unit.
        code: The exit code: that of the last error.
    """

    hosts: list[dict[str, Any]]
    luns: list[dict[str, Any]]
    code: ExitCode


def names_of(root: str, lun: str | None) -> list[str]:
    """The logical units to show: the one that is named, or all.

    Raises:
        StoreError: There is none of that name, or the root cannot be read.
    """
    from flockpr.store.listing import list_luns, read_identity

    if lun:
        return [read_identity(root, lun).name]
    return [listing.name for listing in list_luns(root)]


def collect(verb: str, root: str, names: Sequence[str], terms: Terms) -> Collected:
    """Look at logical units; one that cannot be read is reported, and the others are shown.

    Args:
        verb: For messages.
        root: The root.
        names: Of the logical units.
        terms: What the configuration declares about the file system.
    """
    from flockpr.gate.overview import Overview
    from flockpr.unit_view import UnitView

    overview = Overview.of(root)
    code = ExitCode.GOOD
    gates: list[LunGate] = []
    documents: list[dict[str, Any]] = []
    for name in names:
        try:
            with UnitView.of(os.path.join(root, name)) as unit:
                documents.append(
                    {
                        **status_document(unit),
                        "promise": promise_document(terms, root, unit.identity.image),
                        "image": unit.identity.image,
                        "gate": gate_document(verb, overview, unit.identity, gates),
                        "error": None,
                    }
                )
                fault = unit.lock_fault()
            if fault is not None:
                note(verb, fault, "liveness is unknown")
        except StoreError as error:
            # The other logical units are none the worse for this one.
            code = report(verb, error)
            documents.append({"name": name, "error": error_document(error)})
    hosts = [overview.host_to_json(number) for number in overview.concerned(gates)]
    return Collected(hosts, documents, code)


def status_document(unit: UnitView, at: int | None = None) -> dict[str, Any]:
    """One logical unit, with the times at which its registrants registered.

    Args:
        unit: It.
        at: As it was after this transaction; None: as it is.

    Raises:
        StoreError: It cannot be read, or its state of then is not kept.
    """
    status = unit.status() if at is None else unit.status_at(at)
    document = status.to_json()
    last = document["number"]
    times: dict[tuple[str, int, str], str] = {}
    if document["registrations"]:
        for record in unit.history(max(1, last - LOOK_BACK + 1)):
            one = record.to_json()
            if one["action"] in _REGISTERING and one["number"] <= last:
                key = (one["initiator"], one["target_port"], one["service_action_key"])
                times[key] = one["time"]
    for one in document["registrations"]:
        key = (one["initiator"], one["target_port"], one["key"])
        one["registered_at"] = times.get(key)
    return document


def age_of(registered_at: str | None, now: dt.datetime) -> float | None:
    """Seconds since a registration; None where its time is not known."""
    if registered_at is None:
        return None
    return (now - dt.datetime.fromisoformat(registered_at)).total_seconds()


def gate_document(
    verb: str, overview: Overview, identity: LunIdentity, gates: list[LunGate]
) -> dict[str, Any] | None:
    """The gate of one logical unit, which is added to `gates`; None where there is none to show."""
    from flockpr.gate.overview import look

    try:
        gate = look(overview.root, identity)
    except StoreError as error:
        note(verb, error, "who has permits is unknown")
        return None
    if gate is None:
        return None
    gates.append(gate)
    return overview.gate_to_json(gate)
