"""Refused commands: written for people, bounded, and no trouble to anybody."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from flockpr.logical_unit import LogicalUnit
from flockpr.spc.codes import Status
from flockpr.store import journal
from flockpr.store.journal import Journal, read_journals
from flockpr.store.provision import create_lun, event
from flockpr.store.syscalls import Syscalls
from tests.support.lun_tools import register
from tests.support.scsi import RESERVE, TEST_UNIT_READY, A, B, basic_list, in_cdb, out_cdb

LINE = event("TEST", 0, door="api")
Make = Callable[..., Journal]


@pytest.fixture
def lun(tmp_path: Path) -> str:
    """A lock directory."""
    create_lun(str(tmp_path), "disk")
    return str(tmp_path / "disk")


@pytest.fixture
def directory(lun: str) -> Iterator[int]:
    """Its descriptor."""
    fd = os.open(lun, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def make(directory: int) -> Iterator[Make]:
    """Makes daemons' journals."""
    made: list[Journal] = []

    def one(daemon: str = "d1", syscalls: Syscalls | None = None) -> Journal:
        syscalls = syscalls or Syscalls()
        made.append(Journal(syscalls, directory, daemon=daemon, host="host-1", mode=0o600))
        return made[-1]

    yield one
    for each in made:
        each.close()


def actions(directory: int) -> list[str]:
    """What all journals say."""
    return [line["action"] for line in read_journals(Syscalls(), directory)]


def test_journal_of_refused_commands_is_read_back(make: Make, directory: int) -> None:
    """Daemon by daemon, each in order, with its host."""
    first, second = make("d1"), make("d2")
    for number in range(3):
        first.note(attrs.evolve(LINE, action=f"first {number}"))
        second.note(attrs.evolve(LINE, action=f"second {number}"))

    assert actions(directory) == [
        *(f"first {n}" for n in range(3)),
        *(f"second {n}" for n in range(3)),
    ]
    assert {line["host"] for line in read_journals(Syscalls(), directory)} == {"host-1"}


def test_journal_is_not_made_before_it_is_needed(make: Make, lun: str) -> None:
    """Most daemons refuse nothing."""
    make()

    assert os.listdir(f"{lun}/journal") == []


def test_journal_that_is_full_is_set_aside_once(
    make: Make, lun: str, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files at the most, and the newest lines are always there."""
    monkeypatch.setattr(journal, "MAX_BYTES", 1000)
    one = make()
    for number in range(50):
        one.note(attrs.evolve(LINE, action=f"line {number}"))
        for name in os.listdir(f"{lun}/journal"):
            assert os.path.getsize(f"{lun}/journal/{name}") <= 1000

    assert sorted(os.listdir(f"{lun}/journal")) == ["d1.jsonl", "d1.jsonl.old"]
    kept = sorted(int(action.split()[1]) for action in actions(directory))
    assert kept == list(range(kept[0], 50))
    assert len(kept) >= 3


def test_journal_goes_on_where_it_was(make: Make, directory: int) -> None:
    """Closed and opened again by the same daemon."""
    one = make()
    one.note(LINE)
    one.close()
    one.note(LINE)

    assert len(actions(directory)) == 2


def test_journals_of_many_daemons_are_bounded(
    make: Make, lun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest untouched go first."""
    monkeypatch.setattr(journal, "KEEP_JOURNALS", 5)
    for number in range(12):
        make(f"d{number:02d}").note(LINE)
        os.utime(f"{lun}/journal/d{number:02d}.jsonl", (number, number))
        assert len(os.listdir(f"{lun}/journal")) <= 5

    assert sorted(os.listdir(f"{lun}/journal")) == [f"d{n:02d}.jsonl" for n in range(7, 12)]


@pytest.mark.parametrize("call", ["open", "write", "rename", "listdir", "fstat", "fchmod"])
def test_journal_that_fails_does_not_raise(
    make: Make,
    directory: int,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning, not one for each command; and it writes again when it can."""
    syscalls = Syscalls()
    real = getattr(syscalls, call)
    broken = True

    def maybe(*arguments: object, **named: object) -> object:
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **named)

    monkeypatch.setattr(syscalls, call, maybe)
    monkeypatch.setattr(journal, "MAX_BYTES", 300)
    one = make(syscalls=syscalls)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            one.note(LINE)
    assert 1 <= caplog.text.count("cannot write the journal") <= 3

    broken = False
    one.note(attrs.evolve(LINE, action="after"))
    assert "after" in actions(directory)


def test_unreadable_journal_is_passed_over(make: Make, lun: str, directory: int) -> None:
    """A record, not a promise: damage in one hides no other line."""
    make("d2").note(LINE)
    os.mkfifo(f"{lun}/journal/a-fifo.jsonl")
    os.mkdir(f"{lun}/journal/a-directory.jsonl")
    os.symlink("/etc/passwd", f"{lun}/journal/a-link.jsonl")
    Path(lun, "journal", "d1.jsonl").write_bytes(
        b'\xff\xfe\n[1]\n{"action": "whole"}\n{"action": "cut sh'
    )

    assert actions(directory) == ["whole", "TEST"]
    os.rename(f"{lun}/journal", f"{lun}/gone")
    assert actions(directory) == []


def test_refused_and_futile_commands_are_noted_and_no_others(lun: str) -> None:
    """Conflicts and refusals; what was committed is in the audit trail, reads are nowhere."""
    with LogicalUnit.open(lun) as unit:
        register(unit, A, 1)
        unit.execute(A, out_cdb(RESERVE, type_=1), basic_list(1))
        unit.execute(A, in_cdb(0))
        unit.execute(A, TEST_UNIT_READY)
        assert list(unit.refusals()) == []

        conflict = unit.execute(B, out_cdb(RESERVE, type_=1), basic_list(2))
        unit.execute(A, out_cdb(9), basic_list(1))
        unit.execute(A, out_cdb(RESERVE, type_=1), basic_list(1))

        assert conflict.status == Status.RESERVATION_CONFLICT
        noted = [(line["initiator"], line["status"], line["key"]) for line in unit.refusals()]
        assert [line[1] for line in noted] == [0x18, 0x02, 0x00]
        assert noted[0] == (B.initiator_port.text, 0x18, f"0x{2:016x}")
        assert [record.applied.action for record in unit.history()] == [
            "CREATE",
            "REGISTER",
            "RESERVE",
        ]


def test_lines_are_json_of_the_documented_form(make: Make, lun: str) -> None:
    """One object a line, ASCII."""
    make().note(attrs.evolve(LINE, nexus="é\n"))

    data = Path(lun, "journal", "d1.jsonl").read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == 1
    assert json.loads(data)["initiator"] == "é\n"
