"""Daemons in different machines over one NFSv4.2 share.

By hand, several minutes each::

    pytest -m sweep tests/vm/test_nfs.py
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from flockpr.errors import ProtocolViolation
from flockpr.prhelper.client import HelperReply
from flockpr.spc.codes import OutAction, Status
from tests.support.peers import require
from tests.vm import scenario
from tests.vm.guests import boot_guests
from tests.vm.initiator import Initiator
from tests.vm.machine import Machine
from tests.vm.share import FLOCKPR, LEASE_SECONDS, MOUNT_POINT, ROOT, HostDaemon, Lab, boot_lab

# Not `peer`: that is what CI selects.
pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

LUN = "disk"
ALICE, BOB = "iqn.2026-01.test:alice", "iqn.2026-01.test:bob"
OUTCOME_UNKNOWN = (0x0B, 0x08, 0x01)
NOT_READY, NO_LUN = (0x02, 0x04, 0x01), (0x05, 0x25, 0x00)


@define
class Pair:
    """Two hosts that serve one LUN on the share."""

    lab: Lab
    daemons: tuple[HostDaemon, HostDaemon]


@pytest.fixture
def pair(short_path: Path) -> Iterator[Pair]:
    """Alice's daemon on host 1, Bob's on host 2."""
    require("qemu-system-x86_64", "busybox", "sg_persist", "cc", "strace", "mkfs.ext4", "ip")
    with boot_lab(short_path, ["host1", "host2"]) as lab:
        lab.create_lun(LUN)
        daemons = lab.daemon(0, LUN, ALICE), lab.daemon(1, LUN, BOB)
        for daemon in daemons:
            daemon.start()
        yield Pair(lab, daemons)


@pytest.fixture
def initiators(pair: Pair) -> Iterator[tuple[Initiator, Initiator]]:
    """Alice and Bob, registered; Alice holds the reservation."""
    one, two = pair.daemons
    with Initiator(one.helper, 0xA1) as alice, Initiator(two.helper, 0xB2) as bob:
        for reply in (alice.register(), bob.register(), alice.reserve()):
            assert reply.status == Status.GOOD, reply
        yield alice, bob


def test_nfs_two_qemu_guests_contest_one_disk(pair: Pair, short_path: Path) -> None:
    """The story of test_qemu.py, the daemons on two machines over NFSv4.2."""
    one, two = pair.daemons
    with boot_guests(short_path, {"alice": one.helper, "bob": two.helper}) as (alice, bob):
        scenario.register_and_reserve(alice, bob, (ALICE, BOB))
        scenario.kill_between(alice, one)
        assert bob.keys() == {alice.key, bob.key}
        scenario.preempt(alice, bob)
        scenario.kill_between(bob, two)
        scenario.release(alice, bob)


def test_nfs_commit_stalled_past_the_lease_loses(
    pair: Pair, initiators: tuple[Initiator, Initiator]
) -> None:
    """A link(2) that reaches the server after its lease, and another's commit, does nothing.

    Alice's host stalls right before the link and is cut off meanwhile, as observed with rename,
    which then replaced the other host's acknowledged commit.
    """
    alice, bob = initiators
    lab, host = pair.lab, pair.lab.hosts[0].machine
    stall = 4 * LEASE_SECONDS
    host.start(
        f"strace -qq -f -p $(cat /run/daemon.pid) -o /run/strace.log -e trace=linkat "
        f"-e inject=linkat:delay_enter={stall}s"
    )
    _wait_traced(pair.daemons[0])
    late: list[HelperReply] = []
    command = threading.Thread(
        target=lambda: late.append(alice.out(OutAction.RELEASE, own=alice.key)), daemon=True
    )
    command.start()
    host.check("until grep -q linkat /run/strace.log; do sleep 0.2; done")
    lab.cut(0)
    began = time.monotonic()
    done = bob.insist(OutAction.PREEMPT, own=bob.key, other=alice.key)
    assert done.status == Status.GOOD, done
    time.sleep(max(0.0, stall + LEASE_SECONDS - (time.monotonic() - began)))
    lab.mend(0)
    host.check("until grep -q EEXIST /run/strace.log; do sleep 0.2; done; kill $(pidof strace)")
    command.join(300)
    assert len(late) == 1
    refused = late[0].status == Status.RESERVATION_CONFLICT
    assert refused or late[0].sense_code == OUTCOME_UNKNOWN, late
    for initiator in (bob, alice):
        assert initiator.holder() == bob.key
        assert initiator.keys().keys == (bob.key,)
    assert alice.reserve().status == Status.RESERVATION_CONFLICT


def test_nfs_host_powered_off_is_seen_gone_and_preempted(
    pair: Pair, initiators: tuple[Initiator, Initiator]
) -> None:
    """The reservation outlives its holder's host; its liveness does not outlive the lease."""
    alice, bob = initiators
    survivor = pair.lab.hosts[1].machine
    assert _liveness(pair, survivor=1) == {ALICE: "alive", BOB: "alive"}
    pair.lab.hosts[0].machine.kill()
    deadline = time.monotonic() + 300
    while (seen := _liveness(pair, survivor=1)) != {ALICE: "gone", BOB: "alive"}:
        assert time.monotonic() < deadline, (seen, survivor.run("dmesg | tail").output)
        time.sleep(2)
    assert bob.holder() == alice.key
    assert bob.reserve().status == Status.RESERVATION_CONFLICT
    done = bob.insist(OutAction.PREEMPT, own=bob.key, other=alice.key)
    assert done.status == Status.GOOD, done
    assert bob.keys().keys == (bob.key,)


