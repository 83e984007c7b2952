"""The verdict from what was found: every rule, every outcome, both doors."""

from __future__ import annotations

import pytest

from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import Mount
from flockpr.probe.findings import RULES, Finding, Outcome, Weight
from flockpr.probe.mounts import Host, judge_mount
from flockpr.probe.report import Report, from_letter, read_host
from flockpr.probe.verdict import TIERS, Answer, judge, weight
from tests.support.docs import read, rows

ANSWERS = {
    Weight.NOTHING: Answer.YES,
    Weight.CONDITION: Answer.CONDITION,
    Weight.REFUSE: Answer.NO,
}
# A row: BAD at the helper door, BAD at the target door, UNKNOWN at both.
_N, _I, _R = Answer.YES, Answer.CONDITION, Answer.NO
ROWS = {
    "place": (_R, _R, _R),
    "lock-descriptions": (_R, _R, _R),
    "lock-processes": (_R, _R, _R),
    "lock-ranges": (_R, _R, _R),
    "lock-close": (_R, _R, _R),
    "lock-death": (_I, _R, _R),
    "flock": (_N, _N, _N),
    "link": (_R, _R, _R),
    "rename": (_R, _R, _R),
    "revalidation": (_R, _R, _R),
    "sync": (_R, _R, _R),
    "direct": (_N, _R, _I),
    "hole": (_N, _N, _N),
    "peer": (_I, _I, _I),
    "same-host": (_I, _I, _N),
    "peer-silent": (_R, _R, _R),
    "lock-hosts": (_I, _R, _R),
    "lock-ranges-hosts": (_R, _R, _R),
    "lock-close-hosts": (_I, _R, _R),
    "link-hosts": (_R, _R, _R),
    "rename-hosts": (_R, _R, _R),
    "revalidation-hosts": (_R, _R, _R),
    "clock": (_N, _N, _N),
    "mount": (_I, _R, _I),
    "read-only": (_R, _R, _R),
    "one-host": (_I, _I, _N),
    "volatile": (_I, _I, _N),
    "nfs-locks": (_I, _R, _N),
    "nfs-lockd": (_I, _R, _N),
    "nfs-v2": (_I, _R, _N),
    "nfs-v3": (_N, _I, _N),
    "nfs-soft": (_N, _R, _N),
    "nfs-nocto": (_R, _R, _N),
    "nfs-softreval": (_R, _R, _N),
    "nfs-recover": (_N, _R, _I),
    "nfs-pnfs": (_N, _R, _I),
    "nfs-export": (_N, _N, _N),
    "smb-locks": (_I, _R, _N),
    "gfs2-locks": (_I, _R, _I),
    "cluster-unfenced": (_N, _R, _N),
    "cluster-fencing": (_N, _I, _N),
    "untried": (_I, _R, _N),
    "local-locks": (_I, _R, _N),
}


def test_rules_are_those_of_the_table() -> None:
    """A rule without a row would be judged by nobody."""
    assert set(ROWS) == set(RULES)


@pytest.mark.parametrize("name", ROWS)
def test_verdict_of_one_finding_is_that_of_its_row(name: str) -> None:
    """One bad thing decides; what could not be found out counts as the row says."""
    advisory, gated, unknown = ROWS[name]

    bad, unclear = Finding(name, Outcome.BAD, "w"), Finding(name, Outcome.UNKNOWN, "w")

    assert [judge([bad], tier).answer for tier in TIERS] == [advisory, gated]
    assert [judge([unclear], tier).answer for tier in TIERS] == [unknown, unknown]
    for outcome in (Outcome.GOOD, Outcome.NOTE):
        assert {judge([Finding(name, outcome, "w")], tier).answer for tier in TIERS} == {Answer.YES}


@pytest.mark.parametrize("name", ROWS)
def test_rule_that_sets_a_condition_words_it(name: str) -> None:
    """`only with` without a condition helps nobody, nor `no` without what to do."""
    rule = RULES[name]
    weights = {rule.advisory, rule.gated, rule.unknown}

    assert bool(rule.condition) == (Weight.CONDITION in weights)
    assert rule.remedy or Weight.REFUSE not in weights


