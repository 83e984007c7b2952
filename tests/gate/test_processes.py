"""Real processes of one host at one image: after GOOD nothing of the old state is written."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr import LogicalUnit, OutAction, Status, create_lun
from flockpr.core.access import allowed
from flockpr.gate import rounds
from flockpr.gate.silence import silence_of
from flockpr.logical_unit.results import Result
from tests.support.gate_process import KEYS, TYPE, Process, preempt
from tests.support.gates import LONG, Aside, Failing, eventually
from tests.support.luns import out
from tests.support.scsi import WRITE_10, A, B, basic_list, out_cdb

Start = Callable[..., Process]
ROUNDS = 10


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[LogicalUnit]:
    """A LUN that A has reserved and B is registered with."""
    create_lun(str(tmp_path), "disk", image="disk.img", size=1 << 20)
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        for nexus in (A, B):
            assert out(unit, nexus, OutAction.REGISTER, new=KEYS[nexus]) is Status.GOOD
        assert out(unit, A, OutAction.RESERVE, own=KEYS[A], type_=TYPE) is Status.GOOD
        yield unit


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes, which are all gone afterwards."""
    processes: list[Process] = []

    def one(role: str, name: str = "a") -> Process:
        processes.append(Process(role, str(tmp_path), name))
        return processes[-1]

    yield one
    for process in processes:
        process.kill()


def test_no_write_of_a_preempted_nexus_is_under_way_after_good(
    unit: LogicalUnit, start: Start
) -> None:
    """A and B take the disk from each other, while two targets write for each as fast as they
    can. What counts is when a write ended, not when it was answered.
    """
    targets = {A: [start("serve", "a"), start("serve", "a")]}
    targets[B] = [start("serve", "b"), start("serve", "b")]
    for target in targets[A] + targets[B]:
        target.said("wrote")
    forbidden: dict[object, list[tuple[float, float]]] = {A: [], B: []}
    since: dict[object, float] = {}
    for turn in range(ROUNDS):
        taker, loser = (B, A) if turn % 2 == 0 else (A, B)
        if taker in since:  # from here on it may be let in again
            forbidden[taker].append((since[taker], time.monotonic()))
        preempt(unit, taker)
        since[loser] = time.monotonic()
        for target in targets[loser]:
            target.wait_for("refused", 5)
        for target in targets[taker]:
            target.wait_for("wrote", 20)
    forbidden[loser].append((since[loser], time.monotonic()))

    for nexus, processes in targets.items():
        assert len(forbidden[nexus]) == ROUNDS // 2
        for process in processes:
            process.kill()
            writes = process.writes()
            assert len(writes) >= 20
            wrong = [
                (write, span)
                for write in writes
                for span in forbidden[nexus]
                if write[1] > span[0] and write[0] < span[1]
            ]
            assert wrong == []


def test_command_killed_while_it_has_the_permit_holds_up_nobody(
    unit: LogicalUnit, start: Start
) -> None:
    """The kernel gives its locks back; nothing was committed."""
    target = start("serve", "a")
    target.said("wrote")
    number = unit.snapshot().number
    holder = start("hold")
    holder.said("held")
    waiting = Aside(lambda: preempt(unit, B))
    assert unit.snapshot().number <= number + 1  # the registration
    assert not waiting.done

    holder.kill()

    waiting.result()
    target.wait_for("refused", 3)


def test_command_killed_after_its_commit_leaves_it_standing(
    unit: LogicalUnit, start: Start
) -> None:
    """Unanswered, but done: who takes the permit next reads the state again first."""
    target = start("serve", "a")
    target.said("wrote")
    killed = start("commit", "b")
    killed.said("committed")
    assert not allowed(unit.snapshot().state, A, WRITE_10)
    killed.kill()

    target.wait_for("refused", 3)
    at = time.monotonic()
    preempt(unit, A)
    target.wait_for("wrote", 3)
    target.kill()
    assert not [write for write in target.writes() if _committed(killed) < write[1] < at]


def _committed(process: Process) -> float:
    assert process.count("committed") == 1
    return max(float(line[1]) for line in process.lines if line[0] == "committed")


def test_target_killed_in_the_middle_of_a_write_is_waited_for_no_more(
    unit: LogicalUnit, start: Start
) -> None:
    """Its permit ends with its last write in the kernel, and not before."""
    stalled = start("stall", "a")
    stalled.said("inside")
    server = Failing()
    assert unit._gate is not None
    unit._gate.syscalls = server
    waiting = Aside(lambda: preempt(unit, B))
    waiting.waits(server)

    stalled.kill()

    waiting.result()
    assert not allowed(unit.snapshot().state, A, WRITE_10)


def test_target_that_hangs_holds_up_the_command_and_no_other(
    unit: LogicalUnit, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, on another host than the one whose target goes on writing. Nothing is committed
    until it wakes up, and gives way.
    """
    monkeypatch.setattr(rounds, "GRACE", 0.5)
    monkeypatch.setattr(rounds, "CALM", 0.5)
    hung, alive = start("serve", "a@one"), start("serve", "a@two")
    for target in (hung, alive):
        target.said("wrote")
    hung.signal(signal.SIGSTOP)
    before = unit.snapshot()
    cdb, data = out_cdb(OutAction.PREEMPT, type_=TYPE), basic_list(KEYS[B], KEYS[A])

    waiting = Aside(lambda: unit.execute(B, cdb, data, report_attentions=False, timeout=LONG))
    image = os.stat(tmp_path / "disk.img")
    silent = silence_of((image.st_dev, image.st_ino))
    eventually(lambda: bool(silent.known()), "nobody is found to be in the way")
    alive.wait_for("wrote", 20)
    assert not waiting.done
    assert unit.snapshot() == before

    hung.signal(signal.SIGCONT)
    assert waiting.result() == Result(Status.GOOD)
    at = time.monotonic()
    for target in (hung, alive):
        target.wait_for("refused", 3)
        target.kill()
        assert not [write for write in target.writes() if write[1] > at]
