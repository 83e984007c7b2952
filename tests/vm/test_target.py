"""`flockpr target` and real initiators: QEMU's own and that of Linux, two machines, one disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.targets import FlockprTarget, create_lun
from tests.vm import contest
from tests.vm.iscsi import Qemu, blockdev, contender, drive
from tests.vm.machine import INCOMING
from tests.vm.open_iscsi import SECRETS, Node, boot_nodes

pytestmark = [
    pytest.mark.peer("qemu-system-x86_64", "busybox", "sg_persist", "mkfs.ext4"),
    pytest.mark.timeout(1800),
]

ALICE, BOB = "iqn.2026-01.test:alice", "iqn.2026-01.test:bob"
_KEYS = (0x1A1, 0x2A2)


@contextmanager
def _targets(
    folder: Path, count: int, nexus: str = "name", secrets: str | None = None
) -> Iterator[list[FlockprTarget]]:
    """Targets over one root with one disk, as on so many hosts.

    Args:
        folder: Where everything goes.
        count: Of targets.
        nexus: What makes a nexus.
        secrets: Text of the file with the secrets of CHAP, when they are asked for.
    """
    root = folder / "root"
    options = []
    if secrets is not None:
        path = folder / "secrets.toml"
        path.touch(0o600)
        path.write_text(secrets)
        options = ["--chap", str(path)]
    create_lun(root, "disk", contest.DISK_BYTES)
    config = f'[lun.disk]\nnexus = "{nexus}"\n'
    targets = [
        FlockprTarget(root, folder / f"target{number}", config=config, options=options)
        for number in range(count)
    ]
    try:
        for target in targets:
            target.start()
        yield targets
    finally:
        for target in targets:
            target.kill()


def test_target_two_qemu_guests_contest_a_disk_that_keeps_its_files(short_path: Path) -> None:
    """Reserve, conflict, preempt, unit attention; a restarted guest has what it registered."""
    qemu = Qemu(short_path)
    with _targets(short_path, 2) as (here, there):
        first = qemu.boot("alice", drive(here.url(), ALICE))
        second = qemu.boot("bob", blockdev(there.url(), BOB))
        with first, second:
            alice, bob = contender(first, _KEYS[0]), contender(second, _KEYS[1])
            digest = contest.reserve_and_write(alice, bob, (ALICE, BOB))
            contest.outlives(alice, here)
            contest.preempt(alice, bob)
            contest.file_system_survives(alice, bob, digest)
            second.kill()
            with qemu.boot("bob", blockdev(there.url(), BOB)) as again:
                contest.still_the_holder(contender(again, bob.key))


def test_target_restarted_qemu_is_a_stranger_to_nexus_name_and_isid(short_path: Path) -> None:
    """QEMU has another ISID at each start, and that nexus then never registered."""
    qemu = Qemu(short_path)
    with _targets(short_path, 1, "name+isid") as (here,):
        with qemu.boot("alice", drive(here.url(), ALICE)) as machine:
            alice = contender(machine, _KEYS[0])
            alice.must(alice.register())
            alice.must(alice.reserve())
            alice.must(alice.write("alice was here"))
        with qemu.boot("alice", drive(here.url(), ALICE)) as machine:
            contest.locked_out(contender(machine, _KEYS[0]))


def test_target_guest_that_migrates_between_hosts_keeps_its_reservation(short_path: Path) -> None:
    """Both hosts present the same target port, so to them it is one nexus all the time."""
    qemu = Qemu(short_path)
    with _targets(short_path, 2) as (here, there), ExitStack() as stack:
        machine = stack.enter_context(qemu.boot("alice", blockdev(here.url(), ALICE)))
        alice = contender(machine, _KEYS[0])
        alice.must(alice.register())
        alice.must(alice.reserve())
        alice.must(alice.write("alice was here"))
        disk = [*blockdev(there.url(), ALICE), *INCOMING]
        moved = stack.enter_context(qemu.boot("moved", disk))
        moved.take_over(machine)
        contest.still_the_holder(contender(moved, alice.key))


@pytest.mark.sweep
def test_target_killed_again_and_again_loses_nothing_of_a_guest(short_path: Path) -> None:
    """QEMU's initiator logs in again each time, and the file system in the guest stays whole."""
    with ExitStack() as stack:
        (here,) = stack.enter_context(_targets(short_path, 1))
        machine = stack.enter_context(Qemu(short_path).boot("alice", drive(here.url(), ALICE)))
        alice = contender(machine, _KEYS[0])
        alice.must(alice.register())
        alice.must(alice.reserve())
        alice.make_file_system()
        alice.mount()
        contest.outlives_many(alice, here, deaths=30)
        assert alice.holder() == alice.key


def _fence(alice: Node, bob: Node) -> None:
    """Fence, with the agent of a cluster, and unfence."""
    for node in (alice, bob):
        node.must(node.fence_scsi("on", node))
        node.must(node.fence_scsi("status", node))
        node.must(node.write(f"{node.machine.name} is in"))
    contest.silences(bob, alice, lambda: bob.fence_scsi("off", alice))
    assert bob.fence_scsi("status", alice).status == 2, "fenced: off"
    alice.refused(alice.write("fenced"))
    bob.must(bob.write("bob goes on"))
    assert alice.text() == "bob goes on"
    alice.must(alice.fence_scsi("on", alice))
    alice.must(alice.write("alice is back"))


def test_target_two_linux_initiators_contest_a_disk_and_fence(short_path: Path) -> None:
    """The same through open-iscsi; then ``fence_scsi`` on, off and status between the two."""
    with _targets(short_path, 2, secrets=SECRETS) as (here, there):
        disks = [(ALICE, here.url()), (BOB, there.url())]
        with boot_nodes(short_path, disks) as (alice, bob):
            digest = contest.reserve_and_write(alice, bob, (ALICE, BOB))
            contest.outlives(alice, here)
            contest.preempt(alice, bob)
            contest.file_system_survives(alice, bob, digest)
            bob.must(bob.out(f"--clear --param-rk={bob.key:#x}"))
            _fence(alice, bob)
