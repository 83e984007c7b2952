"""`registry.json`: the current state for people and tools. Never read for a decision.

It is a file of its own, renamed into place: the one place in flockpr that renames the
registry. It lags until its daemon has a pause, and a late rename of another host may even put
an older one back (seen on NFS); whoever finds it behind publishes again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from flockpr.core.model import LogicalUnitState, Nexus, PendingAttentions, Registration, Reservation
from flockpr.errors import StateUnreadable
from flockpr.store import files
from flockpr.store.base import Served, Snapshot, applied_to_json, key_text
from flockpr.store.document import Document, attention_text
from flockpr.store.identity import LunIdentity
from flockpr.store.layout import ASIDE_PREFIX, COMMITS, FORMAT, REGISTRY
from flockpr.store.strict import Malformed, Reader, loads
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)


def render(identity: LunIdentity, document: Document, truth: str = COMMITS) -> bytes:
    """The bytes of `registry.json` for one transaction; `truth` is where it is really kept."""
    snapshot: Snapshot = document.snapshot
    where = f"{COMMITS}/" if truth == COMMITS else truth
    return (
        json.dumps(
            {
                "format": FORMAT,
                "note": f"a view, which may lag a moment; the truth is in {where}",
                "lun": identity.name,
                "incarnation": identity.incarnation,
                "number": snapshot.number,
                "txid": snapshot.txid,
                "time": snapshot.time,
                "host": snapshot.host,
                "deleted": snapshot.deleted,
                "commands": [applied_to_json(applied) for applied in document.applied],
                "served": served_to_json(snapshot.served),
                "state": state_to_json(snapshot.state),
            },
            indent=1,
        )
        + "\n"
    ).encode()


def publish(
    syscalls: Syscalls,
    lun_fd: int,
    identity: LunIdentity,
    document: Document,
    *,
    truth: str = COMMITS,
    daemon: str,
    mode: int,
) -> None:
    """Rename a view of `document` into place, unless a newer one is there.

    Raises:
        OSError: As the system call; nothing depends on it.
    """
    if (published_number(syscalls, lun_fd, identity) or 0) >= document.number:
        return
    aside = f"{ASIDE_PREFIX}{daemon}-registry"
    files.discard(syscalls, aside, dir_fd=lun_fd)
    data = render(identity, document, truth)
    files.write_new(syscalls, aside, data, dir_fd=lun_fd, mode=mode, sync=False)
    try:
        syscalls.rename(aside, REGISTRY, source_fd=lun_fd, target_fd=lun_fd)
    except OSError:
        files.discard(syscalls, aside, dir_fd=lun_fd)
        raise


def published_number(syscalls: Syscalls, lun_fd: int, identity: LunIdentity) -> int | None:
    """The transaction that `registry.json` shows; None where it is missing, unreadable, or of
    another incarnation, whose numbers say nothing about ours.
    """
    try:
        data = files.read_whole(syscalls, REGISTRY, dir_fd=lun_fd)
        reader = Reader(loads(data), "registry")
        if reader.string("incarnation") != identity.incarnation:
            return None
        return reader.integer("number", 1, 10**16)
    except (OSError, StateUnreadable, Malformed):
        return None


# --------------------------------------------------------------------------- members


def served_to_json(served: Mapping[int, Served]) -> dict[str, Any]:
    """By slot, who served it last."""
    return {str(slot): _served(by) for slot, by in served.items()}


def state_to_json(state: LogicalUnitState) -> dict[str, Any]:
    """The state as a JSON object; keys are text, 64 bits do not survive every reader."""
    spc2 = state.spc2
    return {
        "generation": state.generation,
        "aptpl": state.aptpl,
        "registrations": [_registration(registration) for registration in state.registrations],
        "reservation": _reservation(state.reservation),
        "spc2": None if spc2 is None else {**_nexus(spc2.holder), "slot": spc2.slot},
        "attentions": [_attentions(entry) for entry in state.attentions],
        "attention_epoch": state.attention_epoch,
        "overflowed": state.overflowed,
        "power_cycles": state.power_cycles,
        "next_slot": state.next_slot,
    }


def _registration(registration: Registration) -> dict[str, Any]:
    return {
        **_nexus(registration.nexus),
        "key": key_text(registration.key),
        "slot": registration.slot,
        "all_target_ports": registration.all_target_ports,
    }


def _reservation(held: Reservation | None) -> dict[str, Any] | None:
    if held is None:
        return None
    holder = None if held.holder is None else _nexus(held.holder)
    return {"type": int(held.type), "holder": holder}


def _attentions(entry: PendingAttentions) -> dict[str, Any]:
    return {**_nexus(entry.nexus), "codes": [attention_text(code) for code in entry.codes]}


def _served(by: Served) -> dict[str, Any]:
    return {"host": by.host, "daemon": by.daemon, "door": by.door}


def _nexus(nexus: Nexus) -> dict[str, Any]:
    return {"initiator": nexus.initiator_port.text, "target_port": nexus.target_port}
