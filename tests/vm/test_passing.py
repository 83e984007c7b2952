"""Commands that are passed on to devices, beside the real helper, over the kernel's own target.

By hand, some minutes::

    pytest -m sweep tests/vm/test_passing.py
"""

from __future__ import annotations

import functools
import operator
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.differential import Recorded, differences
from tests.support.peers import require
from tests.support.pr_sequences import random_walk, scripted
from tests.vm import nested, tunnel
from tests.vm.disk import scsi_block
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
    others_keep_no_more(found)


def others_keep_no_more(found: dict[str, Any]) -> None:
    """See that the daemons of `ioc-pr` and `mpath` serve with no more than the real helper has
    where it is built for multipath. Debian's is not: it would keep CAP_SYS_ADMIN as well.
    """
    more = 1 << 21
    as_root, as_nobody = (
        [{**one, "CapEff": one["CapEff"] | more, "CapPrm": one["CapPrm"] | more} for one in held]
        for held in (found["real"]["held"], found["real"]["as_nobody"]["held"])
    )
    calls, of_nobody, paths = (
        found["others"][name] for name in ("ioc-pr", "ioc-pr-nobody", "mpath")
    )
    assert [one["answer"][0] for one in (calls, of_nobody, paths)] == [0, 0, 0]
    no_more(calls["held"], as_root)
    no_more(of_nobody["held"], as_nobody)
    assert {one["CapEff"] for one in calls["held"] + of_nobody["held"]} == {more}
    # For the programs that it starts; the real helper calls a library.
    assert {one["CapInh"] for one in paths["held"]} == {more | 1 << 17}
    no_more([{**one, "CapInh": 0} for one in paths["held"]], as_root)


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


@contextmanager
def machine_with_multipath(folder: Path, memory: int = 512) -> Iterator[Machine]:
    """A machine with what a map of multipath takes."""
    modules = (*MODULES, "dm_multipath", "dm_service_time", "scsi_dh_alua")
    packages = package_tree("multipath", ("multipath-tools", "udev"))
    with machine(folder, modules, packages=packages, memory=memory) as host:
        yield host


def test_map_of_multipath_is_one_disk(short_path: Path) -> None:
    """Every change on all its paths, under multipathd; a third path is another host's."""
    require("qemu-system-x86_64")
    with machine_with_multipath(short_path) as host:
        found = python(host, "mapped.py")
    see_calls(found)
    answers = {}
    releases = []
    for name, status, sense, data, (listed, held) in found["steps"]:
        answers[name] = (status, sense, sorted(keys(listed)), reserved(held))
        if name == "release with one path":
            releases.append(answers.pop(name))
        if name in ("keys of nobody", "keys", "keys by one path", "cut", "no map"):
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


def see_calls(found: dict[str, Any]) -> None:
    """By the kernel's calls: it registers all paths of the map, and releases by all."""
    answers = {
        name: (status, sense, sorted(keys(listed)), reserved(held))
        for name, status, sense, _, (listed, held) in found["called"]
    }
    both = [0xA1, 0xA1, 0xC3]
    # The device tells the second path that the first one has released, if that held it: the call
    # meets this unit attention, and the kernel does not say what it was.
    release = answers.pop("release for registrants")
    assert release in ((0, "", both, None), (2, "0b0006", both, None))
    assert answers == {
        "register": (0, "", [0xA1, 0xA1], None),
        "reserve": (0, "", both, (0xA1, 1)),
        "wrong key": (0x18, "", both, (0xA1, 1)),
        "release": (0, "", both, None),
        "reserve for registrants": (0, "", both, (0xA1, 5)),
        "preempt": (0, "", [0xA1, 0xA1], None),
        "clear": (0, "", [], None),
        "read keys": (2, "052400", [], None),
    }
    assert found["other and calls"] == [0, 0x18]


def test_guest_has_a_map_of_multipath(short_path: Path) -> None:
    """Its disk is the map itself, in an unmodified QEMU beside a daemon of `mpath`; another host
    takes it and is fenced in its turn.
    """
    require("qemu-system-x86_64", "sg_persist", "busybox")
    script = short_path / "qemu.sh"
    script.write_text(nested.qemu(short_path, "map", scsi_block(MAP, MAP_HELPER)))
    with machine_with_multipath(short_path, memory=1024) as host:
        found = python(host, "map_of_guest.py", script)
    told = nested.steps(found["said"])
    assert {name: status for name, (status, _) in told.items()} == {
        **dict.fromkeys(("register", "keys", "reserve", "reservation", "registered"), 0),
        "status": ILLEGAL_REQUEST,
        **dict.fromkeys(("release", "anew", "again", "preempt", "holder", "clear", "none"), 0),
        "conflict": CONFLICT,
        "fenced": 1,
    }, found["said"]
    said = {name: re.findall(r"\b0x(?:a1|c3)\b", text) for name, (_, text) in told.items()}
    assert said["keys"] == ["0xa1", "0xa1"]
    assert said["reservation"] == said["holder"] == ["0xa1"]
    assert said["none"] == []
    seen = {
        name: (sorted(keys(found[name][0])), reserved(found[name][1]))
        for name in ("reserved", "released", "preempted", "left")
    }
    assert seen == {
        "reserved": ([0xA1, 0xA1], (0xA1, 5)),
        "released": ([0xA1, 0xA1, 0xC3], None),
        "preempted": ([0xC3], None),
        "left": ([], None),
    }
    answered = {name: found[name] for name in OF_OTHER}
    assert answered == {**dict.fromkeys(OF_OTHER, 0), "reserve": 0x18}
    assert found["code"] == 0


MAP, MAP_HELPER = Path("/run/map"), Path("/run/mpath.sock")
OF_OTHER = ("register", "reserve", "another key", "preempt", "reserve now")

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
