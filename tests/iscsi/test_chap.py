"""CHAP, the target's part."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.iscsi import chap
from flockpr.iscsi.chap import ChapTarget, decode_binary, encode_binary

SECRET = b"a secret of 16 b"
MUTUAL = ("the target", b"another secret..")


def counting(length: int) -> bytes:
    """What should be unpredictable."""
    return bytes(range(1, length + 1))


def _target(mutual: tuple[str, bytes] | None = None) -> ChapTarget:
    return ChapTarget({"user": SECRET}, mutual, counting)


def _asked(target: ChapTarget, algorithms: str = "5") -> tuple[int, int, bytes]:
    answer = dict(target.answer({"CHAP_A": algorithms}) or ())
    challenge = bytes.fromhex(answer["CHAP_C"].removeprefix("0x"))
    return int(answer["CHAP_A"]), int(answer["CHAP_I"]), challenge


def _proof(target: ChapTarget, secret: bytes = SECRET) -> str:
    algorithm, identifier, challenge = _asked(target)
    assert algorithm == chap.MD5
    return "0x" + hashlib.md5(bytes([identifier]) + secret + challenge).hexdigest()


def test_response_is_the_hash_of_identifier_secret_and_challenge() -> None:
    """RFC 1994 4.1, with a value that was computed by hand: MD5 of 01 62 63."""
    assert chap.response(chap.MD5, 1, b"b", b"c").hex() == hashlib.md5(b"\1bc").hexdigest()
    assert len(chap.response(chap.SHA256, 1, b"b", b"c")) == 32


def test_initiator_with_the_secret_is_let_in() -> None:
    """RFC 7143 12.1.3: the three steps."""
    target = _target()
    proof = _proof(target)
    assert target.user == ""
    assert target.answer({"CHAP_N": "user", "CHAP_R": proof}) == []
    assert target.done
    assert target.user == "user"


def test_initiator_may_answer_in_base64() -> None:
    """RFC 7143 6.1: large-binary-value is hexadecimal or base64."""
    target = _target()
    value = base64.b64encode(bytes.fromhex(_proof(target)[2:])).decode()
    assert target.answer({"CHAP_N": "user", "CHAP_R": "0b" + value}) == []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"CHAP_R": "0x00"},
        {"CHAP_N": "user"},
        {"CHAP_N": "user", "CHAP_R": "0x" + "0" * 32},
        {"CHAP_N": "user", "CHAP_R": "0x"},
        {"CHAP_N": "user", "CHAP_R": "0xzz"},
        {"CHAP_N": "user", "CHAP_R": "12"},
        {"CHAP_N": "user", "CHAP_R": "0x" + "0" * 5000},
        {"CHAP_N": "nobody", "CHAP_R": "PROOF"},
        {"CHAP_N": "", "CHAP_R": "PROOF"},
        {"CHAP_N": "user", "CHAP_R": "PREFIXED"},
        {"CHAP_N": "user", "CHAP_R": "PROOF", "CHAP_A": "5"},
    ],
)
def test_initiator_with_anything_else_is_not(keys: dict[str, str]) -> None:
    """Wrong, missing, malformed, too long, somebody else, in the wrong step."""
    target = _target()
    proof = _proof(target)
    keys = {
        key: {"PROOF": proof, "PREFIXED": "0x00" + proof[2:]}.get(value, value)
        for key, value in keys.items()
    }
    answer = target.answer(keys)
    assert answer is None or (not keys and answer == [])
    assert not target.done


def test_initiator_with_the_secret_of_another_user_is_not_let_in() -> None:
    """Name and secret belong together."""
    target = ChapTarget({"user": SECRET, "other": b"his"}, None, counting)
    proof = _proof(target)
    assert target.answer({"CHAP_N": "other", "CHAP_R": proof}) is None


@pytest.mark.parametrize("offered", ["", "56", "4", "five", "6", "5 "])
def test_algorithm_that_nobody_has_ends_it(offered: str) -> None:
    """RFC 7143 12.1.3: no common algorithm; SHA-1 is not accepted."""
    assert _target().answer({"CHAP_A": offered}) is None


@pytest.mark.parametrize(
    ("offered", "chosen"), [("5", 5), ("5,6,7,8", 5), ("7,5", 7), ("6,8", 8), ("0x5", 5)]
)
def test_algorithm_is_the_first_of_the_list_that_is_acceptable(offered: str, chosen: int) -> None:
    """RFC 7143 6.2.1: the initiator's order decides."""
    assert _asked(_target(), offered)[0] == chosen


