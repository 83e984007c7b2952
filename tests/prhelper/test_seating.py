"""Sockets that share a desk, and what becomes of one whose clients hold the others up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from flockpr.desk import Desk
from flockpr.prhelper import seating as module
from flockpr.prhelper.connection import Connection
from flockpr.prhelper.seating import Seating
from flockpr.prhelper.server import shared_desk
from flockpr.spc.codes import Status
from tests.support.desks import READ_KEYS, Readers, at
from tests.support.helper import PORT, RawClient, Served, eventually, serving

pytestmark = pytest.mark.usefixtures("patient")

KEYS = READ_KEYS.ljust(16, b"\0")


@pytest.fixture
def desk() -> Iterator[Desk[Connection]]:
    """The desk of all sockets."""
    made = shared_desk()
    yield made
    made.stop()


def _sit(desk: Desk[Connection], client: RawClient, disk: int, count: int) -> None:
    """Ask until it has no thread, and `count` connections sit at that desk."""

    def seated() -> bool:
        assert client.run(disk, READ_KEYS)[0] == Status.GOOD
        return len(desk._sitting) == count

    eventually(seated, "it does not sit down")


def _hang(units: Readers, client: RawClient, disk: int) -> None:
    units.hanging.add("disk")
    client.send(KEYS, disk)
    eventually(units.stuck.is_set, "it does not hang")


def _go_on(units: Readers, client: RawClient) -> None:
    units.hanging.clear()
    units.gate.set()
    assert client.reply()[0] == Status.GOOD


def test_clients_of_two_sockets_share_a_thread(
    units: Readers, disk: int, desk: Desk[Connection]
) -> None:
    """However many sockets there are, one thread reads from all that are in step."""
    with (
        serving(manager=at(units), desk=desk) as one,
        serving(manager=at(units), desk=desk) as two,
        RawClient(one.path) as first,
        RawClient(two.path) as second,
    ):
        _sit(desk, first, disk, 1)
        _sit(desk, second, disk, 2)
        before = units.at_once
        assert first.run(disk, READ_KEYS)[0] == Status.GOOD
        assert second.run(disk, READ_KEYS)[0] == Status.GOOD
        assert (units.at_once, desk._begun) == (before + 2, 1)


def test_end_of_one_server_leaves_the_desk_to_the_others(
    units: Readers, disk: int, desk: Desk[Connection]
) -> None:
    """It is stopped by whoever made it."""
    with serving(manager=at(units), desk=desk) as one, RawClient(one.path) as first:
        with serving(manager=at(units), desk=desk) as two, RawClient(two.path) as second:
            _sit(desk, second, disk, 1)
        _sit(desk, first, disk, 1)


def test_socket_whose_client_held_the_others_up_moves_out(
    units: Readers, disk: int, desk: Desk[Connection], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with all its clients, at their next command; those of the others stay."""
    bad_units = Readers()
    with (
        serving(manager=at(bad_units), desk=desk) as bad,
        serving(manager=at(units), desk=desk) as good,
        RawClient(bad.path) as hangs,
        RawClient(bad.path) as beside,
        RawClient(good.path) as other,
    ):
        _sit(desk, hangs, disk, 1)
        _sit(desk, beside, disk, 2)
        _sit(desk, other, disk, 3)
        _hang(bad_units, hangs, disk)
        assert other.run(disk, READ_KEYS)[0] == Status.GOOD
        eventually(lambda: bad.server.seating.desk is not desk, "it does not move out")
        _go_on(bad_units, hangs)
        desk._wary._until = 0.0
        own = bad.server.seating.desk
        _sit(own, beside, disk, 1)
        assert good.server.seating.desk is desk
        _sit(desk, other, disk, 1)
        assert not desk.welcomes((bad.server.path, PORT))
        assert desk.welcomes((good.server.path, PORT))
        assert caplog.text.count("held others up") == 1

        bad_units.gate = type(bad_units.gate)()
        bad_units.stuck.clear()
        before = desk._begun
        _hang(bad_units, beside, disk)
        eventually(lambda: own._begun == 2, "its own desk is stuck")
        assert desk._begun == before
        _go_on(bad_units, beside)
        bad_units.gate.close()
    assert bad.server.seating.desk is own


def test_without_a_descriptor_for_it_a_socket_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
    desk: Desk[Connection],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The guard, who finds out, must not end by it; the next time it is tried again."""

    def none_left(_: object) -> Desk[Connection]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    seating: Seating[Connection] = Seating(Connection, "socket", desk)
    with monkeypatch.context() as patch:
        patch.setattr(module, "new_desk", none_left)
        seating.move_out()
    assert seating.desk is desk
    assert not caplog.text
    seating.tell()
    seating.tell()
    assert caplog.text.count("no thread of its own yet") == 1
    seating.stop()  # which leaves that of the others
    assert desk.welcomes("anybody")
    seating.move_out()
    assert seating.desk is not desk
    seating.move_out()
    seating.stop()
    assert not seating.desk.welcomes("anybody")


def test_socket_alone_has_a_desk_of_its_own(units: Readers, disk: int) -> None:
    """And keeps it when somebody hangs there."""
    with serving(manager=at(units)) as served, RawClient(served.path) as client:
        own: Desk[Connection] = served.server.seating.desk
        _sit(own, client, disk, 1)
        _hang(units, client, disk)
        eventually(lambda: own._begun == 2, "it is not noticed")
        _go_on(units, client)
        assert _desk(served) is own


def _desk(served: Served) -> Desk[Connection]:
    return served.server.seating.desk


def test_connection_of_which_a_turn_goes_on_does_not_sit_down_elsewhere(
    units: Readers, disk: int, desk: Desk[Connection]
) -> None:
    """Two threads would read from it."""
    with serving(manager=at(units), desk=desk) as served, RawClient(served.path) as client:
        _sit(desk, client, disk, 1)
        (connection,) = desk._sitting.values()
        served.server.seating.move_out()
        desk._lead.busy.append(connection)
        assert not connection.sit_down()
        desk._lead.busy.remove(connection)
        _sit(served.server.seating.desk, client, disk, 1)
