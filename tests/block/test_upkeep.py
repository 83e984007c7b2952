"""Growing, cloning and deleting images: beside targets that wait, never beside a QEMU."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from flockpr.block import upkeep
from flockpr.block.image import QEMU_USED
from flockpr.errors import Busy, ConfigError, LunExists, LunNotFound, StoreError
from flockpr.filesystems import Promise, promise_of
from flockpr.gate import ImageFile, open_image, places
from flockpr.logical_unit import LogicalUnit
from flockpr.store import images
from flockpr.store.listing import list_luns, read_identity
from flockpr.store.provision import create_lun
from flockpr.store.syscalls import Syscalls
from tests.support.scsi import REGISTER, A, basic_list, out_cdb

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root with the LUN disk, whose image has data at both ends and a hole between."""
    root = str(tmp_path / "root")
    create_lun(root, "disk", size=SIZE, wwids=["naa.6001"], target_ports=[9])
    with open(image(root), "r+b") as file:
        file.write(b"begin" * 100)
        file.seek(SIZE - 512)
        file.write(b"end" + bytes(509))
    return root


def image(root: str, name: str = "disk") -> str:
    """Path of an image."""
    return f"{root}/images/{name}.img"


@contextlib.contextmanager
def permit(root: str) -> Iterator[None]:
    """A target that reads and writes, and does not hear the doorbell."""
    held = open_image(image(root), Syscalls())
    try:
        assert held.lock(places.any_permit(5))
        yield
    finally:
        held.close()


@contextlib.contextmanager
def qemu(root: str) -> Iterator[None]:
    """A QEMU that has the image open for reading: it holds a byte for that."""
    fd = os.open(image(root), os.O_RDWR)
    try:
        Syscalls().set_lock(fd, fcntl.F_RDLCK, QEMU_USED, 1)
        yield
    finally:
        os.close(fd)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The image is on a cluster's file system, whose lock is had or not."""
    cluster = Asked()

    def promise(path: str, *, fd: int) -> Promise:
        return attrs.evolve(promise_of(path, fd=fd), cluster_lock=True)

    monkeypatch.setattr("flockpr.gate.clustered.promise_of", promise)
    monkeypatch.setattr("flockpr.gate.cluster_lock.force", cluster.force)
    return cluster


class Asked:
    """The lock of a cluster.

    Attributes:
        fenced: Whether it is given: all lost nodes are fenced.
        held: Whether others had been kept out, each time that it was asked for.
    """

    def __init__(self) -> None:
        self.fenced = True
        self.held: list[bool] = []

    def force(self, path: str, deadline: float, key: tuple[int, int]) -> bool:
        """Instead of the real one."""
        other = open_image(path, Syscalls())
        try:
            self.held.append(not other.lock(places.any_permit(5)))
        finally:
            other.close()
        return self.fenced


# --------------------------------------------------------------------------- growing


def test_grow_makes_the_image_longer_and_keeps_its_data(root: str) -> None:
    """What is new reads as zeros; the same size again changes nothing."""
    before = Path(image(root)).read_bytes()

    assert upkeep.grow_lun(root, "disk", 2 * SIZE) == SIZE
    assert upkeep.grow_lun(root, "disk", 2 * SIZE) == 2 * SIZE

    assert Path(image(root)).read_bytes() == before + bytes(SIZE)


@pytest.mark.parametrize("size", [SIZE - 512, 512, 0, -512, SIZE + 1])
def test_grow_never_shrinks(root: str, size: int) -> None:
    """Nor makes half a block."""
    with pytest.raises(ConfigError):
        upkeep.grow_lun(root, "disk", size)
    assert os.path.getsize(image(root)) == SIZE


def test_grow_by_many_at_once_ends_with_the_largest(root: str) -> None:
    """They go one after the other; who comes late with less is refused."""
    sizes = [SIZE + 512 * step for step in (1, 9, 3, 7, 5)]
    outcomes: list[int | ConfigError] = []
    start = threading.Barrier(len(sizes))

    def grow(size: int) -> None:
        start.wait(60)
        try:
            outcomes.append(upkeep.grow_lun(root, "disk", size, patience=60))
        except ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=grow, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert len(outcomes) == len(sizes)
    assert os.path.getsize(image(root)) == max(sizes)


