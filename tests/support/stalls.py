"""Scenes with stalled hosts, lost replies and calls that land late.

A host that stalls is stopped inside a system call while others go on for as long as they
like, as a client of NFS is that was cut off. See `scenes` for what a scene is.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Any
from unittest import mock

import attrs

from flockpr.core.model import LogicalUnitState
from flockpr.logical_unit import Result
from flockpr.spc import sense as senses
from flockpr.store import document as documents
from flockpr.store import layout
from flockpr.store.document import decode
from flockpr.store.encoding import encode
from flockpr.store.strict import loads
from tests.support.lun_tools import directory_of
from tests.support.scenes import BUSY, CONFLICT, GOOD, stall
from tests.support.simfs import Call, Client, DirNode, FileNode, Killed, fail
from tests.support.simworld import COMMITS, LUN, OUTCOME_UNKNOWN, Daemon, World

INFORMATION_LOST = Result.check(senses.RESERVATION_INFORMATION_LOST)


def commit_and_prune(daemon: Daemon, commands: int = 12) -> None:
    """So many transactions of one daemon, and all but the newest few pruned."""
    for number in range(commands):
        assert daemon.register("busy", 0x100 + number) == GOOD
        daemon.world.clock.now += 2.0
        daemon.tidy()


def is_commit(call: Call) -> bool:
    """Whether this is the link that commits."""
    return call.name == "link" and layout.COMMIT_NAME.fullmatch(call.what) is not None


def after_link(daemon: Daemon, what: Callable[[Call], None]) -> None:
    """Do something once, when a daemon's link has landed and before it knows."""

    def after(client: Client, call: Call) -> None:
        if is_commit(call):
            client.after = None
            what(call)

    daemon.client.after = after


def instead_of_link(daemon: Daemon, what: Callable[[Call], None]) -> None:
    """Do something in the place of every link of a daemon that would commit."""

    def before(_: Client, call: Call) -> None:
        if is_commit(call):
            what(call)

    daemon.client.before = before


def aside_of(daemon: Daemon) -> FileNode | None:
    """The document that a daemon has written and not linked yet; None if it was pruned."""
    directory = daemon.world.disk.directory(COMMITS)
    prefix = layout.ASIDE_PREFIX + daemon.unit._store.daemon
    names = (name for name in directory.names if name.startswith(prefix))
    newest = max(names, key=directory.names.__getitem__, default=None)  # others are litter
    node = None if newest is None else daemon.world.disk.nodes[directory.names[newest]]
    assert not isinstance(node, DirNode)
    return node


def written(daemon: Daemon) -> FileNode:
    """The document that a daemon has written and not linked yet, which must be there."""
    node = aside_of(daemon)
    assert node is not None
    return node


def land(daemon: Daemon, node: FileNode, name: str) -> None:
    """A LINK that arrives at the server now.

    Raises:
        OSError: What the server answers.
    """
    directory = daemon.world.disk.directory(COMMITS)
    if node.links <= 0:
        fail(errno.ESTALE)  # the last name of the document was removed meanwhile
    if name in directory.names:
        fail(errno.EEXIST)
    daemon.world.disk.change(directory, (name, node.number))
    daemon.world.observe(daemon.client, name, node.data)


def plant_phantom(author: Daemon, data: bytes, name: str) -> None:
    """What `author` would have linked there, had it decided at the same time."""
    document = decode(data)
    snapshot = attrs.evolve(
        document.snapshot, txid="f" * 32, daemon=author.unit._store.daemon, state=LogicalUnitState()
    )
    daemons = {snapshot.daemon: (snapshot.number, snapshot.txid)}
    phantom = encode(attrs.evolve(document, snapshot=snapshot, daemons=daemons))
    disk = author.world.disk
    node = disk.new_file(0o100600, phantom)
    node.links = 0
    disk.change(disk.directory(COMMITS), (name, node.number))


