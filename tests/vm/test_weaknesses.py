"""What the simulated file systems of the tests can do to us, done by a real one.

tests/support/simfs.py and gate_world.py have weaknesses that were read off NFS. Each of them is
brought about here on two hosts that mount a real share, so that what is proven on the simulated
ones is proven of something that exists::

    pytest -m sweep tests/vm/test_weaknesses.py
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define, field

from tests.support.peers import require
from tests.vm.nfs import NfsLab, boot_nfs_lab
from tests.vm.share import LEASE_SECONDS, MOUNT_POINT
from tests.vm.worker import Step, Worker

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(3600)]

NEEDED = ("qemu-system-x86_64", "busybox", "mkfs.ext4", "ip")
_PATIENCE = 120
_FAR = 1 << 62
_LAZY = "/mnt/lazy"
"""The same share, whose names and attributes are believed for a minute: as long as emulated
machines may need to tell each other something.
"""
_DIRECT = "os.O_RDWR | os.O_CREAT | os.O_DIRECT"


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@define
class Pair:
    """Alice and Bob, a Python each on a host of its own."""

    lab: NfsLab
    alice: Worker
    bob: Worker
    _count: int = field(default=0, init=False)

    def name(self, folder: str = MOUNT_POINT) -> str:
        """A path that nobody has looked up."""
        self._count += 1
        return f"{folder}/weak{self._count}"

    def image(self) -> str:
        """A file that Alice writes directly, under a lock, and Bob has open likewise."""
        path = self.name()
        self.alice(f"a = opened({path!r}, {_DIRECT}); os.ftruncate(a, 65536)")
        self.bob(f"b = opened({path!r}, {_DIRECT})")
        self.alice(f"lock(a, W, {_FAR})")
        self.alice("direct_write(a, 'before')")
        return path

    def steal(self) -> None:
        """Alice's host is cut off until Bob has got her lock."""
        self.lab.cut(0)
        until(lambda: self.bob.refused(f"lock(b, W, {_FAR})") is None, "no lease ends")


@pytest.mark.parametrize("version", ["4.2", "3"])
def test_names_and_attributes_are_stale(short_path: Path, version: str) -> None:
    """A name that was absent is believed absent until the directory is opened again, and so are
    listings; attributes of a name are believed; a link that exists is refused; a removed file is
    no more; who is told that a link failed may have made it.
    """
    require(*NEEDED)
    with boot_nfs_lab(short_path, version) as lab:
        pair = Pair(lab, *(Worker(node.machine, "worker") for node in lab.nodes))
        for node in lab.nodes:
            source = f"$(sed -n 's, {MOUNT_POINT} .*,,p' /proc/mounts)"
            options = f"vers={version},hard,actimeo=60"
            node.machine.check(f"mkdir {_LAZY}; mount -t nfs -o {options} {source} {_LAZY}")
        _absent_name(pair)
        _stale_attributes(pair)
        _stale_listing(pair)
        _link_is_exclusive(pair)
        _removed_file(pair)
        _late_link_and_rename(pair)
        _lost_reply(pair)


def _absent_name(pair: Pair) -> None:
    """A negative answer is no proof: it is kept, until the directory is opened anew."""
    stale = 0
    for _ in range(5):
        path = pair.name(_LAZY)
        assert pair.bob.refused(f"os.stat({path!r})") == errno.ENOENT
        pair.alice(f"store({path!r}, 'there')")
        stale += pair.bob.refused(f"os.stat({path!r})") == errno.ENOENT
        pair.bob(f"os.close(os.open({_LAZY!r}, os.O_RDONLY | os.O_DIRECTORY))")
        assert pair.bob.refused(f"os.stat({path!r})") is None
    assert stale, "every absent name was asked for anew"


def _stale_attributes(pair: Pair) -> None:
    """The number of a name's inode is believed for a while; opening it tells the truth.

    The answer to a look-up of version 3 tells of the directory, too: who learns from it that the
    directory has changed looks the name up once more, and believes it from then on.
    """
    stale = 0
    for number in range(5):
        path = pair.name(_LAZY)
        pair.alice(f"store({path!r}, 'old')")
        old = [pair.bob(f"os.stat({path!r}).st_ino") for _ in range(2)][-1]
        pair.alice(
            f"store({path + '.new'!r}, 'new{number}'); os.rename({path + '.new'!r}, {path!r})"
        )
        stale += pair.bob(f"os.stat({path!r}).st_ino") == old
        assert pair.bob(f"text_of({path!r})") == f"new{number}"
    assert stale, "every attribute was asked for anew"