def test_nfs_share_that_is_away_comes_back_and_a_deleted_lun_does_not(
    pair: Pair, initiators: tuple[Initiator, Initiator]
) -> None:
    """A share unmounted for a moment is NOT READY; a LUN deleted by another host is 05/25/00,
    whatever the descriptors of the daemons say of it, and stays so under a new LUN of its name.
    """
    alice, bob = initiators
    here, there = (host.machine for host in pair.lab.hosts)
    source = here.check(f"sed -n 's, {MOUNT_POINT} .*,,p' /proc/mounts").strip()
    here.check(f"umount -l {MOUNT_POINT}")
    assert _sense_until(alice, NOT_READY) == NOT_READY
    assert bob.keys().keys == (alice.key, bob.key)
    here.check(f"mount -t nfs -o vers=4.2,hard {source} {MOUNT_POINT}")
    assert alice.keys() == bob.keys()
    assert _registering(alice).status == Status.GOOD

    there.check(f"{FLOCKPR} lun delete {LUN} --force --root {ROOT}")
    for initiator in (alice, bob):
        assert _sense_until(initiator, NO_LUN) == NO_LUN
    there.check(f"{FLOCKPR} lun create {LUN} --root {ROOT}")
    for initiator in (alice, bob, alice, bob):
        assert _registering(initiator).sense_code == NO_LUN


def _registering(initiator: Initiator) -> HelperReply:
    return initiator.insist(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, other=initiator.key)


def _sense_until(initiator: Initiator, wanted: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """What the initiator is told in the end; GOOD is never among it, for what is not there."""
    deadline = time.monotonic() + 120
    while True:
        reply = _registering(initiator)
        assert reply.status == Status.CHECK_CONDITION, reply
        if reply.sense_code == wanted or time.monotonic() > deadline:
            return reply.sense_code
        assert reply.sense_code == NOT_READY, reply
        time.sleep(1)


@define
class Traffic:
    """One initiator that changes its key as fast as it is answered, and takes notes.

    The keys count upwards, so that the audit trail tells which commands were applied.
    """

    initiator: Initiator
    acknowledged: list[int] = field(factory=list)
    unknown: list[int] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    def run(self) -> None:
        """Send until told to stop."""
        key = self.initiator.key
        while not self._stop.is_set():
            key += 1
            try:
                reply = self.initiator.out(OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, other=key)
            except (OSError, ProtocolViolation):
                self.unknown.append(key)
                time.sleep(0.2)
                continue
            if reply.status == Status.GOOD:
                self.acknowledged.append(key)
            elif reply.status != Status.BUSY:  # BUSY promises that nothing was done
                assert reply.sense_code == OUTCOME_UNKNOWN, reply
                self.unknown.append(key)

    def stop(self) -> None:
        """Let it finish the command that it sent."""
        self._stop.set()


def test_nfs_traffic_through_cuts_and_kills_loses_nothing(pair: Pair) -> None:
    """All that was acknowledged was applied once, in order, through long cuts and kills."""
    lab, (one, two) = pair.lab, pair.daemons
    randomness = random.Random(1)
    with Initiator(one.helper, 0xA << 32) as alice, Initiator(two.helper, 0xB << 32) as bob:
        traffics = (Traffic(alice), Traffic(bob))
        threads = [threading.Thread(target=traffic.run, daemon=True) for traffic in traffics]
        for thread in threads:
            thread.start()
        for disturbance in ("cut", "kill", "cut", "kill"):
            time.sleep(15 + randomness.random())
            if disturbance == "cut":
                lab.cut(0)
                time.sleep(1.5 * LEASE_SECONDS)
                lab.mend(0)
            else:
                two.kill()
                two.start()
        time.sleep(15)
        for traffic in traffics:
            traffic.stop()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive()
        report = alice.keys()
        assert bob.keys() == report
    applied = _applied(lab.hosts[0].machine)
    assert len(applied) == report.generation
    for traffic in traffics:
        mine = [key for key in applied if key & ~0xFFFF == traffic.initiator.key]
        acknowledged, unknown = set(traffic.acknowledged), set(traffic.unknown)
        print(f"{len(mine)} applied: {len(acknowledged)} acknowledged, {len(unknown)} unknown")
        assert mine == sorted(set(mine))
        assert acknowledged <= set(mine) <= acknowledged | unknown
        assert mine[-1] in report.keys
        assert len(acknowledged) > 10


def _applied(machine: Machine) -> list[int]:
    """New keys of all commands that were applied, in order, by the audit trail."""
    text = machine.check(f"{FLOCKPR} log {LUN} --json --root {ROOT}")
    keys = [record["service_action_key"] for record in json.loads(text)["records"]]
    return [int(key, 16) for key in keys if key is not None]  # the LUN's creation has none


def _wait_traced(daemon: HostDaemon) -> None:
    """Return when strace has the daemon."""
    daemon.host.machine.check(
        "until grep -q 'TracerPid:.[1-9]' /proc/$(cat /run/daemon.pid)/status; do sleep 0.2; done"
    )


def _liveness(pair: Pair, survivor: int) -> dict[str, str]:
    """Initiator name to liveness, as `flockpr status` says on one host."""
    text = pair.lab.hosts[survivor].machine.check(f"{FLOCKPR} status {LUN} --json --root {ROOT}")
    (status,) = json.loads(text)["luns"]
    return {entry["initiator"]: entry["liveness"] for entry in status["registrations"]}
