"""Disks that are found by their image at the desk: the answer is that of the right logical unit.

What is known of a disk is believed for ever here, so that only what is asked with each command
keeps a wrong answer away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flockpr.logical_unit import Result
from flockpr.manager import known
from flockpr.spc.codes import Status
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from flockpr.units import Units
from tests.support.desks import READ_KEYS, REGISTER_IGNORE, manager, sit
from tests.support.helper import (
    DEADLINE,
    RawClient,
    eventually,
    sense_code,
    serving,
    short_directory,
)
from tests.support.scsi import basic_list, nexus

pytestmark = pytest.mark.usefixtures("patient")

NO_UNIT = (5, 0x25, 0)
NOT_ALLOWED = (5, 0x20, 0)


class Host:
    """A root with logical units `a` and `b`, whose keys are 0A and 0B, and one guest.

    Attributes:
        root: The root.
        at_once: How many reads were answered at the desk.
        client: The guest.
    """

    def __init__(self, root: str, client: RawClient, units: Units) -> None:
        self.root = root
        self.client = client
        self._units = units
        self._open: list[int] = []
        self._real = units.read_at_once
        self.at_once = 0
        units.read_at_once = self._noted  # type: ignore[assignment, method-assign]

    def _noted(self, *given: object) -> Result | None:
        found = self._real(*given)  # type: ignore[arg-type]
        self.at_once += found is not None
        return found

    def path(self, name: str) -> str:
        """Of an image."""
        return os.path.join(self.root, name)

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open an image."""
        self._open.append(os.open(self.path(name), flags | os.O_CREAT, 0o600))
        return self._open[-1]

    def register(self, lun: str, key: int) -> None:
        """Somebody else does."""
        done = self._units.submit(lun, nexus("another"), REGISTER_IGNORE, basic_list(0, key))
        assert done.result(DEADLINE).status == Status.GOOD

    def key(self, disk: int) -> int | None:
        """Of the logical unit that the disk is; None if it is none."""
        status, sense, data = self.client.run(disk, READ_KEYS)
        if status == Status.CHECK_CONDITION:
            assert sense_code(sense) == NO_UNIT
            return None
        assert status == Status.GOOD
        return int.from_bytes(data[8:], "big")

    def known(self, disk: int, key: int) -> None:
        """It is read until it is answered at the desk."""

        def answered() -> bool:
            before = self.at_once
            assert self.key(disk) == key
            return self.at_once > before

        eventually(answered, "it is never answered at the desk")

    def close(self) -> None:
        """Close the images."""
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The guest sits at the desk."""
    monkeypatch.setattr(known, "INDEX_FRESH", 1e9)
    with short_directory() as root:
        for name in ("a", "b"):
            create_lun(root, name, image=f"{name}.img")
        units = Units(root)
        made = manager(units, None)
        try:
            with serving(manager=lambda _: made) as served, RawClient(served.path) as client:
                host = Host(root, client, units)
                for name, key in (("a", 0xA), ("b", 0xB)):
                    host.register(name, key)
                sit(served, client, host.open("a.img"))
                yield host
                host.close()
        finally:
            units.close()


def test_disks_in_turn_are_told_apart(host: Host) -> None:
    """Their descriptors have the same number here, one after the other."""
    a, b = host.open("a.img"), host.open("b.img")
    host.known(a, 0xA)
    host.known(b, 0xB)
    for _ in range(20):
        assert host.key(a) == 0xA
        assert host.key(b) == 0xB


def test_images_that_change_their_names_are_the_other_unit(host: Host) -> None:
    """It is the name that says which one it is, and not the file."""
    a, b = host.open("a.img"), host.open("b.img")
    host.known(a, 0xA)
    host.known(b, 0xB)
    for first, second in ((0xB, 0xA), (0xA, 0xB)):
        os.rename(host.path("a.img"), host.path("c.img"))
        os.rename(host.path("b.img"), host.path("a.img"))
        os.rename(host.path("c.img"), host.path("b.img"))
        assert host.key(a) == first
        assert host.key(b) == second


def test_image_that_is_replaced_is_none_any_more(host: Host) -> None:
    """The new one is."""
    old = host.open("a.img")
    host.known(old, 0xA)
    new = host.open("new.img")
    os.rename(host.path("new.img"), host.path("a.img"))
    assert host.key(old) is None
    assert host.key(new) == 0xA
    os.unlink(host.path("a.img"))
    assert host.key(new) is None


def test_names_of_one_file_are_told_apart(host: Host) -> None:
    """Both are images, of the same inode; a third name is none."""
    a = host.open("a.img")
    host.known(a, 0xA)
    for name in ("b.img", "c.img"):
        os.link(host.path("a.img"), host.path(name))
    b, c = host.open("b.img"), host.open("c.img")
    host.known(b, 0xB)
    for _ in range(3):
        assert (host.key(a), host.key(b), host.key(c)) == (0xA, 0xB, None)


def test_image_whose_directory_moves_is_none_any_more(host: Host) -> None:
    """Its name is another one."""
    os.mkdir(host.path("folder"))
    create_lun(host.root, "deep", image="folder/disk.img")
    host.register("deep", 0xD)
    disk = host.open("folder/disk.img")
    eventually(lambda: host.key(disk) == 0xD, "it is not found")
    host.known(disk, 0xD)
    os.rename(host.path("folder"), host.path("other"))
    assert host.key(disk) is None
    os.rename(host.path("other"), host.path("folder"))
    assert host.key(disk) == 0xD


def test_image_that_is_called_like_a_deleted_one_is_found(host: Host) -> None:
    """With each command anew, since it could not be told from one."""
    create_lun(host.root, "odd", image="a.img (deleted)")
    host.register("odd", 0xD)
    odd, a = host.open("a.img (deleted)"), host.open("a.img")
    eventually(lambda: host.key(odd) == 0xD, "it is not found")
    host.known(a, 0xA)
    os.unlink(host.path("a.img"))
    for _ in range(3):
        assert host.key(a) is None
        assert host.key(odd) == 0xD


def test_read_only_descriptor_of_a_known_disk_changes_nothing(host: Host) -> None:
    """Reads tell nothing of who may write."""
    writes, reads = host.open("a.img"), host.open("a.img", os.O_RDONLY)
    host.known(writes, 0xA)
    host.known(reads, 0xA)
    status, sense, _ = host.client.run(reads, REGISTER_IGNORE, basic_list(0, 0xF))
    assert (status, sense_code(sense)) == (Status.CHECK_CONDITION, NOT_ALLOWED)
    assert host.key(writes) == 0xA
    assert host.client.run(writes, REGISTER_IGNORE, basic_list(0, 0xF))[0] == Status.GOOD


def test_unit_that_is_deleted_and_made_anew_is_another_one(host: Host) -> None:
    """With the same name and the same image; nobody reads the keys of the old one again."""
    disk = host.open("a.img")
    host.known(disk, 0xA)
    delete_lun(host.root, "a", force=True)
    assert host.client.run(disk, READ_KEYS)[0] != Status.GOOD
    create_lun(host.root, "a", image="a.img")
    for _ in range(5):
        assert not host.client.run(disk, READ_KEYS)[2][8:]
    assert host.key(host.open("b.img")) == 0xB