def late_link(*, stop: str, forgetful: bool = False) -> None:
    """A decides, is cut off, and comes back when its number was pruned.

    Args:
        stop: Where: before it writes the document ("open"), which its link then makes a
            phantom; or before the link itself ("link").
        forgetful: Name caches.
    """
    world = World(segment=2, forgetful=forgetful)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon(keep=2, settle=0)
        assert a.register("a", 1) == GOOD
        assert b.register("b", 2) == GOOD
        assert b.reserve("b", 2) == GOOD

        def meanwhile() -> None:
            assert b.preempt("b", 2, 1) == GOOD  # A's registration is gone
            commit_and_prune(b)

        stall(a, stop, layout.ASIDE_PREFIX if stop == "open" else ".json", meanwhile)
        assert a.preempt("a", 1, 2) == CONFLICT
        assert len(world.phantoms) == (stop == "open")
        world.judge()
        assert a.keys() == b.keys()
        names = world.disk.directory(COMMITS).names
        for number, _ in world.phantoms:
            assert layout.commit_name(number) not in names, "the phantom was left"
        world.judge_recovery(world.disk.cut(lambda _: 0))


def late_link_on_own(*, phantom: bool, kept: bool = False) -> None:
    """As `late_link` before the document is written, where what A builds on is its own, so that
    it knows the file.

    Args:
        phantom: By then a third host's phantom stands in the place of that one, in a file that
            has got its number.
        kept: The server has that one open yet, so whoever has its handle is told of it.
    """
    world = World(segment=2, forgetful=True)
    with world.clock.installed():
        a, b, c = world.daemon(order=False), world.daemon(keep=2, settle=0), world.daemon()
        assert b.register("b", 2) == GOOD
        assert b.reserve("b", 2) == GOOD
        assert a.register("a", 1) == GOOD
        name = layout.commit_name(world.newest)
        directory = world.disk.directory(COMMITS)
        base = world.disk.nodes[directory.names[name]]
        assert isinstance(base, FileNode)

        def meanwhile() -> None:
            assert b.preempt("b", 2, 1) == GOOD
            commit_and_prune(b)
            assert name not in directory.names
            if phantom:
                plant_phantom(c, base.data, name)
                node = world.disk.nodes[directory.names[name]]
                node.number = directory.names[name] = base.number
                world.disk.nodes[base.number] = node
            if kept:
                a.client.handles[name] = base

        stall(a, "open", layout.ASIDE_PREFIX, meanwhile)
        assert directory_of(a.unit).likely_head() is not None
        assert a.preempt("a", 1, 2) == CONFLICT
        assert len(world.phantoms) == 1
        world.judge()
        assert a.keys() == b.keys()


def phantom_read(*, forgetful: bool = False) -> None:
    """A reader that slept on N finds a phantom N+1 that names N as its predecessor."""
    world = World(segment=2, forgetful=forgetful)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon(keep=2, settle=0)
        reader, later = world.daemon(), world.daemon()
        reader.keys()
        later.keys()
        stall(a, "open", layout.ASIDE_PREFIX, lambda: commit_and_prune(b))
        after_link(a, lambda _: a.client.die())
        with contextlib.suppress(Killed):
            a.register("a", 1)
        assert len(world.phantoms) == 1
        assert reader.keys() == b.keys()
        assert later.register("r", 3) == GOOD
        assert reader.keys() == b.keys() == later.keys()
        world.judge()
        told = [record.number for record in b.unit.history()]
        assert told == list(range(1, world.newest + 1))


def stalled_after_link(*, forgetful: bool = False) -> None:
    """A's link lands; before A can look at its base, others commit on top and prune it."""
    world = World(segment=2, forgetful=forgetful)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon(keep=2, settle=0)
        after_link(a, lambda _: commit_and_prune(b))
        assert a.register("a", 1) == GOOD
        assert not world.phantoms
        world.judge()
        assert a.keys() == b.keys()


