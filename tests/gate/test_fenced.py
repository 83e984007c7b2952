"""An operator declares a host fenced: durably, once, and whoever cannot read it waits."""

from __future__ import annotations

import errno
import json
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flockpr.errors import ConfigError, HostFenced, StateUnreadable, StoreError, StoreUnavailable
from flockpr.gate import fenced
from flockpr.store.syscalls import Syscalls
from tests.support.simfs import Call, Client, Disk, Killed

HOST = 0x12345
OTHER = 0xABCDE
PROOF = "its power was cut at 12:00, seen on the console"
RECORD = f"fenced-{HOST:010x}.json"


def record_of(root: Path) -> Path:
    """Where the declaration of the host is."""
    return root / ".hosts" / RECORD


def text(**changes: object) -> str:
    """A record as it is written, with some members changed."""
    value: dict[str, Any] = {
        "format": 1,
        "number": f"{HOST:010x}",
        "host": "node1",
        "time": "2026-01-31T12:00:00.000000Z",
        "user": "root",
        "declared_on": "node2",
        "proof": PROOF,
        "lun": "disk",
    }
    return json.dumps(value | changes)


def put(root: Path, content: str) -> None:
    """Have this in the record's place."""
    record_of(root).parent.mkdir(exist_ok=True)
    record_of(root).write_text(content)


def test_declare_of_a_host_is_read_back(tmp_path: Path) -> None:
    """Who, when, where, why; and its number needs no waiting for."""
    assert fenced.numbers(str(tmp_path)) == frozenset()
    declared = fenced.declare(str(tmp_path), HOST, proof=f" {PROOF}\n", host="node1", lun="disk")

    assert fenced.read(str(tmp_path)) == {HOST: declared}
    assert fenced.numbers(str(tmp_path)) == {HOST}
    assert (declared.proof, declared.host, declared.lun) == (PROOF, "node1", "disk")
    assert declared.user
    assert declared.declared_on


