"""Commands that hang in a device: nobody else waits, and nobody can use up the threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from flockpr.logical_unit import Result
from flockpr.manager import PRManager, create_manager, passing, remove_manager
from flockpr.manager.passing import PassingManager, name_of
from flockpr.spc.codes import Status
from flockpr.spc.transport_id import InitiatorPort
from tests.support.helper import DEADLINE, PORT, eventually, sense_code
from tests.support.open_files import count_open
from tests.support.scsi import REGISTER, in_cdb, out_cdb

OTHER = InitiatorPort("iqn.2026-11.org.flockpr:other")
GOOD = Result(Status.GOOD)
BUSY = Result(Status.BUSY)
READ, WRITE = in_cdb(0), out_cdb(REGISTER)
HANGING, WELL = "/dev/null", "/dev/zero"


class Slow(PassingManager):
    """A manager of which one device hangs, as one without paths does."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.release = threading.Event()
        self.hanging = threading.Semaphore(0)

    def perform(self, fd: int, cdb: bytes, data_out: bytes) -> Result:
        """Hang, or not."""
        if os.fstat(fd).st_rdev == os.stat(HANGING).st_rdev:
            self.hanging.release()
            assert self.release.wait(DEADLINE)
        return GOOD


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Such a manager; nothing hangs any more at the end."""
    manager = Slow()
    yield manager
    manager.release.set()
    eventually(
        lambda: not any(thread.name == "pass" for thread in threading.enumerate()), "the end"
    )
    manager.close()


def send(manager: PRManager, path: str, cdb: bytes = READ) -> Future[Result]:
    """Send a command for a device; the descriptor is closed at once."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return manager.execute(descriptor, cdb, bytes(24) if cdb == WRITE else b"")
    finally:
        os.close(descriptor)


def hang(slow: Slow, manager: PRManager) -> Future[Result]:
    """Send a command that hangs, and wait until it does."""
    future = send(manager, HANGING, WRITE)
    assert slow.hanging.acquire(timeout=DEADLINE)
    return future


def test_disk_of_the_same_connection_is_served_while_another_one_hangs(slow: Slow) -> None:
    """QEMU has one connection for all disks of a guest."""
    with slow.acting_for(PORT) as guest:
        hung = hang(slow, guest)
        assert send(guest, WELL).result(DEADLINE) == GOOD
        assert not hung.done()
        slow.release.set()
        assert hung.result(DEADLINE) == GOOD


def test_command_behind_one_that_hangs_is_busy(slow: Slow) -> None:
    """The first was given up by the door: another thread for each try would be no bound."""
    with slow.acting_for(PORT) as guest, slow.acting_for(PORT) as again:
        hung = hang(slow, guest)
        assert send(guest, HANGING).result(DEADLINE) == BUSY
        hang(slow, again)
        slow.release.set()
        assert hung.result(DEADLINE) == GOOD
        assert send(guest, HANGING).result(DEADLINE) == GOOD


def test_client_that_connects_again_and_again_gets_no_more_than_its_share(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client is served all the same."""
    monkeypatch.setattr(passing, "PORT_COMMANDS", 3)
    for _ in range(3):
        with slow.acting_for(PORT) as guest:
            hang(slow, guest)
    with slow.acting_for(PORT) as guest, slow.acting_for(OTHER) as other:
        assert send(guest, WELL).result(DEADLINE) == BUSY
        assert send(other, WELL).result(DEADLINE) == GOOD
        hang(slow, other)


def test_device_that_hangs_gets_no_more_than_its_share(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many guests ask it; other devices are served."""
    monkeypatch.setattr(passing, "DEVICE_COMMANDS", 2)
    monkeypatch.setattr(passing, "MAX_COMMANDS", 3)
    for name in ("a", "b"):
        with slow.acting_for(InitiatorPort(f"iqn.2026-11.org.flockpr:{name}")) as guest:
            hang(slow, guest)
    with slow.acting_for(PORT) as guest:
        assert send(guest, HANGING).result(DEADLINE) == BUSY
        assert send(guest, WELL).result(DEADLINE) == GOOD


def test_total_is_bounded(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are memory of this process."""
    monkeypatch.setattr(passing, "MAX_COMMANDS", 1)
    with slow.acting_for(PORT) as guest, slow.acting_for(OTHER) as other:
        hang(slow, guest)
        assert send(other, WELL).result(DEADLINE) == BUSY
        slow.release.set()
        eventually(lambda: send(other, WELL).result(DEADLINE) == GOOD, "a free thread")


def test_descriptor_is_closed_before_the_answer(slow: Slow) -> None:
    """The last one of a device that was removed keeps its name from being used again."""
    with slow.acting_for(PORT) as guest:
        before = count_open(WELL)
        assert send(guest, WELL).result(DEADLINE) == GOOD
        assert count_open(WELL) == before


def test_command_of_no_door_is_refused() -> None:
    """Only PERSISTENT RESERVE is passed on, and PR OUT only with a descriptor to write."""
    manager = create_manager("sgio", "ours")
    try:
        with open(WELL, "rb") as device:
            for cdb in (b"\x12" + bytes(5), bytes(10), b"", b"\x5e", WRITE):
                result = manager.run(device.fileno(), cdb)
                assert (result.status, sense_code(result.sense)) == (2, (5, 0x20, 0)), cdb
            # A character device that knows no SG_IO: ENOTTY.
            result = manager.run(device.fileno(), READ)
            assert (result.status, sense_code(result.sense)) == (2, (0x0B, 0, 6))
        assert manager.where == "zero"
    finally:
        remove_manager("ours")


def test_device_without_a_name_is_told_by_its_number(tmp_path: os.PathLike[str]) -> None:
    """In a mount namespace without sysfs, say."""
    assert name_of(os.stat(WELL), os.fspath(tmp_path)) == "1:5"
