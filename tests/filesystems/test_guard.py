"""What was promised at the start, and what comes of it."""

from __future__ import annotations

import errno
import os
import pathlib

import attrs
import pytest

from flockpr.errors import StoreUnavailable, Unproven
from flockpr.filesystems import Gated, Guard, Terms
from flockpr.store.syscalls import Syscalls
from tests.filesystems.test_trial import Lying
from tests.support.mount_tables import Tables

NFS = "rw,vers=4.2,hard,local_lock=none"


@attrs.define
class Case:
    """A root and an image on a host whose tables are a test's."""

    root: pathlib.Path
    image: pathlib.Path
    tables: Tables

    def guard(self, **terms: object) -> Guard:
        """Somebody begins to serve it."""
        made = Terms(sources=self.tables.sources, **terms)  # type: ignore[arg-type]
        return Guard(made, str(self.root), str(self.image))

    def open(self, guard: Guard, calls: Syscalls | None = None) -> None:
        """Somebody opens the image, with or without O_DIRECT."""
        try:
            fd = os.open(self.image, os.O_RDWR | os.O_DIRECT)
        except OSError:
            pytest.skip("no O_DIRECT here")
        try:
            guard.opened(fd, calls or Syscalls())
        finally:
            os.close(fd)


@pytest.fixture
def case(tmp_path: pathlib.Path) -> Case:
    """An NFS share, as far as anybody can see."""
    root = tmp_path / "share" / "root"
    (root / "images").mkdir(parents=True)
    image = root / "images" / "disk.img"
    image.write_bytes(bytes(8192))
    tables = Tables(tmp_path / "host")
    tables.mount(tmp_path, "ext4", "rw")
    tables.mount(tmp_path / "share", "nfs4", NFS)
    tables.recover("N")
    return Case(root, image, tables)


def test_guard_of_a_share_that_stays_as_it_is_says_nothing(case: Case) -> None:
    """However often it looks, and however often the image is opened."""
    guard = case.guard()

    for _ in range(3):
        assert guard.look() is None
        case.open(guard)
    assert guard.promise.many_hosts


def test_guard_is_not_made_where_nothing_is_promised(case: Case) -> None:
    """Which one, why, and how to serve all the same."""
    case.tables.remount("hard", "soft")

    with pytest.raises(Unproven, match="soft") as caught:
        case.guard()

    assert str(case.image) in str(caught.value)
    assert "mount hard" in caught.value.remedy
    assert "--allow-unproven" in caught.value.remedy


def test_guard_of_what_was_allowed_promises_nothing_and_lets_it_be(case: Case) -> None:
    """There is nothing that could be lost."""
    case.tables.remount("hard", "soft")
    guard = case.guard(allow_unproven=True)

    assert guard.promise.exclusive
    case.tables.recover("Y")
    assert guard.look() is None
    case.open(guard)


CHANGES = {
    "recover": lambda case: case.tables.recover("Y"),
    "soft": lambda case: case.tables.remount("hard", "soft"),
    "nolock": lambda case: case.tables.remount("local_lock=none", "local_lock=all"),
    "read-only": lambda case: case.tables.remount("vers=4.2", "ro,vers=4.2"),
    "version": lambda case: case.tables.remount("vers=4.2", "vers=3"),
    "over-it": lambda case: case.tables.mount(case.root, "9p", "rw"),
    "over-the-image": lambda case: case.tables.mount(case.root / "images", "tmpfs", "rw"),
    "unmounted": lambda case: case.tables.remount("nfs4", "ext4"),
    "gfs2": lambda case: case.tables.remount("nfs4", "gfs2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_guard_sees_that_the_promise_went(case: Case, change: str) -> None:
    """By the tables, and by the image when it is opened again; a person has to act."""
    guard = case.guard()
    case.open(guard)

    CHANGES[change](case)

    fault = guard.look()
    assert fault is not None
    assert fault.for_a_person
    assert fault.remedy
    assert fault.path == str(case.image)
    with pytest.raises(StoreUnavailable):
        case.open(guard)


@pytest.mark.parametrize("change", ["recover", "soft", "nolock"])
def test_guard_is_content_when_it_is_as_it_was(case: Case, change: str) -> None:
    """Whoever mends it need not start anything."""
    guard = case.guard()
    CHANGES[change](case)
    assert guard.look() is not None

    case.tables.recover("N")
    for old, new in (("soft", "hard"), ("local_lock=all", "local_lock=none")):
        case.tables.replace(old, new)

    assert guard.look() is None
    case.open(guard)


def test_guard_waits_for_an_automount(case: Case) -> None:
    """Nobody looks at the path, so nothing is mounted there meanwhile."""
    guard = case.guard()

    case.tables.mount(case.root.parent, "autofs", "rw")

    assert guard.look() is None


def test_guard_without_a_mount_table_waits(case: Case) -> None:
    """A table that cannot be read for a moment closes no gate; the next open does."""
    guard = case.guard()

    case.tables.clear()

    assert guard.look() is None


def test_guard_judges_root_and_image_each_by_its_own_mount(case: Case) -> None:
    """A lock directory of one host and an image on a share: one host, as long as it stays so."""
    case.tables.mount(case.root, "ext4", "rw")
    case.tables.mount(case.root / "images", "nfs4", NFS)
    guard = case.guard()

    assert guard.promise.gated is Gated.YES
    assert not guard.promise.many_hosts
    assert guard.look() is None
    case.open(guard)


def test_guard_refuses_an_image_whose_locks_are_none(case: Case) -> None:
    """At the first opening, before anybody relies on it."""
    guard = case.guard()

    with pytest.raises(Unproven, match="exclusively"):
        case.open(guard, Lying(None))


def test_guard_of_what_was_allowed_knows_that_the_locks_are_none(case: Case) -> None:
    """Then one host serves, loudly."""
    guard = case.guard(allow_unproven=True)

    case.open(guard, Lying(None))

    assert guard.promise.exclusive
    assert "exclusively" in guard.promise.line()


def test_guard_tries_an_image_once(case: Case) -> None:
    """An image that is opened again may be on a server with much to do."""
    guard = case.guard()
    case.open(guard)

    case.open(guard, Lying(errno.EIO))
