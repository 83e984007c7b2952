"""`flockpr target` on hosts that mount one NFSv4.2 share, with the image on it.

By hand, a few minutes::

    pytest -m sweep tests/vm/test_target_nfs.py
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
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


def _fails(machine: Machine, url: str, command: str) -> bool:
    """Whether qemu-io cannot do this."""
    done = machine.run(f"qemu-io -f raw -t none -c '{command}' {url}")
    return done.status != 0 or "error" in done.output.lower() or "failed" in done.output.lower()


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def test_target_on_nfs_serves_on_two_hosts_and_one_goes_on_alone(short_path: Path) -> None:
    """What the client of one writes with FUA is what the other one's reads, in both directions.

    When one host dies the other serves on, without a pause for reads and writes.
    """
    require("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip", "qemu-io")
    with boot_lab(short_path, ["host1", "host2"]) as lab:
        one, two = (host.machine for host in lab.hosts)
        made = one.check(f"{FLOCKPR} lun create disk --root {ROOT} --size 16M")
        assert "enforced for the targets of any number of hosts, on nfs 4.2" in made
        _, here = _start(one)
        assert here is not None, one.run("cat /run/target.err").output
        running, there = _start(two)
        assert there is not None, two.run("cat /run/target.err").output
        _io(one, here, "write -P 0xa1 0 1M", "write -f -P 0xb2 1M 64k")
        _io(two, there, "read -P 0xa1 0 1M", "read -P 0xb2 1M 64k")
        _io(two, there, "discard 0 64k", "write -f -P 0xc3 2M 64k")
        _io(one, here, "read -P 0 0 64k", "read -P 0xa1 64k 960k", "read -P 0xc3 2M 64k")
        one.kill()
        _io(two, there, "read -P 0xc3 2M 64k", "write -f -P 0xd4 3M 4k", "read -P 0xd4 3M 4k")
        two.check("kill $(cat /run/target.pid)")
        assert running.wait().status == 0, two.run("cat /run/target.err").output


def test_target_on_nfs_stops_where_lost_locks_would_be_taken_again(short_path: Path) -> None:
    """recover_lost_locks=Y closes the gate of a target that serves, and keeps another from
    starting; N opens it again.
    """
    require("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip", "qemu-io")
    with boot_lab(short_path, ["host1"]) as lab:
        (machine,) = (host.machine for host in lab.hosts)
        machine.check(f"{FLOCKPR} lun create disk --root {ROOT} --size 16M")
        running, url = _start(machine)
        assert url is not None, machine.run("cat /run/target.err").output
        _io(machine, url, "write -P 0xa1 0 1M")
        parameter = "/sys/module/nfs/parameters/recover_lost_locks"
        machine.check(f"echo Y > {parameter}")
        _until(lambda: _fails(machine, url, "read 0 512"), "the gate did not close")
        assert "the mount was lost" in machine.check("cat /run/target.err")
        second = machine.run(f"{FLOCKPR} target --root {ROOT} --portal 127.0.0.1:0")
        assert second.status == 1
        assert "lost locks are taken again without a word" in second.output
        machine.check(f"echo N > {parameter}")
        _until(lambda: not _fails(machine, url, "read -P 0xa1 0 1M"), "the gate did not open")
        machine.check("kill $(cat /run/target.pid)")
        assert running.wait().status == 0, machine.run("cat /run/target.err").output
