"""A format newer than 1 does not exist yet, so these tests bring one along."""

from __future__ import annotations

from pathlib import Path

import pytest

from flockpr.errors import Busy, NewerFormat
from flockpr.store import directory, document, encoding, presence
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun, event, upgrade_lun
from flockpr.store.strict import Reader


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


def allow_format_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this version knows format 2, which is format 1 with another number."""
    encode, decode = encoding.ENCODERS[1], document.DECODERS[1]

    def decode_2(reader: Reader) -> document.Document:
        import attrs

        return attrs.evolve(decode(reader), format=2)

    def encode_2(written: document.Document, parts: encoding.Parts) -> str:
        return encode(written, parts).replace('"format":1', '"format":2', 1)

    monkeypatch.setitem(encoding.ENCODERS, 2, encode_2)
    monkeypatch.setitem(document.DECODERS, 2, decode_2)
    monkeypatch.setattr(directory, "FORMAT", 2)
    monkeypatch.setattr(presence, "FORMAT", 2)


def test_upgrade_of_newest_format_does_nothing(lun: str, tmp_path: Path) -> None:
    """Nothing is committed where there is nothing to switch."""
    assert upgrade_lun(str(tmp_path), "disk") == (1, 1)
    store = LockDirectory(lun)
    assert store.head().number == 1
    store.close()


def test_upgrade_while_an_old_daemon_lives_is_refused(
    lun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that reads only format 1 keeps the LUN in format 1."""
    old = LockDirectory(lun)
    old.hold(0)  # takes the byte that says which formats it reads
    allow_format_2(monkeypatch)

    with pytest.raises(Busy, match="format 1"):
        upgrade_lun(str(tmp_path), "disk")

    old.close()
    assert upgrade_lun(str(tmp_path), "disk") == (1, 2)


def test_successor_of_old_format_keeps_it_until_the_upgrade(
    lun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new daemon writes what the old ones still read, and the new one afterwards."""
    allow_format_2(monkeypatch)
    store = LockDirectory(lun)
    base = store.head()
    assert store.commit(base, base.state, [event("TEST", 0, door="api")], served={})
    assert store.format() == 1

    store.upgrade(event("UPGRADE", 0, door="cli"))

    assert store.format() == 2
    base = store.head()
    assert store.commit(base, base.state, [event("TEST", 0, door="api")], served={})
    assert store.format() == 2
    store.close()


def test_newer_format_is_refused_and_kept(lun: str, tmp_path: Path) -> None:
    """A version that does not know the format says so and overwrites nothing."""
    with pytest.MonkeyPatch.context() as patch:
        allow_format_2(patch)
        upgrade_lun(str(tmp_path), "disk")
    before = {p.name: p.read_bytes() for p in Path(lun, "commits").iterdir()}
    store = LockDirectory(lun)

    with pytest.raises(NewerFormat, match="newer flockpr"):
        store.head()

    store.close()
    assert {p.name: p.read_bytes() for p in Path(lun, "commits").iterdir()} == before
