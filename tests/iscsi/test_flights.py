"""Commands that the kernel carries out while the thread that launched them reads on."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from flockpr.block import Direction, ScsiReply, Transfer
from flockpr.block.reply import BUSY, GOOD
from flockpr.iscsi import inline
from flockpr.iscsi.command import Command
from flockpr.iscsi.commands import CommandTask
from flockpr.iscsi.flights import ROOM
from flockpr.iscsi.housekeeper import Timer
from flockpr.iscsi.inline import TOGETHER, Done, Inline
from flockpr.iscsi.pace import REST
from flockpr.iscsi.relief import Relief
from flockpr.iscsi.tasks import Ending, Line, Order, Phase, TaskSet
from tests.support.rings import ThreadRing

PATIENCE = 60.0
SIZE = 512


class Disk:
    """A LUN and its disk: what it launches does what the test says."""

    def __init__(self) -> None:
        self.lun = self.attachment = self.disk = self
        self.disk_nexus = None
        self.closed = self.crowded = False
        self.tasks = TaskSet("disk", workers=1, most=100, most_each=100)
        self.launched: list[Flight] = []
        self.admits = True
        self.rings: list[ThreadRing] = []
        self.has_ring = True
        self.landing: Callable[[int], object] = abs
        self.made: Callable[[ThreadRing], object] = bool

    def hangs(self) -> bool:
        """Whether one of its commands takes long."""
        return self.tasks.pace.hangs

    def all_closed(self) -> bool:
        """Whether nothing is left of its rings."""
        return all(ring.fd == -1 for ring in self.rings)

    def ring(self, room: int) -> ThreadRing | None:
        """One more."""
        assert room == ROOM
        if not self.has_ring:
            return None
        ring = ThreadRing(room, self.move, self.move)
        self.rings.append(ring)
        self.made(ring)
        return ring

    def move(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        """What the kernel would do, when the test lets it."""
        del fd, views
        return self.launched[offset].outcome()

    def launch(self, _nexus: object, _cdb: bytes, _data: object, **_more: Any) -> Flight | None:
        """What is to be landed."""
        if not self.admits:
            return None
        self.launched.append(Flight(len(self.launched)))
        return self.launched[-1]

    def land(self, flight: Flight, result: int) -> ScsiReply:
        """BUSY for what failed."""
        self.landing(result)
        assert not flight.over
        flight.over = True
        return GOOD if result == SIZE else BUSY


class Flight:
    """One command under way."""

    def __init__(self, number: int) -> None:
        self.fd = 0
        self.view = memoryview(bytearray(SIZE))
        self.offset = number
        self.writes = bool(number % 2)
        self.go = threading.Event()
        self.result = SIZE
        self.over = False

    def outcome(self) -> int:
        """When it may."""
        assert self.go.wait(PATIENCE)
        return self.result


class Rig:
    """An `Inline` with a disk that launches, and a client."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.ours, self.client = socket.socketpair()
        self.disk = Disk()
        self.disk.made = self._made
        self.submitting: Callable[[], object] = bool
        self.refusing: Callable[[ThreadRing], list[Any]] | None = None
        self.line = Line()
        self.answers: list[list[CommandTask]] = []
        self.replies: dict[CommandTask, ScsiReply] = {}
        self.executed: list[CommandTask] = []
        self.handed: list[CommandTask] = []
        self.readers: list[threading.Thread] = []
        self.changed = threading.Condition()
        self.inline = Inline(
            Relief(self),  # type: ignore[arg-type]
            client=self.ours.fileno(),
            execute=self.execute,
            answer=self.answer,
            hand_over=self.handed.append,
            start=self.start,
            readable=lambda: False,
        )

    def _made(self, ring: ThreadRing) -> None:
        ring.submitting = self._submitting
        if self.refusing is not None:
            ring.submit = partial(self.refusing, ring)  # type: ignore[method-assign]

    def _submitting(self) -> object:
        return self.submitting()

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """See `Housekeeper`."""
        del seconds
        self.due.append(call)
        return Timer(call)

    def look_twice(self) -> None:
        """Whatever is being waited for takes long."""
        for _ in range(2):
            due, self.due = self.due, []
            for call in due:
                call()

    def execute(self, task: Any) -> None:
        """Without the kernel."""
        self.executed.append(task)
        assert self.inline.keep(task, GOOD)

    def answer(self, done: Sequence[Done]) -> None:
        """Say it."""
        with self.changed:
            self.answers.append([task for task, _ in done])
            self.replies.update(done)
            self.changed.notify_all()
        for task, _ in done:
            self.disk.tasks.finish(task)

    def until_answered(self, *tasks: CommandTask) -> None:
        """Wait for it."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.replies.keys() >= {*tasks}, PATIENCE)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for it."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end
            time.sleep(0.001)

    def ended(self, task: Any, ending: Ending) -> None:
        """Over."""

    def start(self) -> None:
        """Somebody else reads; for a moment, after which a test can."""

        def read() -> None:
            self.inline.begin()
            self.inline.pause()

        thread = threading.Thread(target=read)
        thread.start()
        self.readers.append(thread)

    def take_over(self) -> None:
        """Have another thread read for the one that takes long; from then on this one does."""
        while not self.readers:
            self.look_twice()
        self.readers[0].join(PATIENCE)
        assert self.inline.resume()

    def task(self, *, order: int = Order.SIMPLE, length: int = SIZE, writes: bool = False) -> Any:
        """A command that has arrived."""
        command = Command(1, 0, 0, bytes(16), order, True, False, 0, 0, 0, False, 1)
        task = CommandTask(
            owner=self,
            line=self.line,
            order=order,
            command=command,
            channel=self.disk,  # type: ignore[arg-type]
            transfer=Transfer(Direction.OUT if writes else Direction.IN, length, quick=True),
        )
        assert self.disk.tasks.enter(task)
        return task

    def begin(self, count: int) -> list[CommandTask]:
        """This thread reads, and has read so many."""
        self.inline.begin()
        return self.more(count)

    def more(self, count: int) -> list[CommandTask]:
        """It has read so many more."""
        tasks = [self.task() for _ in range(count)]
        for task in tasks:
            assert self.inline.take(task)
        self.inline.work()
        return tasks

    def flying(self) -> bool:
        """Whether something flies for who reads."""
        return self.inline.flying

    def let_go(self) -> None:
        """The kernel does all of it."""
        for flight in self.disk.launched:
            flight.go.set()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """One; nothing flies at the end. That the machine is busy means nothing."""
    monkeypatch.setattr(inline, "SLOW", PATIENCE)
    made = Rig()
    yield made
    made.let_go()
    if made.inline.reading:
        assert made.inline.settle()
    assert all(not ring.held for ring in made.disk.rings)
    made.ours.close()
    made.client.close()


def test_commands_that_come_together_fly_together(rig: Rig) -> None:
    """And are answered as they land, whatever their order."""
    tasks = rig.begin(3)
    assert rig.flying()
    assert not rig.executed
    assert not rig.answers
    for number in (1, 0, 2):
        rig.disk.launched[number].go.set()
        assert not rig.inline.await_client()
        assert rig.answers[-1] == [tasks[number]]
    assert not rig.flying()
    assert all(rig.replies[task] is GOOD for task in tasks)


def test_command_alone_is_executed_without_the_kernel(rig: Rig) -> None:
    """That is quicker where there is nothing to do meanwhile; beside others it flies."""
    [alone] = rig.begin(1)
    assert rig.executed == [alone]
    rig.more(2)
    [beside] = rig.more(1)
    assert rig.executed == [alone]
    rig.let_go()
    assert rig.inline.settle()
    assert rig.replies[beside] is GOOD


def test_client_is_heard_while_something_flies(rig: Rig) -> None:
    """A disk that takes long, or hangs, keeps nobody from reading."""
    rig.begin(2)
    rig.client.send(b"x")
    assert rig.inline.await_client()
    assert rig.flying()
    assert rig.inline.await_client()  # it has not been read yet
    rig.let_go()


def test_answers_leave_some_at_a_time(rig: Rig) -> None:
    """The client goes on with the first while the last are made."""
    tasks = rig.begin(2 * TOGETHER + 1)
    rig.let_go()
    assert rig.inline.settle()
    rig.until_answered(*tasks)
    assert max(map(len, rig.answers)) <= TOGETHER


def test_disk_that_launches_nothing_executes(rig: Rig) -> None:
    """No ring, or not admitted at once: as ever."""
    rig.disk.has_ring = False
    tasks = rig.begin(2)
    assert rig.executed == tasks
    assert not rig.flying()


def test_command_that_cannot_be_launched_goes_to_who_may_wait(rig: Rig) -> None:
    """While others fly this thread must not: whoever narrows access waits for them."""
    rig.begin(2)
    rig.disk.admits = False
    [late] = rig.more(1)
    assert rig.handed == [late]
    assert rig.executed == []
    rig.let_go()
    assert rig.inline.settle()
    [now] = rig.more(1)
    assert rig.executed == [now]


def test_command_without_data_is_never_launched(rig: Rig) -> None:
    """TEST UNIT READY."""
    rig.inline.begin()
    tasks = [rig.task(length=0) for _ in range(2)]
    for task in tasks:
        assert rig.inline.take(task)
    rig.inline.work()
    assert rig.executed == tasks
    assert rig.disk.rings == []


def test_full_ring_leaves_the_rest_to_others(rig: Rig) -> None:
    """It has room for what a session may have under way."""
    rig.begin(ROOM)
    [more] = rig.more(1)
    assert rig.handed == [more]
    rig.let_go()
    assert rig.inline.settle()


def test_command_behind_an_ordered_one_does_not_fly(rig: Rig) -> None:
    """SAM-5 8.6.3: what the task set decides is handed over to it."""
    rig.inline.begin()
    first, second = rig.task(order=Order.ORDERED), rig.task()
    for task in (first, second):
        assert rig.inline.take(task)
    rig.inline.work()
    assert rig.handed == [first, second]
    assert not rig.flying()


def test_command_that_ends_between_launch_and_take_off_is_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort that comes in between: what it held is given back, and it does not fly."""
    monkeypatch.setattr(rig.disk.tasks, "begin", lambda _task: False)
    tasks = rig.begin(2)
    assert rig.handed == tasks
    assert all(flight.over for flight in rig.disk.launched)
    assert not rig.flying()