def lost_reply(*, retransmit: bool, foreign: bool, forgetful: bool = True) -> None:
    """A's link lands and its reply is lost; when A asks again, its number was pruned.

    Args:
        retransmit: The client repeats the call by itself, as NFS does; else the call fails
            and the store repeats it.
        foreign: By then a third host's phantom stands under A's number.
        forgetful: Name caches.
    """
    world = World(segment=2, forgetful=forgetful)
    with world.clock.installed():
        a, b = world.daemon(order=False, patience=1e6), world.daemon(keep=2, settle=0)
        c, reader = world.daemon(), world.daemon()

        def lose(call: Call) -> None:
            node = written(a)
            reader.keys()  # sleeps on A's transaction from here on
            commit_and_prune(b)
            if foreign:
                plant_phantom(c, node.data, call.what)
            if not retransmit:
                fail(errno.ETIMEDOUT)
            land(a, node, call.what)

        after_link(a, lose)
        assert a.register("a", 1) == GOOD
        world.judge()
        assert a.keys() == b.keys()
        assert reader.keys() == b.keys()


def pruner_dies() -> None:
    """A host dies when it has pruned one commit; then a late link comes into the rest."""
    world = World(segment=2)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon(keep=2, settle=0)
        assert b.register("b", 1) == GOOD
        assert b.register("b", 2) == GOOD

        def dies(client: Client, call: Call) -> None:
            if call.name == "unlink" and layout.COMMIT_NAME.fullmatch(call.what):
                client.die()

        def meanwhile() -> None:
            for key in range(3, 6):
                assert b.register("b", key) == GOOD
                world.clock.now += 2.0
            b.client.after = dies
            with contextlib.suppress(Killed):
                b.tidy()
            assert b.client.dead

        stall(a, "open", layout.ASIDE_PREFIX, meanwhile)
        assert a.register("a", 1) == GOOD
        world.judge()
        assert a.keys() == world.daemon().keys()


def forgotten(*, landed: bool) -> None:
    """The reply is lost, the number pruned, and A no longer among the daemons of the head."""
    world = World(segment=2, forgetful=True)
    with world.clock.installed(), mock.patch.object(documents, "MAX_DAEMONS", 2):
        a = world.daemon(order=False, patience=1e6)
        others = [world.daemon(order=False, keep=2, settle=0) for _ in range(3)]

        def meanwhile(call: Call) -> None:
            a.client.before = None
            if landed:
                land(a, written(a), call.what)
            for daemon in others:
                commit_and_prune(daemon)
            fail(errno.ETIMEDOUT)

        instead_of_link(a, meanwhile)
        assert a.register("a", 1) == OUTCOME_UNKNOWN
        assert a.register("a", 5) == GOOD
        assert a.keys() == others[0].keys()
        world.judge()


def unsettled(*, lands: str, forgetful: bool = True) -> None:
    """A link fails for longer than anybody waits, and lands later or never.

    Args:
        lands: "never", "before", "during" or "after" A's settling it.
        forgetful: Name caches.
    """
    world = World(forgetful=forgetful)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon()
        late: list[tuple[FileNode, str]] = []

        def lose(call: Call) -> None:
            late[:] = [(written(a), call.what)]
            fail(errno.ETIMEDOUT)

        instead_of_link(a, lose)
        assert a.register("a", 1) == OUTCOME_UNKNOWN
        assert world.newest == 1
        a.client.before = None
        if lands == "before":
            land(a, *late[0])
        if lands == "during":
            stall(a, "unlink", layout.ASIDE_PREFIX, lambda: comes_too_late(a, *late[0]))
        assert a.keys() == b.keys()
        if lands == "after":
            comes_too_late(a, *late[0])
        assert a.register("a", 1) == GOOD
        assert a.keys() == b.keys()
        world.judge()
        litter = [n for n in world.disk.directory(COMMITS).names if n.startswith(".")]
        assert not litter
        world.judge_recovery(world.disk.cut(lambda _: 0))


def comes_too_late(daemon: Daemon, node: FileNode, name: str) -> None:
    """A LINK that lands now must find its number taken, or its document gone."""
    try:
        land(daemon, node, name)
    except OSError:
        return
    raise AssertionError("nothing stood in the way of the late link")


