"""Files that may be closed at once, and where those are served that may not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import pytest

from flockpr.manager.known import on_this_host
from flockpr.prhelper import harmless
from flockpr.prhelper.connection import ENOUGH, Connection
from flockpr.prhelper.harmless import Files, Places
from flockpr.spc.codes import Status
from tests.support.desks import READ_KEYS, REGISTER_IGNORE, Readers, at, image, sit, sitting
from tests.support.helper import DEADLINE, RawClient, Served, eventually, serving
from tests.support.open_files import count_open
from tests.support.scsi import basic_list

pytestmark = pytest.mark.usefixtures("patient")


def at_once(work: Callable[[], None]) -> None:
    """Do it here and now."""
    work()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is on another host."""
    monkeypatch.setattr(harmless, "on_this_host", lambda _: False)


def changes(client: RawClient, disk: int) -> None:
    """REGISTER AND IGNORE EXISTING KEY."""
    assert client.run(disk, REGISTER_IGNORE, basic_list(0, 1))[0] == Status.GOOD


def reads(client: RawClient, disk: int) -> None:
    """READ KEYS."""
    assert client.run(disk, READ_KEYS)[0] == Status.GOOD


# --------------------------------------------------------------------------- what is known


def test_file_of_this_host_is_harmless(disk: int) -> None:
    """A regular file on a file system of this host; once it was looked at."""
    assert Files(Places(at_once)).harmless(disk)


def test_socket_is_not_harmless() -> None:
    """Its last close may linger."""
    with socket.socket() as sock:
        assert not Files(Places(at_once)).harmless(sock.fileno())


def test_pipe_is_not_harmless() -> None:
    """Nobody knows what it is good for."""
    ends = os.pipe()
    assert not Files(Places(at_once)).harmless(ends[0])
    for end in ends:
        os.close(end)


def test_descriptor_that_is_not_open_is_not_harmless() -> None:
    """Nothing is known of it."""
    assert not Files(Places(at_once)).harmless(-1)


def test_look_leaves_no_descriptor_open(disk: int) -> None:
    """Whatever it finds."""
    files = Files(Places(at_once))
    assert files.harmless(disk)
    assert count_open(image(disk)) == 1


