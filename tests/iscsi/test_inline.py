"""Commands in the thread that reads: answered together, and left to others when they hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from flockpr.block import Direction, ScsiReply, Transfer
from flockpr.block.reply import GOOD
from flockpr.iscsi.command import Command
from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.housekeeper import Timer
from flockpr.iscsi.inline import TOGETHER, Done, Inline
from flockpr.iscsi.relief import Relief
from flockpr.iscsi.tasks import Ending, Line, Order, Phase, TaskSet

PATIENCE = 60.0


class Housekeeper:
    """Notes what is to be called later; a test calls it."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        del seconds
        self.due.append(call)
        return Timer(call)

    def turn(self) -> None:
        """Call what is due."""
        due, self.due = self.due, []
        for call in due:
            call()


class Attachment:
    """A LUN with an empty task set."""

    def __init__(self) -> None:
        self.lun = self
        self.attachment = self
        self.disk = self
        self.disk_nexus = None
        self.found: ScsiReply | None = None
        self.gate: threading.Event | None = None
        self.looks = threading.Event()
        self.meanwhile: Callable[[], object] = bool
        self.tasks = TaskSet("disk", workers=1, most=100, most_each=100)

    def ring(self, _room: int) -> None:
        """No command is launched."""

    def glance(self, _nexus: object, _cdb: bytes) -> ScsiReply | None:
        """What a look at the reservations gives."""
        if self.gate is not None:
            self.looks.set()
            assert self.gate.wait(PATIENCE)
        self.meanwhile()
        return self.found


class Rig:
    """An `Inline`, and what it is given to work with; it owns the tasks."""

    def __init__(self) -> None:
        self.housekeeper = Housekeeper()
        self.relief = Relief(self.housekeeper)  # type: ignore[arg-type]
        self.lun = Attachment()
        self.line = Line()
        self.answers: list[list[CommandTask]] = []
        self.over: list[CommandTask] = []
        self.handed: list[CommandTask] = []
        self.gates: dict[CommandTask, threading.Event] = {}
        self.hangs = threading.Event()
        self.started: list[threading.Thread] = []
        self.no_threads = False
        self.inline = Inline(
            self.relief,
            client=-1,
            execute=self.execute,
            answer=self.answer,
            hand_over=self.handed.append,
            start=self.start,
            readable=lambda: False,
        )

    def execute(self, task: Any) -> None:
        gate = self.gates.get(task)
        if gate is not None:
            self.hangs.set()
            assert gate.wait(PATIENCE)
        if not self.inline.keep(task, GOOD):
            self.answer([(task, GOOD)])

    def answer(self, done: Sequence[Done]) -> None:
        self.answers.append([task for task, _ in done])
        for task, _ in done:
            self.lun.tasks.finish(task)

    def ended(self, task: Any, ending: Ending) -> None:
        del ending
        self.over.append(task)

    def start(self) -> None:
        if self.no_threads:
            raise RuntimeError("no thread")
        thread = threading.Thread(target=self.inline.begin)
        thread.start()
        self.started.append(thread)

    def task(
        self,
        *,
        order: int = Order.SIMPLE,
        quick: bool = True,
        glance: bool = False,
        hang: bool = False,
    ) -> Any:
        """A command that has arrived."""
        command = Command(1, 0, 0, bytes(16), order, True, False, 0, 0, 0, False, 1)
        task = CommandTask(
            owner=self,
            line=self.line,
            order=order,
            command=command,
            channel=self.lun,  # type: ignore[arg-type]
            transfer=Transfer(Direction.NONE, 0, quick, glance),
        )
        if hang:
            self.gates[task] = threading.Event()
        assert self.lun.tasks.enter(task)
        return task

    def reads(self, *tasks: CommandTask) -> threading.Thread:
        """A thread that has read these, and works."""

        def read() -> None:
            self.inline.begin()
            for task in tasks:
                assert self.inline.take(task)
            self.inline.work()

        thread = threading.Thread(target=read)
        thread.start()
        return thread


def test_commands_that_came_together_are_answered_together() -> None:
    """Not all at the end, so that the client goes on meanwhile."""
    rig = Rig()
    tasks = [rig.task() for _ in range(TOGETHER + 2)]
    rig.reads(*tasks).join(PATIENCE)
    assert rig.answers == [tasks[:TOGETHER], tasks[TOGETHER:]]
    assert all(task.phase is Phase.OVER for task in tasks)
    assert not rig.lun.tasks


def test_take_refuses_what_is_not_quick_and_what_others_read() -> None:
    """Commands that may wait, and those that come of memory that came free."""
    rig = Rig()
    assert not rig.inline.take(rig.task())  # nobody reads here
    rig.inline.begin()
    assert not rig.inline.take(rig.task(quick=False))
    assert rig.inline.take(rig.task())


