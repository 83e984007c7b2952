"""A failure to make data stable is told to every session, though the kernel tells it once."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable

import pytest

from flockpr.block.nexus import DiskNexus
from flockpr.block.stability import Stability
from flockpr.spc.codes import Status
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import BLOCK, Rig, wait_until
from tests.support.scsi import A, B, C

WRITE_ERROR, UNKNOWN = (3, 0x0C, 0), (0xB, 8, 1)
SYNC = cdbs.synchronize_cache()
DATA = b"d" * BLOCK
COMPARE_AND_WRITE_FUA = b"\x89\x08" + cdbs.compare_and_write(4, 1)[2:]
ORWRITE_FUA = b"\x8b\x08" + cdbs.write(4, 1, 16)[2:]


def fail_once(rig: Rig, name: str, number: int = errno.EIO) -> None:
    """The next system call of this name fails, and only that one."""

    def hook(called: str) -> None:
        if called == name:
            rig.calls.hook = None
            raise OSError(number, "no")

    rig.calls.hook = hook


@pytest.fixture
def other(rig: Rig) -> DiskNexus:
    """A session of nexus B; both have written."""
    other = rig.disk.attach(B)
    rig.good(cdbs.write(0, 1), DATA)
    rig.good(cdbs.write(1, 1), DATA, of=other)
    return other


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ESTALE])
def test_flush_that_fails_once_is_told_to_every_session_once(
    rig: Rig, other: DiskNexus, number: int
) -> None:
    """SBC-3 5.27: never GOOD for what was written before it, whoever flushed in vain."""
    fail_once(rig, "fdatasync", number)
    assert rig.code(SYNC) == WRITE_ERROR
    late = rig.disk.attach(C)
    assert rig.code(SYNC, of=other) == WRITE_ERROR
    for session in (rig.session, other, late):
        rig.good(SYNC, of=session)


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        (cdbs.write(4, 1, fua=True), DATA),
        (cdbs.write_and_verify(4, 1), DATA),
        (bytes((0x1B, 0, 0, 0, 0, 0)), b""),
        (COMPARE_AND_WRITE_FUA, bytes(BLOCK) + DATA),
        (ORWRITE_FUA, DATA),
    ],
    ids=["FUA", "WRITE AND VERIFY", "STOP", "COMPARE AND WRITE", "ORWRITE"],
)
def test_failure_is_told_with_whatever_makes_data_stable(
    rig: Rig, other: DiskNexus, cdb: bytes, data: bytes
) -> None:
    """Each of them says GOOD of what is on stable storage."""
    fail_once(rig, "fdatasync")
    assert rig.code(SYNC) == WRITE_ERROR
    rig.good(cdbs.write(8, 1), DATA, of=other)  # says nothing of stable storage
    assert rig.code(cdb, data, of=other) == WRITE_ERROR
    rig.good(SYNC, of=other)


def test_durable_write_that_fails_is_told_to_others(rig: Rig, other: DiskNexus) -> None:
    """The kernel tells a failed write-back to whoever waits for the disk next."""
    fail_once(rig, "pwritev+dsync")
    assert rig.code(cdbs.write(0, 1, fua=True), DATA) == WRITE_ERROR
    assert rig.code(SYNC, of=other) == WRITE_ERROR
    rig.good(SYNC, of=other)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOMEM])
def test_durable_write_that_fails_by_itself_concerns_nobody_else(
    rig: Rig, other: DiskNexus, number: int
) -> None:
    """No room for these blocks: what others wrote is where it was."""
    fail_once(rig, "pwritev+dsync", number)
    assert rig.run(cdbs.write(0, 1, fua=True), DATA).status is not Status.GOOD
    rig.good(SYNC, of=other)


def test_durable_write_without_a_permit_concerns_nobody_else(rig: Rig, other: DiskNexus) -> None:
    """It was refused because the permit was lost; it is taken again."""
    rig.permit.gone = True
    fail_once(rig, "pwritev+dsync")
    assert rig.code(cdbs.write(0, 1, fua=True), DATA) == UNKNOWN
    rig.good(SYNC, of=other)


def test_flush_that_fails_without_direct_input_and_output_is_no_unknown_outcome(
    rig: Rig, other: DiskNexus
) -> None:
    """There every error counts as a lost permit; a flush that is repeated would be GOOD."""
    rig.permit.direct, rig.permit.gone = False, True
    fail_once(rig, "fdatasync")
    assert rig.code(SYNC) == WRITE_ERROR
    assert rig.code(SYNC, of=other) == WRITE_ERROR


def test_write_that_fails_without_direct_input_and_output_is_told_to_others(
    rig: Rig, other: DiskNexus
) -> None:
    """There each write waits for the disk, and may be told of what another one wrote."""
    rig.permit.direct, rig.permit.gone = False, True
    fail_once(rig, "pwritev")
    assert rig.code(cdbs.write(0, 1), DATA) == UNKNOWN
    assert rig.code(SYNC, of=other) == WRITE_ERROR
    assert rig.code(SYNC) == WRITE_ERROR
    rig.good(SYNC)


def test_nexus_that_comes_back_after_a_failure_is_told(rig: Rig, other: DiskNexus) -> None:
    """An initiator that lost its connection flushes what it wrote through the one before."""
    rig.disk.detach(other)
    fail_once(rig, "fdatasync")
    assert rig.code(SYNC) == WRITE_ERROR
    again = rig.disk.attach(B)
    assert rig.code(SYNC, of=again) == WRITE_ERROR
    rig.good(SYNC, of=again)


def test_second_session_of_a_nexus_is_told_what_the_first_was_not(
    rig: Rig, other: DiskNexus
) -> None:
    """Whichever of them goes on, and in whichever order they end."""
    fail_once(rig, "fdatasync")
    assert rig.code(SYNC) == WRITE_ERROR
    second = rig.disk.attach(B)
    rig.disk.detach(other)
    assert rig.code(SYNC, of=second) == WRITE_ERROR
    rig.good(SYNC, of=second)


def test_failure_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """An administrator has to know that data may be lost."""
    fail_once(rig, "fdatasync")
    rig.run(SYNC)
    assert "a flush failed, what was written may be lost" in caplog.text


def test_who_flushes_waits_for_what_others_are_being_told(rig: Rig) -> None:
    """The kernel has told another thread, which has not said so yet."""
    stability = Stability()
    session = DiskNexus(A, rig.session.face)
    stability.begin(session)
    told, go, asked = threading.Event(), threading.Event(), threading.Event()
    answers: list[bool] = []

    def fail() -> None:
        with contextlib.suppress(OSError), stability.attempt(lambda _: True):
            told.set()
            go.wait(60)
            raise OSError(errno.EIO, "no")

    def ask() -> None:
        asked.set()
        answers.append(stability.owed(session))

    def begun(work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    failing = begun(fail)
    assert told.wait(60)
    asking = begun(ask)
    assert asked.wait(60)
    wait_until(lambda: bool(stability._changed._waiters))  # type: ignore[attr-defined]
    assert answers == []
    go.set()
    failing.join(60)
    asking.join(60)
    assert answers == [True]
    assert not stability.owed(session)


def test_nexuses_that_are_gone_are_forgotten_in_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names cost an initiator nothing, and must not cost the target all its memory."""
    monkeypatch.setattr("flockpr.block.stability.MAX_REMEMBERED", 1)
    for nexus in (B, C, B, C):
        rig.disk.detach(rig.disk.attach(nexus))
    assert list(rig.disk._medium.stability._gone) == [C]
