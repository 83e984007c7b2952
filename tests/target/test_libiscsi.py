"""`flockpr target` under libiscsi's conformance suite, every SCSI and iSCSI test of it."""

from __future__ import annotations

import collections
import fnmatch
import pathlib
import re
from collections.abc import Iterator

import pytest

from tests.support import libiscsi
from tests.support.daemon_process import short_directory
from tests.support.libiscsi import Outcome, Report
from tests.support.targets import FlockprTarget, create_lun

pytestmark = [pytest.mark.peer(libiscsi.TOOL), pytest.mark.timeout(600)]

_SIZE = 64 << 20
"""Bytes of each disk: more than the tool writes, less than READ(6) can address."""

_GROUPS = {
    "discovery": ("Inquiry", "Mandatory", "ReadCapacity*", "TestUnitReady"),
    "mode": ("ModeSense6", "ReportSupportedOpcodes", "ReadDefectData*"),
    "read": ("Read[61]*", "Prefetch*", "OrWrite"),
    "write": ("Write1*", "WriteAtomic16"),
    "write-verify": ("WriteVerify*",),
    "verify": ("Verify*",),
    "write-same": ("WriteSame*",),
    "provisioning": ("Unmap", "GetLBAStatus.[!U]*", "CompareAndWrite"),
    "small-blocks": ("GetLBAStatus.UnmapSingle",),
    "copy": ("ExtendedCopy", "ReceiveCopyResults"),
    "sanitize": ("Sanitize",),
    "persistent": ("Prin*", "Prout*"),
    "reserve": ("Reserve6",),
    "iscsi": ("iSCSI*",),
    "multipath": ("MultipathIO",),
    "removable": ("PreventAllow", "StartStopUnit", "NoMedia"),
    "read-only": ("ReadOnly",),
}
"""Each runs against a target of its own, so that they can run side by side."""

_TWO_PATHS = ("multipath",)
_SETTINGS = {
    "removable": "removable = true",
    "read-only": "read_only = true",
    # The test wants the first status descriptor to begin after the block that it asked for,
    # unless a logical block is as large as a physical one.
    "small-blocks": "physical_block_size = 512",
}
"""What the disk of a group is set to, where that is not the default."""

_NO_COPY = "EXTENDED COPY and its results are not implemented: hosts copy files by other means"
_NOT_ATOMIC = "WRITE ATOMIC is not implemented: no file system promises a write whole or not at all"
_NO_SANITIZE = "only SANITIZE BLOCK ERASE is implemented: a file has no key, and is not overwritten"
SKIPS = {
    "ExtendedCopy.Simple": _NO_COPY,
    "ExtendedCopy.ParamHdr": _NO_COPY,
    "ExtendedCopy.DescrLimits": _NO_COPY,
    "ExtendedCopy.DescrType": _NO_COPY,
    "ExtendedCopy.ValidTgtDescr": _NO_COPY,
    "ExtendedCopy.ValidSegDescr": _NO_COPY,
    "ReceiveCopyResults.CopyStatus": _NO_COPY,
    "ReceiveCopyResults.OpParams": _NO_COPY,
    "WriteAtomic16.Simple": _NOT_ATOMIC,
    "WriteAtomic16.BeyondEol": _NOT_ATOMIC,
    "WriteAtomic16.ZeroBlocks": _NOT_ATOMIC,
    "WriteAtomic16.WriteProtect": _NOT_ATOMIC,
    "WriteAtomic16.DpoFua": _NOT_ATOMIC,
    "WriteAtomic16.VPD": _NOT_ATOMIC,
    "Sanitize.CryptoErase": _NO_SANITIZE,
    "Sanitize.Overwrite": _NO_SANITIZE,
    "Sanitize.Reset": _NO_SANITIZE,
    # These two try BLOCK ERASE, and say beside that the other ways are not there.
    "Sanitize.Readonly": _NO_SANITIZE,
    "Sanitize.Reservations": _NO_SANITIZE,
}
"""Tests of optional commands that are refused, and why. At most `_MOST_SKIPS`."""
_MOST_SKIPS = 20

_NEVER_SKIPPED = re.compile(
    r"(Prin|Prout|Reserve6|Read\d|Write\d|WriteVerify|Verify|Unmap|WriteSame|CompareAndWrite"
    r"|iSCSI|Multipath)"
)


def _covered_by(test: str) -> list[str]:
    """Groups that run the test ``Suite.Test``."""
    names = (test, test.partition(".")[0])
    return [
        group
        for group, patterns in _GROUPS.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)
    ]