def seal_unknown() -> None:
    """The link of the seal fails too, lands, and is found; no command is lost or doubled."""
    world = World(forgetful=True)
    with world.clock.installed():
        a, b = world.daemon(order=False), world.daemon()
        instead_of_link(a, lambda _: fail(errno.ETIMEDOUT))
        assert a.register("a", 1) == OUTCOME_UNKNOWN

        def lands_all_the_same(call: Call) -> None:
            asides = world.disk.directory(COMMITS).names
            newest = max((n for n in asides if n.startswith(".aside-")), key=asides.__getitem__)
            node = world.disk.nodes[asides[newest]]
            assert isinstance(node, FileNode)
            land(a, node, call.what)
            fail(errno.ETIMEDOUT)

        instead_of_link(a, lands_all_the_same)
        assert a.register("a", 2) == BUSY
        a.client.before = None
        assert a.register("a", 3) == GOOD
        assert a.keys() == b.keys()
        world.judge()


def late_rename() -> None:
    """The rename of an old registry.json lands after a newer one; nobody decides by it."""
    world = World()
    with world.clock.installed():
        a, b = world.daemon(order=False, keep_tidy=True), world.daemon(keep_tidy=True)
        b.timeout = 10.0  # a daemon that decides by the view never gets anywhere

        def meanwhile() -> None:
            assert b.register("b", 2) == GOOD
            assert b.reserve("b", 2) == GOOD
            assert published(world) == world.newest

        stall(a, "rename", "registry.json", meanwhile)
        a.register("a", 1)
        assert published(world) == 2, "the scene did not put an older one back"
        reader = world.daemon()
        keys = reader.keys()
        assert a.reserve("a", 1) == CONFLICT
        assert a.keys() == b.keys() == keys
        assert b.preempt("b", 2, 1) == GOOD
        assert a.keys() == b.keys()
        world.judge()
        assert published(world) == world.newest


def published(world: World) -> int:
    """Number in `registry.json`."""
    value = loads(world.disk.contents(f"{LUN}/{layout.REGISTRY}"))
    return int(value["number"])


def stale_names() -> None:
    """A has looked at a name that was absent; when it is there, A's cache denies it."""
    world = World(forgetful=True)
    with world.clock.installed():
        a, b = world.daemon(), world.daemon()
        for number in range(1, 4):
            a.keys()
            assert b.register("b", number) == GOOD
            assert a.keys() == b.keys()
        world.judge()


def foreign_successor() -> None:
    """While N stands, N+1 names another predecessor: two histories were mixed."""
    world = World()
    with world.clock.installed():
        a, b = world.daemon(), world.daemon()
        a.register("a", 1)
        b.keys()
        other = World()  # the same logical unit, as a backup has it
        c = other.daemon()
        for number in range(2):
            assert c.register("c", number + 1) == GOOD
        name = layout.commit_name(3)
        data = other.disk.contents(f"{COMMITS}/{name}")
        directory = world.disk.directory(COMMITS)
        assert isinstance(directory, DirNode)
        node = world.disk.new_file(0o100600, data)
        node.links = 0
        world.disk.change(directory, (name, node.number))
        for daemon in (a, b):
            assert daemon.keys() == INFORMATION_LOST
            assert daemon.register("x", 9) == INFORMATION_LOST
        fresh = world.daemon()
        assert fresh.keys() == INFORMATION_LOST
        assert set(directory.names) == {layout.commit_name(n) for n in (1, 2, 3)}


def old_listing() -> None:
    """Of a listing that shows less than was seen before nothing is believed."""
    world = World(forgetful=True)
    one, two = world.daemon(), world.daemon()
    one.register("A", 1)
    two.keys("B")
    store = directory_of(two.unit)
    chain: Any = store._transactions
    old, read = chain.numbers(), chain.numbers
    for key in range(2, 9):
        one.register("A", key)
    listings = [old, old]
    chain.numbers = lambda: listings.pop() if listings else read()
    assert store.head().number == read()[-1]
