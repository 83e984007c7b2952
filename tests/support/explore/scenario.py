"""What hosts do, and the disk that they find."""

from __future__ import annotations

import functools
import json
from typing import Any

import attrs

from flockpr.core.model import Nexus
from flockpr.gate import Gate
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store import layout
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from tests.support import simworld
from tests.support.explore.installed import fresh
from tests.support.scsi import basic_list, nexus, out_cdb
from tests.support.simfs import Client, Disk, FileNode
from tests.support.simworld import LUN, ROOT

IMAGE = "disk.img"
BLOCK = 4096

Play = tuple[Any, ...]
"""What a task of a host does: `(service action, nexus, key, other key)`, with a fifth member
for the type; `("keys", nexus)`; `("spc2", nexus)`, `("spc2 release", nexus)`; `("together", play,
play)`; `("power cycle",)`; `("write", nexus)`, `("read", nexus)`; `("tidy",)`; `("wait", seconds)`;
`("vanish",)`: the host dies, and the server keeps its locks for a while; `("fence", host)`: an
operator declares it fenced; `("look",)`: who is, as a command of before would have.
"""


@attrs.frozen
class Scenario:
    """What the hosts of a schedule do.

    Attributes:
        name: Its name.
        tasks: By task of a host, "A", "A2", "B": what it does, one after the other. The first
            letter is the host.
        before: What was done before, by somebody else: `Play`s of commands.
        gated: The logical unit has an image, and targets.
        pruning: Commits are pruned as soon as they can be.
        publishing: Each command publishes the view.
        forgetful: The hosts believe names as NFS clients do.
        order: Whether the lock that puts commits in order works.
        errands: What no answer depends on is done by another thread.
        lease: Seconds after which the server gives the locks of a dead host to others; None for
            never.
    """

    name: str
    tasks: dict[str, tuple[Play, ...]]
    before: tuple[Play, ...] = ()
    gated: bool = True
    pruning: bool = False
    publishing: bool = False
    forgetful: bool = True
    order: bool = True
    errands: bool = False
    lease: float | None = 3.0

    @property
    def hosts(self) -> list[str]:
        """Names of the hosts."""
        return sorted({name[0] for name in self.tasks})


class Broken(AssertionError):
    """An invariant does not hold."""


def demand(holds: bool, why: str) -> None:
    """Raise `Broken` unless something holds."""
    if not holds:
        raise Broken(why)


def asked(play: Play) -> tuple[Nexus, bytes, bytes]:
    """A command: who sends it, its CDB and its parameter list."""
    match play:
        case (int() as action, str() as name, int() as key, int() as other, *rest):
            type_ = rest[0] if rest else 5
            return nexus(name), out_cdb(action, type_=type_), basic_list(key, other)
    return simworld.as_sent(play)


def host_name(name: str) -> str:
    """What a host calls itself."""
    return f"host-{name}"


def _add_image(disk: Disk) -> None:
    """An image, and a `lun.json` that names it: made here, for its blocks are of no interest."""
    identity = disk.find(f"{LUN}/{layout.IDENTITY}")
    assert isinstance(identity, FileNode)
    fields = json.loads(identity.data)
    identity.data = (json.dumps({**fields, "image": IMAGE}, indent=2) + "\n").encode()
    image = disk.new_file(0o100600, bytes(BLOCK * 10))
    image.links = 0
    disk.change(disk.directory(ROOT), (IMAGE, image.number))


@functools.lru_cache(maxsize=64)
def template(before: tuple[Play, ...], gated: bool) -> tuple[Disk, int]:
    """The disk of a logical unit after some commands."""
    fresh()
    disk = Disk()
    client = Client(disk)
    create_lun(ROOT, "disk", syscalls=client)
    if gated:
        _add_image(disk)
    unit = LogicalUnit(LockDirectory(LUN, syscalls=client, host="before"), keep_tidy=False)
    if gated:
        unit._made_gate = Gate(ROOT, unit.identity.lun, IMAGE, syscalls=client)
    for action, name, key, other, *rest in before:
        cdb = out_cdb(action, type_=rest[0] if rest else 5)
        result = unit.execute(nexus(name), cdb, basic_list(key, other), report_attentions=False)
        assert result.status is Status.GOOD, (action, name, result)
    newest = unit.snapshot().number
    unit.close()
    disk.sync_all()
    return disk, newest