def test_settle_that_takes_long_leaves_reading_to_another_thread(rig: Rig) -> None:
    """What flies stays with the first; what comes later goes to who may wait, until it lands."""
    rig.begin(2)
    settled: list[bool] = []
    first, second = rig.disk.launched

    def settle() -> None:
        rig.inline.resume()
        settled.append(rig.inline.settle())

    rig.inline.pause()
    thread = threading.Thread(target=settle)
    thread.start()
    first.go.set()
    with rig.changed:
        assert rig.changed.wait_for(lambda: rig.answers, PATIENCE)
    rig.take_over()
    assert not rig.flying()  # for who reads now
    assert rig.disk.hangs()
    assert settled == []
    second.go.set()
    thread.join(PATIENCE)
    assert settled == [False]
    assert [len(answer) for answer in rig.answers] == [1, 1]
    assert not rig.disk.hangs()
    assert rig.disk.rings[0].fd == -1


def test_submission_that_hangs_leaves_the_rest_to_another_thread(rig: Rig) -> None:
    """What flies to other disks is landed by who reads now; of this one by who hangs."""
    other = Disk()
    rig.begin(2)
    hangs = threading.Event()
    disk, rig.disk = rig.disk, other
    rig.inline.pause()
    flying: list[bool] = []

    def read() -> None:
        rig.inline.resume()
        tasks = [rig.task() for _ in range(2)]
        ring_of = other.ring

        def slow(room: int) -> ThreadRing | None:
            ring = ring_of(room)
            assert ring is not None
            ring.submitting = lambda: hangs.wait(PATIENCE)
            return ring

        other.ring = slow  # type: ignore[method-assign]
        for task in tasks:
            assert rig.inline.take(task)
        rig.inline.work()
        flying.append(rig.inline.reading)

    thread = threading.Thread(target=read)
    thread.start()
    rig.take_over()
    assert not flying
    assert other.hangs()
    assert not disk.hangs()
    assert rig.flying()  # what the first disk has
    for flight in (*disk.launched, *other.launched):
        flight.go.set()
    hangs.set()
    thread.join(PATIENCE)
    assert flying == [False]
    assert not other.hangs()
    assert other.rings[0].fd == -1
    assert rig.inline.settle()
    assert len(rig.replies) == 4


