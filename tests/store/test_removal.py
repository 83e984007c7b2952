"""Deleting a LUN loses no registration and takes no other LUN away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flockpr.core.model import Nexus
from flockpr.errors import LunExists, LunNotFound, StateLost, StoreError
from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store import files, removal
from flockpr.store.layout import COMMIT_NAME, DELETED_PREFIX, IDENTITY
from flockpr.store.listing import list_luns, read_identity
from flockpr.store.lockdir import LockDirectory
from flockpr.store.provision import create_lun
from flockpr.store.removal import delete_lun
from flockpr.store.syscalls import Syscalls

NEXUS = Nexus(InitiatorPort("iqn.2026-11.test:a"))
REGISTER = bytes([0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0])


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root with one LUN."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path)


def register(root: str) -> None:
    """Register a nexus, and be told GOOD."""
    with LogicalUnit.open(f"{root}/disk") as unit:
        result = unit.execute(NEXUS, REGISTER, bytes(8) + (0xA1).to_bytes(8, "big") + bytes(8))
    assert result.status is Status.GOOD


def test_delete_of_lun_in_use_is_refused(root: str) -> None:
    """A cluster that counts on its keys would lose them."""
    register(root)

    with pytest.raises(StoreError, match="1 registered"):
        delete_lun(root, "disk")

    assert len(list_luns(root)) == 1


def test_delete_by_force_deletes_it_all_the_same(root: str) -> None:
    """The operator has the last word."""
    register(root)
    delete_lun(root, "disk", force=True)

    assert list_luns(root) == []


def test_registration_while_it_is_being_deleted_wins(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledged registration is not lost: the deletion decides again on the new head."""
    commit = LockDirectory.commit
    once = iter([lambda: register(root)])

    def late(store: LockDirectory, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("deleted"):
            next(once, lambda: None)()
        return commit(store, *args, **kwargs)

    monkeypatch.setattr(LockDirectory, "commit", late)

    with pytest.raises(StoreError, match="1 registered"):
        delete_lun(root, "disk")

    with LogicalUnit.open(f"{root}/disk") as unit:
        assert len(unit.snapshot().state.registrations) == 1


@pytest.mark.parametrize("moment", ["_commit_deletion", "_take_away"])
def test_lun_created_anew_meanwhile_is_left_alone(
    root: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Two deletions and a creation at once: the new LUN is not the one that was meant."""
    step = getattr(removal, moment)

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(removal, moment, step)
        delete_lun(root, "disk")
        create_lun(root, "disk")
        register(root)
        return step(*args, **kwargs)

    monkeypatch.setattr(removal, moment, overtaken)

    with pytest.raises(StateLost, match="created meanwhile"):
        delete_lun(root, "disk", force=True)

    with LogicalUnit.open(f"{root}/disk") as unit:
        assert len(unit.snapshot().state.registrations) == 1
    assert create_lun(root, "next").lun != read_identity(root, "disk").lun


def test_lun_taken_away_by_mistake_is_put_back(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the rename a name can still change hands."""
    look = read_identity
    before = look(root, "disk")
    create_lun(root, "spare")
    delete_lun(root, "spare")

    def stale(root: str, name: str, **kwargs: Any) -> Any:
        monkeypatch.setattr(removal, "read_identity", look)
        return before

    def anew(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(removal, "_commit_deletion", commit)
        delete_lun(root, "disk")
        create_lun(root, "disk")
        monkeypatch.setattr(removal, "read_identity", stale)

    commit = removal._commit_deletion
    monkeypatch.setattr(removal, "_commit_deletion", anew)

    with pytest.raises(StateLost, match="created meanwhile"):
        delete_lun(root, "disk")

    assert read_identity(root, "disk").incarnation != before.incarnation
    assert not [name for name in Path(root).iterdir() if name.name.startswith(DELETED_PREFIX)]


def test_directory_that_cannot_be_removed_yet_goes_with_the_next_deletion(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a file that is open here keeps its directory; the LUN is gone all the same."""
    create_lun(root, "other")

    def busy(*args: Any, **kwargs: Any) -> None:
        raise OSError(39, "Directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", busy)
        delete_lun(root, "disk")
    assert [listing.name for listing in list_luns(root)] == ["other"]
    assert create_lun(root, "disk").lun == 0

    delete_lun(root, "other")

    assert not [name for name in Path(root).iterdir() if name.name.startswith(DELETED_PREFIX)]


def test_deletion_removes_in_an_order_that_daemons_can_read(root: str) -> None:
    """Whoever has the directory open sees at every moment that it was deleted: the commit that
    says so goes last, and the name by which it was a LUN first.
    """

    class Seen(Syscalls):
        def unlink(self, name: str, *, dir_fd: int) -> None:
            super().unlink(name, dir_fd=dir_fd)
            if store.identity.incarnation in name or order:
                order.append(name.rpartition("/")[2])
                with pytest.raises(LunNotFound, match="was deleted"):
                    store.head()

    register(root)
    order: list[str] = []
    store = LockDirectory(f"{root}/disk")
    store.head()

    delete_lun(root, "disk", force=True, syscalls=Seen())

    commits = [name for name in order if COMMIT_NAME.fullmatch(name)]
    assert order[0] == IDENTITY
    assert commits == sorted(commits)
    assert len(commits) == 3
    with pytest.raises(LunNotFound, match="was deleted"):
        store.head()
    store.close()


def test_device_or_image_of_another_lun_is_refused(root: str) -> None:
    """A typo would leave both LUNs' guests without a disk."""
    create_lun(root, "one", wwids=["naa.6001"], image="images/one.raw")

    with pytest.raises(LunExists, match="belongs to the LUN one"):
        create_lun(root, "two", wwids=["NAA.6001"])
    with pytest.raises(LunExists, match="belongs to the LUN one"):
        create_lun(root, "two", image="images/one.raw")
    with pytest.raises(LunNotFound):
        read_identity(root, "two")


def test_symbolic_link_in_the_place_of_a_lun_is_named(root: str) -> None:
    """It would be one LUN under two names."""
    (Path(root) / "alias").symlink_to(f"{root}/disk")

    (alias, disk) = list_luns(root)

    assert disk.error is None
    assert "symbolic link" in str(alias.error)
