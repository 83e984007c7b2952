"""Which LUN a device identifier or an image path belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flockpr.errors import LunNotFound
from flockpr.store.provision import create_lun
from flockpr.units import Units, build_index


def test_identifier_of_a_device_is_compared_without_case(tmp_path: Path) -> None:
    """Kernels and tools write NAA identifiers in either case."""
    create_lun(str(tmp_path), "disk", wwids=["naa.6001405ABCDEF"])
    units = Units(str(tmp_path))

    assert units.find_by_wwid(["naa.unknown", "NAA.6001405abcdef"]) == "disk"
    units.close()


def test_own_naa_belongs_to_the_lun(tmp_path: Path) -> None:
    """The identifier in lun.json counts without being listed."""
    identity = create_lun(str(tmp_path), "disk")

    assert build_index(str(tmp_path))[identity.naa] == "disk"


def test_image_paths_that_differ_in_case_are_two_images(tmp_path: Path) -> None:
    """A path is not an identifier: file names have case."""
    create_lun(str(tmp_path), "one", image="Disk.img")
    create_lun(str(tmp_path), "two", image="disk.img")

    index = build_index(str(tmp_path))

    assert index[str(tmp_path / "Disk.img")] == "one"
    assert index[str(tmp_path / "disk.img")] == "two"


def test_identifier_claimed_by_two_luns_belongs_to_neither(tmp_path: Path) -> None:
    """Guessing could let two disks share one reservation."""
    create_lun(str(tmp_path), "one", wwids=["naa.600a", "naa.600b"])
    create_lun(str(tmp_path), "two", wwids=["NAA.600A"])

    index = build_index(str(tmp_path))

    assert "naa.600a" not in index
    assert index["naa.600b"] == "one"


def test_unreadable_lun_leaves_the_others_findable(tmp_path: Path) -> None:
    """One damaged lun.json is that LUN's trouble."""
    create_lun(str(tmp_path), "bad", wwids=["naa.bad"])
    create_lun(str(tmp_path), "good", wwids=["naa.good"])
    (tmp_path / "bad" / "lun.json").write_text("{")

    index = build_index(str(tmp_path))

    assert index["naa.good"] == "good"
    assert "naa.bad" not in index


def test_missing_root_is_an_error_and_not_an_empty_table(tmp_path: Path) -> None:
    """A mount that is not there is no reason to say that a disk has no LUN."""
    units = Units(str(tmp_path / "nowhere"))

    with pytest.raises(LunNotFound, match="does not exist"):
        units.find_by_wwid(["naa.600a"])
    units.close()