def test_verdict_names_every_reason_and_each_condition_once() -> None:
    """The heaviest decides the answer, the others are said all the same."""
    found = [
        Finding("nfs-locks", Outcome.BAD, "nolock", "h1"),
        Finding("nfs-locks", Outcome.BAD, "nolock", "h2"),
        Finding("link", Outcome.BAD, "overwrites"),
    ]

    verdict = judge(found, "advisory")

    assert verdict.answer is Answer.NO
    assert verdict.conditions == (RULES["nfs-locks"].condition,)
    assert verdict.reasons == (
        "locks of the NFS mount: h1: nolock",
        "locks of the NFS mount: h2: nolock",
        "link as compare-and-swap: overwrites",
    )
    assert len(verdict.remedies) == 2


def test_verdict_on_a_file_system_of_one_host_misses_no_second_one() -> None:
    """There a second host could only say that it is not there, and O_DIRECT proves nothing."""
    found = [
        Finding("one-host", Outcome.BAD, "ext4"),
        Finding("peer", Outcome.UNKNOWN, "alone"),
        Finding("direct", Outcome.BAD, "no O_DIRECT"),
    ]

    assert judge(found, "gated").conditions == (RULES["one-host"].condition,)
    assert weight(found[1], "gated") is Weight.CONDITION


NFS42 = "rw,vers=4.2,hard,local_lock=none"
MOUNTS = [
    # kind, options, recover_lost_locks, helper door, target door, names of what speaks against it
    ("nfs4", NFS42, "N", _N, _N, set()),
    ("nfs4", "rw,vers=4.0,hard,local_lock=none", "0", _N, _N, set()),
    ("nfs4", "rw,vers=4.1,hard,local_lock=flock", "N", _N, _N, set()),
    ("nfs4", NFS42, "Y", _N, _R, {"nfs-recover"}),
    ("nfs4", NFS42, None, _I, _I, {"nfs-recover"}),
    ("nfs4", "rw,vers=4.2,soft", "N", _N, _R, {"nfs-soft"}),
    ("nfs4", "rw,vers=4.2,softerr", "N", _N, _R, {"nfs-soft"}),
    ("nfs4", "rw,vers=4.2,softerr,softreval", "N", _R, _R, {"nfs-soft", "nfs-softreval"}),
    ("nfs4", "rw,vers=4.2,softreval,hard", "N", _R, _R, {"nfs-softreval"}),
    ("nfs4", "rw,vers=4.2,nocto", "N", _R, _R, {"nfs-nocto"}),
    ("nfs4", "rw,vers=4.2,local_lock=all", "N", _I, _R, {"nfs-locks"}),
    ("nfs4", "rw,vers=4.2,local_lock=posix", "N", _I, _R, {"nfs-locks"}),
    ("nfs4", "ro,vers=4.2", "N", _R, _R, {"read-only"}),
    ("nfs", "rw,vers=3,hard,local_lock=none", None, _N, _I, {"nfs-v3"}),
    ("nfs", "rw,hard", None, _N, _I, {"nfs-v3"}),
    ("nfs", "rw,vers=3,nolock", None, _I, _R, {"nfs-v3", "nfs-locks"}),
    ("nfs", "rw,nfsvers=4.1", "N", _N, _N, set()),
    ("gfs2", "rw,lockproto=lock_dlm", None, _N, _I, {"cluster-fencing"}),
    ("gfs2", "rw,noatime", None, _I, _I, {"cluster-fencing", "gfs2-locks"}),
    ("gfs2", "rw,localflocks", None, _I, _R, {"cluster-fencing", "gfs2-locks"}),
    ("gfs2", "rw,lockproto=lock_nolock", None, _I, _R, {"cluster-fencing", "gfs2-locks"}),
    ("gfs2", "rw,lock_nolock", None, _I, _R, {"cluster-fencing", "gfs2-locks"}),
    ("ocfs2", "rw", None, _I, _R, {"untried"}),
    ("ceph", "rw", None, _I, _R, {"untried"}),
    ("cifs", "rw,vers=3.1.1", None, _I, _R, {"local-locks"}),
    ("smb3", "rw,nobrl", None, _I, _R, {"local-locks", "smb-locks"}),
    ("fuse.sshfs", "rw", None, _I, _R, {"local-locks"}),
    ("fuseblk", "rw", None, _I, _R, {"local-locks"}),
    ("9p", "rw", None, _I, _R, {"local-locks"}),
    ("virtiofs", "rw", None, _I, _R, {"local-locks"}),
    ("ext4", "rw", None, _I, _I, {"one-host"}),
    ("overlay", "rw", None, _I, _I, {"one-host"}),
    ("tmpfs", "rw", None, _I, _I, {"one-host", "volatile"}),
    ("newfs", "rw", None, _I, _R, {"mount"}),
]