def _stale_listing(pair: Pair) -> None:
    """A directory that stays open is listed from memory; opening it anew tells the truth."""
    stale = 0
    for _ in range(5):
        path = pair.name(_LAZY)
        name = Path(path).name
        pair.bob(f"listed = os.open({_LAZY!r}, os.O_RDONLY | os.O_DIRECTORY)")
        for _ in range(2):  # the first answer may tell that the directory has changed, too
            pair.bob("os.listdir(listed)")
        pair.alice(f"store({path!r}, 'there')")
        stale += name not in pair.bob("os.listdir(listed)")
        pair.bob("os.close(listed)")
        assert name in pair.bob(f"os.listdir({_LAZY!r})")
    assert stale, "every listing was asked for anew"


def _link_is_exclusive(pair: Pair) -> None:
    """What commits hang on: link(2) of a name that another host has made fails."""
    path = pair.name()
    for worker in (pair.alice, pair.bob):
        worker(f"store({path!r} + os.uname().nodename, os.uname().nodename)")
    assert pair.bob.refused(f"os.stat({path!r})") == errno.ENOENT  # believed absent from now on
    pair.alice(f"os.link({path!r} + os.uname().nodename, {path!r})")
    linking = f"os.link({path!r} + os.uname().nodename, {path!r})"
    assert pair.bob.refused(linking) == errno.EEXIST
    assert pair.bob(f"text_of({path!r})") == "host1"


def _removed_file(pair: Pair) -> None:
    """A file that another host has removed is gone under those who have it open."""
    path = pair.name()
    pair.alice(f"store({path!r}, 'text')")
    pair.bob(f"gone = opened({path!r}, os.O_RDONLY)")
    pair.alice(f"os.unlink({path!r})")
    until(lambda: pair.bob.refused("os.fstat(gone)") == errno.ESTALE, "no ESTALE")


def _late_link_and_rename(pair: Pair) -> None:
    """What was sent while the host was cut off arrives when that is over, whatever has happened
    meanwhile: a rename replaces the other's file, and a link finds its name taken.
    """
    path = pair.name()
    pair.alice(f"store({path + '.r'!r}, 'late'); store({path + '.l'!r}, 'late')")
    pair.lab.cut(0)
    renaming = pair.alice.start(f"os.rename({path + '.r'!r}, {path + '.renamed'!r})")
    linking = pair.alice.start(f"os.link({path + '.l'!r}, {path + '.linked'!r})")
    time.sleep(1)
    for name in (".renamed", ".linked"):
        pair.bob(f"store({path + name!r}, 'mine')")
    assert not renaming.finished
    pair.lab.mend(0)
    renaming.wait()
    assert _errno(linking) == errno.EEXIST
    text = f"text_of({path + '.renamed'!r})"
    until(lambda: pair.bob(text) == "late", "the late rename did nothing")
    assert pair.bob(f"text_of({path + '.linked'!r})") == "mine"


def _lost_reply(pair: Pair) -> None:
    """A link that the server carried out, and whose answer was lost, is sent again, and told to be
    there already.
    """
    path = pair.name()
    pair.alice(f"store({path + '.aside'!r}, 'mine')")
    old = pair.lab.version == "3"
    if old:  # so that a deaf host has nothing to ask before it sends the link
        for name, may in ((MOUNT_POINT, "os.W_OK | os.X_OK"), (path + ".aside", "os.R_OK")) * 2:
            pair.alice(f"os.stat({name!r}), os.access({name!r}, {may})")
    pair.lab.hub.deafen(pair.lab.hosts[0].station)
    linking = pair.alice.start(f"os.link({path + '.aside'!r}, {path!r})")
    until(lambda: pair.bob.refused(f"text_of({path!r})") is None, "the link did not arrive")
    if old:  # when only the service restarts, the answer may come yet
        pair.lab.power_cycle_server()
    else:
        pair.lab.restart_server()
    pair.lab.mend(0)
    # A server of 4.2 may remember its answers beyond a restart; most do not.
    assert _errno(linking) in ((errno.EEXIST,) if old else (None, errno.EEXIST))
    assert pair.alice(f"os.stat({path!r}).st_nlink") == 2


def _errno(step: Step) -> int | None:
    try:
        step.wait()
    except OSError as error:
        return error.errno
    return None