def test_grow_beside_one_who_does_not_stop_is_busy(root: str) -> None:
    """A target that hangs, a QEMU that does not ask: nothing is done."""
    with permit(root), pytest.raises(Busy):
        upkeep.grow_lun(root, "disk", 2 * SIZE, patience=0.2)
    with qemu(root), pytest.raises(Busy, match="QEMU"):
        upkeep.grow_lun(root, "disk", 2 * SIZE)
    assert os.path.getsize(image(root)) == SIZE


def test_grow_of_what_has_no_image_is_refused(root: str) -> None:
    """Not there, without one, or with one that is gone."""
    create_lun(root, "bare")
    with pytest.raises(LunNotFound):
        upkeep.grow_lun(root, "none", SIZE)
    with pytest.raises(ConfigError, match="bare has no image"):
        upkeep.grow_lun(root, "bare", SIZE)
    os.unlink(image(root))
    with pytest.raises(StoreError, match=r"disk\.img"):
        upkeep.grow_lun(root, "disk", 2 * SIZE)


# --------------------------------------------------------------------------- cloning


def test_clone_has_the_data_and_identifiers_of_its_own(root: str) -> None:
    """And nobody is registered with it; the original is as it was."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        unit.execute(A, out_cdb(REGISTER), basic_list(0, 1))
    original = read_identity(root, "disk")

    made = upkeep.clone_lun(root, "disk", "copy", target_ports=[5])

    assert Path(image(root, "copy")).read_bytes() == Path(image(root)).read_bytes()
    assert os.stat(image(root, "copy")).st_blocks <= os.stat(image(root)).st_blocks + 8
    assert made == read_identity(root, "copy")
    assert (made.image, made.wwids, made.target_ports) == ("images/copy.img", (), (1, 2, 5))
    for name in ("naa", "serial", "incarnation", "lun"):
        assert getattr(made, name) != getattr(original, name)
    with LogicalUnit.open(f"{root}/copy") as unit:
        assert unit.status().to_json()["registrations"] == []
    assert read_identity(root, "disk") == original


def test_clone_where_the_file_system_has_reflinks_copies_nothing(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken from the original's very descriptor, and works beside targets that wait."""
    cloned: list[tuple[str, int]] = []

    def clone(_self: Syscalls, source: int, target: int) -> None:
        cloned.append((os.readlink(f"/proc/self/fd/{source}"), os.fstat(target).st_size))

    monkeypatch.setattr(Syscalls, "clone", clone)
    upkeep.clone_lun(root, "disk", "copy")
    upkeep.clone_lun(root, "disk", "other", live=True)

    assert cloned == [(image(root), SIZE)] * 2
    assert os.stat(image(root, "other")).st_blocks == 0


