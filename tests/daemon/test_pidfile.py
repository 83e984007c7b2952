"""The pidfile: content, mode, lock, and what it leaves alone."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from flockpr.daemon.pidfile import Pidfile, PidfileError


def test_pidfile_holds_number_and_newline_with_mode_0600(tmp_path: Path) -> None:
    """Decimal process id and newline; what an older process left is gone."""
    path = tmp_path / "p"
    path.write_text("123456789012345\n")
    path.chmod(0o600)
    with Pidfile(str(path)) as pidfile:
        assert path.read_text() == "123456789012345\n"  # not ours to say before we serve
        pidfile.write()
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.exists()


def test_pidfile_mode_of_a_new_file_is_0600(tmp_path: Path) -> None:
    """Whatever the umask, nobody else may lock it."""
    before = os.umask(0)
    try:
        with Pidfile(str(tmp_path / "p")):
            assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_pidfile_of_a_living_process_is_refused(tmp_path: Path) -> None:
    """The second instance learns it, and again gets it when the first has gone."""
    path = str(tmp_path / "p")
    first = Pidfile(path)
    with pytest.raises(PidfileError, match="Cannot lock pid file"):
        Pidfile(path)
    first.close()
    first.close()
    Pidfile(path).close()


def test_pidfile_locked_by_a_posix_lock_is_refused(tmp_path: Path) -> None:
    """qemu-pr-helper and libvirt use POSIX locks; ours must exclude them and be excluded."""
    path = tmp_path / "p"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open(path, "w") as file:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            fcntl.fcntl(file, fcntl.F_SETLK, lock)
            os.write(writer, b"x")
            signal.pause()
    assert os.read(reader, 1) == b"x"
    try:
        with pytest.raises(PidfileError, match="Cannot lock pid file"):
            Pidfile(str(path))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_pidfile_lock_stays_with_the_child_after_a_fork(tmp_path: Path) -> None:
    """With -d the parent ends: the lock must not end with it, or a second daemon starts."""
    path = tmp_path / "p"
    code = (
        "import os, sys, time\n"
        "from flockpr.daemon.pidfile import Pidfile\n"
        "p = Pidfile(sys.argv[1])\n"
        "if os.fork(): os._exit(0)\n"
        "p.write()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.wait(60) == 0
        assert int(path.read_text()) != process.pid
        with pytest.raises(PidfileError, match="Cannot lock"):
            Pidfile(str(path))


def test_pidfile_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """No directory, a directory in its place, a FIFO without a reader: at once."""
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "f")
    for name in ("no/p", "d", "f"):
        with pytest.raises(PidfileError, match="Cannot create pid file"):
            Pidfile(str(tmp_path / name))


def test_pidfile_replaced_while_locking_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file that has lost its name keeps nobody out."""
    path = tmp_path / "p"
    real = fcntl.fcntl
    calls: list[int] = []

    def replacing(descriptor: int, command: int, argument: bytes) -> object:
        if not calls:
            path.unlink()
            path.write_text("")
        calls.append(descriptor)
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", replacing)
    with Pidfile(str(path)) as pidfile:
        pidfile.write()
        assert path.read_text() == f"{os.getpid()}\n"
    assert len(calls) == 2
