"""The desk: connections that need no thread of their own, and those that come to need one."""

from __future__ import annotations

import os
import threading
import time

import pytest

from flockpr import desk as module
from flockpr.logical_unit import Result
from flockpr.prhelper.connection import Limits
from flockpr.spc.codes import Status
from flockpr.store.provision import create_lun
from flockpr.units import Units
from tests.support.desks import (
    READ_KEYS,
    REGISTER_IGNORE,
    Readers,
    at,
    image,
    manager,
    sit,
    sitting,
)
from tests.support.helper import (
    DEADLINE,
    RawClient,
    eventually,
    serving,
    short_directory,
)
from tests.support.open_files import count_open
from tests.support.scsi import basic_list, in_cdb, nexus

pytestmark = pytest.mark.usefixtures("patient")


def test_connection_sits_down_after_its_first_command(units: Readers, disk: int) -> None:
    """Silent or busy, it costs no thread; its descriptors are closed after each command."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        for _ in range(20):
            assert client.run(disk, READ_KEYS) == (0, bytes(96), bytes(8))
        assert units.at_once == 20
        assert len(units.calls) == 1
        eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")
    eventually(lambda: served.server.connections == 0, "the connection did not end")
    assert [came for came, *_ in units.presence] == [True, False]


def test_thousand_silent_connections_cost_one_thread(units: Readers, disk: int) -> None:
    """As many guests as there may be (here a hundred)."""
    with serving(manager=at(units)) as served:
        clients = [RawClient(served.path) for _ in range(100)]
        try:
            for client in clients:
                assert client.run(disk, READ_KEYS)[0] == Status.GOOD
            eventually(lambda: sitting(served) == 100, "not all have sat down")
            own = {f"helper-{number}" for number in range(1, 101)}
            eventually(
                lambda: not own & {thread.name for thread in threading.enumerate()},
                "threads are left",
            )
            for client in clients:
                assert client.run(disk, REGISTER_IGNORE, basic_list(0, 1))[0] == Status.GOOD
        finally:
            for client in clients:
                client.close()
        eventually(lambda: served.server.connections == 0, "connections stayed")


def test_command_that_hangs_at_the_desk_delays_nobody_else(units: Readers, disk: int) -> None:
    """Another thread has the desk soon; the one that hung is answered when it comes back."""
    path = image(disk) + ".hung"
    hung = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    units.names.update({image(disk): "fine", path: "slow"})
    with serving(manager=at(units, None)) as served:
        with RawClient(served.path) as slow, RawClient(served.path) as quick:
            sit(served, slow, hung)
            sit(served, quick, disk, 1)
            units.hanging.add("slow")
            slow.send(READ_KEYS.ljust(16, b"\0"), hung)
            assert units.stuck.wait(DEADLINE)
            for _ in range(5):
                assert quick.run(disk, READ_KEYS)[0] == Status.GOOD

            units.gate.set()
            assert slow.reply() == (0, bytes(96), bytes(8))
            assert slow.run(hung, READ_KEYS)[0] == Status.GOOD
            assert quick.run(disk, READ_KEYS)[0] == Status.GOOD
        eventually(lambda: served.server.connections == 0, "the connections did not end")
    os.close(hung)


def test_connection_that_hung_sits_down_again_later(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine must not cost its connections their place for ever."""
    monkeypatch.setattr("flockpr.units.respite.SHORTEST", 0.05)
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        units.hanging.add("disk")
        client.send(READ_KEYS.ljust(16, b"\0"), disk)
        eventually(lambda: sitting(served) == 0, "it is not noticed")
        units.hanging.clear()
        units.gate.set()
        assert client.reply()[0] == Status.GOOD
        deadline = time.monotonic() + DEADLINE
        while not sitting(served):
            assert time.monotonic() < deadline
            assert client.run(disk, READ_KEYS)[0] == Status.GOOD
            time.sleep(0.01)
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD


