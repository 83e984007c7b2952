"""The bytes of a commit document, of which only what is new is encoded.

Pure. A document has the whole state, and of many registrations and of those who serve them a
command changes one. So whoever writes one document after the other keeps `Parts`: the text of
each part that the last one had, by the very object that it was made of. Such objects never
change, so the bytes are the same as without it.

The text is written down as it stands in the file, member by member, and only what may hold any
character goes through the JSON encoder's quoting. An encoder for objects of any shape takes
twice as long, and every commit waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from typing import TypeVar

from flockpr.core.model import LogicalUnitState, Nexus, PendingAttentions, Registration, Reservation
from flockpr.store.base import Applied, Served
from flockpr.store.document import CHECKSUM, Document, attention_text

T = TypeVar("T")


class Parts:
    """What the document encoded last was made of, and the text of each part.

    For documents that follow one another; only parts of the last one are kept.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[tuple[object, ...], dict[int, str], str]] = {}
        self._served: tuple[dict[int, Served], str] = {}, ""

    def array(self, member: str, values: tuple[T, ...], encode: Callable[[T], str]) -> str:
        """The text between the brackets of an array.

        Args:
            member: Its name.
            values: What it is made of: objects that never change.
            encode: The text of one.
        """
        before, known, whole = self._arrays.get(member, ((), {}, ""))
        if values is before:
            return whole
        ids = list(map(id, values))
        texts = [
            known[one] if one in known else encode(value)
            for one, value in zip(ids, values, strict=True)
        ]
        whole = ",".join(texts)
        # The values are kept as well: an id is that of another object once its own is gone.
        self._arrays[member] = values, dict(zip(ids, texts, strict=True)), whole
        return whole

    def served(self, served: Mapping[int, Served]) -> str:
        """The text between the braces of `served`, which seldom changes at all."""
        before, text = self._served
        if served != before or list(served) != list(before):
            text = ",".join([f'"{slot}":{_served(by)}' for slot, by in served.items()])
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
    snapshot = document.snapshot
    daemons = [
        f"{_quoted(daemon)}:[{number},{_quoted(txid)}]"
        for daemon, (number, txid) in document.daemons.items()
    ]
    return (
        f'{{"format":1,"incarnation":{_quoted(document.incarnation)},'
        f'"number":{snapshot.number},"txid":{_quoted(snapshot.txid)},'
        f'"previous":{_quoted(document.previous)},"time":{_quoted(snapshot.time)},'
        f'"host":{_quoted(snapshot.host)},"daemon":{_quoted(snapshot.daemon)},'
        f'"deleted":{_boolean(snapshot.deleted)},"daemons":{{{",".join(daemons)}}},'
        f'"forgotten":{document.forgotten},'
        f'"commands":[{",".join(map(_applied, document.applied))}],'
        f'"served":{{{parts.served(snapshot.served)}}},"state":{_state(snapshot.state, parts)}}}'
    )


ENCODERS: dict[int, Callable[[Document, Parts], str]] = {1: _encode_1}
"""One encoder for each format that a live daemon may still need."""


# --------------------------------------------------------------------------- members


def _applied(applied: Applied) -> str:
    return (
        f'{{"time":{_quoted(applied.time)},{_port(applied.nexus, applied.target_port)},'
        f'"action":{_quoted(applied.action)},"opcode":{_number(applied.opcode)},'
        f'"key":{_key(applied.key)},"service_action_key":{_key(applied.service_action_key)},'
        f'"type":{_number(applied.type)},"status":{applied.status},'
        f'"generation_before":{applied.generation_before},'
        f'"generation_after":{applied.generation_after},"door":{_quoted(applied.door)},'
        f'"raised":[{",".join(map(_quoted, applied.raised))}]}}'
    )


def _state(state: LogicalUnitState, parts: Parts) -> str:
    registrations = parts.array("registrations", state.registrations, _registration)
    attentions = parts.array("attentions", state.attentions, _attentions)
    spc2 = state.spc2
    held = "null" if spc2 is None else f'{{{_nexus(spc2.holder)},"slot":{spc2.slot}}}'
    return (
        f'{{"generation":{state.generation},"aptpl":{_boolean(state.aptpl)},'
        f'"registrations":[{registrations}],"reservation":{_reservation(state.reservation)},'
        f'"spc2":{held},"attentions":[{attentions}],'
        f'"attention_epoch":{state.attention_epoch},"overflowed":{_boolean(state.overflowed)},'
        f'"power_cycles":{state.power_cycles},"next_slot":{state.next_slot}}}'
    )


def _registration(registration: Registration) -> str:
    return (
        f'{{{_nexus(registration.nexus)},"key":{_key(registration.key)},'
        f'"slot":{registration.slot},'
        f'"all_target_ports":{_boolean(registration.all_target_ports)}}}'
    )


def _reservation(held: Reservation | None) -> str:
    if held is None:
        return "null"
    holder = "null" if held.holder is None else f"{{{_nexus(held.holder)}}}"
    return f'{{"type":{int(held.type)},"holder":{holder}}}'


def _attentions(entry: PendingAttentions) -> str:
    codes = ",".join([f'"{attention_text(code)}"' for code in entry.codes])
    return f'{{{_nexus(entry.nexus)},"codes":[{codes}]}}'


def _served(by: Served) -> str:
    host, daemon, door = map(_quoted, (by.host, by.daemon, by.door))
    return f'{{"host":{host},"daemon":{daemon},"door":{door}}}'


def _nexus(nexus: Nexus) -> str:
    return _port(nexus.initiator_port.text, nexus.target_port)


def _port(initiator: str, target_port: int) -> str:
    return f'"initiator":{_quoted(initiator)},"target_port":{target_port}'


def _key(key: int | None) -> str:
    return "null" if key is None else f'"0x{key:016x}"'


def _number(number: int | None) -> str:
    return "null" if number is None else str(number)


def _boolean(value: bool) -> str:
    return "true" if value else "false"
