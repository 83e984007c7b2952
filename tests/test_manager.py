"""PRManager: the registry of managers, and the one that answers from lock directories."""

from __future__ import annotations

import errno
import gc
import os
import pathlib
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NoReturn

import pytest

from flockpr.errors import Busy, ConfigError, LunNotFound, StateUnreadable, UnknownManager
from flockpr.logical_unit import Result
from flockpr.manager import (
    FileLockManager,
    PRManager,
    create_manager,
    lookup_manager,
    register_kind,
    remove_manager,
)
from flockpr.manager import file_lock as file_lock_module
from flockpr.manager.attendance import Attendance
from flockpr.manager.base import in_thread, settle
from flockpr.manager.device import Device
from flockpr.spc.codes import Status
from flockpr.spc.transport_id import InitiatorPort
from flockpr.store.provision import create_lun
from tests.support.helper import DEADLINE, PORT, MemoryUnits, eventually, sense_code
from tests.support.open_files import count_open
from tests.support.scsi import REGISTER, basic_list, in_cdb, out_cdb

OTHER = InitiatorPort("iqn.2026-11.org.flockpr:other")
REGISTER_KEY = (out_cdb(REGISTER), basic_list(0, 0xABC))


@pytest.fixture
def units() -> MemoryUnits:
    """Units in memory."""
    return MemoryUnits()


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[int]:
    """A descriptor open for reading and writing."""
    descriptor = os.open(tmp_path / "disk.img", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


class Echo(PRManager):
    """A manager that blocks in `run`, as a pass-through one would."""

    kind = "echo"

    def __init__(self, id: str, *, word: str = "") -> None:  # noqa: A002
        super().__init__(id)
        self.word = word
        self.release = threading.Event()

    def run(self, fd: int, cdb: bytes, data_out: bytes = b"") -> Result:
        """Say what came."""
        self.release.wait(DEADLINE)
        return Result(Status.GOOD, b"", bytes((os.fstat(fd).st_ino % 256,)) + cdb + data_out)


# The registry.


def test_manager_is_created_by_kind_and_looked_up_by_id() -> None:
    """Options go to the kind."""
    register_kind("echo", Echo)
    manager = create_manager("echo", "pr-1", word="hello")
    assert isinstance(manager, Echo)
    assert manager.word == "hello"
    assert lookup_manager("pr-1") is manager
    with pytest.raises(ConfigError, match="pr-1"):
        create_manager("echo", "pr-1")
    remove_manager("pr-1")
    with pytest.raises(UnknownManager, match="pr-1"):
        lookup_manager("pr-1")
    with pytest.raises(UnknownManager, match="pr-1"):
        remove_manager("pr-1")


def test_manager_of_an_unknown_kind_is_an_error_that_names_it() -> None:
    """And the nearest known one."""
    with pytest.raises(UnknownManager, match=r"'file-lok'.*'file-lock'"):
        create_manager("file-lok", "pr-2")


def test_manager_with_a_wrong_option_is_a_configuration_error() -> None:
    """Whatever the kind."""
    register_kind("echo", Echo)
    with pytest.raises(ConfigError, match="pr-3"):
        create_manager("echo", "pr-3", wrong=1)
    with pytest.raises(ConfigError, match="needs a root"):
        create_manager("file-lock", "pr-3")
    with pytest.raises(ConfigError, match="initiator"):
        create_manager("file-lock", "pr-3", root="/nonexistent", initiator="a b")


# What every manager does.


def test_execute_of_any_manager_runs_in_a_thread_with_its_own_descriptor(disk: int) -> None:
    """The caller may close the descriptor at once."""
    manager = Echo("echo")
    path = os.readlink(f"/proc/self/fd/{disk}")
    descriptor = os.open(path, os.O_RDONLY)
    future = manager.execute(descriptor, b"\x5e", b"data")
    os.close(descriptor)
    assert not future.done()
    manager.release.set()
    assert future.result(DEADLINE).data_in == bytes((os.fstat(disk).st_ino % 256,)) + b"\x5edata"
    eventually(lambda: count_open(path) == 1, "the duplicate stayed open")
    manager.close()


def test_execute_that_is_cancelled_closes_its_descriptor(disk: int) -> None:
    """Also when it never got a thread."""
    manager = Echo("echo")
    path = os.readlink(f"/proc/self/fd/{disk}")
    futures = [manager.execute(disk, b"\x5e") for _ in range(40)]
    assert sum(future.cancel() for future in futures) > 0
    manager.release.set()
    eventually(lambda: count_open(path) == 1, "duplicates stayed open")
    manager.close()


def test_execute_on_a_bad_descriptor_is_an_error(units: MemoryUnits) -> None:
    """Misuse is an exception, a refusal is a result."""
    manager = FileLockManager("m", units=units, initiator=PORT)
    for wrong in (Echo("echo"), manager):
        with pytest.raises(OSError, match="Bad file descriptor"):
            wrong.execute(1 << 20, b"\x5e")


def test_settle_says_busy_for_what_never_began() -> None:
    """A command that is cancelled in time has done nothing."""
    future: Future[Result] = Future()
    assert settle(future, b"\x5f", 0.01).status == Status.BUSY
    assert future.cancelled()
    assert settle(future, b"\x5f", 0.01).status == Status.BUSY


@pytest.mark.parametrize(
    ("cdb", "status"), [(b"\x5e", Status.BUSY), (b"\x5f", Status.CHECK_CONDITION)]
)
def test_settle_says_outcome_unknown_for_what_may_have_an_effect(
    cdb: bytes, status: Status
) -> None:
    """BUSY means that nothing was done; reading does nothing."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()
    result = settle(future, cdb, 0.01)
    assert result.status == status
    if status == Status.CHECK_CONDITION:
        assert sense_code(result.sense) == (0x0B, 0x08, 0x01)


def test_settle_raises_what_the_command_raised() -> None:
    """Also a TimeoutError of its own."""
    future = in_thread(lambda: int("x"), "test")
    with pytest.raises(ValueError, match="invalid literal"):
        settle(future, b"", DEADLINE)  # type: ignore[arg-type]
    own: Future[Result] = Future()
    own.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        settle(own, b"\x5f", DEADLINE)


# The file-lock manager.


def test_file_lock_run_executes_for_its_own_port(units: MemoryUnits, disk: int) -> None:
    """The library user's way: every attention, four bytes of length, door `api`."""
    manager = FileLockManager("m", units=units, initiator=PORT.text, lun="disk")
    assert manager.where == "-"
    assert manager.run(disk, *REGISTER_KEY) == Result(Status.GOOD)
    assert manager.run(disk, in_cdb(0)).data_in[8:] == (0xABC).to_bytes(8, "big")
    assert manager.where == "disk"
    call = units.calls[0]
    assert (call.lun, call.nexus.initiator_port, call.nexus.target_port) == ("disk", PORT, 1)
    assert (call.door, call.report_attentions, call.long_parameter_length) == ("api", True, True)
    assert units.presence == [(True, "disk", call.nexus, "api")]
    manager.close()
    assert units.presence[1:] == [(False, "disk", call.nexus, "api")]


def test_file_lock_options_reach_the_units(units: MemoryUnits, disk: int) -> None:
    """What a door sets for all of its commands."""
    manager = FileLockManager(
        "m",
        units=units,
        initiator=PORT,
        lun="disk",
        target_port=7,
        door="helper",
        report_attentions=False,
        long_parameter_length=False,
    )
    manager.run(disk, in_cdb(0))
    call = units.calls[0]
    assert (call.nexus.target_port, call.door) == (7, "helper")
    assert (call.report_attentions, call.long_parameter_length) == (False, False)


def test_file_lock_without_a_port_of_its_own_only_acts_for_others(
    units: MemoryUnits, disk: int
) -> None:
    """A door's manager."""
    manager = FileLockManager("m", units=units, lun="disk")
    with pytest.raises(ConfigError, match="no initiator port"):
        manager.run(disk, in_cdb(0))
    with manager.acting_for(PORT) as one, manager.acting_for(OTHER) as other:
        one.run(disk, *REGISTER_KEY)
        assert other.run(disk, out_cdb(1, type_=5), basic_list(0xABC)).status == 0x18
    assert [call.nexus.initiator_port for call in units.calls] == [PORT, OTHER]
    assert [arrived for arrived, *_ in units.presence] == [True, True, False, False]
    manager.close()


def test_file_lock_out_needs_a_descriptor_open_for_writing(units: MemoryUnits, disk: int) -> None:
    """05/20/00 before anything is looked up; IN is served."""
    manager = FileLockManager("m", units=units, initiator=PORT, lun="disk")
    reading = os.open(os.readlink(f"/proc/self/fd/{disk}"), os.O_RDONLY)
    result = manager.run(reading, *REGISTER_KEY)
    assert sense_code(result.sense) == (5, 0x20, 0)
    assert manager.run(reading, in_cdb(0)).status == Status.GOOD
    assert len(units.calls) == 1
    os.close(reading)


def test_file_lock_finds_the_unit_by_device_for_each_command(
    units: MemoryUnits, disk: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What is behind a descriptor changes; nothing is remembered."""
    wwids: list[str] = ["naa.1"]
    manager = FileLockManager(
        "m",
        units=units,
        initiator=PORT,
        wwids={"mapped": ["NAA.9"]},
        identify=lambda _: Device("block", tuple(wwids)),
    )
    assert sense_code(manager.run(disk, in_cdb(0)).sense) == (5, 0x25, 0)
    assert sense_code(manager.run(disk, in_cdb(0)).sense) == (5, 0x25, 0)
    assert caplog.text.count("no logical unit for a block descriptor: naa.1") == 1
    units.names["naa.1"] = "one"
    assert manager.run(disk, in_cdb(0)).status == Status.GOOD
    wwids[:] = ["naa.2", "naa.9"]
    units.names["naa.2"] = "two"
    assert manager.run(disk, in_cdb(0)).status == Status.GOOD
    wwids.clear()
    assert sense_code(manager.run(disk, in_cdb(0)).sense) == (5, 0x25, 0)
    # The administrator's map of this host comes before lun.json.
    assert [call.lun for call in units.calls] == ["one", "mapped"]
    manager.close()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Busy("listing takes too long", "/root"), (Status.BUSY, None)),
        (LunNotFound("gone", "/root"), (Status.CHECK_CONDITION, (5, 0x25, 0))),
        (StateUnreadable("junk", "/root"), (Status.CHECK_CONDITION, (7, 0x44, 1))),
        (OSError(5, "Input/output error"), (Status.CHECK_CONDITION, (2, 0x04, 1))),
    ],
)
def test_file_lock_root_that_fails_is_a_refusal(
    units: MemoryUnits,
    disk: int,
    failure: Exception,
    expected: tuple[Status, tuple[int, int, int] | None],
) -> None:
    """While the unit is looked up."""
    manager = FileLockManager(
        "m", units=units, initiator=PORT, identify=lambda _: Device("block", ("naa.1",))
    )
    units.failure = failure
    result = manager.run(disk, *REGISTER_KEY)
    found = sense_code(result.sense) if result.sense else None
    assert (result.status, found) == expected


def test_file_lock_with_a_full_table_of_open_files_is_busy(
    units: MemoryUnits, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE is this process's trouble: neither "no such unit" nor a hardware error."""

    def fail(_: int) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    manager = FileLockManager("m", units=units, initiator=PORT, identify=fail)
    assert manager.run(disk, *REGISTER_KEY).status == Status.BUSY
    monkeypatch.setattr(file_lock_module, "duplicate", fail)
    assert manager.run(disk, *REGISTER_KEY).status == Status.BUSY


def test_file_lock_unexpected_error_reaches_the_caller(units: MemoryUnits, disk: int) -> None:
    """The door turns it into 04/44/00."""
    units.failure = RuntimeError("broken on purpose")
    for lun in ("disk", None):
        manager = FileLockManager(
            "m", units=units, initiator=PORT, lun=lun, identify=lambda _: Device("block", ("n",))
        )
        with pytest.raises(RuntimeError, match="on purpose"):
            manager.run(disk, in_cdb(0))


def test_file_lock_look_up_that_hangs_is_busy_and_never_executed(
    units: MemoryUnits, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a hung server: answered in bounded time, and not done behind the client's back."""
    monkeypatch.setattr(file_lock_module, "GRACE", 0.05)
    path = os.readlink(f"/proc/self/fd/{disk}")
    release = threading.Event()

    def identify(_: int) -> Device:
        release.wait(DEADLINE)
        return Device("file", images=("/disk.img",))

    units.names["/disk.img"] = "disk"
    manager = FileLockManager("m", units=units, initiator=PORT, timeout=0.05, identify=identify)
    assert manager.run(disk, *REGISTER_KEY).status == Status.BUSY
    release.set()
    eventually(lambda: count_open(path) == 1, "the duplicate stayed open")
    assert units.calls == []
    assert manager.run(disk, *REGISTER_KEY).status in (Status.GOOD, Status.BUSY)


def test_file_lock_look_ups_are_bounded(
    units: MemoryUnits, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that hangs keeps a thread and a descriptor."""
    monkeypatch.setattr(file_lock_module, "MAX_LOOKUPS", 3)
    release = threading.Event()

    def identify(_: int) -> Device:
        release.wait(DEADLINE)
        return Device("block", ("naa.1",))

    units.names["naa.1"] = "disk"
    manager = FileLockManager("m", units=units, initiator=PORT, identify=identify)
    waiting = [manager.execute(disk, in_cdb(0)) for _ in range(3)]
    assert manager.execute(disk, in_cdb(0)).result(0).status == Status.BUSY
    release.set()
    assert all(future.result(DEADLINE).status == Status.GOOD for future in waiting)
    eventually(
        lambda: manager.execute(disk, in_cdb(0)).result(DEADLINE).status == Status.GOOD,
        "the slots stayed taken",
    )


def test_file_lock_connection_with_a_look_up_that_hangs_gets_no_second(
    units: MemoryUnits, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client cannot use up the others' look-ups, neither by retrying nor by connecting anew."""
    monkeypatch.setattr(file_lock_module, "PORT_LOOKUPS", 2)
    release = threading.Event()

    def identify(_: int) -> Device:
        release.wait(DEADLINE)
        return Device("block", ("naa.1",))

    units.names["naa.1"] = "disk"
    manager = FileLockManager("m", units=units, identify=identify)
    with (
        manager.acting_for(PORT) as first,
        manager.acting_for(PORT) as second,
        manager.acting_for(PORT) as third,
        manager.acting_for(OTHER) as other,
    ):
        hanging = [first.execute(disk, in_cdb(0))]
        assert first.execute(disk, in_cdb(0)).result(0).status == Status.BUSY
        hanging.append(second.execute(disk, in_cdb(0)))
        assert third.execute(disk, in_cdb(0)).result(0).status == Status.BUSY
        hanging.append(other.execute(disk, in_cdb(0)))
        release.set()
        assert all(future.result(DEADLINE).status == Status.GOOD for future in hanging)
        # The share is free before the answer is there: no command in turn is BUSY.
        for _ in range(200):
            assert first.execute(disk, in_cdb(0)).result(DEADLINE).status == Status.GOOD


def test_file_lock_seat_that_is_closed_submits_no_more(units: MemoryUnits, disk: int) -> None:
    """A look-up that ends after its connection must not attend for ever."""
    release = threading.Event()

    def identify(_: int) -> Device:
        release.wait(DEADLINE)
        return Device("block", ("naa.1",))

    units.names["naa.1"] = "disk"
    manager = FileLockManager("m", units=units, identify=identify)
    with manager.acting_for(PORT) as seat:
        future = seat.execute(disk, *REGISTER_KEY)
    release.set()
    assert future.result(DEADLINE).status == Status.BUSY
    assert units.calls == []
    assert units.presence == []


def test_attendance_is_shared_by_all_managers_of_the_units(units: MemoryUnits, disk: int) -> None:
    """Two sockets of one daemon may serve one machine."""
    managers = [FileLockManager(name, units=units, lun="disk") for name in ("a", "b")]
    with managers[0].acting_for(PORT) as first:
        first.run(disk, in_cdb(0))
        with managers[1].acting_for(PORT) as second:
            second.run(disk, in_cdb(0))
        assert len(units.presence) == 1
    assert [arrived for arrived, *_ in units.presence] == [True, False]


def test_attendance_that_fails_stops_no_command(
    units: MemoryUnits, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown to people, it decides nothing."""

    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(units, "attend", fail)
    monkeypatch.setattr(units, "leave", fail)
    with FileLockManager("m", units=units, lun="disk").acting_for(PORT) as seat:
        assert seat.run(disk, in_cdb(0)).status == Status.GOOD


def test_attendance_keeps_no_units_alive() -> None:
    """The shared table is weak."""
    units = MemoryUnits()
    gone = weakref.ref(units)
    attendance = Attendance.of(units)
    assert Attendance.of(units) is attendance
    del units
    gc.collect()
    assert gone() is None


def test_file_lock_on_a_real_root(tmp_path: pathlib.Path) -> None:
    """By the image's path: create_manager, lookup_manager, run, and it is on disk."""
    root = tmp_path / "root"
    root.mkdir()
    image = root / "disk.img"
    image.touch()
    create_lun(str(root), "disk", image="disk.img")
    manager = create_manager("file-lock", "real", root=str(root), initiator=PORT.text)
    descriptor = os.open(image, os.O_RDWR)
    stranger = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        assert lookup_manager("real").run(descriptor, *REGISTER_KEY).status == Status.GOOD
        assert manager.execute(descriptor, in_cdb(0)).result(DEADLINE).data_in[8:] == bytes(
            (*bytes(6), 0x0A, 0xBC)
        )
        assert manager.where == "disk"
        assert sense_code(manager.run(stranger, in_cdb(0)).sense) == (5, 0x25, 0)
    finally:
        remove_manager("real")
        os.close(descriptor)
        os.close(stranger)
    again = FileLockManager("again", root=str(root), initiator=OTHER)
    with image.open("rb") as reading:
        assert len(again.run(reading.fileno(), in_cdb(0)).data_in) == 16
    again.close()