@pytest.mark.parametrize("row", MOUNTS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_verdict_of_a_mount_is_that_of_its_row(
    row: tuple[str, str, str | None, Answer, Answer, set[str]],
) -> None:
    """What the mount table says is judged before anything is tried."""
    kind, options, recover, advisory, gated, against = row
    mount = Mount(kind, "s:/e", "/mnt", tuple(options.split(",")))
    host = Host("h", "b", Facts(mount, recover, pnfs=""))

    found = list(judge_mount(host))

    assert [judge(found, tier).answer for tier in TIERS] == [advisory, gated]
    counting = {one.name for one in found for tier in TIERS if weight(one, tier)}
    assert counting == against
    assert {one.host for one in found} == {"h"}


@pytest.mark.parametrize(
    ("version", "driver", "gated"),
    [
        ("4.2", "", _N),
        ("4.2", "LAYOUT_FLEX_FILES", _R),
        ("4.1", "LAYOUT_SCSI", _R),
        ("4.2", None, _I),
        ("4.0", None, _N),
        ("4.0", "LAYOUT_FLEX_FILES", _N),
    ],
)
def test_layouts_lead_past_the_server_that_keeps_the_locks(
    version: str, driver: str | None, gated: Answer
) -> None:
    """A data server takes a write of a client whose lock was lost. NFS 4.0 has no layouts."""
    mount = Mount("nfs4", "s:/e", "/mnt", ("rw", f"vers={version}", "hard"))

    found = list(judge_mount(Host("h", "b", Facts(mount, "N", pnfs=driver))))

    assert judge(found, "advisory").answer in (_N, _I if driver is None else _N)
    assert judge(found, "gated").answer is gated


def test_verdict_without_a_mount_is_conditional() -> None:
    """A mount table that cannot be read is no reason to trust, and none to refuse."""
    found = list(judge_mount(Host("h", "b", Facts(None))))

    assert {judge(found, tier).answer for tier in TIERS} == {Answer.CONDITION}


def test_report_survives_the_way_to_the_other_host() -> None:
    """Both hosts print the same verdict."""
    mount = Mount("nfs4", "s:/e", "/mnt", ("rw", "vers=4.2"))
    report = Report(
        "/mnt", (Host("h", "b", Facts(mount, "N")),), (Finding("link", Outcome.BAD, "w"),)
    )

    there = from_letter("/elsewhere", report.to_letter())

    assert there.findings == report.findings
    assert there.answers() == report.answers()
    assert there.directory == "/elsewhere"


def test_report_of_another_version_is_refused() -> None:
    """A finding that this version does not know cannot be judged."""
    with pytest.raises(ValueError, match="another version"):
        from_letter("/d", {"hosts": [], "tried": [{"name": "x", "outcome": "bad", "what": ""}]})


def test_host_without_a_mount_is_read_back() -> None:
    """The description crosses a pipe."""
    described = {"name": "h", "boot": "b", "facts": {"mount": None, "recover_lost_locks": None}}

    assert read_host(described) == Host("h", "b", Facts(None))


def test_page_has_a_row_for_every_rule_that_says_the_same() -> None:
    """docs/probe.md is what people decide by."""
    words = {"no": Answer.NO, "if": Answer.CONDITION, "": Answer.YES}
    page = {
        row[0].strip("`"): (words[row[2]], words[row[3]])
        for row in rows(read("docs/probe.md"))
        if len(row) == 4
    }

    assert page == {name: row[:2] for name, row in ROWS.items()}
