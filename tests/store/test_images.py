"""The image of a LUN: made with it or not at all, never somebody else's, copied without loss."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from flockpr.errors import ConfigError, LunExists, LunNotFound, StateUnreadable, StoreError
from flockpr.store import images
from flockpr.store.listing import list_luns, read_identity
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from flockpr.store.syscalls import Syscalls

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root that does not exist yet."""
    return str(tmp_path / "root")


def put(path: str, data: bytes = b"data") -> None:
    """A file, with the directories above it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(data)


# --------------------------------------------------------------------------- made with the LUN


def test_create_with_a_size_makes_a_sparse_image_of_that_size(root: str) -> None:
    """At images/NAME.img, its owner's alone, and the LUN can be served by a first portal."""
    identity = create_lun(root, "disk", size=64 * MIB)

    assert (identity.image, identity.target_ports) == ("images/disk.img", (1, 2))
    assert read_identity(root, "disk") == identity
    found = os.lstat(images.image_path(root, identity))
    assert (found.st_size, found.st_blocks) == (64 * MIB, 0)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(f"{root}/images").st_mode) == 0o700
    assert images.image_size(root, identity) == 64 * MIB


def test_create_with_a_group_shares_the_image(root: str) -> None:
    """02770 and 0660, whatever the umask."""
    gid = 54321 if os.geteuid() == 0 else os.getegid()
    old = os.umask(0o077)
    try:
        create_lun(root, "disk", size=MIB, group=str(gid), image="a/b/c.img")
    finally:
        os.umask(old)

    found = {name: os.lstat(f"{root}/{name}") for name in ("a", "a/b", "a/b/c.img")}
    assert [stat.S_IMODE(each.st_mode) for each in found.values()] == [0o2770, 0o2770, 0o660]
    assert {each.st_gid for each in found.values()} == {gid}


@pytest.mark.parametrize("size", [0, -512, 511, 513, (1 << 62) + 512])
def test_create_with_a_size_that_none_can_have_makes_nothing(root: str, size: int) -> None:
    """An image holds whole blocks, and ends before the bytes that are for locks."""
    with pytest.raises(ConfigError, match="is no size"):
        create_lun(root, "disk", size=size)
    assert not os.path.exists(root)


@pytest.mark.parametrize("image", ["disk/x.img", ".hidden/x.img", ".", "..", "/abs.img"])
def test_create_with_an_image_in_an_impossible_place_makes_nothing(root: str, image: str) -> None:
    """Neither where the LUN itself will be, nor among our own hidden files, nor outside."""
    with pytest.raises(ConfigError):
        create_lun(root, "disk", image=image, size=MIB)
    assert not os.path.exists(root) or os.listdir(root) == []


@pytest.mark.parametrize("image", ["other/x.img", "other/commits/x.img"])
def test_create_with_an_image_in_a_lock_directory_is_refused(root: str, image: str) -> None:
    """What is in there is for locks."""
    create_lun(root, "other")
    before = sorted(os.listdir(f"{root}/other"))

    with pytest.raises(LunExists, match="other is a LUN's lock directory"):
        create_lun(root, "disk", image=image, size=MIB)

    assert sorted(os.listdir(f"{root}/other")) == before
    assert [listing.name for listing in list_luns(root)] == ["other"]


def test_create_where_a_lun_is_called_images_says_so(root: str) -> None:
    """An old root may have one; the image gets another path then."""
    create_lun(root, "images")

    with pytest.raises(LunExists, match="images is a LUN's lock directory"):
        create_lun(root, "disk", size=MIB)

    assert create_lun(root, "disk", size=MIB, image="disk.img").image == "disk.img"


def test_create_never_takes_over_a_file_that_nobody_named(root: str) -> None:
    """The image of a LUN that was deleted, say: its data stays, and the remedy names the way."""
    path = f"{root}/images/disk.img"
    put(path)

    with pytest.raises(LunExists, match="there is a file") as caught:
        create_lun(root, "disk", size=512)

    assert "--image images/disk.img" in caught.value.remedy
    assert Path(path).read_bytes() == b"data"
    assert list_luns(root) == []
    assert os.listdir(f"{root}/.numbers") == []


def test_create_takes_over_the_named_image_only_if_it_has_the_size(root: str) -> None:
    """A size that was said is a size that was meant; the contents stay as they are."""
    path = f"{root}/a.img"
    put(path, b"x" * 1024)

    with pytest.raises(LunExists, match="an image of 1024 bytes, not of 512"):
        create_lun(root, "disk", size=512, image="./a.img")
    create_lun(root, "disk", size=1024, image=".//a.img")

    assert read_identity(root, "disk").image == "a.img"
    assert Path(path).read_bytes() == b"x" * 1024


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_create_takes_over_no_special_file(root: str, kind: str) -> None:
    """A symbolic link would lead elsewhere on another host."""
    os.makedirs(f"{root}/images")
    path = f"{root}/images/a.img"
    if kind == "link":
        put(f"{root}/target", b"x" * 512)
        os.symlink("target", path)
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.mkfifo(path)

    with pytest.raises(StoreError):
        create_lun(root, "disk", size=512, image="images/a.img")
    with pytest.raises(StoreError):
        images.check_usable(root, "images/a.img")

    assert list_luns(root) == []


