"""`flockpr target` under libiscsi's conformance suite, every SCSI and iSCSI test of it."""

from __future__ import annotations

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
    "discovery": ("SCSI.Inquiry", "SCSI.Mandatory", "SCSI.ReadCapacity*", "SCSI.TestUnitReady"),
    "mode": ("SCSI.ModeSense6", "SCSI.ReportSupportedOpcodes", "SCSI.ReadDefectData*"),
    "read": ("SCSI.Read[61]*", "SCSI.Prefetch*", "SCSI.OrWrite"),
    "write": ("SCSI.Write1*", "SCSI.WriteAtomic16"),
    "write-verify": ("SCSI.WriteVerify*",),
    "verify": ("SCSI.Verify*",),
    "write-same": ("SCSI.WriteSame*",),
    "provisioning": ("SCSI.Unmap", "SCSI.GetLBAStatus", "SCSI.CompareAndWrite"),
    "copy": ("SCSI.ExtendedCopy", "SCSI.ReceiveCopyResults"),
    "sanitize": ("SCSI.Sanitize",),
    "persistent": ("SCSI.Prin*", "SCSI.Prout*"),
    "reserve": ("SCSI.Reserve6",),
    "iscsi": ("iSCSI.*",),
    "multipath": ("SCSI.MultipathIO",),
    "removable": ("SCSI.PreventAllow", "SCSI.StartStopUnit", "SCSI.NoMedia"),
    "read-only": ("SCSI.ReadOnly",),
}
"""Each runs against a target of its own, so that they can run side by side."""

_RESERVATIONS = ("persistent", "reserve")
_TWO_PATHS = ("multipath",)
_DISKS = {"removable": "removable", "read-only": "readonly"}
"""Groups that need a special disk."""

_CONFIG = """
[lun.removable]
removable = true
[lun.readonly]
read_only = true
"""

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


def _covered_by(suite: str) -> list[str]:
    return [
        group
        for group, patterns in _GROUPS.items()
        if any(fnmatch.fnmatchcase(suite, pattern) for pattern in patterns)
    ]


def _check(report: Report, group: str) -> None:
    """All tests of the group ran, none failed, and only those skipped that may."""
    wanted = {
        f"{suite.partition('.')[2]}.{test}"
        for suite, tests in libiscsi.catalogue().items()
        if group in _covered_by(suite)
        for test in tests
    }
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


def _run(folder: pathlib.Path, group: str, config: str, paths: int) -> Report:
    """The group's tests against a new target, through one or two portals."""
    disk = _DISKS.get(group, "disk")
    portals = ["127.0.0.1:0,2", "127.0.0.1:0,3"][:paths]
    create_lun(folder / "root", disk, _SIZE, "--target-port", "3")
    with FlockprTarget(folder / "root", folder / "target", portals, config) as target:
        urls = [str(url) for url in target.urls]
        report = libiscsi.run(_GROUPS[group], urls, verbose=True)
        assert target.stop() == 0, target.log.read_text()[-4000:]
    return report


@pytest.mark.parametrize("group", _GROUPS)
def test_libiscsi_group_passes(folder: pathlib.Path, group: str) -> None:
    """Every test of the group passes; what is skipped is listed with its reason."""
    config = _CONFIG if group in _DISKS else ""
    _check(_run(folder, group, config, 2 if group in _TWO_PATHS else 1), group)


@pytest.mark.parametrize("group", _RESERVATIONS)
@pytest.mark.parametrize("nexus", ["name", "name+isid"])
def test_libiscsi_reservations_over_two_portals_pass(
    folder: pathlib.Path, group: str, nexus: str
) -> None:
    """The tool's second initiator comes through another target port; both kinds of nexus."""
    _check(_run(folder, group, f'[lun.disk]\nnexus = "{nexus}"\n', 2), group)


def test_libiscsi_groups_cover_the_tool_once() -> None:
    """No suite that the tool has is left out, and the reservation tests are all there."""
    suites = libiscsi.catalogue()
    assert {suite: len(_covered_by(suite)) for suite in suites} == dict.fromkeys(suites, 1)
    persistent = [suite for suite in suites if _covered_by(suite) == ["persistent"]]
    assert sum(len(suites[suite]) for suite in persistent) == 20
    assert len(suites["SCSI.Reserve6"]) == 7
    assert len(suites["SCSI.MultipathIO"]) == 4


def test_libiscsi_skips_are_few_and_of_optional_commands() -> None:
    """The list stays short, and away from what initiators rely on."""
    assert len(SKIPS) <= _MOST_SKIPS
    assert not [name for name in SKIPS if _NEVER_SKIPPED.match(name)]