def test_what_the_kernel_refuses_is_busy_and_then_waited_for(rig: Rig) -> None:
    """A file system that has no such thing must not be asked for ever."""
    rig.begin(2)
    rig.disk.rings[0].refuse = 1
    first, second = rig.more(2)
    assert rig.disk.launched[3].over
    rig.let_go()
    assert rig.inline.settle()
    assert rig.replies[first] is GOOD
    assert rig.replies[second] is BUSY
    tasks = rig.more(2)
    assert rig.executed == tasks


def test_everything_that_is_refused_is_answered_at_once(rig: Rig) -> None:
    """Also where nothing else flies, whose end somebody would wait for."""
    submit = ThreadRing.submit

    def refused(ring: ThreadRing) -> list[Any]:
        ring.refuse = 2
        return submit(ring)

    rig.refusing = refused
    tasks = rig.begin(2)
    assert {rig.replies[task] for task in tasks} == {BUSY}
    assert not rig.flying()
    assert rig.more(2) == rig.executed


def test_failure_is_landed_by_a_thread_of_its_own(rig: Rig) -> None:
    """To find out what is wrong asks more of the disk; nothing waits for that."""
    go = threading.Event()
    first, second = rig.begin(2)
    failing, other = rig.disk.launched
    failing.result = -errno.EIO

    def landing(result: int) -> None:
        if result < 0:
            assert go.wait(PATIENCE)

    rig.disk.landing = landing
    failing.go.set()
    assert not rig.inline.await_client()
    other.go.set()
    assert not rig.inline.await_client()
    assert rig.replies == {second: GOOD}
    assert not rig.flying()
    go.set()
    rig.until_answered(first)
    assert rig.replies[first] is BUSY


