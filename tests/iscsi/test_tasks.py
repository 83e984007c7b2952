"""The task set of a LUN: order, threads, ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
import pytest

from flockpr.iscsi.tasks import Drain, Ending, Line, Order, Phase, Task, TaskSet

PATIENCE = 60.0


class Client:
    """Executes tasks as a test wants it, and notes what became of them."""

    def __init__(self) -> None:
        self.began: list[Task] = []
        self.dropped: list[tuple[Task, Ending]] = []
        self.changed = threading.Condition()
        self.gates: dict[Task, threading.Event] = {}
        self.line = Line()

    def execute(self, task: Task) -> None:
        with self.changed:
            self.began.append(task)
            self.changed.notify_all()
        gate = self.gates.get(task)
        if gate is not None:
            assert gate.wait(PATIENCE)

    def ended(self, task: Task, ending: Ending) -> None:
        with self.changed:
            self.dropped.append((task, ending))
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)


def sent(tasks: TaskSet, client: Client, *, order: int = Order.SIMPLE, hang: bool = False) -> Task:
    """A task that is in the set and ready."""
    task = Task(owner=client, line=client.line, order=order)
    if hang:
        client.gates[task] = threading.Event()
    assert tasks.enter(task)
    tasks.ready(task)
    return task


def test_who_takes_no_time_passes_where_it_could_begin() -> None:
    """Not beside an ORDERED one of its session, nor before one that is urgent."""
    tasks = TaskSet("lun", workers=2, most=3, most_each=2)
    one, other = Client(), Client()
    assert tasks.passes(one.line)

    ordered = sent(tasks, one, order=Order.ORDERED, hang=True)
    one.wait_for(lambda: ordered in one.began)
    assert not tasks.passes(one.line)
    assert tasks.passes(other.line)
    sent(tasks, other, hang=True)
    other.wait_for(lambda: len(other.began) == 1)
    urgent = sent(tasks, other, order=Order.HEAD_OF_QUEUE)
    third = Client()
    assert not tasks.passes(third.line)  # it waits for a thread
    for client in (one, other):
        for gate in client.gates.values():
            gate.set()
    other.wait_for(lambda: urgent in other.began)
    over(tasks)()
    assert tasks.passes(third.line)


def test_nobody_passes_a_set_that_is_full_ended_or_closed() -> None:
    """TASK SET FULL is for the task set to say."""
    tasks = TaskSet("lun", workers=1, most=2, most_each=2)
    one, other, third = Client(), Client(), Client()
    sent(tasks, one, hang=True)
    one.wait_for(lambda: len(one.began) == 1)
    assert tasks.passes(one.line)
    sent(tasks, one)
    assert not tasks.passes(one.line)
    assert not tasks.passes(third.line)  # two have begun
    for gate in one.gates.values():
        gate.set()
    over(tasks)()
    assert tasks.passes(one.line)
    tasks.abort(lambda _task: None, last_of=other.line)
    assert not tasks.passes(other.line)
    tasks.close()
    assert not tasks.passes(one.line)


def over(tasks: TaskSet) -> Callable[[], None]:
    """Waits until nothing is in the set."""

    def wait() -> None:
        drained = threading.Event()
        drain = Drain(lambda _all: drained.set())
        tasks.abort(lambda _task: Ending.SILENT, drain)
        drain.one_ended()
        assert drained.wait(PATIENCE)

    return wait


def test_task_set_hanging_tasks_leave_threads_for_others() -> None:
    """All threads but one hang, and the next command is executed all the same."""
    client, tasks = Client(), TaskSet("disk", workers=4, most=16, most_each=16)
    hanging = [sent(tasks, client, hang=True) for _ in range(3)]
    client.wait_for(lambda: len(client.began) == 3)
    last = sent(tasks, client)
    client.wait_for(lambda: last in client.began)
    for task in hanging:
        client.gates[task].set()
    over(tasks)()
    assert len(tasks) == 0


def test_task_set_full_takes_no_more() -> None:
    """Beyond its bound a task is over when it is ready, and one that ends makes room."""
    client, tasks = Client(), TaskSet("disk", workers=1, most=2, most_each=16)
    hanging = sent(tasks, client, hang=True)
    sent(tasks, client)
    third = Task(owner=client, line=client.line)
    assert tasks.enter(third)
    assert not tasks.ready(third)
    assert third.phase is Phase.OVER
    client.gates[hanging].set()
    over(tasks)()
    sent(tasks, client)


def test_task_set_full_of_one_session_takes_those_of_others() -> None:
    """The bound of a session counts what waits for its data, and is no other session's."""
    greedy, other = Client(), Client()
    tasks = TaskSet("disk", workers=1, most=16, most_each=3)
    for _ in range(3):
        assert tasks.enter(Task(owner=greedy, line=greedy.line))
    assert not tasks.enter(Task(owner=greedy, line=greedy.line))
    last = sent(tasks, other)
    other.wait_for(lambda: last in other.began)


def test_ordered_task_of_one_session_holds_up_no_other() -> None:
    """SPC-4 7.5.8 with TST=001b: each nexus has a task set of its own."""
    client, other = Client(), Client()
    tasks = TaskSet("disk", workers=2, most=16, most_each=16)
    assert tasks.enter(Task(owner=client, line=client.line, order=Order.ORDERED))
    held = sent(tasks, client)
    last = sent(tasks, other)
    other.wait_for(lambda: last in other.began)
    assert held not in client.began


