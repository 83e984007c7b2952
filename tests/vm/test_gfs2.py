"""Two hosts over one real GFS2 with DLM, and everything that can go wrong meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from flockpr.spc.codes import Status
from tests.support.daemons import Sent, out, read
from tests.support.peers import require
from tests.support.scsi import EARO, PREEMPT, REGISTER_IGNORE, RELEASE, RESERVE, nexus
from tests.vm.cell import DUEL, FREE, PATIENCE, Cell, guest_name
from tests.vm.cluster import Cluster, boot_cluster
from tests.vm.duel import Duel
from tests.vm.faults import Aside, common_rows
from tests.vm.history import (
    HELPER_PORT,
    ISCSI_PORT,
    Broken,
    Guest,
    HelperGuest,
    History,
    IscsiGuest,
)
from tests.vm.matrix import Figures, Row, match, play_all, write_json

_NEEDED = ("qemu-system-x86_64", "busybox", "ip")
_TOKEN_SECONDS = 10
_ANSWER = 30.0
_KEYS = (0xA1, 0xB2)


@frozen
class _Game:
    """Two that take a disk from each other, each on a node of its own."""

    cluster: Cluster
    cell: Cell
    duel: Duel
    history: History


@contextmanager
def _game(folder: Path) -> Iterator[_Game]:
    with boot_cluster(folder) as cluster, closing(Cell(cluster, folder)) as cell:
        cell.open()
        history = History(DUEL)
        with closing(Duel(cell, history)) as duel:
            duel.open()
            yield _Game(cluster, cell, duel, history)


def _doors_of_both_nodes_share_one_state(cell: Cell) -> None:
    """Who has reserved through the helper on one node is preempted through iSCSI on the other."""
    name = guest_name("helper", 0)
    session = cell.log_in("bob", FREE, 1)
    with (
        closing(HelperGuest(cell.daemons[0].helper(), nexus(name, HELPER_PORT), PATIENCE)) as alice,
        closing(IscsiGuest(session, cell.urls[FREE].lun, nexus("bob", ISCSI_PORT))) as bob,
    ):
        own, other = _KEYS
        assert _decided(alice, out(REGISTER_IGNORE, 0, own)) == Status.GOOD
        assert _decided(bob, out(REGISTER_IGNORE, 0, other)) == Status.GOOD
        assert _decided(alice, out(RESERVE, own, type_=EARO)) == Status.GOOD
        assert _decided(bob, out(PREEMPT, other, own, type_=EARO)) == Status.GOOD
        assert _decided(alice, out(RELEASE, own, type_=EARO)) == Status.RESERVATION_CONFLICT


def _decided(guest: Guest, sent: Sent) -> int:
    """Status of a command, which is sent until the rules have decided it."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := guest.send(sent)).decided:
        assert time.monotonic() < deadline, (sent, answer)
        time.sleep(0.2)
    return answer.status


def _answers(cell: Cell, number: int) -> None:
    """The daemon of a node lives: it answers at both doors, if only with BUSY.

    A command that is the first to need a lock of the cluster may have to wait for the fence.
    """
    helper = cell.daemons[number].helper()

    def at_helper() -> Guest:
        return HelperGuest(helper, nexus(guest_name("helper", number), HELPER_PORT), _ANSWER)

    def at_target() -> Guest:
        session = cell.log_in("visitor", FREE, number)
        session.timeout = _ANSWER
        return IscsiGuest(session, cell.urls[FREE].lun, nexus("visitor", ISCSI_PORT))

    for visitor in (at_helper, at_target):
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(*Broken), closing(visitor()) as guest:
                guest.send(read())
                break
            assert time.monotonic() < deadline, visitor


@pytest.mark.gfs2
@pytest.mark.peer
@pytest.mark.timeout(1500)
def test_gfs2_preempt_of_a_dead_node_waits_for_its_fence(short_path: Path) -> None:
    """While both nodes live a PREEMPT fences at once; when one is dead it is refused, with nothing
    committed, until the cluster has fenced that node. Then the node comes back.
    """
    require(*_NEEDED)
    with _game(short_path) as game:
        cluster, duel = game.cluster, game.duel
        _doors_of_both_nodes_share_one_state(game.cell)
        for winner in (1, 0):
            duel.round(winner)

        cluster.hurry()
        cluster.device_works.clear()
        begun = time.monotonic()
        cluster.kill(0)
        taking = Aside(lambda: duel.preempt(1))
        cluster.wait_asked(1)
        _answers(game.cell, 1)
        while not (tries := game.history.since(begun)):
            assert not taking.over, taking.result()
            assert time.monotonic() < begun + PATIENCE, "no answer"
            time.sleep(0.2)
        _answers(game.cell, 1)
        assert not any(one.acknowledged for one in tries), tries
        cluster.device_works.set()
        fenced = taking.result()

        cluster.boot(0)
        game.cell.daemons[0].revive()
        duel.readmit(fenced)
        duel.round(0)
        for writer in (one.writer for one in duel.duelists):
            writer.pause()
        game.history.settle(game.cell.trail(DUEL, 1))


@pytest.mark.sweep
@pytest.mark.timeout(7200)
def test_matrix_gfs2_whole(short_path: Path) -> None:
    """Every row; the figures are kept where FLOCKPR_EVIDENCE says."""
    require(*_NEEDED)
    with (
        boot_cluster(short_path, token=_TOKEN_SECONDS) as lab,
        match(lab, short_path) as playing,
    ):
        found: list[Figures] = []
        for row in _chosen([*lab.rows, *common_rows(lab)]):
            found += play_all(playing, [row])
            _keep(lab, found)


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The rows, or those whose names FLOCKPR_ROWS lists, separated by semicolons."""
    names = os.environ.get("FLOCKPR_ROWS", "")
    return [row for name in names.split(";") for row in rows if name in ("", row.name)]


def _keep(lab: Cluster, found: Sequence[Figures]) -> None:
    """Write what there is so far: the whole takes more than an hour."""
    if folder := os.environ.get("FLOCKPR_EVIDENCE"):
        path = Path(folder) / f"matrix-{lab.column}.json"
        kernel = lab.nodes[0].machine.check("uname -r").strip()
        write_json(path, lab.column, found, {"Linux": kernel, "run": time.strftime("%Y-%m-%d")})
