"""The commit document: what was written is read back, and nothing else is read at all."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.errors import NewerFormat, StateUnreadable
from flockpr.store.document import (
    MAX_DAEMONS,
    Newer,
    decode,
    decode_place,
    remember,
    state_from_json,
)
from flockpr.store.encoding import encode
from flockpr.store.layout import MAX_DOCUMENT
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun, event
from flockpr.store.publish import state_to_json
from flockpr.store.strict import Malformed, Reader
from tests.support.spc_strategies import QUIET
from tests.support.states import documents, reachable_states, rich_document

RICH = encode(rich_document())


def sealed(text: bytes) -> bytes:
    """An object's bytes with its checksum, as docs/format.md says it; not by our own code."""
    return text[:-1] + b',"checksum":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def body() -> dict[str, Any]:
    """The members of the sample document, without the checksum."""
    value: dict[str, Any] = json.loads(RICH)
    del value["checksum"]
    return value


def resealed(value: Any) -> bytes:
    """A value as a document whose checksum is right."""
    return sealed(json.dumps(value, separators=(",", ":")).encode())


# --------------------------------------------------------------------------- round trip


@QUIET
@given(documents())
def test_decode_of_an_encoded_document_is_the_document(document: Any) -> None:
    """Every valid document survives, and is one line of ASCII."""
    data = encode(document)

    assert decode(data) == document
    assert data.isascii()
    assert data.index(b"\n") == len(data) - 1


@QUIET
@given(reachable_states())
def test_state_that_commands_bring_about_is_read_back(state: Any) -> None:
    """No command leads to a state that nobody can read."""
    text = json.loads(json.dumps(state_to_json(state)))

    assert state_from_json(Reader(text, "state")) == state


def test_sample_document_is_valid_and_sealed_as_documented() -> None:
    """The tests below start from something that is accepted."""
    assert decode(RICH) == rich_document()
    assert resealed(body()) == RICH


# --------------------------------------------------------------------------- damage


def test_decode_of_any_truncated_document_is_refused() -> None:
    """A document cut short anywhere is never taken for a whole one."""
    for length in range(len(RICH)):
        with pytest.raises(Malformed):
            decode(RICH[:length])


def test_decode_of_a_document_with_any_bit_flipped_is_refused() -> None:
    """Each bit of each byte counts, also where only its place is wanted."""
    for position, value in enumerate(RICH):
        for bit in range(8):
            edited = RICH[:position] + bytes([value ^ 1 << bit]) + RICH[position + 1 :]
            with pytest.raises(Malformed):
                decode(edited)
            with pytest.raises(Malformed):
                decode_place(edited)


@QUIET
@given(documents())
def test_place_of_a_document_is_that_of_the_document(document: Any) -> None:
    """Number, id and incarnation."""
    place = decode_place(encode(document))
    assert place == (document.number, document.txid, document.incarnation)


@pytest.mark.parametrize("member", ["number", "txid", "incarnation"])
def test_place_needs_every_part_of_it(member: str) -> None:
    """None of them is made up."""
    value = body()
    del value[member]
    with pytest.raises(Malformed, match=member):
        decode_place(resealed(value))


@QUIET
@given(st.integers(0, len(RICH)), st.binary(min_size=1, max_size=8))
def test_decode_of_a_document_with_bytes_inserted_is_refused(position: int, more: bytes) -> None:
    """Padding, at the end too, is damage."""
    with pytest.raises(Malformed):
        decode(RICH[:position] + more + RICH[position:])