def test_desk_ends_while_a_command_hangs_at_it(units: Readers, disk: int) -> None:
    """In bounded time; it says that one was still in execution."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        units.hanging.add("disk")
        client.send(READ_KEYS.ljust(16, b"\0"), disk)
        assert units.stuck.wait(DEADLINE)
        assert served.server.stop(0.2) is False
        units.gate.set()


def test_requests_without_a_pause_are_answered_in_order_at_the_desk(
    units: Readers, disk: int
) -> None:
    """Reads that are answered at once do not overtake what is carried out before them."""
    units.hung.add("disk")
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        units.hung.clear()
        sit(served, client, disk)
        units.hung.add("disk")
        client.send(REGISTER_IGNORE.ljust(16, b"\0") + basic_list(0, 1), disk)
        eventually(lambda: len(units.pending) == 1, "the command did not arrive")
        client.send(READ_KEYS.ljust(16, b"\0"), disk)
        client.send(in_cdb(1).ljust(16, b"\0"), disk)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(DEADLINE)
        units.hung.clear()
        units.pending[0].set_result(Result(Status.RESERVATION_CONFLICT))
        answers = [client.reply() for _ in range(3)]
        assert [answer[0] for answer in answers] == [Status.RESERVATION_CONFLICT, 0, 0]
        assert sitting(served) == 1


def test_command_at_the_desk_is_answered_in_bounded_time(units: Readers, disk: int) -> None:
    """Whatever the units do: outcome unknown, and its late result is not sent as well."""
    with (
        serving(manager=at(units), limits=Limits(command=0.2)) as served,
        RawClient(served.path) as client,
    ):
        sit(served, client, disk)
        units.hung.add("disk")
        client.send(REGISTER_IGNORE.ljust(16, b"\0") + basic_list(0, 1), disk)
        status, sense, _ = client.reply()
        assert (status, sense[2] & 0xF, sense[12:14]) == (2, 0x0B, b"\x08\x01")
        units.hung.clear()
        units.pending[0].set_result(Result(Status.GOOD))
        assert client.run(disk, READ_KEYS) == (0, bytes(96), bytes(8))


def test_desk_is_quiet_while_several_are_answered(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is answered afterwards; or soon, if whoever answers them hangs."""
    monkeypatch.setattr("flockpr.units.hush.MOST", DEADLINE)
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        hush = served.server.seating.desk.hush
        hush.begin()
        client.send(READ_KEYS.ljust(16, b"\0"), disk)
        time.sleep(0.1)
        assert units.at_once == 0
        hush.end()
        assert client.reply()[0] == Status.GOOD

        monkeypatch.setattr("flockpr.units.hush.MOST", 0.002)
        hush.begin()
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD
        assert units.at_once == 2
        hush.end()


def test_file_is_let_go_of_before_a_command_is_carried_out_at_the_desk(
    units: Readers, disk: int
) -> None:
    """It is not needed any more, and nobody else is woken to close it."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        units.hung.add("disk")
        client.send(REGISTER_IGNORE.ljust(16, b"\0") + basic_list(0, 1), disk)
        eventually(lambda: len(units.pending) == 1, "the command did not arrive")
        assert count_open(image(disk)) == 1
        units.hung.clear()
        units.pending[0].set_result(Result(Status.GOOD))
        assert client.reply()[0] == Status.GOOD
        assert sitting(served) == 1


def test_reads_and_changes_in_turn_are_answered_at_the_desk(units: Readers, disk: int) -> None:
    """After a change a read is taken with its descriptor, which is closed."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        sit(served, client, disk)
        for _ in range(5):
            assert client.run(disk, REGISTER_IGNORE, basic_list(0, 1))[0] == Status.GOOD
            for _ in range(2):
                assert client.run(disk, READ_KEYS) == (0, bytes(96), bytes(8))
        assert units.at_once == 10
        assert sitting(served) == 1
        eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")


def test_client_that_dies_while_its_command_is_carried_out_is_let_go(
    units: Readers, disk: int
) -> None:
    """When that has ended, and not before."""
    with serving(manager=at(units)) as served:
        with RawClient(served.path) as client:
            sit(served, client, disk)
            units.hung.add("disk")
            client.send(REGISTER_IGNORE.ljust(16, b"\0") + basic_list(0, 1), disk)
            eventually(lambda: len(units.pending) == 1, "the command did not arrive")
        assert served.server.connections == 1
        units.pending[0].set_result(Result(Status.GOOD))
        eventually(lambda: served.server.connections == 0, "the connection stayed")
        eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")


def test_client_that_stops_within_a_request_at_the_desk_is_closed(
    units: Readers, disk: int
) -> None:
    """With the descriptor it has sent; the request had begun, so its time runs."""
    with (
        serving(manager=at(units), limits=Limits(request=0.1)) as served,
        RawClient(served.path) as client,
    ):
        sit(served, client, disk)
        client.send(REGISTER_IGNORE.ljust(16, b"\0"), disk)
        assert client.closed()
        eventually(lambda: count_open(image(disk)) == 1, "a descriptor stayed open")
        eventually(lambda: served.server.connections == 0, "the connection stayed")


def test_client_at_the_desk_that_does_not_read_gets_a_thread_and_is_closed(
    units: Readers, disk: int
) -> None:
    """What its socket does not take is nobody else's to wait for."""
    with (
        serving(manager=at(units), limits=Limits(request=0.3)) as served,
        RawClient(served.path) as greedy,
        RawClient(served.path) as other,
    ):
        sit(served, greedy, disk)
        sit(served, other, disk, 1)
        greedy.sock.settimeout(0.5)
        with pytest.raises(OSError):  # noqa: PT012, a timeout or a broken pipe, at some send
            while True:
                greedy.send(READ_KEYS.ljust(16, b"\0"), disk)
        assert other.run(disk, READ_KEYS)[0] == Status.GOOD
        eventually(lambda: served.server.connections == 1, "the connection stayed")