def test_read_does_not_wait_for_a_write_that_hangs(rig: Rig) -> None:
    """A file system that is frozen for a snapshot: writes hang while the kernel is told of them."""
    hangs = threading.Event()
    rig.submitting = hangs.wait
    over: list[bool] = []

    def read() -> None:
        rig.inline.begin()
        tasks = [rig.task(writes=True), rig.task()]
        for task in tasks:
            assert rig.inline.take(task)
        rig.inline.work()
        over.append(rig.inline.reading)

    thread = threading.Thread(target=read)
    thread.start()
    rig.take_over()
    assert rig.flying()  # the read
    rig.submitting = bool
    rig.inline.work()
    rig.disk.launched[1].go.set()
    assert not rig.inline.await_client()
    assert len(rig.replies) == 1
    hangs.set()
    rig.let_go()
    thread.join(PATIENCE)
    assert over == [False]
    assert len(rig.replies) == 2


def test_disk_that_takes_its_time_to_be_told_is_left_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that tells it cannot read; threads of the LUN may wait instead."""
    monkeypatch.setattr(inline, "SLOW", 0.0)
    rig.begin(2)
    rig.let_go()
    assert rig.inline.settle()
    tasks = rig.more(2)
    assert rig.executed == tasks
    now = time.monotonic() + REST
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rig.more(2)
    assert rig.flying()


def test_crowd_waits_for_something_to_land(rig: Rig) -> None:
    """And for nobody else's commands."""
    rig.begin(2)
    rig.disk.crowded = True
    waiting = rig.more(2)
    assert not rig.handed
    assert not rig.executed
    assert rig.inline.take(late := rig.task(length=0))
    rig.inline.work()
    assert rig.handed == [late]
    rig.disk.launched[0].go.set()
    assert not rig.inline.await_client()
    rig.disk.crowded = False
    rig.inline.work()
    rig.let_go()
    assert rig.inline.settle()
    rig.until_answered(*waiting)


def test_crowd_of_others_is_left_to_threads(rig: Rig) -> None:
    """Who has nothing in the air would not hear of the end of theirs."""
    rig.disk.crowded = True
    rig.disk.admits = False
    tasks = rig.begin(2)
    assert rig.executed == tasks


def test_slow_disk_is_launched_to_instead_of_handed_over(rig: Rig) -> None:
    """Whoever may fly needs no thread, however long it takes."""
    rig.begin(0)
    pace = rig.disk.tasks.pace
    while pace.quick():
        pace.took(1.0, lambda: True)
    tasks = rig.more(1)
    assert rig.handed == rig.executed == []
    rig.let_go()
    assert rig.inline.settle()
    assert rig.answers == [tasks]
    assert tasks[0].phase is Phase.OVER


def test_rings_of_disks_that_are_closed_are_given_back(rig: Rig) -> None:
    """A session's LUNs come and go; its descriptors must not grow with them."""
    rig.begin(2)
    rig.let_go()
    assert rig.inline.settle()
    for _ in range(3):
        gone, rig.disk = rig.disk, Disk()
        gone.closed = True
        rig.more(2)
        rig.let_go()
        assert rig.inline.settle()
        rig.until(gone.all_closed)
    rig.inline.end()
    assert rig.disk.rings[0].fd == -1