def test_lost_lease_fences_the_description_and_nothing_else(short_path: Path) -> None:
    """NFSv4: reads and writes through a description that lost a lock fail until it is closed, or
    all of it is unlocked; those through any other one pass; holes are fenced like writes.
    """
    require(*NEEDED)
    with boot_nfs_lab(short_path, "4.2") as lab:
        pair = Pair(lab, *(Worker(node.machine, "worker") for node in lab.nodes))
        _fenced(pair)
        _fenced_deallocation(pair)
        _other_description(pair)
        _buffered_write(pair)


def _fenced(pair: Pair) -> None:
    pair.image()
    pair.lab.cut(0)
    late = pair.alice.start("direct_write(a, 'late')")
    pair.steal()
    pair.bob("direct_write(b, 'mine')")
    pair.lab.mend(0)
    assert _errno(late) == errno.EIO
    for call in ("direct_write(a, 'later')", "direct_read(a)"):
        assert pair.alice.refused(call) == errno.EIO
    # Also when the other has given it back, and even when it was taken again.
    pair.bob(f"lock(b, U, {_FAR})")
    pair.alice.refused(f"lock(a, W, {_FAR})")
    assert pair.alice.refused("direct_read(a)") == errno.EIO
    assert pair.bob("direct_read(b)") == "mine"
    pair.alice("lock(a, U, 0, 0)")
    pair.alice("direct_read(a)")


def _fenced_deallocation(pair: Pair) -> None:
    """UNMAP and WRITE SAME are DEALLOCATE on the wire; it carries the lock as WRITE does."""
    pair.image()
    pair.lab.cut(0)
    late = pair.alice.start("punch(a, 0, 4096)")
    pair.steal()
    pair.bob("direct_write(b, 'mine')")
    pair.lab.mend(0)
    outcome = _errno(late)
    print("DEALLOCATE under way when the lock was lost:", outcome)
    again = pair.alice.refused("punch(a, 0, 4096)")
    print("DEALLOCATE after it:", again)
    assert pair.bob("direct_read(b)") == "mine"
    assert outcome == again == errno.EIO


def _other_description(pair: Pair) -> None:
    """A lock on another description, or another file, fences nothing."""
    path = pair.image()
    pair.alice(f"free = opened({path!r}, {_DIRECT})")
    pair.lab.cut(0)
    late = pair.alice.start("direct_write(free, 'late')")
    pair.steal()
    pair.bob("direct_write(b, 'mine')")
    pair.lab.mend(0)
    assert _errno(late) is None
    assert pair.bob("direct_read(b)") == "late"


def _buffered_write(pair: Pair) -> None:
    """Through the page cache a write is acknowledged, and then thrown away."""
    path = pair.name()
    pair.alice(f"a = opened({path!r}); os.ftruncate(a, 65536); lock(a, W, {_FAR})")
    pair.bob(f"b = opened({path!r}, {_DIRECT})")
    pair.steal()
    pair.lab.mend(0)
    until(lambda: "lost" in pair.lab.nodes[0].machine.run("dmesg | tail -n 5").output, "not lost")
    pair.alice("os.pwrite(a, b'late' * 1024, 0)")  # a whole page: nothing has to be read first
    assert pair.alice.refused("os.fsync(a)") == errno.EIO
    assert pair.bob("direct_read(b)") == ""


def test_lost_lock_of_version_3_fences_nothing(short_path: Path) -> None:
    """NFSv3: a lock that the server forgot goes to another, and the loser writes on."""
    require(*NEEDED)
    with boot_nfs_lab(short_path, "3") as lab:
        pair = Pair(lab, *(Worker(node.machine, "worker") for node in lab.nodes))
        pair.image()
        assert pair.bob.refused(f"lock(b, W, {_FAR})") == errno.EAGAIN
        lab.restart_server()
        assert pair.bob.refused(f"lock(b, W, {_FAR})") == errno.EAGAIN  # asked for again
        lab.restart_server(notify=False)
        until(lambda: pair.bob.refused(f"lock(b, W, {_FAR})") is None, "still locked")
        pair.bob("direct_write(b, 'mine')")
        pair.alice("direct_write(a, 'late')")
        assert pair.bob("direct_read(b)") == "late"
        # And a host that is merely silent keeps its locks.
        pair.bob(f"lock(b, U, {_FAR})")
        pair.alice(f"lock(a, U, {_FAR}); lock(a, W, {_FAR})")
        lab.cut(0)
        end = time.monotonic() + 3 * LEASE_SECONDS
        while time.monotonic() < end:
            assert pair.bob.refused(f"lock(b, W, {_FAR})") == errno.EAGAIN
            time.sleep(1)
        lab.mend(0)