def test_busy_at_the_desk_is_not_answered_at_once(units: Readers, disk: int) -> None:
    """And the others are answered meanwhile."""
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as client,
        RawClient(served.path) as other,
    ):
        sit(served, client, disk)
        sit(served, other, disk, 1)
        units.canned = Result(Status.BUSY)
        begun = time.monotonic()
        client.send(in_cdb(1).ljust(16, b"\0"), disk)
        assert other.run(disk, READ_KEYS)[0] == Status.GOOD
        assert client.reply()[0] == Status.BUSY
        assert time.monotonic() - begun > 0.2
        units.canned = None
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD


def test_thread_that_cannot_be_had_leaves_the_connection_its_own(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served all the same."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("desk"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        for _ in range(3):
            assert client.run(disk, READ_KEYS)[0] == Status.GOOD
        assert sitting(served) == 0


def test_guard_rests_when_nothing_comes_and_looks_again(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections cost no processor; a command that hangs after a rest is noticed."""
    monkeypatch.setattr(module, "REST_AFTER", 0.1)
    monkeypatch.setattr(module, "REST", 600.0)
    with (
        serving(manager=at(units)) as served,
        RawClient(served.path) as client,
        RawClient(served.path) as other,
    ):
        sit(served, client, disk)
        sit(served, other, disk, 1)
        eventually(lambda: served.server.seating.desk._resting, "it goes on looking")
        units.hanging.add("disk")
        client.send(READ_KEYS.ljust(16, b"\0"), disk)
        eventually(lambda: sitting(served) == 1, "it does not look")
        units.hanging.clear()
        assert other.run(disk, READ_KEYS)[0] == Status.GOOD
        units.gate.set()
        assert client.reply()[0] == Status.GOOD


# --------------------------------------------------------------------------- real units


def test_reads_at_the_desk_show_what_other_daemons_commit(disk: int) -> None:
    """The state is looked at for each of them."""
    with short_directory() as root:
        create_lun(root, "disk")
        units, other = Units(root), Units(root)
        made = manager(units, "disk")
        try:
            with serving(manager=lambda _: made) as served, RawClient(served.path) as client:
                sit(served, client, disk)
                for key in range(1, 40):
                    done = other.submit(
                        "disk", nexus("another"), REGISTER_IGNORE, basic_list(0, key)
                    )
                    assert done.result(DEADLINE).status == Status.GOOD
                    for _ in range(3):
                        assert client.run(disk, READ_KEYS)[2][8:] == key.to_bytes(8, "big")
        finally:
            units.close()
            other.close()


def test_disk_that_is_found_by_its_image_is_found_at_the_desk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the file has another name, or the table of the root is a second old."""
    with short_directory() as root:
        create_lun(root, "disk", image="disk.img")
        path = os.path.join(root, "disk.img")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        units = Units(root)
        made = manager(units, None)
        seen: list[object] = []
        real = units.read_at_once

        def noted(*arguments: object) -> Result | None:
            found = real(*arguments)  # type: ignore[arg-type]
            seen.append(found)
            return found

        monkeypatch.setattr(units, "read_at_once", noted)
        try:
            with serving(manager=lambda _: made) as served, RawClient(served.path) as client:
                sit(served, client, descriptor)
                deadline = time.monotonic() + DEADLINE
                while not any(seen):
                    assert time.monotonic() < deadline
                    assert client.run(descriptor, READ_KEYS)[2] == bytes(8)
                os.rename(path, f"{path}.other")
                status, sense, _ = client.run(descriptor, READ_KEYS)
                assert (status, sense[2] & 0xF, sense[12:14]) == (2, 5, b"\x25\0")
        finally:
            units.close()
            os.close(descriptor)


def test_client_that_has_a_disk_elsewhere_is_not_answered_at_once(
    units: Readers, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look at a descriptor may mean to wait for its server; which one comes next is its say."""
    far = os.open(image(disk) + ".far", os.O_RDWR | os.O_CREAT, 0o600)
    elsewhere = os.fstat(far).st_ino
    units.names.update({image(disk): "near", image(far): "far"})

    def on_this_host(descriptor: int) -> bool:
        return os.fstat(descriptor).st_ino != elsewhere

    monkeypatch.setattr("flockpr.manager.file_lock.on_this_host", on_this_host)
    with serving(manager=at(units, None)) as served:
        with RawClient(served.path) as client, RawClient(served.path) as other:
            sit(served, client, disk)
            sit(served, other, disk, 1)
            assert client.run(disk, READ_KEYS)[0] == Status.GOOD
            assert units.at_once == 1
            for descriptor in (far, disk, far, disk):
                assert client.run(descriptor, READ_KEYS)[0] == Status.GOOD
            assert units.at_once == 1
            assert other.run(disk, READ_KEYS)[0] == Status.GOOD
            assert units.at_once == 2
        eventually(lambda: served.server.connections == 0, "the connections did not end")
    os.close(far)
