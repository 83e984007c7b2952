"""The fixtures themselves: doors, faults, virtual time, and what a logical unit costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from flockpr.errors import ConfigError
from flockpr.pytest_plugin import (
    flockpr_clock,
    flockpr_cluster,
    flockpr_helper,
    flockpr_lun,
    flockpr_nexus,
    flockpr_target,
)
from flockpr.pytest_plugin.clock import VirtualClock
from flockpr.pytest_plugin.cluster import LEASE, Cluster
from flockpr.pytest_plugin.doors import HelperDoor, TargetDoor
from flockpr.pytest_plugin.faults import POINTS, Point
from flockpr.pytest_plugin.lun import Lun
from flockpr.pytest_plugin.nexus import Nexus
from flockpr.spc.codes import Attention, Status
from tests.support.daemon_process import PATIENCE, REGISTER_AND_IGNORE
from tests.support.iscsi_client import Initiator
from tests.support.sbc_cdbs import write
from tests.support.scsi import basic_list
from tests.support.target_rig import Session, Url

__all__ = [
    "flockpr_clock",
    "flockpr_cluster",
    "flockpr_helper",
    "flockpr_lun",
    "flockpr_nexus",
    "flockpr_target",
]

MakeNexus = Callable[[str], Nexus]
MakeCluster = Callable[[int], Cluster]


def test_target_enforces_what_a_nexus_reserved(
    flockpr_lun: Lun, flockpr_nexus: MakeNexus, flockpr_target: TargetDoor
) -> None:
    """The initiator of a session and the nexus of the same name are one."""
    one, two = flockpr_nexus("node1"), flockpr_nexus("node2")
    url = Url.parse(flockpr_target.url)
    with Session(
        Initiator((url.host, url.port), target=url.target, name=two.initiator), url.lun
    ) as session:
        session.settle()
        assert session.command(write(0, 1), bytes(512)).good
        one.register(0xA1).ok()
        one.reserve(0xA1).ok()
        assert session.command(write(0, 1), bytes(512)).status == Status.RESERVATION_CONFLICT
        two.register(0xB2).ok()
        assert session.command(write(0, 1), bytes(512)).good
    assert flockpr_lun.image is not None


def test_target_starts_again_where_it_was(flockpr_target: TargetDoor) -> None:
    """So initiators find it again."""
    url = flockpr_target.url
    flockpr_target.stop()
    flockpr_target.start()
    assert flockpr_target.url == url


def test_helper_answers_for_an_initiator(
    flockpr_lun: Lun, flockpr_nexus: MakeNexus, flockpr_helper: HelperDoor
) -> None:
    """Commands come with a descriptor; which one does not matter."""
    flockpr_helper.act_as("node1")
    descriptor = os.open(os.devnull, os.O_RDWR)
    try:
        with flockpr_helper.client() as client:
            reply = client.execute(descriptor, REGISTER_AND_IGNORE, basic_list(0, 0xA1))
    finally:
        os.close(descriptor)
    assert reply.status == Status.GOOD
    flockpr_lun.assert_registered({"node1": 0xA1})
    flockpr_nexus("node1").reserve(0xA1).ok()
    assert "(helper)" in flockpr_lun.timeline()


def test_timeline_tells_of_other_programs(flockpr_lun: Lun) -> None:
    """What came through other doors is in the audit trail and the journals."""
    tool = [sys.executable, "-m", "flockpr.tools.sg_persist", "-n", "-o", "-d", "disk"]
    for who, words, code in (("node1", "-G -S a1", 0), ("node2", "-R -T 5 -K b2", 24)):
        environment = flockpr_lun.environment(who)
        done = subprocess.run([*tool, *words.split()], env=environment, timeout=PATIENCE)
        assert done.returncode == code
    told = flockpr_lun.timeline().splitlines()
    assert "node1  REGISTER key=0x0 sark=0xa1 (cli)" in told[0]
    assert "RESERVATION CONFLICT" in told[1]
    assert told[-1] == "now: generation 1; no reservation; registered: node1 0xa1"


@pytest.mark.parametrize("point", POINTS)
def test_node_that_dies_has_done_it_or_not(
    point: Point, flockpr_lun: Lun, flockpr_cluster: MakeCluster
) -> None:
    """The answer is lost in any case; from the link on the command counts."""
    one, two = flockpr_cluster(2)
    with one.dies(at=point):
        assert one.register(0xA1).lost
    assert not one.alive
    done = point in ("after-link", "before-reply")
    flockpr_lun.assert_registered({"node1": 0xA1} if done else {})
    two.register(0xB2).ok()
    one.start()
    one.register_ignore(0xA2).ok()
    keys = {"node1": 0xA2, "node2": 0xB2}
    assert flockpr_lun.keys == keys


@pytest.mark.parametrize("error", ["ENOSPC", "ESTALE", "EIO", "EROFS"])
def test_node_whose_share_fails_refuses_and_recovers(
    error: str, flockpr_lun: Lun, flockpr_cluster: MakeCluster, flockpr_clock: VirtualClock
) -> None:
    """Nobody is told GOOD; afterwards all is as before."""
    one, _ = flockpr_cluster(2)
    one.register(0xA1).ok()
    with one.fails(error):
        assert not one.reserve(0xA1).good
    flockpr_lun.assert_held_by(None)
    one.reserve(0xA1).ok()
    flockpr_lun.assert_held_by(one)


def test_node_whose_link_fails_once_tells_the_truth(
    flockpr_lun: Lun, flockpr_cluster: MakeCluster, flockpr_clock: VirtualClock
) -> None:
    """ENOSPC before the link is a refusal; an error after it is found out about."""
    one, two = flockpr_cluster(2)
    with one.fails("ENOSPC", at="before-link", times=1):
        assert not one.register(0xA1).good
    flockpr_lun.assert_registered({})
    with two.fails("EIO", at="after-link", times=1):
        two.register(0xB2).ok()
    flockpr_lun.assert_registered({"node2": 0xB2})


def test_slow_share_takes_virtual_time_only(
    flockpr_lun: Lun, flockpr_cluster: MakeCluster, flockpr_clock: VirtualClock
) -> None:
    """A command that the share makes late is BUSY, and the test waits for nothing."""
    (one,) = flockpr_cluster(1)
    begun = time.monotonic()
    with one.slow(30):
        assert one.register(0xA1).status == Status.BUSY
    assert flockpr_clock.seconds >= 30
    assert time.monotonic() - begun < PATIENCE
    one.register(0xA1).ok()
    age = flockpr_lun.status().to_json()["age_s"]
    assert age == 0
    flockpr_clock.advance(60)
    assert flockpr_lun.status().to_json()["age_s"] == 60


def test_slow_share_without_a_clock_says_what_it_needs(flockpr_cluster: MakeCluster) -> None:
    """It would really wait."""
    (one,) = flockpr_cluster(1)
    with pytest.raises(AssertionError, match="flockpr_clock"), one.slow(1):
        pass


def test_node_that_is_cut_off_is_gone_after_its_lease(
    flockpr_lun: Lun, flockpr_cluster: MakeCluster, flockpr_clock: VirtualClock
) -> None:
    """It keeps its registration, and stands for it again when it is back."""
    one, two = flockpr_cluster(2)
    one.register(0xA1).ok()
    two.register(0xB2).ok()
    one.partition()
    assert one.write().lost
    flockpr_clock.advance(LEASE - 1)
    assert flockpr_lun.liveness == {"node1": "alive", "node2": "alive"}
    flockpr_clock.advance(1)
    assert flockpr_lun.liveness == {"node1": "gone", "node2": "alive"}
    one.heal()
    one.write().ok()
    flockpr_clock.advance(60)
    one.write().ok()
    assert flockpr_lun.keys == {"node1": 0xA1, "node2": 0xB2}


def test_node_without_a_clock_loses_its_locks_on_demand(
    flockpr_lun: Lun, flockpr_cluster: MakeCluster
) -> None:
    """And one that is killed has lost them at once."""
    one, two = flockpr_cluster(2)
    one.register(0xA1).ok()
    two.register(0xB2).ok()
    one.partition()
    one.lose_locks()
    two.kill()
    assert flockpr_lun.liveness == {"node1": "gone", "node2": "gone"}


def test_answer_asserts_say_what_came_instead(flockpr_nexus: MakeNexus) -> None:
    """The command, who sent it, what was answered, what should have been."""
    alice, bob = flockpr_nexus("alice"), flockpr_nexus("bob")
    alice.register(1).ok()
    with pytest.raises(AssertionError, match=r"WRITE of bob: GOOD, and not RESERVATION CONFLICT"):
        bob.write().conflicts()
    with pytest.raises(AssertionError, match=r"RESERVE .*of bob: RESERVATION CONFLICT, and not"):
        bob.reserve(2).ok()
    with pytest.raises(AssertionError, match="and not REGISTRATIONS_PREEMPTED"):
        alice.ready().attends(Attention.REGISTRATIONS_PREEMPTED)
    bob.register(2).ok()
    bob.preempt(2, 1).ok()
    alice.ready().attends(Attention.REGISTRATIONS_PREEMPTED)


def test_lun_asserts_say_what_is_the_case(flockpr_lun: Lun, flockpr_nexus: MakeNexus) -> None:
    """By short names."""
    alice = flockpr_nexus("alice")
    alice.register(1).ok()
    alice.reserve(1, 8).ok()
    flockpr_lun.assert_held_by("all", 8)
    with pytest.raises(AssertionError, match="held by all, and not by alice"):
        flockpr_lun.assert_held_by(alice)
    with pytest.raises(AssertionError, match="registered: alice 0x1, and not nobody"):
        flockpr_lun.assert_registered({})


def test_lun_is_cheaper_than_a_mock_would_be_worth() -> None:
    """Processor time of a logical unit with its first commands: under 50 ms each."""
    from flockpr.pytest_plugin.lun import fast_directory

    directory = os.path.join(fast_directory(), f"flockpr-cost-{os.getpid()}")
    os.mkdir(directory)
    try:
        spent = []
        for number in range(5):
            begun = time.process_time()
            lun = Lun.create(directory, f"disk{number}")
            nexus = lun.nexus("alice")
            nexus.register(1).ok()
            nexus.reserve(1).ok()
            lun.close()
            spent.append(time.process_time() - begun)
    finally:
        subprocess.run(["rm", "-rf", directory], check=True, timeout=PATIENCE)
    assert min(spent) < 0.05


@pytest.mark.parametrize("flockpr_store", ["lockdir", "sqlite"])
def test_store_of_the_unit_can_be_chosen(
    flockpr_store: str, flockpr_lun: Lun, flockpr_nexus: MakeNexus, flockpr_cluster: MakeCluster
) -> None:
    """By the fixture; a database is for one host, so it has no cluster."""
    one, two = flockpr_nexus("node1"), flockpr_nexus("node2")
    one.register(0xA1).ok()
    one.reserve(0xA1).ok()
    two.write().conflicts()
    flockpr_lun.assert_held_by(one)
    assert flockpr_lun.store == flockpr_store
    if flockpr_store == "lockdir":
        assert len(flockpr_cluster(2)) == 2
    else:
        with pytest.raises(ConfigError, match="disk: a database is for one host"):
            flockpr_cluster(2)
    assert "GOOD" in flockpr_lun.timeline()
