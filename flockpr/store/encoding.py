"""The bytes of a commit document, of which only what is new is encoded.

Pure. A document has the whole state, and of many registrations and of those who serve them a
command changes one. So whoever writes one document after the other keeps `Parts`: the text of
each part that the last one had, by the very object that it was made of. Such objects never
change, so the bytes are the same as without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flockpr.core.model import LogicalUnitState, Nexus, PendingAttentions, Registration
from flockpr.store.base import Served, applied_to_json, key_text
from flockpr.store.document import CHECKSUM, Document, attention_text

T = TypeVar("T")

_text = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


class Parts:
    """What the document encoded last was made of, and the text of each part.

    For documents that follow one another; only parts of the last one are kept.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[tuple[object, ...], dict[int, str]]] = {}
        self._served: tuple[dict[int, Served], str] = {}, ""

    def array(self, member: str, values: tuple[T, ...], encode: Callable[[T], Any]) -> str:
        """The text between the brackets of an array.

        Args:
            member: Its name.
            values: What it is made of: objects that never change.
            encode: The JSON value of one.
        """
        _, known = self._arrays.get(member, ((), {}))
        if not values and not known:
            return ""
        texts = list(map(known.get, map(id, values)))
        whole = [
            _text(encode(value)) if text is None else text
            for value, text in zip(values, texts, strict=True)
        ]
        # The values are kept as well: an id is that of another object once its own is gone.
        self._arrays[member] = values, dict(zip(map(id, values), whole, strict=True))
        return ",".join(whole)

    def served(self, served: Mapping[int, Served]) -> str:
        """The text between the braces of `served`, which seldom changes at all."""
        before, text = self._served
        if served != before or list(served) != list(before):
            text = ",".join([f'"{slot}":{_text(_served(by))}' for slot, by in served.items()])
            self._served = dict(served), text
        return text


def encode(document: Document, parts: Parts | None = None) -> bytes:
    """A document as the bytes of its file, in its own format.

    Args:
        document: The document.
        parts: What is kept of the one before; it makes no difference to the bytes.
    """
    return seal(ENCODERS[document.format](document, parts or Parts()))


def seal(text: str) -> bytes:
    """One line of JSON, from the text of an object, with its checksum as the last member."""
    data = text.encode("ascii")
    digest = hashlib.sha256(data).hexdigest().encode("ascii")
    return b'%s%s%s"}\n' % (data[:-1], CHECKSUM, digest)


def _encode_1(document: Document, parts: Parts) -> str:
    snapshot, state = document.snapshot, document.snapshot.state
    text = _text(
        {
            "format": 1,
            "incarnation": document.incarnation,
            "number": snapshot.number,
            "txid": snapshot.txid,
            "previous": document.previous,
            "time": snapshot.time,
            "host": snapshot.host,
            "daemon": snapshot.daemon,
            "deleted": snapshot.deleted,
            "daemons": {name: list(last) for name, last in document.daemons.items()},
            "forgotten": document.forgotten,
            "commands": [applied_to_json(applied) for applied in document.applied],
            "served": {},
            "state": _state(state, [], []),
        }
    )
    # What is kept goes where nothing is yet. No value looks like that: a quote in one is escaped.
    head, text = text.split('"served":{}', 1)
    before, text = text.split('"registrations":[]', 1)
    between, after = text.split('"attentions":[]', 1)
    registrations = parts.array("registrations", state.registrations, _registration)
    attentions = parts.array("attentions", state.attentions, _attentions)
    return (
        f'{head}"served":{{{parts.served(snapshot.served)}}}{before}'
        f'"registrations":[{registrations}]{between}"attentions":[{attentions}]{after}'
    )


ENCODERS: dict[int, Callable[[Document, Parts], str]] = {1: _encode_1}
"""One encoder for each format that a live daemon may still need."""


# --------------------------------------------------------------------------- members


def served_to_json(served: Mapping[int, Served]) -> dict[str, Any]:
    """By slot, who served it last."""
    return {str(slot): _served(by) for slot, by in served.items()}


def state_to_json(state: LogicalUnitState) -> dict[str, Any]:
    """The state as a JSON object; keys are text, 64 bits do not survive every reader."""
    return _state(
        state,
        [_registration(registration) for registration in state.registrations],
        [_attentions(entry) for entry in state.attentions],
    )


def _state(
    state: LogicalUnitState, registrations: list[Any], attentions: list[Any]
) -> dict[str, Any]:
    held, spc2 = state.reservation, state.spc2
    return {
        "generation": state.generation,
        "aptpl": state.aptpl,
        "registrations": registrations,
        "reservation": None
        if held is None
        else {
            "type": int(held.type),
            "holder": None if held.holder is None else _nexus(held.holder),
        },
        "spc2": None if spc2 is None else {**_nexus(spc2.holder), "slot": spc2.slot},
        "attentions": attentions,
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


def _attentions(entry: PendingAttentions) -> dict[str, Any]:
    return {**_nexus(entry.nexus), "codes": [attention_text(code) for code in entry.codes]}


def _served(by: Served) -> dict[str, Any]:
    return {"host": by.host, "daemon": by.daemon, "door": by.door}


def _nexus(nexus: Nexus) -> dict[str, Any]:
    return {"initiator": nexus.initiator_port.text, "target_port": nexus.target_port}
