"""The commit document: one transaction, and what it is read from, strictly.

Pure. A document is one line: a JSON object whose last member is `checksum`, the SHA-256 of
all bytes before that member plus the closing brace. So a truncated, padded or edited
document is never taken for a whole one, and `json.tool` still reads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from flockpr.core import invariants
from flockpr.core.model import (
    SLOTS,
    LogicalUnitState,
    Nexus,
    PendingAttentions,
    Registration,
    Reservation,
    Spc2Reservation,
)
from flockpr.spc.codes import Attention, ReservationType
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.base import Applied, Served, Snapshot
from flockpr.store.layout import FORMAT, MAX_DOCUMENT
from flockpr.store.strict import Malformed, Reader, loads

MAX_COMMANDS = 4096
MAX_NUMBER = 10**16 - 1
MAX_DAEMONS = 64
"""Daemons whose last transaction a document remembers; the least recent make room."""

CHECKSUM = b',"checksum":"'
_TAIL = len(CHECKSUM) + 64 + len(b'"}\n')


class Newer(Malformed):
    """The document has a format number beyond ours."""


class Place(NamedTuple):
    """Where a transaction stands.

    Attributes:
        number: Its number.
        txid: Its id.
        incarnation: Of the logical unit.
    """

    number: int
    txid: str
    incarnation: str


@attrs.frozen
class Document:
    """A transaction with what the store itself needs to know.

    Attributes:
        incarnation: Of the logical unit; a document of another one is foreign.
        previous: Transaction id of the predecessor, "" for the first.
        snapshot: Number, id, state and author.
        applied: The commands of this transaction.
        daemons: By daemon id, number and id of its last transaction up to and including
            this one. Lets a daemon recognise a success of its own after pruning.
        forgotten: Highest transaction number among daemons that had to make room: up to it,
            absence from `daemons` proves nothing.
        format: Format that it is written in; a successor keeps it, until an upgrade.
    """

    incarnation: str
    previous: str
    snapshot: Snapshot
    applied: tuple[Applied, ...]
    daemons: Mapping[str, tuple[int, str]]
    forgotten: int
    format: int = FORMAT

    @property
    def number(self) -> int:
        """The transaction number."""
        return self.snapshot.number

    @property
    def txid(self) -> str:
        """The transaction id."""
        return self.snapshot.txid

    def includes(self, daemon: str, number: int, txid: str) -> bool | None:
        """Whether that transaction of that daemon is in this document's past.

        Returns:
            True or False where it is proven, None where the document has forgotten.
        """
        last = self.daemons.get(daemon)
        if last is not None:
            return last == (number, txid)
        return None if number <= self.forgotten else False

    def descends_from(self, other: Document) -> bool | None:
        """Whether `other` is in this document's past (or is it), as far as `daemons` tells.

        Its writer builds only on what it wrote before, so a later transaction of that writer
        proves the earlier one.

        Returns:
            True or False where it is proven, None where the document has forgotten.
        """
        last = self.daemons.get(other.snapshot.daemon)
        if last is None:
            return None if other.number <= self.forgotten else False
        return last[0] > other.number or last == (other.number, other.txid)


def remember(
    daemons: Mapping[str, tuple[int, str]], forgotten: int, daemon: str, number: int, txid: str
) -> tuple[dict[str, tuple[int, str]], int]:
    """`daemons` and `forgotten` of a successor written by `daemon`."""
    result = dict(daemons)
    result[daemon] = (number, txid)
    while len(result) > MAX_DAEMONS:
        oldest = min(result, key=lambda name: result[name][0])
        forgotten = max(forgotten, result.pop(oldest)[0])
    return result, forgotten


def attention_text(code: Attention) -> str:
    """ASC and ASCQ as text: "2a/05"."""
    return f"{code >> 8:02x}/{code & 0xFF:02x}"


# --------------------------------------------------------------------------- decoding


def unseal(data: bytes) -> Any:
    """The JSON value of a sealed line.

    Raises:
        Malformed: Cut short, edited, or never sealed.
    """
    text = data[:-_TAIL] + b"}"
    tail = data[-_TAIL:]
    if len(data) <= _TAIL or not tail.startswith(CHECKSUM) or not data.endswith(b'"}\n'):
        raise Malformed("no checksum at its end: cut short, or not written by flockpr")
    if hashlib.sha256(text).hexdigest().encode("ascii") != tail[len(CHECKSUM) : -3]:
        raise Malformed("the checksum does not fit the contents")
    return loads(text)


def decode(data: bytes) -> Document:
    """The document in the bytes of a file.

    Raises:
        Newer: Its format is beyond ours.
        Malformed: Anything else that is not exactly a document of ours.
    """
    reader, decoder = _opened(data)
    return decoder(reader)


def decode_place(data: bytes) -> Place:
    """Where the document in the bytes of a file stands in its chain: whole and unedited as it has
    to be, but its state is not looked at.

    Raises:
        Newer: Its format is beyond ours.
        Malformed: It is no document of ours.
    """
    reader, _ = _opened(data)
    return Place(
        reader.integer("number", 1, MAX_NUMBER),
        reader.hexadecimal("txid", 32),
        reader.hexadecimal("incarnation", 32),
    )


def _opened(data: bytes) -> tuple[Reader, Callable[[Reader], Document]]:
    if len(data) > MAX_DOCUMENT:
        raise Malformed(f"larger than {MAX_DOCUMENT} bytes")
    value = unseal(data)
    reader = Reader(value, "document")
    decoder = DECODERS.get(format_of(reader))
    if decoder is None:
        raise Newer(f"format {value['format']} is newer than format {FORMAT}, which this reads")
    return reader, decoder


def format_of(reader: Reader) -> int:
    """The format number of a document of any kind."""
    return reader.integer("format", 1, 1 << 31)


def _decode_1(reader: Reader) -> Document:
    number = reader.integer("number", 1, MAX_NUMBER)
    snapshot = Snapshot(
        number=number,
        txid=reader.hexadecimal("txid", 32),
        state=state_from_json(reader.child("state")),
        served=_served_from_json(reader.child("served")),
        time=reader.string("time"),
        host=reader.string("host"),
        daemon=reader.string("daemon"),
        deleted=reader.boolean("deleted"),
    )
    document = Document(
        incarnation=reader.hexadecimal("incarnation", 32),
        previous=reader.string("previous") if number == 1 else reader.hexadecimal("previous", 32),
        snapshot=snapshot,
        applied=tuple(
            applied_from_json(Reader(item, "command"))
            for item in reader.items("commands", MAX_COMMANDS)
        ),
        daemons=_daemons_from_json(reader.child("daemons"), number),
        forgotten=reader.integer("forgotten", 0, number),
        format=1,
    )
    reader.done()
    if document.daemons.get(snapshot.daemon) != (number, snapshot.txid):
        raise Malformed("document.daemons does not have the document itself")
    return document


DECODERS: dict[int, Callable[[Reader], Document]] = {1: _decode_1}
"""One decoder for each format that was ever released; none is ever removed."""


def _daemons_from_json(reader: Reader, highest: int) -> dict[str, tuple[int, str]]:
    names = reader.names()
    if len(names) > 16 * MAX_DAEMONS:
        raise Malformed("document.daemons is too large")
    result = {}
    for name in names:
        pair = zip(("number", "txid"), reader.items(name, 2), strict=False)
        entry = Reader(dict(pair), f"document.daemons.{name}")
        result[name] = (entry.integer("number", 1, highest), entry.hexadecimal("txid", 32))
    return result


_SLOT_NAME = re.compile("0|[1-9][0-9]{0,4}")


def _served_from_json(reader: Reader) -> dict[int, Served]:
    result = {}
    for slot in sorted(reader.names()):
        entry = reader.child(slot)
        if not _SLOT_NAME.fullmatch(slot) or int(slot) >= SLOTS:
            raise Malformed(f"document.served.{slot} is no slot number")
        result[int(slot)] = Served(
            entry.string("host"), entry.string("daemon"), entry.string("door")
        )
        entry.done()
    return result


def state_from_json(reader: Reader) -> LogicalUnitState:
    """The state in its JSON object.

    Raises:
        Malformed: Not exactly such an object, or it breaks an invariant of the state.
    """
    state = LogicalUnitState(
        generation=reader.integer("generation", 0, 0xFFFFFFFF),
        aptpl=reader.boolean("aptpl"),
        registrations=_registrations(reader.items("registrations", SLOTS)),
        reservation=_reservation(reader.optional_child("reservation")),
        spc2=_spc2(reader.optional_child("spc2")),
        attentions=_attentions(reader.items("attentions", SLOTS)),
        attention_epoch=reader.integer("attention_epoch", 0, 1 << 62),
        overflowed=reader.boolean("overflowed"),
        power_cycles=reader.integer("power_cycles", 0, 1 << 62),
        next_slot=reader.integer("next_slot", 0, SLOTS - 1),
    )
    reader.done()
    broken = invariants.check(state)
    if broken:
        raise Malformed(f"the state breaks an invariant: {broken[0]}")
    return state


def _registrations(items: Sequence[Any]) -> tuple[Registration, ...]:
    result = []
    for item in items:
        reader = Reader(item, "registration")
        result.append(
            Registration(
                nexus=nexus_from_json(reader),
                key=reader.key("key"),
                slot=reader.integer("slot", 0, SLOTS - 1),
                all_target_ports=reader.boolean("all_target_ports"),
            )
        )
        reader.done()
    return tuple(result)


def _reservation(reader: Reader | None) -> Reservation | None:
    if reader is None:
        return None
    number = reader.integer("type", 1, 8)
    if number not in set(ReservationType):
        raise Malformed(f"reservation.type {number} is no type")
    holder = reader.optional_child("holder")
    reader.done()
    if holder is None:
        return Reservation(ReservationType(number), None)
    nexus = nexus_from_json(holder)
    holder.done()
    return Reservation(ReservationType(number), nexus)


def _spc2(reader: Reader | None) -> Spc2Reservation | None:
    if reader is None:
        return None
    result = Spc2Reservation(nexus_from_json(reader), reader.integer("slot", 0, SLOTS - 1))
    reader.done()
    return result


def _attentions(items: Sequence[Any]) -> tuple[PendingAttentions, ...]:
    result = []
    for item in items:
        reader = Reader(item, "attention")
        codes = tuple(_attention(code) for code in reader.items("codes", 64))
        result.append(PendingAttentions(nexus_from_json(reader), codes))
        reader.done()
    return tuple(result)


_ATTENTIONS = {attention_text(code): code for code in Attention}


def _attention(text: Any) -> Attention:
    if not isinstance(text, str) or text not in _ATTENTIONS:
        raise Malformed(f"{text!r} is no unit attention")
    return _ATTENTIONS[text]


def nexus_from_json(reader: Reader) -> Nexus:
    """The nexus in the members `initiator` and `target_port`."""
    text = reader.string("initiator")
    try:
        port = InitiatorPort.from_text(text)
    except ValueError as error:
        raise Malformed(f"{text!r} is no initiator port: {error}") from None
    if port.text != text:
        raise Malformed(f"{text!r} is not written in the normal form {port.text!r}")
    return Nexus(port, reader.integer("target_port", 1, 0xFFFF))


def applied_from_json(reader: Reader) -> Applied:
    """A line of the audit trail."""
    result = Applied(
        time=reader.string("time"),
        nexus=reader.string("initiator"),
        target_port=reader.integer("target_port", 0, 0xFFFF),
        action=reader.string("action"),
        opcode=reader.optional_integer("opcode", 0, 0xFF),
        key=reader.optional_key("key"),
        service_action_key=reader.optional_key("service_action_key"),
        type=reader.optional_integer("type", 0, 0xF),
        status=reader.integer("status", 0, 0xFF),
        generation_before=reader.integer("generation_before", 0, 0xFFFFFFFF),
        generation_after=reader.integer("generation_after", 0, 0xFFFFFFFF),
        door=reader.string("door"),
        raised=reader.strings("raised", SLOTS),
    )
    reader.done()
    return result
