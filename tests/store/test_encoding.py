"""The bytes of documents that follow one another: what is kept of the last makes no difference."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence

import attrs
from hypothesis import given
from hypothesis import strategies as st

from flockpr.core.model import LogicalUnitState, Registration
from flockpr.store.base import Served, applied_to_json
from flockpr.store.document import Document, decode
from flockpr.store.encoding import Parts, encode
from flockpr.store.publish import served_to_json, state_to_json
from tests.support.scsi import nexus
from tests.support.spc_strategies import QUIET
from tests.support.states import documents, reachable_histories, rich_document

A, B = nexus("a"), nexus("b")


def plain(document: Document) -> bytes:
    """The bytes of a document as docs/format.md says, all at once."""
    snapshot = document.snapshot
    members = {
        "format": 1,
        "incarnation": document.incarnation,
        "number": snapshot.number,
        "txid": snapshot.txid,
        "previous": document.previous,
        "time": snapshot.time,
        "host": snapshot.host,
        "daemon": snapshot.daemon,
        "deleted": snapshot.deleted,
        "daemons": {name: [number, txid] for name, (number, txid) in document.daemons.items()},
        "forgotten": document.forgotten,
        "commands": [applied_to_json(applied) for applied in document.applied],
        "served": served_to_json(snapshot.served),
        "state": state_to_json(snapshot.state),
    }
    text = json.dumps(members, separators=(",", ":")).encode()
    return text[:-1] + b',"checksum":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def with_state(document: Document, state: LogicalUnitState) -> Document:
    """The same document, of another state."""
    return attrs.evolve(document, snapshot=attrs.evolve(document.snapshot, state=state))


def with_served(document: Document, served: dict[int, Served]) -> Document:
    """The same document, served by others."""
    return attrs.evolve(document, snapshot=attrs.evolve(document.snapshot, served=served))


def check(following: Sequence[Document]) -> None:
    """Encode documents one after the other."""
    parts = Parts()
    for document in following:
        assert encode(document, parts) == plain(document)


@QUIET
@given(st.lists(documents(), min_size=1, max_size=4), st.data())
def test_documents_in_any_order_have_the_bytes_that_they_have_alone(
    some: list[Document], data: st.DataObject
) -> None:
    """Whatever came before: the same, another one, or an equal one of other objects."""
    following = data.draw(st.lists(st.sampled_from(some), min_size=1, max_size=6))
    check([*some, *following, *copy.deepcopy(following), *reversed(some)])


@QUIET
@given(documents(), reachable_histories())
def test_documents_of_a_history_have_the_bytes_that_they_have_alone(
    document: Document, states: list[LogicalUnitState]
) -> None:
    """As commands change one registration, add and take away, and attentions come and go."""
    check([with_state(document, state) for state in states])


@QUIET
@given(documents(), st.permutations(range(5)), st.permutations(range(5)))
def test_order_of_those_who_serve_and_are_registered_is_kept(
    document: Document, slots: list[int], order: list[int]
) -> None:
    """Equal members in another order are other bytes."""
    state = document.snapshot.state
    registrations = [Registration(nexus(str(number)), 1, number) for number in order]
    following = []
    for numbers in (sorted(slots), slots, order):
        served = {number: Served("h", "d", "api") for number in numbers}
        entered = tuple(registrations[number] for number in numbers)
        changed = attrs.evolve(state, registrations=entered, reservation=None, spc2=None)
        following.append(with_served(with_state(document, changed), served))
    check(following)


def test_part_whose_object_is_gone_is_not_taken_for_one_at_the_same_place() -> None:
    """Objects come to lie where others were; what is known of those is of no use."""
    parts = Parts()
    sample = rich_document()

    def keys_of_a_document_that_nobody_keeps(key: int) -> list[int]:
        registrations = tuple(Registration(who, key, slot) for slot, who in enumerate((A, B)))
        state = attrs.evolve(sample.snapshot.state, registrations=registrations, reservation=None)
        data = encode(with_state(sample, state), parts)
        return [one.key for one in decode(data).snapshot.state.registrations]

    for key in range(1, 100):
        assert keys_of_a_document_that_nobody_keeps(key) == [key, key]


def test_served_mapping_that_is_changed_later_is_encoded_anew() -> None:
    """What is kept is a copy."""
    parts = Parts()
    served = {1: Served("h", "d", "api")}
    document = with_served(rich_document(), served)
    assert encode(document, parts) == plain(document)
    served[1] = Served("other", "d", "api")
    assert encode(document, parts) == plain(document)
