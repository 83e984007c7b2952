"""`flockpr target` on hosts that mount one NFSv4.2 share, with the image on it.

By hand, a few minutes::

    pytest -m sweep tests/vm/test_target_nfs.py
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.support.peers import require
from tests.vm.machine import Machine, Running
from tests.vm.share import FLOCKPR, ROOT, boot_lab

# Not `peer`: that is what CI selects.
pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

_SECONDS = 300


def _start(machine: Machine) -> tuple[Running, str | None]:
    """`flockpr target` on a host: the running command, and the disk's URL; None when it ended."""
    machine.check("rm -f /run/target.*")
    running = machine.start(
        f"echo $$ > /run/target.pid; exec {FLOCKPR} target --root {ROOT} --lun disk "
        "--portal 127.0.0.1:0 > /run/target.out 2> /run/target.err"
    )
    deadline = time.monotonic() + _SECONDS
    while not running.finished:
        output = machine.run("cat /run/target.out").output
        if re.search("^ready$", output, re.MULTILINE):
            (url,) = re.findall(r"^iscsi://\S+$", output, re.MULTILINE)
            return running, str(url)
        assert time.monotonic() < deadline, machine.failure("target neither serves nor ends")
        time.sleep(0.5)
    return running, None


def _io(machine: Machine, url: str, *commands: str) -> str:
    """Output of qemu-io at the disk; its commands must succeed."""
    options = " ".join(f"-c '{command}'" for command in commands)
    done = machine.run(f"qemu-io -f raw -t none {options} {url}")
    assert done.status == 0, done
    assert "error" not in done.output.lower(), done
    return done.output


def test_target_on_nfs_serves_one_host_and_after_its_death_another(short_path: Path) -> None:
    """The second host's target is refused by name of the cause, until the first host is gone.

    What the first one's client wrote with FUA is what the second one's reads.
    """
    require("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip", "qemu-io")
    with boot_lab(short_path, ["host1", "host2"]) as lab:
        one, two = (host.machine for host in lab.hosts)
        one.check(f"{FLOCKPR} lun create disk --root {ROOT} --size 16M")
        _, here = _start(one)
        assert here is not None, one.run("cat /run/target.err").output
        _io(one, here, "write -P 0xa1 0 1M", "write -f -P 0xb2 1M 64k", "read -P 0xa1 0 1M")
        _io(one, here, "discard 0 64k", "read -P 0 0 64k", "read -P 0xb2 1M 64k")
        refused, nothing = _start(two)
        assert nothing is None
        assert refused.wait().status != 0
        assert "another host" in two.run("cat /run/target.err").output
        _io(one, here, "write -f -P 0xc3 2M 64k")
        one.kill()
        deadline = time.monotonic() + _SECONDS
        while (started := _start(two))[1] is None:  # the lease of the dead runs out
            assert time.monotonic() < deadline, two.run("cat /run/target.err").output
            time.sleep(1)
        there = started[1]
        assert there is not None
        _io(two, there, "read -P 0 0 64k", "read -P 0xa1 64k 960k", "read -P 0xb2 1M 64k")
        _io(two, there, "read -P 0xc3 2M 64k", "write -f -P 0xd4 3M 4k", "read -P 0xd4 3M 4k")
        two.check("kill $(cat /run/target.pid)")
        assert started[0].wait().status == 0, two.run("cat /run/target.err").output
