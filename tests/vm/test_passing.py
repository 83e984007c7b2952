"""Commands that are passed on to devices, beside the real helper, over the kernel's own target.

By hand, some minutes::

    pytest -m sweep tests/vm/test_passing.py
"""

from __future__ import annotations

import functools
import operator
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.differential import Recorded, differences
from tests.support.peers import require
from tests.support.pr_sequences import random_walk, scripted
from tests.vm import tunnel
from tests.vm.guests import CONFLICT, boot_guests
from tests.vm.initramfs import GUEST_FILES
from tests.vm.kernel import package_tree
from tests.vm.lio import MODULES, machine, python
from tests.vm.machine import Machine

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

SEED, COUNT = 7, 400


def test_helpers_answer_alike_over_the_same_device(short_path: Path) -> None:
    """Byte for byte: scripted and random sequences on two paths; the same capabilities."""
    require("qemu-system-x86_64", "qemu-pr-helper")
    with machine(short_path) as host:
        found = python(host, "passing.py", SEED, COUNT)
    sent = [*scripted(), *random_walk(SEED, COUNT)]
    real, ours = found["real"], found["ours"]
    answers = [(status, *map(bytes.fromhex, more)) for status, *more in real["answers"]]
    pairs = zip(sent, answers, strict=True)
    told, counts = differences([Recorded.of(command, *answer) for command, answer in pairs])
    assert not [one for one in told if not one.row]
    assert counts["compared"] > counts["skipped"]
    assert len(real["answers"]) == len(ours["answers"]) == len(sent)
    for command, one, other in zip(sent, real["answers"], ours["answers"], strict=True):
        assert one == other, command
    assert real["gone"] == ours["gone"]
    statuses = {answer[0] for answer in real["answers"]}
    assert {0x00, 0x02, 0x18} <= statuses  # the sequences come to something
    assert (real["code"], ours["code"]) == (0, 0)
    no_more(ours["held"], real["held"])
    no_more(ours["as_nobody"]["held"], real["as_nobody"]["held"])
    assert ours["as_nobody"]["answer"] == real["as_nobody"]["answer"]
    assert ours["as_nobody"]["answer"][0] == 0


def no_more(ours: list[dict[str, Any]], real: list[dict[str, Any]]) -> None:
    """See that no thread of ours has what none of the real helper's has."""
    for one in ours:
        for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
            assert one[name] & ~functools.reduce(operator.or_, (other[name] for other in real)) == 0
        assert set(one["Uid"]) <= {number for other in real for number in other["Uid"]}
        most = {number for other in real for number in (*other["Gid"], *other["Groups"])}
        assert {*one["Gid"], *one["Groups"]} <= most


def step(found: list[list[Any]], name: str) -> list[Any]:
    """The rest of the step of that name."""
    (rest,) = [rest for what, *rest in found if what == name]
    return rest


def keys(data: str) -> list[int]:
    """Of READ KEYS."""
    return [int(data[place : place + 16], 16) for place in range(16, len(data), 16)]


def reserved(data: str) -> tuple[int, int] | None:
    """Key and type of READ RESERVATION."""
    return (int(data[16:32], 16), int(data[42:44], 16)) if len(data) > 16 else None