def test_declare_leaves_nothing_else_behind(tmp_path: Path) -> None:
    """What was written aside is gone, and others may not read it."""
    fenced.declare(str(tmp_path), HOST, proof=PROOF)

    assert os.listdir(tmp_path / ".hosts") == [RECORD]
    assert record_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert record_of(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_declare_in_a_shared_root_is_shared(tmp_path: Path) -> None:
    """With those who share the root, whatever the umask."""
    tmp_path.chmod(0o2770)
    fenced.declare(str(tmp_path), HOST, proof=PROOF)

    assert record_of(tmp_path).stat().st_mode & 0o777 == 0o660
    assert record_of(tmp_path).parent.stat().st_mode & 0o7777 == 0o2770


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_declare_by_the_superuser_can_be_read_by_whom_the_root_belongs_to(tmp_path: Path) -> None:
    """Else its targets could not tell whether they are declared, and would not serve."""
    os.chown(tmp_path, 12345, 23456)
    fenced.declare(str(tmp_path), HOST, proof=PROOF)

    for path in (record_of(tmp_path), record_of(tmp_path).parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_declare_again_returns_the_first(tmp_path: Path) -> None:
    """A record is never changed: others may have gone on by it."""
    first = fenced.declare(str(tmp_path), HOST, proof=PROOF)

    assert fenced.declare(str(tmp_path), HOST, proof="another one") == first


@pytest.mark.parametrize("proof", ["", "  \n", "x" * 2001])
def test_declare_without_a_proof_is_refused(tmp_path: Path, proof: str) -> None:
    """Nothing is written then."""
    with pytest.raises(ConfigError):
        fenced.declare(str(tmp_path), HOST, proof=proof)
    assert not (tmp_path / ".hosts").exists()


def test_declare_by_many_at_once_has_one_outcome(tmp_path: Path) -> None:
    """All of them are told the same."""
    got: list[fenced.Declaration] = []
    threads = [
        threading.Thread(
            target=lambda n=n: got.append(fenced.declare(str(tmp_path), HOST, proof=f"proof {n}"))
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(got) == 8
    assert set(got) == {fenced.read(str(tmp_path))[HOST]}
    assert os.listdir(tmp_path / ".hosts") == [RECORD]


FOREIGN = {
    "empty": "",
    "no JSON": "fenced!",
    "of a newer format": text(format=2),
    "of another host": text(number=f"{OTHER:010x}"),
    "without a proof": text(proof=""),
    "with a member that nobody knows": text(unless="it is Tuesday"),
    "without a member": json.dumps({"format": 1, "number": f"{HOST:010x}"}),
    "far too large": text(host="x" * 100_000),
    "no object": "[]",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_record_that_is_foreign_leaves_nobody_out(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fail closed: the host is waited for, the log says why, and others' records count."""
    put(tmp_path, FOREIGN[kind])
    fenced.declare(str(tmp_path), OTHER, proof=PROOF)

    assert fenced.numbers(str(tmp_path)) == {OTHER}
    assert RECORD in caplog.text
    assert "that host is waited for" in caplog.text


@pytest.mark.parametrize("kind", FOREIGN)
def test_host_with_a_foreign_record_of_its_name_does_not_serve(tmp_path: Path, kind: str) -> None:
    """Somebody wrote something about it that it cannot read."""
    put(tmp_path, FOREIGN[kind])

    with pytest.raises(HostFenced, match="cannot be read"):
        fenced.check(str(tmp_path), HOST)


@pytest.mark.parametrize("kind", FOREIGN)
def test_declare_over_a_foreign_record_is_refused(tmp_path: Path, kind: str) -> None:
    """It is not overwritten, and it does not count."""
    put(tmp_path, FOREIGN[kind])

    with pytest.raises(StateUnreadable):
        fenced.declare(str(tmp_path), HOST, proof=PROOF)
    assert record_of(tmp_path).read_text() == FOREIGN[kind]


@pytest.mark.parametrize("make", ["link", "fifo", "directory"])
def test_record_that_is_no_file_leaves_nobody_out(tmp_path: Path, make: str) -> None:
    """It is not followed, and nobody hangs in it; the host itself does not serve."""
    path = record_of(tmp_path)
    path.parent.mkdir()
    if make == "link":
        (tmp_path / "elsewhere").write_text(text())
        path.symlink_to(tmp_path / "elsewhere")
    elif make == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()

    assert fenced.numbers(str(tmp_path)) == frozenset()
    with pytest.raises(StoreError):
        fenced.check(str(tmp_path), HOST)


def test_check_of_a_host_that_is_not_declared_passes(tmp_path: Path) -> None:
    """Whether or not there are records of others."""
    fenced.check(str(tmp_path), HOST)
    fenced.declare(str(tmp_path), OTHER, proof=PROOF)
    fenced.check(str(tmp_path), HOST)


def test_check_of_a_host_that_is_declared_says_what_to_do(tmp_path: Path) -> None:
    """Who declared it, and that a reboot helps; it needs a person."""
    fenced.declare(str(tmp_path), HOST, proof=PROOF)

    with pytest.raises(HostFenced, match="declared fenced by") as caught:
        fenced.check(str(tmp_path), HOST)
    assert caught.value.for_a_person
    assert "reboot this host" in caught.value.remedy


class Refusing(Syscalls):
    """A file server that fails one kind of call."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._number = number

    def open(self, path: str, flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        if os.path.basename(path) == self._name:
            raise OSError(self._number, os.strerror(self._number))
        return super().open(path, flags, mode, dir_fd=dir_fd)

    def listdir(self, fd: int) -> list[str]:
        if self._name == "listdir":
            raise OSError(self._number, os.strerror(self._number))
        return super().listdir(fd)


@pytest.mark.parametrize("name", [".hosts", "listdir", RECORD])
def test_numbers_that_cannot_be_read_leave_nobody_out(tmp_path: Path, name: str) -> None:
    """Whoever cannot read waits."""
    fenced.declare(str(tmp_path), HOST, proof=PROOF)

    assert fenced.numbers(str(tmp_path), Refusing(name, errno.EIO)) == frozenset()


@pytest.mark.parametrize("name", [".hosts", RECORD])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_check_that_cannot_be_made_does_not_pass(tmp_path: Path, name: str, number: int) -> None:
    """A target that cannot tell does not serve."""
    fenced.declare(str(tmp_path), OTHER, proof=PROOF)

    with pytest.raises(StoreUnavailable):
        fenced.check(str(tmp_path), HOST, Refusing(name, number))


def test_check_in_a_root_that_is_missing_does_not_pass(tmp_path: Path) -> None:
    """A share that is not mounted says nothing."""
    with pytest.raises(StoreUnavailable):
        fenced.check(str(tmp_path / "gone"), HOST)
    assert fenced.numbers(str(tmp_path / "gone")) == frozenset()


def test_declare_in_a_root_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Nobody is declared then, and the error names the file."""
    disk = Disk()

    def readonly(client: Client, call: Call) -> None:
        if call.name in ("mkdir", "link") or (call.name == "open" and ".aside-" in call.what):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(StoreUnavailable, match=RECORD) as caught:
        fenced.declare("/", HOST, Client(disk, before=readonly), proof=PROOF)
    assert "read-write" in caught.value.remedy
    assert fenced.numbers("/", Client(disk)) == frozenset()


def test_declaration_is_seen_by_hosts_that_looked_before() -> None:
    """NFS: a name that was absent is believed absent, until the directory is opened anew."""
    disk = Disk()
    one, two = Client(disk, forgetful=True), Client(disk, forgetful=True)
    fenced.declare("/", OTHER, one, proof=PROOF)
    fenced.check("/", HOST, two)
    assert fenced.numbers("/", two) == {OTHER}

    fenced.declare("/", HOST, one, proof=PROOF)
    assert fenced.numbers("/", two) == {OTHER, HOST}
    with pytest.raises(HostFenced):
        fenced.check("/", HOST, two)


def test_declaration_that_was_answered_survives_a_power_cut() -> None:
    """Whatever of the rest is lost."""
    disk = Disk()
    fenced.declare("/", HOST, Client(disk), proof=PROOF)

    for choice in range(4):
        left = disk.cut(partial(_choose, choice))
        assert fenced.numbers("/", Client(left)) == {HOST}


def _choose(choice: int, most: int) -> int:
    return choice % most


def test_declare_that_is_killed_at_any_call_is_whole_or_absent() -> None:
    """And the next one to declare can, and leaves one record."""
    at = 0
    while True:
        disk, at = Disk(), at + 1

        def kill(client: Client, call: Call, at: int = at) -> None:
            if len(client.calls) == at:
                client.die()
                raise Killed

        client = Client(disk, before=kill)
        try:
            fenced.declare("/", HOST, client, proof=PROOF)
        except Killed:
            found = fenced.read("/", Client(disk))
            again = fenced.declare("/", HOST, Client(disk), proof="again")
            assert found in ({}, {HOST: again})
            continue
        assert at > 8
        return


def test_declare_whose_answer_was_lost_is_done_all_the_same() -> None:
    """NFS repeats a LINK: its EEXIST is our own."""
    disk = Disk()

    def lose(client: Client, call: Call) -> None:
        if call.name == "link":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    declared = fenced.declare("/", HOST, Client(disk, after=lose), proof=PROOF)
    assert fenced.read("/", Client(disk)) == {HOST: declared}
