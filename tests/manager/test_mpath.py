"""Maps of multipath, with a program in the place of mpathpersist; with the real one in tests/vm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flockpr.logical_unit import Result
from flockpr.manager import mpath
from flockpr.manager.mpath import MpathManager, is_map
from flockpr.manager.mpath_release import paths_of, release
from flockpr.spc import sense as senses
from flockpr.spc.codes import OutAction, Status
from flockpr.spc.sense import Sense
from tests.support.helper import sense_code
from tests.support.scsi import basic_list, in_cdb, out_cdb

NO_PATH, IO_ERROR = (0x0B, 0x08, 0x00), (0x0B, 0x00, 0x06)
INVALID_CDB, INVALID_LIST = (5, 0x24, 0), (5, 0x26, 0)

_PAD = " " * 20
KEYS = f"""\
30.258989 |         00 00 00 02 00 00 00 18  00 00 00 00 00 00 00 a1{_PAD}
30.258990 |         00 00 00 00 00 00 00 b2  00 00 00 00 00 00 00 c3{_PAD}
  PR generation=0x2, \t3 registered reservation keys follow:
    0xa1
    0xb2
    0xc3
"""
HELD = """\
        00 00 00 02 00 00 00 10  00 00 00 00 00 00 00 a1
        00 00 00 00 00 05 00 00
  PR generation=0x2, Reservation follows:
"""
FREE = (
    "31.1 |         00 00 00 09 00 00 00 00\n  PR generation=0x9, there is NO reservation held \n"
)
CAPABILITIES = "31.787824 |         00 08 1d 90 ea 01 00 00\nReport capabilities response:\n"


class Program:
    """Stands for mpathpersist.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mpathpersist"
        self.path.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {folder}/words\n'
            f"/usr/bin/env >> {folder}/environment\n"
            f'case "$*" in *--in*) /bin/cat {folder}/response;; *) /bin/cat {folder}/told;; esac\n'
            f". {folder}/end\n"
        )
        self.path.chmod(0o755)
        self.answers()

    def answers(self, response: str = "", *, told: str = "", end: str = "exit 0") -> None:
        """What it says to PERSISTENT RESERVE IN and to OUT, and how it ends."""
        for name, text in (("response", response), ("told", told), ("end", end)):
            (self.folder / name).write_text(text + "\n")

    @property
    def words(self) -> list[str]:
        """How it was called, without the device."""
        lines = (self.folder / "words").read_text().splitlines()
        assert all(line.rpartition(" ")[2].startswith("/proc/self/fd/") for line in lines)
        return [line.rpartition(" ")[0] for line in lines]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """That program, and every device is a map."""
    monkeypatch.setattr(mpath, "_PLACES", str(tmp_path))
    monkeypatch.setattr(mpath, "is_map", lambda found: True)
    return Program(tmp_path)


