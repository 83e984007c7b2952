"""The copy of the state: young, dropped when it must be, never replaced by an older one."""

from __future__ import annotations

import pathlib
import threading
import time
from concurrent.futures import Future

import attrs
import pytest

from flockpr.block.served import Refresher, Served
from flockpr.core.model import LogicalUnitState
from flockpr.errors import Busy, StoreUnavailable
from flockpr.logical_unit import Result, ServedState
from flockpr.spc.codes import Status
from flockpr.spc.sense import Sense
from tests.support import sbc_cdbs as cdbs
from tests.support.disks import MemoryUnits, Rig, wait_until
from tests.support.scsi import A, B
from tests.support.starved import starve


class SlowUnits(MemoryUnits):
    """The state comes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[Future[ServedState]] = []

    def state(self, lun: str, door: str = "api") -> Future[ServedState]:
        """A future of the test."""
        self.futures.append(Future())
        return self.futures[-1]


def later() -> float:
    """A deadline that is never reached."""
    return time.monotonic() + 60


def reading(served: Served) -> threading.Thread:
    """A read that has begun."""
    thread = threading.Thread(target=lambda: served.read(later()))
    thread.start()
    return thread


def test_copy_that_was_dropped_while_it_was_read_is_not_served() -> None:
    """What was read before a narrowing command shows what that command has ended."""
    units = SlowUnits()
    served = Served(units, "disk", "test")
    thread = reading(served)
    wait_until(lambda: len(units.futures) == 1)
    served.drop()
    units.futures[0].set_result(ServedState(LogicalUnitState(), 1))
    thread.join(60)
    assert served.current() is None


def test_older_copy_never_replaces_a_newer_one() -> None:
    """Two reads may end in the other order than they began."""
    units = SlowUnits()
    served = Served(units, "disk", "test")
    old, new = LogicalUnitState(), LogicalUnitState(generation=1)
    first = reading(served)
    wait_until(lambda: len(units.futures) == 1)
    time.sleep(0.002)
    second = reading(served)
    wait_until(lambda: len(units.futures) == 2)
    units.futures[1].set_result(ServedState(new, 2))
    second.join(60)
    units.futures[0].set_result(ServedState(old, 1))
    first.join(60)
    assert served.current() is new


def test_age_counts_from_when_reading_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that took long to read is as old as its beginning."""
    monkeypatch.setattr("flockpr.block.served.MAX_AGE", 0.05)
    units = SlowUnits()
    served = Served(units, "disk", "test")
    thread = reading(served)
    wait_until(lambda: len(units.futures) == 1)
    time.sleep(0.06)
    units.futures[0].set_result(ServedState(LogicalUnitState(), 1))
    thread.join(60)
    assert served.current() is None


def test_state_that_does_not_come_in_time_is_busy() -> None:
    """The wait for a hung file server is bounded."""
    with pytest.raises(Busy):
        Served(SlowUnits(), "disk", "test").read(time.monotonic() + 0.01)


def test_refresher_runs_only_while_somebody_is_attached() -> None:
    """One thread for any number of sessions, none for none."""
    units = MemoryUnits()
    served = Served(units, "disk", "test")
    looks: list[int] = []
    refresher = Refresher(served, lambda: looks.append(1), "disk")

    def threads() -> int:
        return sum(thread.name == "refresh-disk" for thread in threading.enumerate())

    refresher.attend()
    refresher.attend()
    wait_until(lambda: served.current() is not None and bool(looks))
    assert threads() == 1
    refresher.rest()
    assert threads() == 1
    refresher.rest()
    wait_until(lambda: threads() == 0)
    refresher.attend()
    units.now = attrs.evolve(units.now, generation=5)
    wait_until(lambda: served.current() is units.now)
    refresher.rest()
    wait_until(lambda: threads() == 0)


def test_refresher_survives_failures_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    """A file server that is away for a while must not end the service for good."""
    units = MemoryUnits()
    units.fault = StoreUnavailable("is away")
    served = Served(units, "disk", "test")
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        raise OSError("no image either")

    refresher = Refresher(served, look, "disk")
    refresher.attend()
    wait_until(lambda: len(looks) >= 3)
    assert caplog.text.count("is away") == 1
    units.fault = None
    wait_until(lambda: served.current() is not None)
    refresher.rest()


def test_refresher_that_could_not_be_started_is_started_by_whoever_finds_the_copy_too_old(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread to be had for a moment: the session begins all the same, and is served."""
    failed = starve(monkeypatch, "refresh-")
    rig = Rig(tmp_path)
    assert failed == ["refresh-disk"]
    assert "its state is not kept young" in caplog.text
    rig.good(cdbs.TEST_UNIT_READY)

    assert rig.disk._refresher._running
    reads = rig.units.reads
    wait_until(lambda: rig.units.reads > reads)
    rig.close()


def test_session_that_could_not_begin_is_not_attached(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread for the logical unit: nobody is counted who never leaves, and the next may."""
    rig = Rig(tmp_path)

    def starved(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(rig.units, "attend", starved)
        with pytest.raises(RuntimeError):
            rig.disk.attach(B)
    assert len(rig.disk._attached.all()) == 1
    rig.disk.detach(rig.disk.attach(B))
    assert rig.units.present == [A]
    rig.close()


@pytest.mark.parametrize("cdb", [cdbs.TEST_UNIT_READY, cdbs.request_sense()], ids=["TUR", "RS"])
def test_attention_of_an_answer_that_came_too_late_is_reported_by_the_next_command(
    tmp_path: pathlib.Path, cdb: bytes
) -> None:
    """SAM-5 5.14: the logical unit takes it for reported, and the initiator was told BUSY."""
    rig = Rig(tmp_path, timeout=0.0)
    answer: Future[Result] = Future()
    attention = Sense(6, 0x2A, 0x03)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.units, "submit", lambda *_, **__: answer)
        rig.run(cdb)
    if cdb == cdbs.TEST_UNIT_READY:
        answer.set_result(Result.check(attention))
    else:
        answer.set_result(Result(Status.GOOD, data_in=attention.fixed()))
    assert rig.session.take() == attention
    rig.close()


def test_late_answer_without_an_attention_is_forgotten(tmp_path: pathlib.Path) -> None:
    """Its command was answered BUSY."""
    rig = Rig(tmp_path)
    for late in (Result(Status.GOOD), Result.check(Sense(5, 0x20, 0))):
        rig.session.missed(late)
    assert not rig.session.waiting
    rig.close()
