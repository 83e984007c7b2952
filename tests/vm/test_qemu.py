"""Unmodified QEMU, Linux guests with sg_persist, flockpr behind ``pr-manager-helper``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import scenario
from tests.vm.daemons import create_lun, pr_helper, serve
from tests.vm.guests import CONFLICT, boot_guests

pytestmark = [
    pytest.mark.peer("qemu-system-x86_64", "busybox", "sg_persist", "cc"),
    pytest.mark.timeout(1800),
]

LUN = "disk"
ALICE, BOB = "iqn.2026-01.test:alice", "iqn.2026-01.test:bob"


def test_qemu_two_guests_on_two_daemons_contest_one_disk(short_path: Path) -> None:
    """Register, reserve, conflict, preempt, READ FULL STATUS; a daemon killed goes unnoticed."""
    root = short_path / "root"
    create_lun(short_path, root, LUN)
    host1 = serve(short_path, "host1", root, LUN, ALICE)
    host2 = serve(short_path, "host2", root, LUN, BOB)
    with host1, host2:
        helpers = {"alice": host1.socket, "bob": host2.socket}
        with boot_guests(short_path, helpers) as (alice, bob):
            scenario.register_and_reserve(alice, bob, (ALICE, BOB))
            scenario.kill_under(alice, host1)
            assert bob.keys() == {alice.key, bob.key}
            scenario.preempt(alice, bob)
            scenario.kill_under(bob, host2)
            scenario.release(alice, bob)


def test_qemu_guest_on_the_pr_helper_executable_reserves(short_path: Path) -> None:
    """``flockpr-pr-helper -k PATH``, libvirt's command line, serves a guest as `serve` does."""
    root = short_path / "root"
    create_lun(short_path, root, LUN)
    helper = pr_helper(short_path, root, LUN, ALICE)
    with helper, boot_guests(short_path, {"alice": helper.socket}) as (alice,):
        assert alice.register().status == 0
        assert alice.reserve().status == 0
        assert alice.holder() == alice.key
        stranger = alice.out("--reserve --param-rk=0xbad --prout-type=5")
        assert stranger.status == CONFLICT, stranger
        assert [entry.initiator for entry in alice.full_status()] == [ALICE]
        assert helper.terminate() == 0
