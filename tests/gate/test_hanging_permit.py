"""A permit whose system calls hang in the kernel: nobody is held up beyond his deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.gate import rounds
from flockpr.store.layout import DOORBELL
from flockpr.store.syscalls import Syscalls
from tests.support.gates import IMAGE, LONG, Aside, Rig, eventually, soon, usable
from tests.support.hanging import Hanging
from tests.support.starved import starve


@pytest.fixture
def calls() -> Iterator[Hanging]:
    """A file system that goes on at the end."""
    calls = Hanging()
    yield calls
    calls.release()


def in_a_moment() -> float:
    """A deadline that is reached."""
    return time.monotonic() + 0.2


@pytest.mark.parametrize("call", ["open", "lock", "find_lock"])
def test_command_is_answered_in_time_while_the_take_hangs(
    rig: Rig, calls: Hanging, call: str
) -> None:
    """That of who takes it, and those of others; once the call returns it is open to all."""
    permit = rig.permit(syscalls=calls)
    calls.hang_in(call)

    first = Aside(lambda: permit.enter(in_a_moment()))
    assert calls.stuck.wait(LONG)
    others = [Aside(lambda: permit.enter(in_a_moment())) for _ in range(3)]
    assert [one.result() for one in (first, *others)] == [False] * 4
    assert permit.fault is None, "it is BUSY, and nothing is wrong"
    assert not permit.held

    calls.release()
    assert permit.enter(soon())
    permit.leave()
    assert not rig.free()


def test_command_is_answered_in_time_while_the_state_is_read(rig: Rig) -> None:
    """The state is on the same file system. Whoever narrows access is not held up either."""
    permit, calls = rig.permit(), Hanging()

    def hang() -> None:
        calls.stat(rig.root, dir_fd=-1)

    rig.meanwhile = hang
    calls.hang_in("stat")
    try:
        entering = Aside(lambda: permit.enter(in_a_moment()))
        assert calls.stuck.wait(LONG)
        assert entering.result() is False
        assert permit.fault is None
        permit.bar("me")
        assert permit.yielded(soon())
        assert rig.free()
        permit.admit("me")
    finally:
        calls.release()
    assert permit.enter(soon())
    permit.leave()


def test_permit_of_another_image_is_taken_while_one_hangs(
    rig: Rig, calls: Hanging, tmp_path: Path
) -> None:
    """One cluster's recovery is no other file system's."""
    (tmp_path / "other").mkdir()
    other = Rig.at(tmp_path / "other")
    hanging = rig.permit(syscalls=calls)
    calls.hang_in("lock")
    entering = Aside(lambda: hanging.enter(in_a_moment()))
    assert calls.stuck.wait(LONG)

    permit = other.permit()
    assert permit.enter(soon())
    permit.leave()
    other.close()
    assert entering.result() is False


def test_permit_that_is_closed_while_the_take_hangs_holds_up_nobody(
    rig: Rig, calls: Hanging
) -> None:
    """Whoever closes it goes on; what was taken late is given back, and that is told."""
    permit = rig.permit(syscalls=calls)
    calls.hang_in("lock")
    entering = Aside(lambda: permit.enter(soon()))
    assert calls.stuck.wait(LONG)

    told: list[bool] = []
    closing = Aside(lambda: permit.close(lambda: told.append(rig.free())))
    closing.result()
    assert told == []

    calls.release()
    assert entering.result() is False
    eventually(lambda: told == [True], "it is not given back")
    assert permit.fd == -1
    assert not permit.enter(soon())


def test_permit_is_taken_where_there_are_no_more_threads(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever enters."""
    permit = rig.permit()
    failed = starve(monkeypatch, "permit")
    assert permit.enter(soon())
    permit.leave()
    assert failed == ["permit"]


class HangsInClose(Syscalls):
    """A file system where closing one file does not return while `gate` is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate, self.stuck = threading.Event(), threading.Event()
        self._fds: set[int] = set()

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        fd = super().open(path, flags, mode, dir_fd=dir_fd)
        if os.path.basename(path) == self.name:
            self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            self.stuck.set()
            self.gate.wait(LONG)
        super().close(fd)


def test_command_that_cannot_close_the_image_rings_no_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets may try again, and the permits that the server still has keep them out."""
    monkeypatch.setattr(rounds, "CLOSING", 0.1)
    target, calls = rig.permit(), HangsInClose(IMAGE)
    try:
        with rig.gate(calls).narrow(soon()):
            assert rig.rung()
        assert not rig.rung()
        assert not usable(target)
        assert calls.stuck.wait(LONG)
        assert not rig.free()
    finally:
        calls.gate.set()
    eventually(lambda: usable(target), "it stays closed")


def test_command_that_cannot_close_the_doorbell_keeps_no_permits(rig: Rig) -> None:
    """A ring that lasts is not heeded all the time; permits that are held stop everybody."""
    calls = HangsInClose(DOORBELL)

    def narrow() -> None:
        with rig.gate(calls).narrow(soon()):
            assert not rig.free()

    narrowing = Aside(narrow)
    try:
        assert calls.stuck.wait(LONG)
        assert rig.free()
        assert rig.rung()
    finally:
        calls.gate.set()
    narrowing.result()
    assert not rig.rung()
