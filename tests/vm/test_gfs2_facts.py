"""What GFS2 with DLM does to locks, writes and links: the facts that the gate rests on there."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flockpr.store.layout import LOCK_BASE
from tests.support.peers import require
from tests.vm.cluster import Cluster, boot_cluster
from tests.vm.cluster_files import Fencing
from tests.vm.share import MOUNT_POINT
from tests.vm.worker import Worker

pytestmark = pytest.mark.timeout(1800)

_NEEDED = ("qemu-system-x86_64", "busybox", "ip")
_IMAGE = f"{MOUNT_POINT}/image"
_RANGE = LOCK_BASE + (1 << 56)
"""Where permits are: a byte for each holder."""
_LENGTH = 1 << 56
_OWN = f"{MOUNT_POINT}/own"
"""A directory that only the survivor has touched."""
_BLOCKED_SECONDS = 5.0
"""What is blocked for ever is still blocked after this time."""
_NEVER_SECONDS = 60.0
_LINKS = 5


@pytest.fixture
def cluster(short_path: Path) -> Iterator[Cluster]:
    """Two nodes."""
    require(*_NEEDED)
    with boot_cluster(short_path) as booted:
        yield booted


def _workers(cluster: Cluster) -> tuple[Worker, Worker]:
    """One on each node, each with the image open as `fd`, direct."""
    one, two = (Worker(node.machine, "rig") for node in cluster.nodes)
    one(f"store({_IMAGE!r}, '\\0' * 65536)")
    for worker in (one, two):
        worker(f"fd = opened({_IMAGE!r}, os.O_RDWR | os.O_DIRECT)")
    return one, two


def _locks_conflict(one: Worker, two: Worker) -> None:
    """Bytes up to the end of the permits' range exclude each other, and a question tells whose."""
    denied = (errno.EAGAIN, errno.EACCES)
    for byte in (LOCK_BASE, _RANGE + _LENGTH - 1):
        one(f"lock(fd, W, {byte})")
        assert two.refused(f"lock(fd, W, {byte})") in denied
        assert two.refused(f"lock(fd, R, {byte})") in denied
        assert two(f"asked(fd, R, {byte})")[1:] == [byte, 1]
        two(f"lock(fd, W, {byte - 1}); lock(fd, U, {byte - 1})")
        one(f"lock(fd, U, {byte})")
        two(f"lock(fd, W, {byte}); lock(fd, U, {byte})")
    one(f"lock(fd, W, {_RANGE + 99})")
    assert two.refused(f"lock(fd, W, {_RANGE}, {_LENGTH})") in denied
    assert two(f"asked(fd, R, {_RANGE}, {_LENGTH})")[1:] == [_RANGE + 99, 1]
    one(f"lock(fd, U, {_RANGE + 99})")
    two(f"lock(fd, W, {_RANGE}, {_LENGTH})")
    assert one.refused(f"lock(fd, W, {_RANGE + 99})") in denied
    two(f"lock(fd, U, {_RANGE}, {_LENGTH})")


def _direct_writes_are_seen(one: Worker, two: Worker) -> None:
    """Both read and write at once past their caches; what one has written the other reads."""
    loop = (
        "[(direct_write(fd, f'{me} {n}', own * 4096), direct_read(fd, other * 4096))"
        " for n in range(10)][-1] and None"
    )
    steps = []
    for worker, me, own in ((one, "alice", 0), (two, "bob", 1)):
        worker(f"me, own, other = {me!r}, {own}, {1 - own}")
        steps.append(worker.start(loop))
    for step in steps:
        step.wait()
    for reader in (one, two):
        assert reader("direct_read(fd, 0)") == "alice 9"
        assert reader("direct_read(fd, 4096)") == "bob 9"
    for number in range(3):
        one(f"direct_write(fd, 'round {number}')")
        assert two("direct_read(fd)") == f"round {number}"
        two(f"direct_write(fd, 'answer {number}')")
        assert one("direct_read(fd)") == f"answer {number}"


def _links_compare_and_swap(one: Worker, two: Worker) -> None:
    """Of two that link the same name exactly one succeeds, and both read what it linked."""
    for worker, me, other in ((one, "alice", "bob"), (two, "bob", "alice")):
        worker(f"me, other = {me!r}, {other!r}; store(f'{MOUNT_POINT}/{{me}}', me); won = []")
        worker(
            "def race():\n"
            f"  for number in range({_LINKS}):\n"
            f"    store(f'{MOUNT_POINT}/ready.{{me}}.{{number}}', '')\n"
            f"    while not os.path.exists(f'{MOUNT_POINT}/ready.{{other}}.{{number}}'):\n"
            "      pass\n"
            "    try:\n"
            f"      os.link(f'{MOUNT_POINT}/{{me}}', f'{MOUNT_POINT}/state.{{number}}')\n"
            "      won.append(number)\n"
            "    except FileExistsError:\n"
            "      pass"
        )
    steps = [worker.start("race()") for worker in (one, two)]
    for step in steps:
        step.wait()
    first, second = one("won"), two("won")
    assert sorted(first + second) == list(range(_LINKS))
    for number in range(_LINKS):
        winner = "alice" if number in first else "bob"
        for worker in (one, two):
            assert worker(f"text_of('{MOUNT_POINT}/state.{number}')") == winner