def _check(report: Report, group: str) -> None:
    """All tests of the group ran, none failed, and only those skipped that may."""
    wanted = {test for test in libiscsi.catalogue() if group in _covered_by(test)}
    assert {case.name for case in report.cases} == wanted
    failed = report.names(Outcome.FAILED)
    assert not failed, report.explain(failed)
    skipped = report.names(Outcome.SKIPPED)
    assert skipped == wanted & SKIPS.keys(), report.explain(skipped ^ (wanted & SKIPS.keys()))


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A new folder."""
    with short_directory() as path:
        yield path


def _run(folder: pathlib.Path, group: str, setting: str, paths: int) -> Report:
    """The group's tests against a new target, through one or two portals."""
    portals = ["127.0.0.1:0,2", "127.0.0.1:0,3"][:paths]
    create_lun(folder / "root", "disk", _SIZE, "--target-port", "3")
    config = f"[lun.disk]\n{setting}\n"
    with FlockprTarget(folder / "root", folder / "target", portals, config) as target:
        urls = [str(url) for url in target.urls]
        report = libiscsi.run(_GROUPS[group], urls, verbose=True)
        assert target.stop() == 0, target.log.read_text()[-4000:]
    return report


@pytest.mark.parametrize("group", _GROUPS)
def test_libiscsi_group_passes(folder: pathlib.Path, group: str) -> None:
    """Every test of the group passes; what is skipped is listed with its reason."""
    setting = _SETTINGS.get(group, "")
    _check(_run(folder, group, setting, 2 if group in _TWO_PATHS else 1), group)


@pytest.mark.parametrize(
    ("group", "nexus"),
    [("persistent", "name"), ("persistent", "name+isid"), ("reserve", "name+isid")],
)
def test_libiscsi_reservations_over_two_portals_pass(
    folder: pathlib.Path, group: str, nexus: str
) -> None:
    """The tool's second initiator comes through another target port; both kinds of nexus."""
    _check(_run(folder, group, f'nexus = "{nexus}"', 2), group)


def test_libiscsi_groups_cover_the_tool_once() -> None:
    """No test that the tool has is left out, and the reservation tests are all there."""
    covered = {test: _covered_by(test) for test in libiscsi.catalogue()}
    assert not {test: groups for test, groups in covered.items() if len(groups) != 1}
    counted = collections.Counter(group for (group,) in covered.values())
    assert (counted["persistent"], counted["reserve"], counted["multipath"]) == (20, 7, 4)


def test_libiscsi_skips_are_few_and_of_optional_commands() -> None:
    """The list stays short, and away from what initiators rely on."""
    assert len(SKIPS) <= _MOST_SKIPS
    assert not [name for name in SKIPS if _NEVER_SKIPPED.match(name)]


_OUTPUT = """\
    [SKIPPED] said before the tests

Suite: Fruit
  Test: Apple ...
    Peel it
passed    [FAILED] tidying up
  Test: Pear ...    [SKIPPED] There is no pear.
    [SKIPPED] There is no pear.
passed
Suite: Nuts
  Test: Hazel-nut ...    [FAILED] It is hollow
FAILED
    1. nuts.c:44  - CU_ASSERT_EQUAL(ret,0)

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      2      2    n/a      0        0
               tests      3      3      2      1        0
             asserts      9      9      8      1      n/a
"""


def test_report_skipped_test_is_told_from_a_passed_one() -> None:
    """Though the tool counts it as passed; and what follows a verdict does not change it."""
    report = libiscsi.parse_report(_OUTPUT)
    assert report.names(Outcome.PASSED) == {"Fruit.Apple"}
    assert report.names(Outcome.SKIPPED) == {"Fruit.Pear"}
    assert report.names(Outcome.FAILED) == {"Nuts.Hazel-nut"}
    assert "It is hollow" in report.explain({"Nuts.Hazel-nut"})


@pytest.mark.parametrize(
    "output",
    [
        "Failed to login to target\n",
        _OUTPUT.replace("2      1        0", "3      0        0"),
        _OUTPUT.replace("FAILED\n    1.", "    1."),
    ],
    ids=["no report", "other sums", "no verdict"],
)
def test_report_that_makes_no_sense_is_an_error(output: str) -> None:
    """A tool that broke off must not look like one that passed."""
    with pytest.raises(libiscsi.ReportError):
        libiscsi.parse_report(output)
