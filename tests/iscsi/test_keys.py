"""Text keys and what two sides agree on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flockpr.iscsi.keys import (
    MAX_PAIRS,
    NORMAL_SESSIONS_ONLY,
    Negotiation,
    Offer,
    Parameters,
    format_text,
    parse_number,
    parse_text,
)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (b"", ()),
        (b"\0\0", ()),
        (b"A=1\0", (("A", "1"),)),
        (b"A=1", (("A", "1"),)),
        (b"A=\0B=x=y\0", (("A", ""), ("B", "x=y"))),
        (b"\0A=1\0\0B=2\0\0\0", (("A", "1"), ("B", "2"))),
        (b"X#Node-1.a+b@c_d/e=\xc3\xa4\0", (("X#Node-1.a+b@c_d/e", "ä"),)),
        (b"A=" + b"v" * 8192, (("A", "v" * 8192),)),
    ],
)
def test_text_that_is_one_gives_its_pairs(text: bytes, pairs: tuple[tuple[str, str], ...]) -> None:
    """RFC 7143 6.1."""
    assert parse_text(text) == pairs


@pytest.mark.parametrize(
    "text",
    [
        b"A\0",
        b"=1\0",
        b"A B=1\0",
        b"A\n=1\0",
        b"k" * 64 + b"=1",
        b"A=" + b"v" * 8193,
        b"A=\xff\0",
        b"A=1\0" * (MAX_PAIRS + 1),
    ],
)
def test_text_that_is_none_is_refused(text: bytes) -> None:
    """RFC 7143 6.1: no sign, wrong characters, too long, not UTF-8, too many."""
    assert parse_text(text) is None


@given(st.binary(max_size=300))
def test_text_of_any_bytes_never_raises(text: bytes) -> None:
    """A parser is total, and what it accepts it can write again."""
    pairs = parse_text(text)
    if pairs is not None:
        assert parse_text(format_text(pairs)) == pairs


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", 0),
        ("262144", 262144),
        ("0x40000", 262144),
        ("0XfF", 255),
        ("", None),
        ("0x", None),
        ("-1", None),
        ("+1", None),
        ("1 ", None),
        ("1_0", None),
        ("\u0661", None),
        ("9" * 21, None),
    ],
)
def test_number_is_decimal_or_hexadecimal_and_nothing_else(value: str, number: int | None) -> None:
    """RFC 7143 6.1: numerical-value; Python's own notations are not accepted."""
    assert parse_number(value) == number


def _agree(
    *pairs: tuple[str, str], discovery: bool = False, offer: Offer | None = None
) -> tuple[dict[str, str], Parameters]:
    negotiation = Negotiation(offer or Offer(), discovery=discovery)
    answers = negotiation.answer(pairs)
    assert answers is not None
    return dict(answers), negotiation.parameters()