def test_create_of_a_taken_name_makes_no_image(root: str) -> None:
    """The name is looked at before anything is made."""
    create_lun(root, "disk")

    with pytest.raises(LunExists, match="disk is taken"):
        create_lun(root, "disk", size=MIB)

    assert not os.path.exists(f"{root}/images")


def test_create_with_an_image_of_another_lun_is_refused_by_every_spelling(root: str) -> None:
    """Hard links too: one disk would have two sets of reservations."""
    create_lun(root, "one", size=MIB)
    os.link(f"{root}/images/one.img", f"{root}/linked.img")

    for image in ("images/one.img", "./images//one.img", "linked.img"):
        with pytest.raises(LunExists, match="belongs to the LUN one"):
            create_lun(root, "two", image=image)
        with pytest.raises(LunExists, match="belongs to the LUN one"):
            create_lun(root, "two", image=image, size=MIB)


def test_create_with_one_image_by_many_at_once_gives_it_to_one_at_most(root: str) -> None:
    """Of two that see each other both may be refused; never have both the image."""
    os.makedirs(root)
    put(f"{root}/a.img", b"x" * 512)
    start = threading.Barrier(4)
    refused: list[StoreError] = []

    def create(name: str) -> None:
        start.wait(60)
        try:
            create_lun(root, name, image="a.img")
        except StoreError as error:
            refused.append(error)

    threads = [threading.Thread(target=create, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(list_luns(root)) <= 1
    assert len(refused) >= 3
    assert Path(root, "a.img").read_bytes() == b"x" * 512


def test_create_passes_over_the_number_of_a_restored_lun(root: str) -> None:
    """What came out of a backup has a number in its lun.json and none in `.numbers`."""
    create_lun(root, "old")
    os.unlink(f"{root}/.numbers/0")

    assert create_lun(root, "new").lun == 1


class _Failing(Syscalls):
    """A file system on which the n-th change fails."""

    def __init__(self, after: int) -> None:
        self.left = after

    def _count(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.ENOSPC, "full")

    def write(self, fd: int, data: bytes) -> int:
        self._count()
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._count()
        super().truncate(fd, size)

    def fsync(self, fd: int) -> None:
        self._count()
        super().fsync(fd)

    def mkdir(self, name: str, mode: int, *, dir_fd: int | None = None) -> None:
        self._count()
        super().mkdir(name, mode, dir_fd=dir_fd)

    def rename(self, source: str, target: str, *, source_fd: int, target_fd: int) -> None:
        self._count()
        super().rename(source, target, source_fd=source_fd, target_fd=target_fd)


def changes(root: str) -> int:
    """How many changes it takes to make a LUN and its image in a root that is there."""
    counting = _Failing(10_000)
    create_lun(root, "count", size=MIB, syscalls=counting)
    os.unlink(f"{root}/images/count.img")
    delete_lun(root, "count")
    return 10_000 - counting.left


def test_create_that_fails_anywhere_leaves_neither_lun_nor_image(root: str) -> None:
    """At each of its changes in turn."""
    os.makedirs(root)
    total = changes(root)
    assert total > 20
    failed = 0
    for after in range(total):
        try:
            create_lun(root, "disk", size=MIB, syscalls=_Failing(after))
        except StoreError:
            failed += 1
        else:  # the view that nothing is decided by could not be written
            delete_lun(root, "disk")
            os.unlink(f"{root}/images/disk.img")
        assert os.listdir(f"{root}/images") == [], after
        assert list_luns(root) == [], after
    assert failed > total - 5
    assert create_lun(root, "disk", size=MIB).lun == 0


class _Crash(BaseException):
    """The process is gone."""


class _Crashing(_Failing):
    """A process that dies at its n-th change: nothing is done any more, not even cleaning up."""

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _Crash

    def unlink(self, name: str, *, dir_fd: int) -> None:
        self._count()
        super().unlink(name, dir_fd=dir_fd)

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        self._count()
        super().rmdir(name, dir_fd=dir_fd)


def test_create_that_dies_anywhere_leaves_a_whole_lun_or_none(root: str) -> None:
    """Never a LUN without its image; an image without a LUN is refused until it is named."""
    os.makedirs(root)
    for after in range(changes(root)):
        name = f"disk{after}"
        with pytest.raises(_Crash):
            create_lun(root, name, size=MIB, syscalls=_Crashing(after))
        for listing in list_luns(root):
            assert listing.identity is not None
            assert images.image_size(root, listing.identity) == MIB
        if name in os.listdir(root):
            continue
        # It can be made all the same: anew, or with the image that is there.
        named = f"images/{name}.img" if os.path.exists(f"{root}/images/{name}.img") else None
        if named is not None:
            with pytest.raises(LunExists, match="there is a file"):
                create_lun(root, name, size=MIB)
            os.truncate(f"{root}/{named}", MIB)  # it may have died before it was that long
        assert create_lun(root, name, size=MIB, image=named).image == f"images/{name}.img"


def test_create_dying_sweep_reaches_the_lun(root: str) -> None:
    """The sweep above covers the moment at which the LUN appears."""
    os.makedirs(root)
    with pytest.raises(_Crash):
        create_lun(root, "disk", size=MIB, syscalls=_Crashing(changes(root) - 1))
    assert [listing.name for listing in list_luns(root)] == ["disk"]


# --------------------------------------------------------------------------- looking at one


def test_size_of_an_image_that_is_missing_says_which(root: str) -> None:
    """A share that is not mounted is no LUN of size 0."""
    identity = create_lun(root, "disk", size=MIB)
    os.unlink(images.image_path(root, identity))

    with pytest.raises(StoreError, match=r"images/disk\.img: the image is missing"):
        images.image_size(root, identity)


def test_size_of_a_lun_without_an_image_is_a_wrong_question(root: str) -> None:
    """The remedy is the verb that makes both."""
    with pytest.raises(ConfigError, match="disk has no image") as caught:
        images.image_size(root, create_lun(root, "disk"))
    assert "--size" in caught.value.remedy


@pytest.mark.parametrize("size", [0, 100, 513])
def test_file_of_a_size_that_no_image_has_is_refused(root: str, size: int) -> None:
    """Before there is a LUN that nobody could serve."""
    put(f"{root}/a.img", bytes(size))

    with pytest.raises(ConfigError, match=r"a\.img: .* is no size"):
        images.check_usable(root, "a.img")


def test_file_that_is_missing_is_no_image(root: str) -> None:
    """Named by mistake, or on a share that is not mounted."""
    os.makedirs(root)
    with pytest.raises(StoreError, match="the image is missing"):
        images.check_usable(root, "a.img")
    with pytest.raises((StoreError, LunNotFound)):
        images.check_usable(f"{root}/none", "a.img")


def test_image_that_is_a_device_is_refused(root: str) -> None:
    """It would be another one on each host."""
    os.makedirs(root)
    with pytest.raises(StateUnreadable, match="no regular file"):
        images.open_image(Syscalls(), os.devnull, os.O_RDWR)


# --------------------------------------------------------------------------- copying


class _NoCopyRange(Syscalls):
    """A file system that copies nothing by itself and knows no holes."""

    def copy_range(self, source: int, target: int, length: int, offset: int) -> int:
        raise OSError(errno.EXDEV, "elsewhere")

    def seek(self, fd: int, offset: int, whence: int) -> int:
        raise OSError(errno.EINVAL, "no holes")


class _Short(Syscalls):
    """A file system that copies a little at a time."""

    def copy_range(self, source: int, target: int, length: int, offset: int) -> int:
        return super().copy_range(source, target, min(length, 70_001), offset)


@pytest.mark.parametrize(
    "calls", [Syscalls(), _NoCopyRange(), _Short()], ids=lambda c: type(c).__name__
)
def test_copy_is_the_same_bytes(tmp_path: Path, calls: Syscalls) -> None:
    """Data at the beginning, in the middle and at the end; holes between."""
    size = 8 * MIB
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for place in (0, 3 * MIB + 512, size - 4096):
            file.seek(place)
            file.write(os.urandom(4096))
        file.truncate(size)
    with source.open("rb") as reading, target.open("w+b") as writing:
        writing.truncate(size)
        images.copy(calls, reading.fileno(), writing.fileno(), size)

    assert target.read_bytes() == source.read_bytes()
    if not isinstance(calls, _NoCopyRange):
        assert target.stat().st_blocks * 512 < size // 4


def test_copy_of_an_image_that_becomes_shorter_fails(tmp_path: Path) -> None:
    """Half a copy is no copy."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * MIB)
    with (
        source.open("rb") as reading,
        target.open("w+b") as writing,
        pytest.raises(OSError, match="became shorter"),
    ):
        images.copy(_NoCopyRange(), reading.fileno(), writing.fileno(), 2 * MIB)


def test_reflink_that_is_not_possible_says_so(tmp_path: Path) -> None:
    """The caller copies then; anything else that fails is an error."""

    class Cannot(Syscalls):
        number = errno.EOPNOTSUPP

        def clone(self, source: int, target: int) -> None:
            raise OSError(self.number, "no")

    calls = Cannot()
    assert not images.reflink(calls, 0, 1)
    calls.number = errno.EIO
    with pytest.raises(OSError, match="no"):
        images.reflink(calls, 0, 1)