def test_daemon_chooses_by_the_disk(short_path: Path) -> None:
    """Emulated, passed on, by the kernel's calls for a disk and a map; and what doctor finds."""
    require("qemu-system-x86_64", "dmsetup")
    with machine(short_path) as host:
        found = python(host, "devices.py")
    chosen = found["chosen"]
    assert step(chosen, "emulated: register")[0] == 0
    status, _, data, (itself, _) = step(chosen, "emulated: read")
    assert (status, keys(data), keys(itself)) == (0, [0xA1], [])
    status, _, data, (itself, held) = step(chosen, "passed: read")
    assert (status, keys(data), keys(itself)) == (0, [0xA1], [0xA1])
    assert reserved(held) == (0xA1, 5)
    for name in ("emulated: by a map", "emulated: passed on"):
        status, sense, _, (itself, _) = step(chosen, name)
        assert (status, sense, keys(itself)) == (2, "052500", [])
    assert keys(step(chosen, "passed: passed on")[2]) == [0xA1]

    expected = {
        "register": (0, "", [0xA1], None),
        "register the other": (0, "", [0xA1, 0xB2], None),
        "reserve": (0, "", [0xA1, 0xB2], (0xA1, 5)),
        "reserve by the other": (0x18, "", [0xA1, 0xB2], (0xA1, 5)),
        "wrong key": (0x18, "", [0xA1, 0xB2], (0xA1, 5)),
        "release": (0, "", [0xA1, 0xB2], None),
        "reserve again": (0, "", [0xA1, 0xB2], (0, 8)),
        "release again": (0, "", [0xA1, 0xB2], None),
        "reserve for one": (0, "", [0xA1, 0xB2], (0xA1, 1)),
        "unit attention": (2, "0b0006", [0xA1, 0xB2], (0xA1, 1)),
        "preempt": (0, "", [0xB2], (0xB2, 3)),
        "unregistered": (0x18, "", [0xB2], (0xB2, 3)),
        "register anew": (0, "", [0xB2, 0xC3], (0xB2, 3)),
        "unregister": (0, "", [0xB2], (0xB2, 3)),
        "clear": (0, "", [], None),
        "read keys": (2, "052400", [], None),
        "full status": (2, "052400", [], None),
        "move": (2, "052400", [], None),
    }
    answers = {}
    for name, status, sense, _, (listed, held) in found["called"]:
        answers[name] = (status, sense, sorted(keys(listed)), reserved(held))
    answers.pop("capabilities")
    assert answers == expected
    assert step(found["called"], "capabilities")[:3] == [0, "", "00080181ea010000"]
    mapped = [(what, status, keys(listed)) for what, status, _, _, (listed, _) in found["mapped"]]
    assert mapped == [("register", 0, [0xA1]), ("reserve", 0, [0xA1]), ("clear", 0, [])]

    (unit,) = found["doctor"]["luns"]
    assert [one for one in unit["findings"] if one["kind"] == "passed"]
    # Emulates, passes on by SG_IO and by the kernel's calls.
    held = 0b1011 | 1 << 17 | 1 << 21
    assert found["held"] == {"CapEff": held, "CapPrm": held, "CapBnd": 0}
    assert found["code"] == 0


def test_map_of_multipath_is_one_disk(short_path: Path) -> None:
    """Every change on all its paths, under multipathd; a third path is another host's."""
    require("qemu-system-x86_64")
    modules = (*MODULES, "dm_multipath", "dm_service_time", "scsi_dh_alua")
    packages = package_tree("multipath", ("multipath-tools", "udev"))
    with machine(short_path, modules, packages=packages) as host:
        found = python(host, "mapped.py")
    answers = {}
    releases = []
    for name, status, sense, data, (listed, held) in found["steps"]:
        answers[name] = (status, sense, sorted(keys(listed)), reserved(held))
        if name == "release with one path":
            releases.append(answers.pop(name))
        if name in ("keys", "keys by one path", "cut", "no map"):
            assert listed.startswith(data), name
            assert len(data) in (24, len(listed)), name
        elif name == "reservation":
            assert data == held
        elif name == "capabilities":
            assert data == found["capabilities"] != ""
        else:
            assert data in ("", "0" * 16), name
    both, held = [0xA1, 0xA1, 0xC3], (0xA1, 5)
    # The path that is lost was the one that holds it, or the other one.
    assert sorted(releases, key=str) == [(0, "", both, None), (2, "0b0800", both, held)]
    assert answers == {
        "keys of nobody": (0, "", [], None),
        "register": (0, "", [0xA1, 0xA1], None),
        "reserve": (0, "", both, held),
        "wrong key": (0x18, "", both, held),
        "release of another type": (0x18, "", both, held),
        "keys": (0, "", both, held),
        "reservation": (0, "", both, held),
        "capabilities": (0, "", both, held),
        "cut": (0, "", both, held),
        "full status": (2, "052400", both, held),
        "move": (2, "052400", both, held),
        "a list that is too short": (2, "051a00", both, held),
        "ports named": (2, "052600", both, held),
        "reserve again": (0, "", both, held),
        "keys by one path": (0, "", both, held),
        "preempt by one path": (0, "", [0xA1, 0xA1], held),
        "release": (0, "", [0xA1, 0xA1], None),
        "another key": (0, "", [0xD4, 0xD4], None),
        "unregister": (0, "", [], None),
        "register to last": (0, "", [0xE5, 0xE5], None),
        "clear": (0, "", [], None),
        "keys without a path": (2, "0b0800", [], None),
        "register without a path": (2, "0b0800", [], None),
        "no map": (0, "", [], None),
    }
    assert (found["other registers"], found["other reserves"]) == (0, 0x18)
    # What the real helper keeps where it is built for multipath; programs have no more.
    kept = 1 << 17 | 1 << 21
    assert found["held"] == {"CapEff": kept, "CapInh": kept, "CapBnd": 0}
    assert found["code"] == 0