def test_file_is_looked_at_once_for_all_clients(disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that is too long ago."""
    looks: list[int] = []

    def look(own: int) -> bool:
        looks.append(own)
        return True

    monkeypatch.setattr(harmless, "on_this_host", look)
    places = Places(at_once)
    for _ in range(3):
        assert Files(places).harmless(disk)
    assert len(looks) == 1
    monkeypatch.setattr(harmless, "FRESH", 0.0)
    places = Places(at_once)
    for _ in range(3):
        assert not Files(places).harmless(disk)
    assert len(looks) == 4


def test_another_file_of_the_same_mount_is_looked_at_by_itself(disk: int) -> None:
    """A file system has devices and pipes in it, too."""
    path = image(disk) + ".pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    files = Files(Places(at_once))
    assert files.harmless(disk)
    assert not files.harmless(pipe)
    os.close(pipe)


def test_files_in_turn_are_told_apart(disk: int) -> None:
    """They come with the same number, and what was told of the one says nothing of the other."""
    ends = os.pipe()
    files, number = Files(Places(at_once)), os.dup(disk)
    for _ in range(3):
        os.dup2(disk, number)
        assert files.harmless(number)
        os.dup2(ends[0], number)
        assert not files.harmless(number)
    for descriptor in (*ends, number):
        os.close(descriptor)


def test_client_has_one_look_at_a_time(disk: int) -> None:
    """A file that hangs costs a thread, and its client passes no second one for that."""
    hanging: list[Callable[[], None]] = []
    files = Files(Places(hanging.append))
    other = os.open(image(disk) + ".other", os.O_RDWR | os.O_CREAT, 0o600)
    assert not files.harmless(disk)
    assert not files.harmless(other)
    assert not files.harmless(disk)
    assert len(hanging) == 1
    hanging.pop()()
    assert files.harmless(disk)
    assert not files.harmless(other)
    assert len(hanging) == 1
    hanging.pop()()
    assert files.harmless(other)
    os.close(other)


def test_look_that_fails_says_nothing(disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one may succeed."""
    files = Files(Places(at_once))

    def broken(_: int) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(harmless, "on_this_host", broken)
        assert not files.harmless(disk)
    assert files.harmless(disk)


def test_old_kernel_says_nothing_of_the_inode(disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing is harmless there."""

    def old(told: Callable[..., bytes]) -> Callable[..., bytes]:
        return lambda *given: told(*given).partition(b"ino:")[0]

    for call in ("read", "pread"):
        monkeypatch.setattr(os, call, old(getattr(os, call)))
    for patience in (0.0, DEADLINE):
        assert not Files(Places(at_once)).harmless(disk, patience)


# --------------------------------------------------------------------------- who is served where


def helper_threads() -> int:
    """How many connections have a thread."""
    names = [thread.name for thread in threading.enumerate()]
    return len([name for name in names if name.startswith("helper-") and name[7:].isdigit()])


@pytest.mark.usefixtures("elsewhere")
def test_client_with_a_file_elsewhere_has_a_thread_while_it_changes_something(
    units: Readers, disk: int
) -> None:
    """Reads do not need the file, so who only reads has none."""
    left: list[Connection] = []
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        desk = served.server.seating.desk
        alone = desk.alone

        def noted(one: Connection) -> None:
            left.append(one)
            alone(one)

        desk.alone = noted
        sit(served, client, disk)
        for _ in range(3):
            changes(client, disk)
            assert sitting(served) == 0
        for _ in range(ENOUGH):
            reads(client, disk)
        eventually(lambda: sitting(served) == 1, "it does not sit down again")
        before = units.at_once
        for _ in range(3):
            reads(client, disk)
        assert units.at_once == before + 3
        assert len(left) == 1
        changes(client, disk)
        assert len(left) == 2
        eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")
    eventually(lambda: served.server.connections == 0, "the connection did not end")


@pytest.mark.usefixtures("elsewhere")
def test_client_whose_disk_is_found_by_its_file_elsewhere_keeps_its_thread(
    units: Readers, disk: int
) -> None:
    """Whatever it asks for."""
    units.names[image(disk)] = "disk"
    with serving(manager=at(units, None)) as served, RawClient(served.path) as client:
        for _ in range(2 * ENOUGH):
            reads(client, disk)
            changes(client, disk)
        assert sitting(served) == 0
        assert units.at_once == 0


def test_client_whose_file_hangs_in_a_look_is_served(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread of its own; others sit down meanwhile."""
    gate = threading.Event()
    hung = os.open(image(disk) + ".hung", os.O_RDWR | os.O_CREAT, 0o600)
    inode = os.fstat(hung).st_ino

    def look(own: int) -> bool:
        if os.fstat(own).st_ino == inode:
            gate.wait(DEADLINE)
        return on_this_host(own)

    monkeypatch.setattr(harmless, "on_this_host", look)
    monkeypatch.setattr("flockpr.prhelper.connection.A_MOMENT", 0.05)
    with serving(manager=at(units)) as served:
        with RawClient(served.path) as slow, RawClient(served.path) as quick:
            for _ in range(3):
                changes(slow, hung)
            sit(served, quick, disk)
            for _ in range(2 * ENOUGH):
                changes(quick, disk)
                reads(quick, disk)
            changes(slow, hung)
            eventually(lambda: sitting(served) == 1, "quick does not sit, or slow does")
            gate.set()
            eventually(lambda: count_open(image(hung)) == 1, "the look did not end")
            for _ in range(ENOUGH):
                changes(slow, hung)
            eventually(lambda: sitting(served) == 2, "it does not sit down")
        eventually(lambda: served.server.connections == 0, "the connections did not end")
    os.close(hung)


def commands_of_a_wary_desk(served: Served, client: RawClient, disk: int) -> None:
    """Something hung here a moment ago."""
    served.server.seating.desk._wary.begin()
    changes(client, disk)
    assert sitting(served) == 0
    reads(client, disk)


def test_wary_desk_closes_no_files(units: Readers, disk: int) -> None:
    """Its clients have threads for as long."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        changes(client, disk)
        assert sitting(served) == 1
        before = units.at_once
        commands_of_a_wary_desk(served, client, disk)
        assert units.at_once == before
        served.server.seating.desk._wary._until = 0.0
        for _ in range(ENOUGH):
            changes(client, disk)
        eventually(lambda: sitting(served) == 1, "it does not sit down again")