@pytest.mark.parametrize(
    ("key", "offered", "answer"),
    [
        ("HeaderDigest", "None", "None"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("DataDigest", "X,CRC32C", "CRC32C"),
        ("DataDigest", "SHA1", "Reject"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxBurstLength", "16776192", "1048576"),
        ("MaxBurstLength", "512", "512"),
        ("MaxBurstLength", "511", "Reject"),
        ("FirstBurstLength", "0x1000", "4096"),
        ("FirstBurstLength", "16777216", "Reject"),
        ("DefaultTime2Wait", "2", "2"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxOutstandingR2T", "1", "1"),
        ("MaxOutstandingR2T", "65535", "4"),
        ("MaxOutstandingR2T", "65536", "Reject"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "Yes", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "1~2", "Reject"),
        ("OFMarkInt", "1~2", "Reject"),
        ("TaskReporting", "ResponseFence,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("SendTargets", "All", "Reject"),
        ("TargetAlias", "x", "Reject"),
        ("X-com.cisco.protocol", "draft20", "NotUnderstood"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
    ],
)
def test_key_that_is_offered_gets_the_answer_of_its_rule(
    key: str, offered: str, answer: str
) -> None:
    """RFC 7143 section 13, each key's result function and range; 13.25 for the markers."""
    assert _agree((key, offered))[0] == {key: answer}


@pytest.mark.parametrize("key", ["InitiatorAlias", "MaxRecvDataSegmentLength"])
def test_key_that_declares_gets_no_answer(key: str) -> None:
    """RFC 7143 6.2: declarations are not answered."""
    assert _agree((key, "4096"))[0] == {}


@pytest.mark.parametrize("value", ["Reject", "NotUnderstood", "Irrelevant"])
@pytest.mark.parametrize("key", ["MaxBurstLength", "HeaderDigest", "X-unknown"])
def test_key_with_an_answer_as_its_value_is_not_answered(key: str, value: str) -> None:
    """RFC 7143 6.2: those are reserved; two sides must not reject each other for ever."""
    answers, parameters = _agree((key, value))
    assert answers == {}
    assert parameters == Parameters()


@pytest.mark.parametrize("key", sorted(NORMAL_SESSIONS_ONLY))
def test_key_of_normal_sessions_in_a_discovery_session_is_irrelevant(key: str) -> None:
    """RFC 7143 section 13: "Irrelevant when: SessionType=Discovery"."""
    answers, parameters = _agree((key, "1"), discovery=True)
    assert answers == {key: "Irrelevant"}
    assert parameters == Parameters()


def test_key_that_comes_twice_breaks_the_rules() -> None:
    """RFC 7143 6.3: renegotiation is a protocol error."""
    negotiation = Negotiation(Offer(), discovery=False)
    assert negotiation.answer([("MaxBurstLength", "512")]) is not None
    assert negotiation.answer([("MaxBurstLength", "512")]) is None


@pytest.mark.parametrize("value", ["511", "16777216", "", "much"])
def test_declaration_out_of_range_breaks_the_rules(value: str) -> None:
    """RFC 7143 13.12: 512 to 2**24 - 1."""
    negotiation = Negotiation(Offer(), discovery=False)
    assert negotiation.answer([("MaxRecvDataSegmentLength", value)]) is None


def test_agreement_holds_what_was_answered() -> None:
    """What the session uses is what the initiator was told."""
    _, parameters = _agree(
        ("HeaderDigest", "CRC32C"),
        ("InitialR2T", "No"),
        ("ImmediateData", "No"),
        ("MaxBurstLength", "65536"),
        ("FirstBurstLength", "131072"),
        ("MaxOutstandingR2T", "2"),
        ("MaxRecvDataSegmentLength", "1024"),
        ("DefaultTime2Wait", "5"),
    )
    assert parameters == Parameters(
        header_digest=True,
        initial_r2t=False,
        immediate_data=False,
        max_burst_length=65536,
        first_burst_length=65536,  # 13.14: not longer than a burst
        max_outstanding_r2t=2,
        send_limit=1024,
        default_time2wait=5,
    )


def test_agreement_about_nothing_has_the_defaults_of_the_standard() -> None:
    """RFC 7143 section 13: what is not mentioned keeps its default."""
    parameters = _agree()[1]
    assert (parameters.initial_r2t, parameters.immediate_data) == (True, True)
    assert (parameters.max_burst_length, parameters.first_burst_length) == (262144, 65536)
    assert (parameters.send_limit, parameters.receive_limit) == (8192, 8192)


def test_agreement_of_a_strict_target_follows_it() -> None:
    """A target may refuse unsolicited data, immediate data and digests."""
    offer = Offer(
        initial_r2t=True, immediate_data=False, header_digests=("None",), max_outstanding_r2t=1
    )
    answers, parameters = _agree(
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("HeaderDigest", "CRC32C,None"),
        ("MaxOutstandingR2T", "16"),
        offer=offer,
    )
    assert list(answers.values()) == ["Yes", "No", "None", "1"]
    assert (parameters.initial_r2t, parameters.immediate_data) == (True, False)
    assert not parameters.header_digest


def test_declaration_of_the_target_is_made_once() -> None:
    """RFC 7143 13.12: until then 8192 holds."""
    negotiation = Negotiation(Offer(), discovery=False)
    assert negotiation.parameters().receive_limit == 8192
    assert negotiation.declarations() == [("MaxRecvDataSegmentLength", "262144")]
    assert negotiation.declarations() == []
    assert negotiation.parameters().receive_limit == 262144