STORY = (
    "--in -k",
    "--out --register --param-sark=a1",
    "--in -k",
    "--out --reserve --param-rk=a1 --prout-type=5",
    "--in -r",
    "--in -c",
    "--in -s",
    "--out --reserve --param-rk=bad --prout-type=5",
    "--out --register-ignore --param-sark=b2",
    "--out --preempt --param-rk=b2 --param-sark=b2 --prout-type=3",
    "--in -r",
    "--out --release --param-rk=b2 --prout-type=1",
    "--out --clear --param-rk=b2",
    "--in -k",
)
"""Options of sg_persist in the guest."""

HELPERS = ("real", "sgio", "ioc-pr")
ILLEGAL_REQUEST, ABORTED_COMMAND = 5, 11
"""Exit statuses of sg_persist (sg3_utils(8))."""


def told(host: Machine, folder: Path, name: str, port: int) -> list[tuple[int, str]]:
    """What sg_persist says in a guest whose commands go through a helper to the disk."""
    program = GUEST_FILES / "serve_disk.py"
    repository = Path(__file__).parents[2]
    inside = f"PYTHONPATH={repository} {sys.executable} {program} {name} {tunnel.BRIDGE_PORT}"
    serving = host.start(inside)
    host.check("for i in $(seq 600); do test -e /run/serving && exit; sleep 0.2; done; exit 1")
    way = tunnel.Tunnel(folder / f"{name}.sock", port)
    place = folder / name
    place.mkdir()
    try:
        with boot_guests(place, {"guest": way.path}) as (guest,):
            found = [guest.start(options).wait() for options in STORY]
            assert guest.helper_connected()
    finally:
        way.close()
        host.check("touch /run/stop")
    assert serving.wait().status == 0
    return [(one.status, one.output) for one in found]


def test_guest_sees_no_difference(short_path: Path) -> None:
    """sg_persist in a guest of an unmodified QEMU says the same, through the real helper and by
    `sgio`; by `ioc-pr` whatever the kernel's calls can say.
    """
    require("qemu-system-x86_64", "qemu-pr-helper", "sg_persist", "cc")
    port = tunnel.free_port()
    with machine(short_path, arguments=tunnel.arguments(port)) as host:
        host.check("ip link set lo up; ip link set eth0 up")
        host.check(f"ip addr add {tunnel.BRIDGE_ADDRESS}/24 dev eth0")
        real, ours, calls = (told(host, short_path, name, port) for name in HELPERS)
    assert real == ours
    assert [status for status, _ in real].count(0) > 10
    assert CONFLICT in [status for status, _ in real]
    for options, one, other in zip(STORY, real, calls, strict=True):
        if options.startswith("--in") and options != "--in -c":
            assert other[0] == ILLEGAL_REQUEST, options  # Linux 6.1 has no calls that read
        elif one[0] in (0, CONFLICT):
            assert other[0] == one[0], options
        else:
            assert other[0] == ABORTED_COMMAND, options  # the device's reason is lost