def test_clone_of_one_in_use_needs_reflinks_and_a_word(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that takes its time, of an image that is written to meanwhile, is no disk."""
    with permit(root):
        with pytest.raises(Busy, match="initiators are logged in") as caught:
            upkeep.clone_lun(root, "disk", "copy")
        assert "--live" in caught.value.remedy
    with qemu(root), pytest.raises(Busy, match="QEMU"):
        upkeep.clone_lun(root, "disk", "copy")

    def cannot(_self: Syscalls, source: int, target: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(Syscalls, "clone", cannot)
    with pytest.raises(Busy, match="cannot copy an image in one moment"):
        upkeep.clone_lun(root, "disk", "copy", live=True)

    assert [listing.name for listing in list_luns(root)] == ["disk"]
    assert os.listdir(f"{root}/images") == ["disk.img"]
    assert os.listdir(f"{root}/.numbers") == ["0"]


def test_clone_keeps_targets_out_while_it_copies(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that begins in the middle gets no permit until the copy is whole."""
    tried: list[bool] = []

    def copy(*_: object) -> None:
        other = open_image(image(root), Syscalls())
        tried.append(other.lock(places.any_permit(5)))
        other.close()

    monkeypatch.setattr(images, "copy", copy)
    monkeypatch.setattr(images, "reflink", lambda *_: False)
    upkeep.clone_lun(root, "disk", "copy")

    assert tried == [False]
    with permit(root):
        pass


def test_clone_whose_permits_were_lost_meanwhile_leaves_nothing(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host may have written what was copied already. The server says so when it is read
    through the description that had the permits, after the copy.
    """
    order: list[str] = []

    def honoured(_: ImageFile) -> bool:
        order.append("asked")
        return False

    monkeypatch.setattr(images, "copy", lambda *_: order.append("copied"))
    monkeypatch.setattr(images, "reflink", lambda *_: False)
    monkeypatch.setattr(ImageFile, "honoured", honoured)

    with pytest.raises(Busy, match="permits were lost"):
        upkeep.clone_lun(root, "disk", "copy")

    assert order == ["copied", "asked"]
    assert os.listdir(f"{root}/images") == ["disk.img"]
    assert [listing.name for listing in list_luns(root)] == ["disk"]


def test_clone_to_what_is_taken_leaves_it(root: str) -> None:
    """Neither another LUN nor a file that is there; itself neither."""
    create_lun(root, "other", size=SIZE)
    Path(image(root, "new")).write_bytes(b"data")
    for new, path in (("other", None), ("disk", None), ("new", None), ("new", "images/new.img")):
        with pytest.raises(LunExists):
            upkeep.clone_lun(root, "disk", new, image=path)
    assert Path(image(root, "new")).read_bytes() == b"data"
    assert sorted(listing.name for listing in list_luns(root)) == ["disk", "other"]


def test_clone_that_fails_in_the_middle_leaves_nothing(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full file system, say."""

    def copy(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(images, "copy", copy)
    monkeypatch.setattr(images, "reflink", lambda *_: False)
    with pytest.raises(StoreError, match="cannot create the LUN copy"):
        upkeep.clone_lun(root, "disk", "copy")
    assert os.listdir(f"{root}/images") == ["disk.img"]
    assert [listing.name for listing in list_luns(root)] == ["disk"]


# --------------------------------------------------------------------------- deleting


def test_delete_takes_the_image_and_no_other(root: str) -> None:
    """A LUN without one is deleted as ever."""
    create_lun(root, "other", size=SIZE)
    create_lun(root, "bare")

    upkeep.delete_with_image(root, "bare")
    upkeep.delete_with_image(root, "disk")

    assert [listing.name for listing in list_luns(root)] == ["other"]
    assert os.listdir(f"{root}/images") == ["other.img"]


def test_delete_with_an_image_in_use_does_nothing_without_force(root: str) -> None:
    """A guest would go on writing to a file that has no name."""
    with permit(root), pytest.raises(Busy):
        upkeep.delete_with_image(root, "disk")
    with qemu(root), pytest.raises(Busy):
        upkeep.delete_with_image(root, "disk")
    assert os.path.exists(image(root))
    assert [listing.name for listing in list_luns(root)] == ["disk"]

    with permit(root):
        upkeep.delete_with_image(root, "disk", force=True)
    assert not os.path.exists(image(root))


def test_delete_refused_by_a_registration_leaves_the_image(root: str) -> None:
    """The LUN is decided on first."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        unit.execute(A, out_cdb(REGISTER), basic_list(0, 1))
    with pytest.raises(StoreError, match="1 registered"):
        upkeep.delete_with_image(root, "disk")
    assert os.path.exists(image(root))


def test_delete_with_an_image_that_is_gone_succeeds(root: str) -> None:
    """There is nothing to be deleted but the LUN."""
    os.unlink(image(root))
    upkeep.delete_with_image(root, "disk")
    assert list_luns(root) == []


# --------------------------------------------------------------------------- a cluster


def test_clone_and_delete_wait_for_nodes_that_the_cluster_lost(root: str, asked: Asked) -> None:
    """Their permits are given away before they are fenced, and until then they may write."""
    upkeep.clone_lun(root, "disk", "copy")
    upkeep.delete_with_image(root, "disk")

    assert asked.held == [True, True]
    assert [one.name for one in list_luns(root)] == ["copy"]


def test_node_that_is_not_fenced_keeps_an_image_in_use(root: str, asked: Asked) -> None:
    """Nothing is done, and nobody is kept out any more; --force asks nobody."""
    asked.fenced = False

    with pytest.raises(Busy, match="not fenced yet"):
        upkeep.clone_lun(root, "disk", "copy")
    with pytest.raises(Busy, match="not fenced yet"):
        upkeep.delete_with_image(root, "disk")

    assert [one.name for one in list_luns(root)] == ["disk"]
    assert os.path.exists(image(root))
    with permit(root):
        upkeep.delete_with_image(root, "disk", force=True)
    assert list_luns(root) == []
