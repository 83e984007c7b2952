"""`flockpr probe --peer` on two hosts that mount a real share: it tries there what it is to try.

Its two sides find each other by the files of the very directory that they test, so what one
kernel plays to itself (tests/probe/test_conduct.py) is only half of it.

By hand, a few minutes each::

    pytest -m sweep tests/vm/test_probe.py
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from flockpr.probe.steps import ACROSS, LOCAL
from tests.support.peers import require
from tests.vm.cluster import boot_cluster
from tests.vm.lab import Lab
from tests.vm.machine import Machine, Running
from tests.vm.nfs import boot_nfs_lab
from tests.vm.share import FLOCKPR, MOUNT_POINT

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

_NEEDED = ("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip")
_SECONDS = 1200
_GATED = {"4.2": "yes", "3": "only with", "gfs2": "only with"}
"""What docs/probe.md says of two hosts where nothing fails: version 3 and GFS2 need fencing."""


def _boot(folder: Path, what: str) -> AbstractContextManager[Lab]:
    return boot_cluster(folder) if what == "gfs2" else boot_nfs_lab(folder, what)


def _probe(machine: Machine) -> Running:
    """A probe that waits for the other; machines that are emulated need patience."""
    return machine.start(
        f"{FLOCKPR} probe {MOUNT_POINT} --peer --json --patience {_SECONDS} --wait {_SECONDS} "
        "> /run/probe.json 2> /run/probe.err"
    )


def _until_it_has_begun(machine: Machine) -> None:
    deadline = time.monotonic() + _SECONDS
    while machine.run(f"ls -d {MOUNT_POINT}/.flockpr-probe-*").status != 0:
        assert time.monotonic() < deadline, machine.run("cat /run/probe.err").output
        time.sleep(1)


def _report(machine: Machine, running: Running) -> dict[str, Any]:
    done = running.wait(_SECONDS)
    printed = machine.run("cat /run/probe.json").output
    assert done.status == 0, (printed, machine.run("cat /run/probe.err").output)
    report: dict[str, Any] = json.loads(printed)
    return report


@pytest.mark.parametrize("what", sorted(_GATED))
def test_probe_of_two_hosts_comes_to_one_verdict_and_tries_every_step(
    short_path: Path, what: str
) -> None:
    """Both print the same, no step between the hosts fails or is left out, and nothing stays but
    what each host keeps for its daemons.
    """
    require(*_NEEDED)
    with _boot(short_path, what) as lab:
        machines = [node.machine for node in lab.nodes]
        first = _probe(machines[0])
        _until_it_has_begun(machines[0])
        second = _probe(machines[1])
        reports = [
            _report(machine, running)
            for machine, running in zip(machines, (first, second), strict=True)
        ]
        left = [machine.check(f"ls -A {MOUNT_POINT}").split() for machine in machines]

    print(json.dumps(reports[0], indent=1))
    found = [(one["name"], one["outcome"]) for one in reports[0]["findings"]]
    steps = {name for name, _ in (*LOCAL, *ACROSS)} | {"lock-descriptions", "lock-death", "peer"}
    assert {name for name, _ in found} >= steps, found
    assert {how for name, how in found if name in steps} == {"good"}, found
    assert {host["name"] for host in reports[0]["hosts"]} == {node.name for node in lab.nodes}
    for key in ("advisory", "gated", "findings", "hosts"):
        assert reports[0][key] == reports[1][key]
    assert reports[0]["advisory"]["verdict"] == "yes"
    assert reports[0]["gated"]["verdict"] == _GATED[what]
    for names in left:
        kept = [name for name in names if name.startswith(".flockpr")]
        assert len(kept) == len(machines), names
        assert all(name.startswith(".flockpr-probed-") for name in kept), names