def perform(cdb: bytes, data_out: bytes = b"") -> Result:
    """What the manager makes of a command."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    try:
        return MpathManager("maps").perform(descriptor, cdb, data_out)
    finally:
        os.close(descriptor)


def change(action: int, key: int = 0, other: int = 0, kind: int = 0, flags: int = 0) -> Result:
    """The same of PERSISTENT RESERVE OUT."""
    data = bytearray(basic_list(key, other))
    data[20] = flags
    return perform(out_cdb(action, type_=kind), bytes(data))


@pytest.mark.parametrize(
    ("action", "response", "expected"),
    [
        (0, KEYS, "00000002 00000018 00000000000000a1 00000000000000b2 00000000000000c3"),
        (1, HELD, "00000002 00000010 00000000000000a1 00000000 0005 0000"),
        (1, FREE, "00000009 00000000"),
        (2, CAPABILITIES, "00081d90ea010000"),
    ],
)
def test_response_is_that_of_the_device(
    program: Program, action: int, response: str, expected: str
) -> None:
    """Byte for byte, from what is printed in hexadecimal; cut to the allocation length."""
    program.answers(response)
    whole = bytes.fromhex(expected)
    assert perform(in_cdb(action)) == Result(Status.GOOD, data_in=whole)
    assert perform(in_cdb(action, 8)).data_in == whole[:8]
    option = ("read-keys", "read-reservation", "report-capabilities")[action]
    assert program.words == [f"--in --{option} --hex"] * 2


@pytest.mark.parametrize(
    "response",
    ["", "nothing", "00 00 00 02 00 00 00", KEYS.replace("18  00", "20  00"), KEYS.split("|")[1]],
)
def test_what_is_no_response_is_not_believed(program: Program, response: str) -> None:
    """Keys that are left out would look as if nobody had them."""
    program.answers(response)
    assert sense_code(perform(in_cdb(0)).sense) == IO_ERROR


def test_change_is_said_in_words(program: Program) -> None:
    """Each service action, with what it uses."""
    program.answers(FREE)
    for action in (0, 3, 4, 5, 6):
        assert change(action, 0xA1, 0xB2, 5) == Result(Status.GOOD)
    assert change(OutAction.RESERVE, 0xA1, 0xB2, 8) == Result(Status.GOOD)
    assert change(OutAction.REGISTER, 0, 0xA1, flags=5) == Result(Status.GOOD)
    assert program.words == [
        "--out --register --param-rk=a1 --param-sark=b2 --prout-type=5",
        "--out --clear --param-rk=a1 --prout-type=5",
        "--out --preempt --param-rk=a1 --param-sark=b2 --prout-type=5",
        "--out --preempt-abort --param-rk=a1 --param-sark=b2 --prout-type=5",
        "--out --register-ignore --param-sark=b2 --prout-type=5",
        "--out --reserve --param-rk=a1 --prout-type=8",
        "--out --register --param-rk=0 --param-sark=a1 --param-aptpl --param-alltgpt",
    ]
    environment = (program.folder / "environment").read_text()
    assert "LC_ALL=C" in environment
    assert "HOME=" not in environment


def test_what_cannot_be_said_is_refused_without_the_program(program: Program) -> None:
    """As the real helper does."""
    refusals = [
        (perform(in_cdb(3)), INVALID_CDB),
        (perform(in_cdb(9)), INVALID_CDB),
        (change(OutAction.REGISTER_AND_MOVE, 1, 2), INVALID_CDB),
        (change(0x1F, 1, 2), INVALID_CDB),
        (change(OutAction.RESERVE, 1, 0, 2), INVALID_CDB),
        (change(OutAction.REGISTER, 0, 1, flags=8), INVALID_LIST),
        (perform(out_cdb(0, 23), bytes(23)), (5, 0x1A, 0)),
    ]
    assert [sense_code(result.sense) for result, _ in refusals] == [code for _, code in refusals]
    assert not (program.folder / "words").exists()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (1, NO_PATH),
        (2, (2, 0x04, 0)),
        (3, (3, 0x11, 0)),
        (4, (4, 0x44, 0)),
        (5, INVALID_CDB),
        (6, (6, 0x29, 2)),
        (7, (5, 0x20, 0)),
        (8, IO_ERROR),
        (9, NO_PATH),
        (13, NO_PATH),
        (15, NO_PATH),
        (99, NO_PATH),
    ],
)
def test_failure_of_the_program_is_no_success(
    program: Program, caplog: pytest.LogCaptureFixture, status: int, expected: tuple[int, int, int]
) -> None:
    """Whatever it says; the reason is in the log."""
    program.answers(KEYS, told="56.3 | map: no path available", end=f"exit {status}")
    for result in (perform(in_cdb(0)), change(OutAction.CLEAR, 1)):
        assert (result.status, sense_code(result.sense)) == (Status.CHECK_CONDITION, expected)
    assert "no path available" in caplog.text


def test_conflict_is_one(program: Program) -> None:
    """Also where the program itself knows that the key is not the one that is registered."""
    program.answers(end="exit 11")
    assert change(OutAction.RESERVE, 1, 0, 5) == Result(Status.RESERVATION_CONFLICT)
    told = "34.05 | map: configured reservation key doesn't match: 0xa1\nUsage: ..."
    program.answers(told=told, end="exit 1")
    assert change(OutAction.RESERVE, 1, 0, 5) == Result(Status.RESERVATION_CONFLICT)


class Paths:
    """Stands for the paths of a map: what each says, in turn, to RELEASE; and the reservation.

    Args:
        folder: Where their device files are.
        answers: By name of the path.
        held: Key and type of the reservation afterwards.
    """

    def __init__(
        self, folder: Path, answers: dict[str, list[Result]], held: tuple[int, int] | None
    ) -> None:
        self.folder = folder
        self.answers = answers
        self.held = held
        for name in answers:
            (folder / name).touch()

    def release(self, *lost: str) -> Result:
        """What comes of a RELEASE with key A1h and type 5; these paths cannot be opened."""
        paths = [str(self.folder / name) for name in (*self.answers, *lost)]
        return release(paths, out_cdb(2, type_=5), basic_list(0xA1), self.perform)

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """The answer of one path."""
        if cdb[0] == 0x5F:
            return self.answers[os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))].pop(0)
        data = bytes((0, 0, 0, 1, 0, 0, 0, 0))
        if self.held is not None:
            key, kind = self.held
            data = bytes((0, 0, 0, 1, 0, 0, 0, 16)) + key.to_bytes(8) + bytes((0,) * 5)
            data += bytes((kind, 0, 0))
        return Result(Status.GOOD, data_in=data)


GOOD = Result(Status.GOOD)
CONFLICT = Result(Status.RESERVATION_CONFLICT)
ATTENTION, LOST = Result.check(Sense(6, 0x2A, 4)), Result.check(Sense(0x0B, 0x05, 0))
WRONG_TYPE = Result.check(senses.INVALID_RELEASE)


@pytest.mark.parametrize(
    ("answers", "held", "lost", "expected"),
    [
        ([[GOOD], [GOOD]], None, (), GOOD),
        ([[ATTENTION, GOOD], [ATTENTION, ATTENTION, GOOD]], None, (), GOOD),
        ([[GOOD], [WRONG_TYPE]], (0xA1, 1), (), WRONG_TYPE),
        ([[CONFLICT], [CONFLICT]], (0xA1, 5), (), CONFLICT),
        ([[GOOD], [GOOD]], (0xC3, 5), (), GOOD),  # another host's
        ([[GOOD], [CONFLICT]], None, (), GOOD),  # a path that is not registered yet
        ([[GOOD], [GOOD]], (0xA1, 5), (), GOOD),  # another host's, with the same key
        ([[GOOD]], (0xA1, 5), ("gone",), Result.check(senses.COMMUNICATION_FAILURE)),
        ([[GOOD], [LOST]], (0xA1, 5), (), Result.check(senses.COMMUNICATION_FAILURE)),
        ([[GOOD], [LOST]], (0, 7), (), Result.check(senses.COMMUNICATION_FAILURE)),
        ([[GOOD], [LOST]], None, (), GOOD),
        ([[LOST], [LOST]], None, (), Result.check(senses.COMMUNICATION_FAILURE)),
        ([], None, ("gone",), Result.check(senses.COMMUNICATION_FAILURE)),
        ([[ATTENTION] * 3], None, (), ATTENTION),
    ],
)
def test_release_goes_by_each_path(
    tmp_path: Path,
    answers: list[list[Result]],
    held: tuple[int, int] | None,
    lost: tuple[str, ...],
    expected: Result,
) -> None:
    """Whichever holds it; and what is still held by a path that is lost was not released."""
    paths = Paths(
        tmp_path, {f"path{number}": list(one) for number, one in enumerate(answers)}, held
    )
    assert paths.release(*lost) == expected


def test_release_is_not_for_the_program(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the registrations of other hosts away."""
    asked: list[list[str]] = []

    def taken(paths: list[str], cdb: bytes, data_out: bytes, perform: object) -> Result:
        asked.append(paths)
        return GOOD

    monkeypatch.setattr(mpath, "release", taken)
    monkeypatch.setattr(mpath, "paths_of", lambda found: ["/dev/sda", "/dev/sdb"])
    assert change(OutAction.RELEASE, 0xA1, 0, 5) == GOOD
    assert asked == [["/dev/sda", "/dev/sdb"]]
    assert not (program.folder / "words").exists()