def test_ordered_task_waits_for_older_and_holds_younger() -> None:
    """SAM-5 8.6.3: an ORDERED task runs alone, between what came before and after."""
    client, tasks = Client(), TaskSet("disk", workers=4, most=16, most_each=16)
    first = sent(tasks, client, hang=True)
    ordered = sent(tasks, client, order=Order.ORDERED, hang=True)
    last = sent(tasks, client)
    client.wait_for(lambda: first in client.began)
    assert client.began == [first]
    client.gates[first].set()
    client.wait_for(lambda: ordered in client.began)
    assert last not in client.began
    client.gates[ordered].set()
    client.wait_for(lambda: last in client.began)


def test_ordered_task_waits_for_an_older_one_that_gathers_data() -> None:
    """SAM-5 8.6.3: older is who arrived before, not whose data did."""
    client, tasks = Client(), TaskSet("disk", workers=4, most=16, most_each=16)
    gathering = Task(owner=client, line=client.line)
    assert tasks.enter(gathering)
    ordered = sent(tasks, client, order=Order.ORDERED)
    assert ordered.phase is Phase.QUEUED
    assert client.began == []
    tasks.ready(gathering)
    client.wait_for(lambda: client.began == [gathering, ordered])


def test_head_of_queue_task_overtakes_an_ordered_one() -> None:
    """SAM-5 8.6.4: HEAD OF QUEUE does not wait behind ORDERED."""
    client, tasks = Client(), TaskSet("disk", workers=4, most=16, most_each=16)
    first = sent(tasks, client, hang=True)
    ordered = sent(tasks, client, order=Order.ORDERED)
    urgent = sent(tasks, client, order=Order.HEAD_OF_QUEUE)
    client.wait_for(lambda: urgent in client.began)
    assert ordered not in client.began
    client.gates[first].set()
    client.wait_for(lambda: ordered in client.began)


def test_abort_of_waiting_task_ends_it_at_once() -> None:
    """What has not begun is over when `abort` returns, and never begins."""
    client, tasks = Client(), TaskSet("disk", workers=1, most=16, most_each=16)
    running = sent(tasks, client, hang=True)
    client.wait_for(lambda: running in client.began)
    waiting = sent(tasks, client)
    tasks.abort(lambda task: Ending.TASK_ABORTED if task is waiting else None)
    assert client.dropped == [(waiting, Ending.TASK_ABORTED)]
    client.gates[running].set()
    over(tasks)()
    assert client.began == [running]


def test_abort_of_running_task_waits_for_its_end() -> None:
    """What is being executed knows that it is in vain, and is waited for."""
    client, tasks = Client(), TaskSet("disk", workers=1, most=16, most_each=16)
    running = sent(tasks, client, hang=True)
    client.wait_for(lambda: running in client.began)
    ended = threading.Event()
    drain = Drain(lambda _all: ended.set())
    assert tasks.abort(lambda _task: Ending.SILENT, drain) == 1
    drain.one_ended()
    assert running.cancelled()
    assert not ended.is_set()
    client.gates[running].set()
    assert ended.wait(PATIENCE)
    assert client.dropped == []


def test_drain_that_expires_says_so_once() -> None:
    """The time is over before the last task is: "not all", and nothing after that."""
    said: list[bool] = []
    drain = Drain(said.append)
    drain.add()
    drain.one_ended()
    drain.expire()
    drain.one_ended()
    assert said == [False]


def test_abort_of_ordered_task_lets_the_younger_go() -> None:
    """An ORDERED task that is aborted holds nobody up."""
    client, tasks = Client(), TaskSet("disk", workers=2, most=16, most_each=16)
    first = sent(tasks, client, hang=True)
    ordered = sent(tasks, client, order=Order.ORDERED)
    last = sent(tasks, client)
    tasks.abort(lambda task: Ending.SILENT if task is ordered else None)
    client.wait_for(lambda: last in client.began)
    client.gates[first].set()


def test_task_set_failing_execution_ends_the_task() -> None:
    """An error in the execution of one task costs neither the thread nor the set."""

    @attrs.define(eq=False)
    class Failing(Client):
        def execute(self, task: Task) -> None:
            raise RuntimeError("on purpose")

        def __attrs_pre_init__(self) -> None:
            Client.__init__(self)

    tasks = TaskSet("disk", workers=1, most=16, most_each=16)
    sent(tasks, Failing())
    client = Client()
    last = sent(tasks, client)
    client.wait_for(lambda: last in client.began)


def test_closed_task_set_ends_its_threads() -> None:
    """After `close` no thread of the set is left."""
    client, tasks = Client(), TaskSet("closing", workers=3, most=16, most_each=16)
    for _ in range(3):
        sent(tasks, client)
    client.wait_for(lambda: len(client.began) == 3)
    threads = [t for t in threading.enumerate() if t.name.startswith("iscsi-closing-")]
    tasks.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not tasks.enter(Task(owner=client, line=client.line))


def test_task_set_without_any_thread_tries_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that came when no thread could be started does not wait for another command."""
    due: list[Callable[[], None]] = []
    tasks = TaskSet(
        "starved",
        workers=2,
        most=16,
        most_each=16,
        later=lambda _seconds, call: due.append(call),
    )
    client = Client()
    start = threading.Thread.start
    failing = True

    def starved(thread: threading.Thread) -> None:
        if failing and thread.name.startswith("iscsi-starved"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starved)
    task, second = sent(tasks, client), sent(tasks, client)
    assert len(due) == 1
    due.pop()()
    assert len(due) == 1
    assert client.began == []
    failing = False
    due.pop()()
    client.wait_for(lambda: {task, second} <= set(client.began))
    assert due == []
    tasks.close()
