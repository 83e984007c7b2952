"""Which LUN a device identifier or an image path belongs to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from flockpr import delete_lun
from flockpr import device_index as module
from flockpr.device_index import DeviceIndex
from flockpr.errors import Busy, StoreUnavailable
from flockpr.store.identity import LunIdentity, encode_identity
from flockpr.store.listing import read_identity
from flockpr.store.provision import create_lun
from flockpr.units import Units

LONG = 60.0


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time; whoever tests the bound sets another one."""
    monkeypatch.setattr(module, "READ_BOUND", LONG)
    monkeypatch.setattr(module, "KNOWN_PATIENCE", LONG)


class Hanging:
    """`lun.json` of some LUNs cannot be read until `gate` is opened."""

    def __init__(self) -> None:
        self.hung: set[str] = set()
        self.asked: list[str] = []
        self.gate = threading.Event()

    def read(self, root: str, name: str) -> LunIdentity:
        """Instead of the real one."""
        self.asked.append(name)
        if name in self.hung:
            self.gate.wait(LONG)
        return read_identity(root, name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """The file server."""
    hanging = Hanging()
    monkeypatch.setattr(module, "read_identity", hanging.read)
    yield hanging
    hanging.gate.set()


def build_index(root: str) -> dict[str, str]:
    """The table, read once."""
    return DeviceIndex(root, LONG).table()


def claim(root: Path, name: str, wwid: str) -> None:
    """A LUN with that identifier, by an editor: `create_lun` may know that it is taken."""
    identity = attrs.evolve(create_lun(str(root), name), wwids=(wwid,))
    (root / name / "lun.json").write_bytes(encode_identity(identity))


def readers() -> list[str]:
    """Names of the threads that read."""
    return [t.name for t in threading.enumerate() if t.name.startswith("identity-")]


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
    claim(tmp_path, "two", "NAA.600A")

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

    with pytest.raises(StoreUnavailable, match="does not exist"):
        units.find_by_wwid(["naa.600a"])
    units.close()


def test_hung_lun_leaves_the_others_findable(
    tmp_path: Path,
    server: Hanging,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Within the bound the first time, at once from then on, with one thread that hangs."""
    create_lun(str(tmp_path), "hung", wwids=["naa.60a"])
    create_lun(str(tmp_path), "well", wwids=["naa.60b"])
    server.hung = {"hung"}
    monkeypatch.setattr(module, "READ_BOUND", 0.5)
    monkeypatch.setattr(module, "INDEX_FRESH", -1.0)
    index = DeviceIndex(str(tmp_path), LONG)

    found: list[str | None] = []
    while found != ["well"]:  # a busy machine may not read "well" in time at first
        try:
            found = [index.find(["naa.60b"])]
        except Busy:
            continue
    monkeypatch.setattr(module, "READ_BOUND", LONG)
    begun = time.monotonic()
    assert [index.find(["naa.60b"]) for _ in range(20)] == ["well"] * 20

    assert time.monotonic() - begun < LONG / 2
    assert server.asked.count("hung") == 1
    assert readers().count("identity-hung") == 1
    assert caplog.text.count("hung: lun.json cannot be read in time") == 1


def test_identifier_that_may_be_a_hung_lun_is_busy_until_it_answers(
    tmp_path: Path, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of "no such LUN" would be a lie, and is final for a guest."""
    create_lun(str(tmp_path), "hung", wwids=["naa.60a"])
    server.hung = {"hung"}
    monkeypatch.setattr(module, "READ_BOUND", 0.05)
    monkeypatch.setattr(module, "INDEX_FRESH", -1.0)
    index = DeviceIndex(str(tmp_path), LONG)
    for _ in range(2):
        with pytest.raises(Busy, match=r"hung: lun\.json cannot be read in time"):
            index.find(["naa.60a"])

    monkeypatch.setattr(module, "INDEX_FRESH", 2 * LONG)
    server.gate.set()
    deadline = time.monotonic() + LONG
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert index.find(["naa.60a"]) == "hung"  # without another look
    assert index.find(["naa.60c"]) is None


def test_lun_that_hangs_later_keeps_its_last_known_claims(
    tmp_path: Path, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands go to its own worker, which says what is wrong."""
    create_lun(str(tmp_path), "hung", wwids=["naa.60a"])
    index = DeviceIndex(str(tmp_path), LONG)
    assert index.table()["naa.60a"] == "hung"
    server.hung = {"hung"}
    monkeypatch.setattr(module, "READ_BOUND", 0.05)

    assert index.table()["naa.60a"] == "hung"
    assert index.find(["naa.60c"]) is None


def test_known_identifier_is_answered_at_once_while_others_are_read(
    tmp_path: Path, server: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the LUN that has just begun to hang."""
    create_lun(str(tmp_path), "hung")
    create_lun(str(tmp_path), "well", wwids=["naa.60b"])
    index = DeviceIndex(str(tmp_path), LONG)
    index.table()
    server.hung = {"hung"}
    monkeypatch.setattr(module, "KNOWN_PATIENCE", 0.05)
    monkeypatch.setattr(module, "INDEX_FRESH", -1.0)
    begun = time.monotonic()

    assert [index.find(["naa.60b"]) for _ in range(10)] == ["well"] * 10

    assert time.monotonic() - begun < LONG / 2
    assert server.asked.count("hung") == 2


def test_lun_that_is_deleted_loses_its_claims_to_who_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its identifier may be another LUN's from then on; until then its worker says what became
    of it.
    """
    monkeypatch.setattr(module, "INDEX_FRESH", -1.0)
    index = DeviceIndex(str(tmp_path), LONG)
    create_lun(str(tmp_path), "old", wwids=["naa.60a"])
    assert index.table()["naa.60a"] == "old"

    delete_lun(str(tmp_path), "old")
    assert "naa.60a" not in index.table()
    assert index.find(["naa.60a"]) == "old"
    assert index.find(["naa.60b"]) is None

    create_lun(str(tmp_path), "new", wwids=["naa.60a"])
    assert index.find(["naa.60a"]) == "new"
    claim(tmp_path, "newer", "naa.60a")
    assert index.find(["naa.60a"]) is None
    create_lun(str(tmp_path), "old", wwids=["naa.60b"])
    assert index.find(["naa.60b"]) == "old"


def test_lun_that_is_missing_is_still_found_by_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the bare mount point of its share a disk has not lost its LUN: NOT READY, and on
    when it is mounted again.
    """
    monkeypatch.setattr(module, "INDEX_FRESH", -1.0)
    create_lun(str(tmp_path), "disk", wwids=["naa.60a"])
    index = DeviceIndex(str(tmp_path), LONG)
    assert index.find(["naa.60a"]) == "disk"
    for where in (tmp_path / "disk", tmp_path):
        where.rename(f"{where}.away")
        where.mkdir()
        assert index.find(["naa.60a"]) == "disk"
        where.rmdir()
        Path(f"{where}.away").rename(where)

    assert index.table()["naa.60a"] == "disk"


def test_complaints_are_logged_when_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not with every look, which may be every second for months."""
    create_lun(str(tmp_path), "one", wwids=["naa.60a"])
    claim(tmp_path, "two", "naa.60a")
    create_lun(str(tmp_path), "bad")
    text = (tmp_path / "bad" / "lun.json").read_text()
    index = DeviceIndex(str(tmp_path), LONG)
    counts = []
    with caplog.at_level(logging.WARNING):
        for content in ("{", "{", text, "{"):
            (tmp_path / "bad" / "lun.json").write_text(content)
            index.table()
            counts.append((caplog.text.count("bad: "), caplog.text.count("claimed by two")))

    assert [double for _, double in counts] == [1, 1, 1, 1]
    bad = [bad for bad, _ in counts]
    assert bad[0] == bad[1] == bad[2] > 0
    assert bad[3] == 2 * bad[0]
