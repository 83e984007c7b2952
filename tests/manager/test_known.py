"""By what a disk is known again that was looked up a moment ago."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.device_index import INDEX_FRESH
from flockpr.manager.known import Known, mark_of


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Opens files of that name."""
    descriptors = []

    def open_one(name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        descriptors.append(os.open(tmp_path / name, flags, 0o600))
        return descriptors[-1]

    yield open_one
    for descriptor in descriptors:
        os.close(descriptor)


def noted(descriptor: int) -> Known:
    """It was found to be that of a logical unit, and is believed to be for ever."""
    known = Known()
    mark = mark_of(descriptor)
    assert mark is not None
    known.note(mark, "disk", float("inf"))
    assert known.lun_of(descriptor) == "disk"
    return known


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY, os.O_PATH])
def test_same_file_is_known_by_every_descriptor(opened: Callable[..., int], flags: int) -> None:
    """What may be done with it is asked of the descriptor, and not here."""
    known = noted(opened("disk"))
    assert known.lun_of(opened("disk", flags)) == "disk"


def test_other_file_with_the_same_number_is_not_known(opened: Callable[..., int]) -> None:
    """Descriptors have the numbers of those that were closed."""
    disk, other = opened("disk"), opened("other")
    known = noted(disk)
    os.dup2(other, disk)
    assert known.lun_of(disk) is None


def test_file_with_another_name_is_not_known(opened: Callable[..., int], tmp_path: Path) -> None:
    """Of two names of one file, each may be the image of another logical unit."""
    known = noted(opened("disk"))
    os.link(tmp_path / "disk", tmp_path / "link")
    assert known.lun_of(opened("link")) is None
    assert known.lun_of(opened("disk")) == "disk"


def test_file_that_was_renamed_is_not_known(opened: Callable[..., int], tmp_path: Path) -> None:
    """Until it has its name again."""
    disk = opened("disk")
    known = noted(disk)
    os.rename(tmp_path / "disk", tmp_path / "other")
    assert known.lun_of(disk) is None
    os.rename(tmp_path / "other", tmp_path / "disk")
    assert known.lun_of(disk) == "disk"


def test_file_in_place_of_another_one_is_not_known(
    opened: Callable[..., int], tmp_path: Path
) -> None:
    """Nor is the one that was there, which has no name any more."""
    disk, new = opened("disk"), opened("new")
    known = noted(disk)
    os.rename(tmp_path / "new", tmp_path / "disk")
    assert known.lun_of(disk) is None
    assert known.lun_of(new) is None


def test_deleted_file_is_no_file_that_is_called_so(
    opened: Callable[..., int], tmp_path: Path
) -> None:
    """With the same inode, which is used again, the two could not be told apart."""
    disk, called = opened("disk"), opened("disk (deleted)")
    assert mark_of(called) is None
    os.unlink(tmp_path / "disk")
    assert mark_of(disk) is None


def test_file_is_known_for_a_moment(
    opened: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the table of the root is believed."""
    disk = opened("disk")
    known, mark = Known(), mark_of(disk)
    assert mark is not None
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    known.note(mark, "disk", now[0])
    now[0] += INDEX_FRESH * 0.99
    assert known.lun_of(disk) == "disk"
    now[0] += INDEX_FRESH * 0.02
    assert known.lun_of(disk) is None


def test_what_is_no_disk_or_not_open_is_not_known(opened: Callable[..., int]) -> None:
    """It is looked up, by who says what is wrong with it."""
    known = noted(opened("disk"))
    ends = os.pipe()
    assert known.lun_of(ends[0]) is None
    for end in ends:
        os.close(end)
    assert known.lun_of(ends[0]) is None