def test_challenge_without_an_algorithm_is_not_given() -> None:
    """The steps cannot be left out."""
    assert _target().answer({"CHAP_N": "user", "CHAP_R": "0x00"}) is None
    assert _target().answer({"CHAP_A": "5", "CHAP_N": "user"}) is None


def test_target_proves_itself_when_it_is_asked_to() -> None:
    """RFC 7143 12.1.3: both ways."""
    target = _target(MUTUAL)
    proof = _proof(target)
    answer = target.answer(
        {"CHAP_N": "user", "CHAP_R": proof, "CHAP_I": "77", "CHAP_C": "0x0102030405"}
    )
    expected = hashlib.md5(bytes([77]) + MUTUAL[1] + bytes([1, 2, 3, 4, 5])).hexdigest()
    assert answer == [("CHAP_N", "the target"), ("CHAP_R", "0x" + expected)]
    assert target.done


@pytest.mark.parametrize(
    "asked",
    [
        {"CHAP_I": "77"},
        {"CHAP_C": "0x01"},
        {"CHAP_I": "256", "CHAP_C": "0x01"},
        {"CHAP_I": "x", "CHAP_C": "0x01"},
        {"CHAP_I": "1", "CHAP_C": "0x" + "01" * 1025},
    ],
)
def test_target_that_is_asked_wrongly_ends_it(asked: dict[str, str]) -> None:
    """An incomplete or malformed challenge of the initiator."""
    target = _target(MUTUAL)
    proof = _proof(target)
    assert target.answer({"CHAP_N": "user", "CHAP_R": proof, **asked}) is None
    assert not target.done


def test_target_that_has_no_secret_cannot_prove_itself() -> None:
    """It does not let the initiator believe that it did."""
    target = _target()
    proof = _proof(target)
    keys = {"CHAP_N": "user", "CHAP_R": proof, "CHAP_I": "1", "CHAP_C": "0x01"}
    assert target.answer(keys) is None


def test_challenge_that_is_sent_back_ends_it() -> None:
    """RFC 7143 12.1.3: or the target would compute the response that it asked for."""
    target = ChapTarget({"user": SECRET}, ("target", SECRET), counting)
    _, identifier, challenge = _asked(target)
    proof = hashlib.md5(bytes([identifier]) + SECRET + challenge).hexdigest()
    keys = {
        "CHAP_N": "user",
        "CHAP_R": "0x" + proof,
        "CHAP_I": str(identifier),
        "CHAP_C": encode_binary(challenge),
    }
    assert target.answer(keys) is None


def test_authentication_that_is_over_takes_nothing_more() -> None:
    """A second response is a breach of the rules, not a second chance."""
    target = _target()
    proof = _proof(target)
    assert target.answer({"CHAP_N": "user", "CHAP_R": proof}) == []
    assert target.answer({"CHAP_N": "user", "CHAP_R": proof}) is None


@given(st.binary(min_size=1, max_size=100))
def test_binary_value_survives_both_notations(value: bytes) -> None:
    """RFC 7143 6.1."""
    assert decode_binary(encode_binary(value)) == value
    assert decode_binary("0b" + base64.b64encode(value).decode()) == value
    assert decode_binary("0B" + base64.b64encode(value).decode()) == value


@given(st.text(max_size=60))
def test_binary_value_of_any_text_never_raises(text: str) -> None:
    """A parser is total."""
    for prefix in ("", "0x", "0b"):
        decode_binary(prefix + text)