@QUIET
@given(st.binary(max_size=200))
def test_decode_of_any_bytes_refuses_and_nothing_else(data: bytes) -> None:
    """Total: whatever stands in a file, sealed or not, is `Malformed` at the worst."""
    for candidate in (data, sealed(data + b"}")):
        with pytest.raises(Malformed):
            decode(candidate)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RICH[: RICH.index(b',"checksum"')] + b',"format":1}', "twice"),
        (b'{"format":1,"number":NaN}', "NaN is no JSON"),
        (b'{"format":1,"number":Infinity}', "Infinity is no JSON"),
        (b'{"format":1,"number":-Infinity}', "-Infinity is no JSON"),
        (b'{"format":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
        (b'{"format":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001, "nested too deep"),
        (b'{"format":1,"host":"\xff"}', "not UTF-8"),
        (b'{"format":01}', "not JSON"),
        (b'{"format":1,}', "not JSON"),
        (b"[1,2}", "not JSON"),
        (b'{"format":%s}' % (b"9" * 5000), "not JSON"),
        (b"{}", "format is missing"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_decode_of_loose_json_is_refused_and_says_why(text: bytes, words: str) -> None:
    """What Python's parser would let pass: duplicate keys, NaN, a stack's worth of brackets."""
    with pytest.raises(Malformed, match=words):
        decode(sealed(text))


def test_decode_of_a_duplicate_key_inside_the_state_is_refused() -> None:
    """Which of the two generations would it be?"""
    text = RICH[: RICH.index(b',"checksum"')] + b"}"
    doubled = text.replace(b'"generation":7,', b'"generation":7,"generation":8,')
    assert doubled != text

    with pytest.raises(Malformed, match="twice"):
        decode(sealed(doubled))


def test_decode_of_a_huge_document_is_refused_before_it_is_parsed() -> None:
    """Larger than any state of ours, though its checksum and its contents are right."""
    text = RICH[: RICH.index(b',"checksum"')]
    fits = sealed(text + b" " * (MAX_DOCUMENT - len(RICH)) + b"}")
    assert len(fits) == MAX_DOCUMENT
    assert decode(fits) == rich_document()

    with pytest.raises(Malformed, match=f"larger than {MAX_DOCUMENT}"):
        decode(sealed(text + b" " * (MAX_DOCUMENT - len(RICH) + 1) + b"}"))


# --------------------------------------------------------------------------- every field

NUMBER: list[Any] = [None, True, 1.0, "1", [], {}, -1]
TEXT: list[Any] = [None, True, 1, [], {}, "x" * 513]
FLAG: list[Any] = [None, 0, 1, "true", [], {}]
HEX: list[Any] = [*TEXT, "", "ab" * 15, "ab" * 17, "AB" * 16, "0x" + "ab" * 15, "gh" * 16]
KEY: list[Any] = [*TEXT, "", "0x1", "161", "0x00000000000000A1", "0X00000000000000a1", 161]
OBJECT: list[Any] = [True, 1, "x", []]
ARRAY: list[Any] = [None, True, 1, "x", {}]
GENERATION = [*NUMBER, 1 << 32]
SLOT = [*NUMBER, 1 << 16]
PORT = [*NUMBER, 0, 1 << 16]
INITIATOR = [*TEXT, "", "a b", "IQN.2026-01.ORG.EXAMPLE:A", "x" * 224, "a,i,0x1", "a\0"]

WRONG: dict[str, list[Any]] = {
    "format": [*NUMBER, 0, (1 << 31) + 1],
    "incarnation": HEX,
    "number": [*NUMBER, 0, 10**16, 6],
    "txid": [*HEX, "ba" * 16],
    "previous": HEX,
    "time": TEXT,
    "host": TEXT,
    "daemon": [*TEXT, "d0", "unknown"],
    "deleted": FLAG,
    "daemons": [None, *OBJECT, {}, {"d1": [5]}, {"d0": [4, "ef" * 16]}],
    "daemons.d0": [*ARRAY, [], [4], [4, "ef" * 16, 1], [0, "ef" * 16], [6, "ef" * 16], [4, "e"]],
    "daemons.d0.0": [*NUMBER, 0, 6],
    "daemons.d0.1": HEX,
    "daemons.d1": [*ARRAY, [4, "ab" * 16], [5, "ba" * 16]],
    "daemons.d1.0": [*NUMBER, 0, 4, 6],
    "daemons.d1.1": [*HEX, "ba" * 16],
    "forgotten": [*NUMBER, 6],
    "commands": [*ARRAY, [{}] * 4097],
    "commands.0": [None, *OBJECT, {}],
    "commands.0.time": TEXT,
    "commands.0.initiator": TEXT,
    "commands.0.target_port": [*NUMBER, 1 << 16],
    "commands.0.action": TEXT,
    "commands.0.opcode": [*NUMBER[1:], 256],
    "commands.0.key": KEY[1:],
    "commands.0.service_action_key": KEY[1:],
    "commands.0.type": [*NUMBER[1:], 16],
    "commands.0.status": [*NUMBER, 256],
    "commands.0.generation_before": GENERATION,
    "commands.0.generation_after": GENERATION,
    "commands.0.door": TEXT,
    "commands.0.raised": [*ARRAY, [1], [None], ["x" * 513]],
    "commands.0.raised.0": [None, True, 1, [], {}, "x" * 513],
    "served": [None, *OBJECT, *({n: {}} for n in ("-1", "65536", "03", "x", "", "\u0663", "+3"))],
    "served.3": [None, *OBJECT, {}],
    "served.3.host": TEXT,
    "served.3.daemon": TEXT,
    "served.3.door": TEXT,
    "state": [None, *OBJECT, {}],
    "state.generation": GENERATION,
    "state.aptpl": FLAG,
    "state.registrations": [*ARRAY, []],  # empty: the reservation is left without its holder
    "state.registrations.0": [None, *OBJECT, {}],
    "state.registrations.0.initiator": [*INITIATOR, "c"],
    "state.registrations.0.target_port": [*PORT, 2],
    "state.registrations.0.key": [*KEY, "0x" + "0" * 16],
    "state.registrations.0.slot": [*SLOT, 4],
    "state.registrations.0.all_target_ports": FLAG,
    "state.registrations.1": [None, *OBJECT, {}],
    "state.registrations.1.initiator": INITIATOR,
    "state.registrations.1.target_port": PORT,
    "state.registrations.1.key": [*KEY, "0x" + "0" * 16],
    "state.registrations.1.slot": [*SLOT, 3],
    "state.registrations.1.all_target_ports": FLAG,
    "state.reservation": [*OBJECT, {}],
    "state.reservation.type": [*NUMBER, 0, 2, 4, 9, 7],
    "state.reservation.holder": [None, *OBJECT, {}],
    "state.reservation.holder.initiator": [*INITIATOR, "c"],
    "state.reservation.holder.target_port": [*PORT, 2],
    "state.spc2": [*OBJECT, {}, {"initiator": "c", "target_port": 1, "slot": 9}],
    "state.attentions": ARRAY,
    "state.attentions.0": [None, *OBJECT, {}],
    "state.attentions.0.initiator": INITIATOR,
    "state.attentions.0.target_port": PORT,
    "state.attentions.0.codes": [*ARRAY, [], ["2a/05", "2a/05"]],
    "state.attentions.0.codes.0": [None, 1, "", "2A/05", "2a05", "00/00", [], {}],
    "state.attention_epoch": [*NUMBER, 0, (1 << 62) + 1],
    "state.overflowed": FLAG,
    "state.power_cycles": [*NUMBER, 3, (1 << 62) + 1],
    "state.next_slot": SLOT,
}


def _paths(value: Any, prefix: str = "") -> list[str]:
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    result = []
    for name, item in items:
        result += [prefix + name, *_paths(item, f"{prefix}{name}.")]
    return result


def _parent(value: Any, path: str) -> tuple[Any, Any]:
    """The container that a path ends in, and the last step as its key."""
    steps = path.split(".")
    for step in steps[:-1]:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value, int(steps[-1]) if isinstance(value, list) else steps[-1]


def test_table_of_wrong_values_has_every_field() -> None:
    """A member that the format gains needs a line above."""
    assert set(_paths(body())) == set(WRONG)


@pytest.mark.parametrize("path", WRONG)
def test_decode_of_a_wrong_value_in_a_field_is_refused(path: str) -> None:
    """Wrong type, out of range, not in the normal form, or at odds with another field."""
    for wrong in WRONG[path]:
        value = copy.deepcopy(body())
        container, key = _parent(value, path)
        container[key] = wrong
        with pytest.raises(Malformed):
            pytest.fail(f"{path} = {wrong!r} was read as {decode(resealed(value))}")


@pytest.mark.parametrize(
    "path", [p for p in WRONG if not p.rpartition(".")[2].isdigit() or p == "served.3"]
)
def test_decode_without_a_field_is_refused(path: str) -> None:
    """No member has a default, but what is a table by itself may be shorter."""
    value = copy.deepcopy(body())
    container, key = _parent(value, path)
    del container[key]

    if path in ("daemons.d0", "served.3"):
        decode(resealed(value))
        return
    with pytest.raises(Malformed):
        decode(resealed(value))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "commands.0",
        "served.3",
        "state",
        "state.registrations.0",
        "state.reservation",
        "state.reservation.holder",
        "state.attentions.0",
    ],
)
def test_decode_with_an_unknown_field_is_refused(path: str) -> None:
    """It means something to whoever wrote it."""
    value = copy.deepcopy(body())
    target = value
    if path:
        container, key = _parent(value, path)
        target = container[key]
    target["surprise"] = None

    with pytest.raises(Malformed, match="surprise"):
        decode(resealed(value))


def test_decode_with_an_unknown_field_beside_a_spc2_holder_is_refused() -> None:
    """The one object that cannot stand in the sample, beside registrations."""
    value = body()
    value["state"] |= {"registrations": [], "reservation": None}
    value["state"]["spc2"] = {"initiator": "c", "target_port": 1, "slot": 9}
    assert decode(resealed(value)).snapshot.state.spc2 is not None

    for name in ("initiator", "target_port", "slot"):
        changed = copy.deepcopy(value)
        changed["state"]["spc2"][name] = None
        with pytest.raises(Malformed):
            decode(resealed(changed))
    value["state"]["spc2"]["surprise"] = 1
    with pytest.raises(Malformed, match="surprise"):
        decode(resealed(value))


def test_decode_of_the_first_document_needs_no_predecessor() -> None:
    """Number 1 follows nothing; only it may have an empty `previous`."""
    first = attrs.evolve(rich_document(1), previous="", forgotten=0, daemons={"d1": (1, "ab" * 16)})
    assert decode(encode(first)) == first

    with pytest.raises(Malformed, match="previous"):
        decode(encode(attrs.evolve(rich_document(), previous="")))


def test_decode_of_a_newer_format_says_so() -> None:
    """Never read as ours, never as damage: somebody has a newer flockpr."""
    value = {**body(), "format": 2}
    for read in (decode, decode_place):
        with pytest.raises(Newer, match="format 2 is newer"):
            read(resealed(value))

    value = {"format": 3, "anything": "else"}
    with pytest.raises(Newer):
        decode(resealed(value))


# --------------------------------------------------------------------------- foreign files


@pytest.fixture
def lun(tmp_path: Path) -> Path:
    """A lock directory with three commits."""
    create_lun(str(tmp_path), "disk")
    _commit(tmp_path / "disk", 2)
    return tmp_path / "disk"


def _commit(lun: Path, count: int) -> None:
    store = LockDirectory(str(lun))
    for _ in range(count):
        base = store.head()
        assert store.commit(base, base.state, [event("TEST", 0, door="api")], served={})
    store.close()


def _commit_path(lun: Path, number: int) -> Path:
    return lun / "commits" / f"{number:016d}.json"


def _refused(lun: Path, words: str, kind: type[StateUnreadable] = StateUnreadable) -> None:
    before = {path: path.read_bytes() for path in (lun / "commits").iterdir()}
    store = LockDirectory(str(lun))
    with pytest.raises(kind, match=words) as caught:
        store.head()
    store.close()
    assert os.path.basename(caught.value.path).endswith(".json")
    assert {path: path.read_bytes() for path in (lun / "commits").iterdir()} == before


def test_head_of_another_incarnation_is_refused(lun: Path, tmp_path: Path) -> None:
    """A commit of another logical unit is never this one's state."""
    create_lun(str(tmp_path), "other")
    _commit(tmp_path / "other", 3)
    shutil.copy(_commit_path(tmp_path / "other", 4), _commit_path(lun, 4))

    _refused(lun, "two logical units were mixed")


def test_head_under_another_number_is_refused(lun: Path) -> None:
    """A copy under a higher name is no newer transaction."""
    shutil.copy(_commit_path(lun, 2), _commit_path(lun, 4))

    _refused(lun, "is transaction 2 of incarnation")


def test_head_that_is_cut_short_is_refused(lun: Path) -> None:
    """Not taken for the transaction before it either."""
    data = _commit_path(lun, 3).read_bytes()
    _commit_path(lun, 3).write_bytes(data[:-1])

    _refused(lun, "cut short")


def test_head_that_is_empty_is_refused(lun: Path) -> None:
    """An empty file is not an empty state."""
    _commit_path(lun, 3).write_bytes(b"")

    _refused(lun, "cut short")


def test_head_of_a_newer_format_is_refused_with_the_remedy(lun: Path) -> None:
    """And overwritten by nobody."""
    value = json.loads(_commit_path(lun, 3).read_bytes())
    del value["checksum"]
    value["format"] = 2
    _commit_path(lun, 3).write_bytes(resealed(value))

    _refused(lun, "run a newer flockpr", NewerFormat)


# --------------------------------------------------------------------------- who wrote what


def test_remember_forgets_the_least_recent_daemon_and_says_so() -> None:
    """The table is bounded; what it has forgotten it does not deny."""
    daemons: dict[str, tuple[int, str]] = {}
    forgotten = 0
    for number in range(1, MAX_DAEMONS + 3):
        daemons, forgotten = remember(daemons, forgotten, f"d{number}", number, "ab" * 16)

    assert len(daemons) == MAX_DAEMONS
    assert forgotten == 2
    document = attrs.evolve(rich_document(70), daemons=daemons, forgotten=forgotten)
    assert document.includes("d2", 2, "ab" * 16) is None
    assert document.includes("d2", 3, "ab" * 16) is False
    assert document.includes("d3", 3, "ab" * 16) is True
    assert document.includes("d3", 3, "cd" * 16) is False


def test_descends_from_is_proven_by_the_writers_last_transaction() -> None:
    """Its writer builds only on what it wrote before."""
    earlier = rich_document(5)
    later = attrs.evolve(rich_document(9), daemons={"d1": (8, "cd" * 16)}, forgotten=4)

    assert later.descends_from(earlier) is True
    assert earlier.descends_from(earlier) is True
    same_number = attrs.evolve(later, daemons={"d1": (5, "cd" * 16)})
    assert same_number.descends_from(earlier) is False
    never_heard_of = attrs.evolve(later, daemons={})
    assert never_heard_of.descends_from(earlier) is False
    assert attrs.evolve(never_heard_of, forgotten=5).descends_from(earlier) is None
