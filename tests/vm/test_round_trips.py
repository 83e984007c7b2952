"""What a command costs in calls to the file server, over NFSv4.2, by the client's own count.

By hand, two minutes::

    pytest -m sweep tests/vm/test_round_trips.py -s
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import require
from tests.vm.share import ROOT, boot_lab

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1800)]

LUN = "disk"
_LATER, _AS_LONG = 10, 6
"""Seconds after which the second host begins; when both end, in such times."""
_GUEST = Path(__file__).parent / "guest"

_KERNEL = {"SEQUENCE", "DELEGRETURN"}
"""What the client does by itself now and then, to keep its lease and to give back what it was
lent with files that were opened before."""


def table(found: dict[str, Any]) -> str:
    """The counts, the operations that were called most often first."""
    lines = []
    for what, seen in found.items():
        operations = sorted(seen["calls"].items(), key=lambda call: -call[1])
        listed = ", ".join(f"{name} {count:.2f}" for name, count in operations)
        total = sum(seen["calls"].values())
        ms = f"{seen['ms']:6.2f} ms, {seen['cpu']:6.2f} of them computed"
        lines.append(f"{what:20} {total:6.2f} calls, {ms}: {listed}")
    return "\n".join(lines)


def test_commands_cost_few_round_trips(short_path: Path) -> None:
    """A commit takes what its system calls cannot do without, and the looks that prove it."""
    require("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip")
    with boot_lab(short_path, ["host1"]) as lab:
        lab.create_lun(LUN)
        printed = lab.hosts[0].machine.check(
            f"{sys.executable} {_GUEST}/round_trips.py {ROOT} {LUN}"
        )
        found = json.loads(printed.splitlines()[-1])
    print(f"\n{table(found)}")
    ours = {
        what: sum(count for name, count in seen["calls"].items() if name not in _KERNEL)
        for what, seen in found.items()
    }
    assert found["commit"]["calls"]["LINK"] == pytest.approx(1.0)
    # The bare calls create with O_EXCL, which the server makes durable twice.
    assert "SETATTR" not in found["commit"]["calls"]
    assert ours["read"] <= 2
    assert ours["commit"] <= 15
    assert ours["idle minute"] <= 12


def test_two_hosts_that_always_have_something_to_commit_take_turns(short_path: Path) -> None:
    """Neither is kept out by the other, which may have been alone before it came."""
    require("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip")

    def commits(number: int) -> dict[str, Any]:
        time.sleep(_LATER * number)
        seconds = _LATER * (_AS_LONG - number)
        call = f"{sys.executable} {_GUEST}/turns.py {ROOT} {LUN} {seconds} host{number}"
        printed = lab.hosts[number].machine.check(call, 600)
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found

    with boot_lab(short_path, ["host1", "host2"]) as lab:
        lab.create_lun(LUN)
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(commits, range(2))
    print(f"\n{first}\n{second}")
    assert first["busy"] == second["busy"] == 0
    assert second["commits"] > first["commits"] / 4
    assert second["first"] < 5000
