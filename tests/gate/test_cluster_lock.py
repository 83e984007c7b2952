"""The cluster's lock of an image is forced by a helper process that may hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.gate.cluster_lock import Helpers
from tests.support.gates import LONG, eventually, soon

ANY = (0, 0)


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    """Helper processes of this test's own, all gone afterwards."""
    made = Helpers()
    yield made
    for pid in made.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    made.close()
    eventually(lambda: not made.pids(), "a helper did not end")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file to have the lock of."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    return path


def hang(helpers: Helpers) -> int:
    """Have the one helper that there is hang, as in a call that no signal ends."""
    (pid,) = helpers.pids()
    os.kill(pid, signal.SIGSTOP)
    return pid


def now_or_never() -> float:
    """A deadline for a call that hangs."""
    return time.monotonic() + 0.05


def test_force_of_a_file_changes_its_metadata(helpers: Helpers, image: Path) -> None:
    """That is what needs the lock of the inode exclusively; the data stays."""
    assert helpers.force(str(image), soon(), ANY)

    assert image.stat().st_mtime > 1
    assert image.read_bytes() == b"x"


def test_force_again_uses_the_same_helper(helpers: Helpers, image: Path) -> None:
    """A process is started once, not for each command."""
    assert helpers.force(str(image), soon(), ANY)
    before = helpers.pids()
    assert helpers.force(str(image), soon(), ANY)

    assert helpers.pids() == before
    assert len(before) == 1


def test_force_with_the_key_of_another_file_is_refused(helpers: Helpers, image: Path) -> None:
    """A backup put in its place has another lock."""
    status = image.stat()
    assert helpers.force(str(image), soon(), (status.st_dev, status.st_ino))
    assert not helpers.force(str(image), soon(), (status.st_dev, status.st_ino + 1))


def test_force_of_a_missing_file_is_refused_and_logged(
    helpers: Helpers, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of the error is told in words."""
    assert not helpers.force(f"{image}.gone", soon(), ANY)
    assert "No such file or directory" in caplog.text


def test_force_that_hangs_ends_at_the_deadline(helpers: Helpers, image: Path) -> None:
    """Its caller is told no; the helper stays."""
    helpers.prepare()
    pid = hang(helpers)

    assert not helpers.force(str(image), now_or_never(), ANY)
    assert helpers.pids() == [pid]
    assert image.stat().st_mtime == 1


def test_force_of_another_file_is_not_held_up(
    helpers: Helpers, image: Path, tmp_path: Path
) -> None:
    """It gets a helper of its own."""
    helpers.prepare()
    hang(helpers)
    assert not helpers.force(str(image), now_or_never(), ANY)
    other = tmp_path / "other.img"
    other.touch()

    assert helpers.force(str(other), soon(), ANY)
    assert len(helpers.pids()) == 2


def test_force_after_one_that_hung_waits_for_the_same_and_asks_again(
    helpers: Helpers, image: Path
) -> None:
    """What began before this call proves nothing for it: the lock is had once more."""
    helpers.prepare()
    pid = hang(helpers)
    assert not helpers.force(str(image), now_or_never(), ANY)
    assert not helpers.force(str(image), now_or_never(), ANY)
    assert helpers.pids() == [pid]

    os.kill(pid, signal.SIGCONT)
    eventually(lambda: image.stat().st_mtime > 1, "the helper does not go on")
    os.utime(image, (1, 1))
    assert helpers.force(str(image), soon(), ANY)
    assert image.stat().st_mtime > 1
    assert helpers.pids() == [pid]


def test_force_by_two_callers_of_a_file_that_hangs_ends_for_both(
    helpers: Helpers, image: Path
) -> None:
    """The second one does not wait longer than it may for the first."""
    helpers.prepare()
    hang(helpers)
    answers: list[bool] = []

    def ask(patience: float) -> None:
        answers.append(helpers.force(str(image), time.monotonic() + patience, ANY))

    threads = [threading.Thread(target=ask, args=(one,)) for one in (0.3, 0.05)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert answers == [False, False]


def test_helper_that_is_killed_is_reaped_and_replaced(helpers: Helpers, image: Path) -> None:
    """No zombie stays, and the next command has a new one."""
    assert helpers.force(str(image), soon(), ANY)
    (pid,) = helpers.pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not helpers.pids(), "its end is not noticed")
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "a zombie stays")

    assert helpers.force(str(image), soon(), ANY)
    assert pid not in helpers.pids()


def test_helper_that_is_killed_while_asked_is_a_refusal(helpers: Helpers, image: Path) -> None:
    """Nobody knows whether the lock was had."""
    helpers.prepare()
    pid = hang(helpers)
    assert not helpers.force(str(image), now_or_never(), ANY)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not helpers.pids(), "its end is not noticed")

    assert helpers.force(str(image), soon(), ANY)


def test_helpers_beyond_the_bound_are_refused(
    helpers: Helpers, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many files hang, there is not a process for each."""
    monkeypatch.setattr("flockpr.gate.cluster_lock.MOST", 1)
    helpers.prepare()
    hang(helpers)
    assert not helpers.force(str(image), now_or_never(), ANY)

    assert not helpers.force(f"{image}.other", soon(), ANY)
    assert len(helpers.pids()) == 1


_PARENT = """
import sys, time
from flockpr.gate.cluster_lock import Helpers
helpers = Helpers()
helpers.force(sys.argv[1], time.monotonic() + 60, (0, 0))
print(helpers.pids()[0], flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "stay"])
def test_helper_of_a_process_that_ends_ends_too(image: Path, end: str) -> None:
    """Whether its parent exits or is killed."""
    command = [sys.executable, "-c", _PARENT, str(image), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if end == "stay":
            parent.kill()
        parent.wait(LONG)
    eventually(lambda: not _runs(pid), "the helper stays")


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that waits for its parent to look is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