def _killed_process_frees_its_locks(cluster: Cluster, two: Worker) -> None:
    """A process that is killed keeps no byte."""
    doomed = Worker(cluster.nodes[0].machine, "doomed")
    doomed(f"fd = opened({_IMAGE!r}); lock(fd, W, {_RANGE})")
    assert two.refused(f"lock(fd, W, {_RANGE})") is not None
    doomed.kill()
    two(f"lock(fd, W, {_RANGE}, wait=True)")
    two(f"lock(fd, U, {_RANGE})")


@pytest.mark.sweep
@pytest.mark.peer
def test_gfs2_locks_of_a_dead_node_are_granted_before_its_fence_and_metadata_waits(
    cluster: Cluster,
) -> None:
    """Byte-range locks, direct writes and links hold between nodes; then one of them dies.

    Its locks are granted to the other while it has not been fenced: they prove nothing. Nor does
    a link, where the survivor has all that it needs for one. A change of the times of the image,
    which the dead node had written to, waits for the fence.
    """
    one, two = _workers(cluster)
    _locks_conflict(one, two)
    _direct_writes_are_seen(one, two)
    _links_compare_and_swap(one, two)
    _killed_process_frees_its_locks(cluster, two)

    one(f"lock(fd, W, {_RANGE + 7})")
    two(f"os.mkdir('{_OWN}'); store('{_OWN}/draft', 'mine')")
    two(f"fd2 = opened('{_OWN}/data', os.O_RDWR | os.O_CREAT | os.O_DIRECT)")
    two("direct_write(fd2, 'before')")
    two(f"own = os.open('{_OWN}', os.O_RDONLY)")
    one(f"store('{MOUNT_POINT}/last', ''); direct_write(fd, 'alive')")
    waiting = two.start(f"lock(fd, W, {_RANGE}, {_LENGTH}, wait=True)")
    cluster.hurry()
    cluster.device_works.clear()
    cluster.kill(0)
    waiting.wait()
    cluster.wait_asked(1)
    two("os.link('draft', 'state', src_dir_fd=own, dst_dir_fd=own)")
    assert two("direct_read(fd2)") == "before"
    blocked = [
        two.start("touch(fd)"),
        two.start(f"os.link('{MOUNT_POINT}/bob', '{MOUNT_POINT}/late')"),
    ]
    time.sleep(_BLOCKED_SECONDS)
    assert not any(step.finished for step in blocked)
    cluster.device_works.set()
    for step in blocked:
        step.wait()
    assert two("direct_read(fd)") == "alive"

    cluster.boot(0)
    again = Worker(cluster.nodes[0].machine, "rig")
    again(f"fd = opened({_IMAGE!r}, os.O_RDWR | os.O_DIRECT)")
    assert again.refused(f"lock(fd, W, {_RANGE + 7})") in (errno.EAGAIN, errno.EACCES)
    assert again("direct_read(fd)") == "alive"


@pytest.mark.sweep
def test_gfs2_node_that_is_cut_off_writes_until_it_is_fenced(cluster: Cluster) -> None:
    """Its byte range is the other's, and its writes land all the same; the metadata waits.

    That is why a byte range proves nothing here, and the cluster's own lock does.
    """
    one, two = _workers(cluster)
    one(f"lock(fd, W, {_RANGE + 7}); direct_write(fd, 'mine')")
    waiting = two.start(f"lock(fd, W, {_RANGE}, {_LENGTH}, wait=True)")
    cluster.hurry()
    cluster.device_works.clear()
    cluster.cut(0)
    waiting.wait()
    cluster.wait_asked(1)
    change = two.start("touch(fd)")
    for number in range(5):
        one(f"direct_write(fd, 'late {number}')")
        time.sleep(1)
    assert not change.finished
    cluster.device_works.set()
    change.wait()
    assert not cluster.nodes[0].machine.alive
    assert two("direct_read(fd)") == "late 4"


@pytest.mark.sweep
@pytest.mark.parametrize("fencing", [Fencing.NO_DEVICE, Fencing.OFF])
def test_gfs2_metadata_of_a_dead_node_without_a_fence_device(
    short_path: Path, fencing: Fencing
) -> None:
    """Where fencing never comes a change of metadata never ends, until the node is back; where
    the cluster does not ask for fencing there is nothing that it would wait for.
    """
    require(*_NEEDED)
    with boot_cluster(short_path, fencing) as cluster:
        one, two = _workers(cluster)
        enabled = cluster.nodes[0].machine.check("dlm_tool dump_config | grep ^enable_fencing")
        assert enabled.startswith(f"enable_fencing={int(fencing is Fencing.NO_DEVICE)}")
        one(f"lock(fd, W, {_RANGE}); direct_write(fd, 'alive')")
        waiting = two.start(f"lock(fd, W, {_RANGE}, {_LENGTH}, wait=True)")
        cluster.hurry()
        cluster.kill(0)
        waiting.wait()
        change = two.start("touch(fd)")
        if fencing is Fencing.NO_DEVICE:
            time.sleep(_NEVER_SECONDS)
            assert not change.finished
            cluster.boot(0)
        change.wait()
        assert two("direct_read(fd)") == "alive"