def test_command_behind_an_ordered_one_waits_for_it() -> None:
    """SAM-5 8.6.3: what the task set decides is handed over to it."""
    rig = Rig()
    first, behind = rig.task(order=Order.ORDERED), rig.task()
    rig.reads(first, behind).join(PATIENCE)
    assert rig.handed == [first, behind]
    assert not rig.answers


def test_command_that_was_aborted_meanwhile_is_not_executed() -> None:
    """It was in the set, and had not begun."""
    rig = Rig()
    first, second = rig.task(hang=True), rig.task()
    thread = rig.reads(first, second)
    assert rig.hangs.wait(PATIENCE)
    rig.lun.tasks.abort(lambda task: Ending.SILENT if task is second else None)
    rig.gates[first].set()
    thread.join(PATIENCE)
    assert rig.over == [second]
    assert rig.answers == [[first]]
    assert rig.handed == [second]  # the set knows that it is over
    assert rig.lun.tasks.ready(second)
    assert not rig.lun.tasks


def test_command_that_hangs_holds_up_nothing_that_came_with_it() -> None:
    """Another thread reads on; what was executed is answered, what was not is handed over."""
    rig = Rig()
    before, hangs, behind = rig.task(), rig.task(hang=True), rig.task()
    thread = rig.reads(before, hangs, behind)
    assert rig.hangs.wait(PATIENCE)
    rig.housekeeper.turn()
    assert not rig.started  # only now it is known since when
    rig.housekeeper.turn()
    assert len(rig.started) == 1
    assert rig.answers == [[before]]
    assert rig.handed == [behind]
    assert not rig.lun.tasks.pace.quick()
    rig.housekeeper.turn()
    rig.housekeeper.turn()
    assert len(rig.started) == 1
    rig.gates[hangs].set()
    thread.join(PATIENCE)
    assert rig.answers == [[before], [hangs]]
    assert hangs.phase is Phase.OVER
    assert rig.lun.tasks.pace.quick()


def test_command_that_hangs_while_there_are_no_threads_is_looked_after_later() -> None:
    """Nobody reads for the moment; nothing is lost."""
    rig = Rig()
    hangs, behind = rig.task(hang=True), rig.task()
    thread = rig.reads(hangs, behind)
    assert rig.hangs.wait(PATIENCE)
    rig.no_threads = True
    for _ in range(100):
        rig.housekeeper.turn()
    assert not rig.handed
    rig.no_threads = False
    rig.housekeeper.turn()
    assert len(rig.started) == 1
    assert rig.handed == [behind]
    rig.gates[hangs].set()
    thread.join(PATIENCE)
    assert rig.answers == [[hangs]]


def test_relief_rests_while_nothing_is_executed_and_wakes_with_the_next_command() -> None:
    """An idle target costs nothing."""
    rig = Rig()
    rig.reads(rig.task()).join(PATIENCE)
    for _ in range(1000):
        rig.housekeeper.turn()
    assert not rig.housekeeper.due
    rig.reads(rig.task()).join(PATIENCE)
    assert rig.housekeeper.due


def test_reservations_that_a_look_tells_are_answered_at_once() -> None:
    """And where it does not, the command goes to those who may wait."""
    rig = Rig()
    rig.lun.found = GOOD
    first = rig.task(quick=False, glance=True)
    rig.reads(first).join(PATIENCE)
    assert rig.answers == [[first]]
    assert first.reply is GOOD
    rig.lun.found = None
    second = rig.task(quick=False, glance=True)
    rig.reads(second).join(PATIENCE)
    assert rig.handed == [second]
    assert len(rig.answers) == 1


def test_look_is_not_older_than_the_end_of_an_ordered_command_before() -> None:
    """SAM-5 8.6.3: one that ends while reservations are looked at may have changed them."""
    rig = Rig()
    rig.lun.found = GOOD
    before, behind = rig.task(order=Order.ORDERED), rig.task(quick=False, glance=True)
    rig.lun.meanwhile = lambda: rig.lun.tasks.finish(before)
    rig.reads(behind).join(PATIENCE)
    assert rig.handed == [behind]
    assert not rig.answers


def test_look_that_hangs_keeps_nobody_from_reading() -> None:
    """What it gives in the end is worth nothing: it is asked for anew."""
    rig = Rig()
    rig.lun.found, rig.lun.gate = GOOD, threading.Event()
    looks, behind = rig.task(quick=False, glance=True), rig.task()
    thread = rig.reads(looks, behind)
    assert rig.lun.looks.wait(PATIENCE)
    rig.housekeeper.turn()
    rig.housekeeper.turn()
    assert len(rig.started) == 1
    assert rig.handed == [behind]
    rig.lun.gate.set()
    thread.join(PATIENCE)
    assert rig.handed == [behind, looks]
    assert not rig.answers
    assert rig.lun.tasks.pace.quick()
