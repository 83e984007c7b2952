"""docs/iscsi-coverage.md says what the protocol does."""

from __future__ import annotations

import re

from flockpr.iscsi import login, session
from flockpr.iscsi.keys import MAX_PAIRS, MAX_TEXT_LENGTH, RULES, Negotiation
from tests.support.docs import ROOT

PAGE = (ROOT / "docs" / "iscsi-coverage.md").read_text(encoding="utf-8")
_NOT_NEGOTIATED = {
    "InitiatorAlias",
    "SendTargets",
    "TargetAlias",
    "TargetAddress",
    "TargetPortalGroupTag",
}


def _rows() -> dict[str, str]:
    table = PAGE.split("## Keys", 1)[1].split("\n## ", 1)[0]
    return {
        key: answer
        for keys, answer in re.findall(r"^\| ([A-Z-i].*?) \| (.*?) \|$", table, re.MULTILINE)
        for key in keys.split(", ")
    }


def test_iscsi_page_has_every_key_that_is_negotiated() -> None:
    """A key is not added without telling."""
    assert set(RULES) - _NOT_NEGOTIATED <= set(_rows())


def test_iscsi_page_answers_as_the_rules_do() -> None:
    """The largest offer of each number gets the number that the page names."""
    config = session.ProtocolConfig()
    rows = _rows()
    for key, largest in (
        ("MaxBurstLength", "16777215"),
        ("FirstBurstLength", "16777215"),
        ("MaxOutstandingR2T", "65535"),
        ("MaxConnections", "65535"),
        ("ErrorRecoveryLevel", "2"),
        ("iSCSIProtocolLevel", "31"),
        ("IFMarker", "Yes"),
        ("IFMarkInt", "1"),
        ("DataPDUInOrder", "No"),
        ("TaskReporting", "RFC3720"),
        ("RDMAExtensions", "Yes"),
    ):
        answers = Negotiation(config.offer(), discovery=False).answer([(key, largest)])
        assert answers is not None
        assert answers[0][1] in re.split(r"[ ,]+", rows[key]), key
    assert str(config.max_recv_data_segment_length) in rows["MaxRecvDataSegmentLength"]


def test_iscsi_page_names_the_limits() -> None:
    """Limits are promises to operators."""
    config = session.ProtocolConfig()
    assert f"{config.window} commands" in PAGE
    assert f"{config.immediate_limit} immediate requests" in PAGE
    assert f"{login.MAX_REQUESTS} requests" in PAGE
    assert f"{MAX_TEXT_LENGTH >> 10} KiB of text" in PAGE
    assert f"{MAX_PAIRS} keys" in PAGE