def test_paths_are_what_the_kernel_lists(tmp_path: Path) -> None:
    """Below the map."""
    (tmp_path / "dev/block/254:3/slaves/sdb").mkdir(parents=True)
    (tmp_path / "dev/block/254:3/slaves/sda").mkdir()
    found = os.stat_result((0o060600,) + (0,) * 9, {"st_rdev": os.makedev(254, 3)})
    assert paths_of(found, sysfs=str(tmp_path)) == ["/dev/sda", "/dev/sdb"]
    assert paths_of(os.stat(tmp_path), sysfs=str(tmp_path)) == []


def test_program_that_hangs_is_ended(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has changed something is not known."""
    monkeypatch.setattr(mpath, "TIMEOUT", 0.1)
    program.answers(end="exec /bin/sleep 600")
    assert sense_code(change(OutAction.CLEAR, 1).sense) == (0x0B, 0x08, 1)
    assert sense_code(perform(in_cdb(0)).sense) == NO_PATH


def test_program_that_is_not_there_is_told(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """With what to install."""
    program.path.unlink()
    assert sense_code(perform(in_cdb(0)).sense) == NO_PATH
    assert "install multipath-tools" in caplog.text


def test_device_that_is_no_map_is_sent_the_command(tmp_path: Path) -> None:
    """As sgio does it; what a map is is told by its name in sysfs."""
    assert sense_code(perform(in_cdb(0)).sense) == IO_ERROR  # SG_IO, to a device that is none
    file = tmp_path / "dev/block/254:3/dm/uuid"
    file.parent.mkdir(parents=True)
    number = {"st_rdev": os.makedev(254, 3)}
    found = os.stat_result((0o060600, 0, 0, 1, 0, 0, 0, 0, 0, 0), number)
    assert not is_map(found, str(tmp_path))
    for uuid, expected in (("LVM-abc", False), ("mpath-3600", True), ("\udcff", False)):
        file.write_text(uuid, errors="surrogateescape")
        assert is_map(found, str(tmp_path)) is expected
    assert not is_map(os.stat(tmp_path), str(tmp_path))
