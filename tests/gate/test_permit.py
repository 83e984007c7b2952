"""A target's permit: held while it reads and writes, re-read when taken, given back in time."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from flockpr.errors import StoreUnavailable
from flockpr.gate import watch
from flockpr.gate.doorbell import Doorbell, provide
from flockpr.store.syscalls import Syscalls
from tests.support.gates import LONG, SIZE, Aside, Failing, Rig, eventually, soon
from tests.support.open_files import open_descriptors
from tests.support.starved import starve


def test_first_enter_takes_the_permit_and_reads_the_state(rig: Rig) -> None:
    """Nothing is open or locked before it, and the state is read once for all that follow."""
    permit = rig.permit()
    assert (permit.fd, permit.held, rig.read["one"]) == (-1, False, 0)

    for _ in range(3):
        assert permit.enter(soon())
        assert os.fstat(permit.fd).st_size == SIZE
        permit.leave()

    assert rig.read["one"] == 1
    assert permit.held
    assert not rig.free()


def test_enter_under_an_open_permit_makes_no_system_call(rig: Rig) -> None:
    """It costs nothing for each read and write while nothing changes."""
    calls = Failing()
    permit = rig.permit(syscalls=calls)
    assert permit.enter(soon())
    permit.leave()
    eventually(lambda: "find_lock" in calls.calls, "the watch does not ask")
    mine: list[str] = []
    caller = threading.get_ident()

    def note(name: str) -> None:
        if threading.get_ident() == caller:
            mine.append(name)

    calls._pass = note  # type: ignore[method-assign]

    for _ in range(100):
        assert permit.enter(soon())
        permit.leave()

    assert mine == []


def test_state_is_read_before_anybody_enters_and_once_for_all_who_wait(rig: Rig) -> None:
    """Twenty threads at a permit that nobody has."""
    permit = rig.permit()
    reading, go = threading.Event(), threading.Event()

    def slowly() -> None:
        reading.set()
        assert go.wait(LONG)

    rig.meanwhile = slowly
    threads = [Aside(lambda: permit.enter(soon())) for _ in range(20)]
    assert reading.wait(LONG)
    assert not permit.enter(time.monotonic() + 0.05)
    assert permit.fault is None
    go.set()

    assert [thread.result() for thread in threads] == [True] * 20
    assert rig.read["one"] == 1


def test_barred_permit_is_given_back_after_the_last_has_left(rig: Rig) -> None:
    """What is in flight ends first, and nobody enters meanwhile."""
    permit = rig.permit()
    for _ in range(2):
        assert permit.enter(soon())
    permit.bar("me")
    assert not permit.yielded(time.monotonic() + 0.02)
    assert not permit.enter(time.monotonic())
    permit.leave()
    assert not permit.yielded(time.monotonic() + 0.02)
    assert not rig.free()

    waiting = Aside(lambda: permit.yielded(soon()))
    permit.leave()

    assert waiting.result() is True
    assert rig.free()
    assert not permit.enter(time.monotonic() + 0.02)
    permit.admit("me")
    assert permit.enter(soon())
    permit.leave()
    assert rig.read["one"] == 2


def test_permit_that_was_held_all_the_time_is_open_again_without_a_read(rig: Rig) -> None:
    """A command that gave up has changed nothing."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.bar("me")
    assert not permit.yielded(time.monotonic())
    permit.admit("me")

    assert permit.enter(soon())
    assert rig.read["one"] == 1
    permit.leave()
    permit.leave()


def test_permit_is_barred_as_long_as_anybody_bars_it(rig: Rig) -> None:
    """Two commands at once."""
    permit = rig.permit()
    permit.bar("me")
    permit.bar("you")
    permit.admit("me")
    assert not permit.enter(time.monotonic() + 0.02)
    permit.admit("you")
    assert permit.enter(soon())
    permit.leave()


def test_permit_barred_while_the_state_is_read_is_given_back_at_once(rig: Rig) -> None:
    """Nothing is in flight then, and what was read is thrown away."""
    permit = rig.permit()
    reading, go = threading.Event(), threading.Event()
    taking: list[threading.Thread] = []

    def slowly() -> None:
        taking.append(threading.current_thread())
        reading.set()
        assert go.wait(LONG)

    rig.meanwhile = slowly
    entering = Aside(lambda: permit.enter(soon()))
    assert reading.wait(LONG)

    permit.bar("me")
    assert permit.yielded(soon())
    assert rig.free()
    rig.meanwhile = lambda: None
    go.set()
    taking[0].join(LONG)
    assert not taking[0].is_alive()
    assert not permit.held, "what was read before it was barred lets somebody in"
    assert rig.free()
    permit.admit("me")

    assert entering.result() is True
    permit.leave()
    assert rig.read["one"] == 2


@pytest.mark.usefixtures("strangers")
def test_permit_barred_before_the_state_was_read_to_its_end_is_not_opened(rig: Rig) -> None:
    """Who bars it asks for it a moment later; until then nobody may get in."""
    permit, barred = rig.permit(), threading.Event()

    def bar() -> None:
        permit.bar("me")
        barred.set()

    rig.meanwhile = bar
    entering = Aside(lambda: permit.enter(soon()))
    assert barred.wait(LONG)
    eventually(lambda: not permit.held, "the permit is kept")
    assert rig.free()
    assert permit.yielded(soon())
    rig.meanwhile = lambda: None
    permit.admit("me")

    assert entering.result()
    permit.leave()


@pytest.mark.usefixtures("strangers")
def test_knock_of_a_stranger_is_heard_and_the_permit_taken_again_after_it(rig: Rig) -> None:
    """Another process rings; the permit goes, stays away, and comes back."""
    permit, server = rig.permit(), Failing()
    assert permit.enter(soon())
    go, held = threading.Event(), threading.Event()
    narrowing = Aside(lambda: _narrow_until(rig, go, held, server))
    narrowing.waits(server)
    assert not held.is_set()
    permit.leave()
    eventually(lambda: not permit.held, "the knock is not heard")
    assert held.wait(LONG)

    assert not permit.enter(time.monotonic() + 0.05)
    go.set()

    assert narrowing.result() is True
    assert permit.enter(soon())
    permit.leave()
    assert rig.read["one"] == 2


def _narrow_until(rig: Rig, go: threading.Event, has: threading.Event, server: Failing) -> bool:
    with rig.gate(server).narrow(soon()) as held:
        has.set()
        assert go.wait(LONG)
        return held.prove()


@pytest.mark.usefixtures("strangers")
def test_permit_is_not_taken_while_somebody_rings(rig: Rig) -> None:
    """Locks have no queue: who waits would wait for ever."""
    permit = rig.permit()
    other = rig.permit("other")
    assert other.enter(soon())
    go = threading.Event()
    go.set()
    begun = Aside(lambda: _narrow_until(rig, go, threading.Event(), Failing()))
    eventually(rig.rung, "nobody rings")

    assert not permit.enter(time.monotonic() + 0.1)
    assert rig.read["one"] == 0
    other.leave()

    assert begun.result() is True


def test_failing_read_of_the_state_keeps_everybody_out_and_names_why(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Fail closed, give the permit back, and try again for the next."""
    permit = rig.permit()
    error = StoreUnavailable("hangs", "/share")
    for failure in (error, OSError(errno.EIO, "I/O"), RuntimeError("a mistake of ours")):

        def fail(failure: Exception = failure) -> None:
            raise failure

        rig.meanwhile = fail
        with caplog.at_level(logging.CRITICAL):
            assert not permit.enter(soon())
        assert permit.fault is not None
        assert not permit.held
        assert rig.free()
    rig.meanwhile = lambda: None

    assert permit.enter(soon())
    assert permit.fault is None
    permit.leave()


def test_missing_image_keeps_everybody_out_and_is_named(rig: Rig) -> None:
    """Until it is there again."""
    permit = rig.permit()
    os.rename(rig.image, rig.image + "~")
    assert not permit.enter(soon())
    assert rig.image in str(permit.fault)
    with pytest.raises(StoreUnavailable, match=r"disk\.img"):
        permit.open()
    os.rename(rig.image + "~", rig.image)

    assert permit.enter(soon())
    permit.leave()


def test_image_that_is_no_regular_file_keeps_everybody_out(rig: Rig) -> None:
    """A lock on a device node, or in a directory, is none between hosts."""
    os.rename(rig.image, rig.image + "~")
    os.symlink(rig.image + "~", rig.image)
    assert not rig.permit().enter(soon())
    os.unlink(rig.image)
    os.mkfifo(rig.image)
    assert not rig.permit("two").enter(soon())


def test_descriptor_is_shown_before_the_permit_is_taken(rig: Rig) -> None:
    """Whoever has other locks to take on it does so first, and may refuse it."""
    seen: list[tuple[int, bool]] = []
    permit = rig.permit(on_descriptor=lambda fd: seen.append((fd, rig.free())))
    permit.open()
    assert seen == [(permit.fd, True)]
    assert permit.enter(soon())
    permit.leave()
    assert len(seen) == 1

    def refuse(_: int) -> None:
        raise OSError(errno.EBUSY, "QEMU has it")

    other = rig.permit("other", on_descriptor=refuse)
    assert not other.enter(soon())
    assert other.fd == -1


def test_media_error_is_no_lost_permit(rig: Rig) -> None:
    """EIO where other reads succeed is the medium's fault; nothing is dropped."""
    permit = rig.permit()
    assert permit.enter(soon())
    fd = permit.fd
    assert permit.direct
    assert not permit.lost()
    permit.leave()
    assert permit.enter(soon())
    assert permit.fd == fd
    permit.leave()
    assert rig.read["one"] == 1


def test_lost_permit_drops_the_descriptor_after_the_last_has_left(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """NFSv4: nothing but closing it makes the server forget; then all is done anew."""
    server = Failing()
    permit = rig.permit(syscalls=server)
    for _ in range(2):
        assert permit.enter(soon())
    fd = permit.fd
    server.poisoned.add(fd)
    with caplog.at_level(logging.CRITICAL):
        assert permit.lost()
        permit.leave()
        assert os.fstat(fd).st_size == SIZE  # still in use
        assert not permit.enter(time.monotonic() + 0.02)
        permit.leave()

    assert permit.enter(soon())
    assert fd not in server.poisoned
    permit.leave()
    assert rig.read["one"] == 2


def test_error_without_direct_input_and_output_counts_as_a_lost_permit(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A read through the page cache proves nothing."""
    server = Failing()
    server.errors["direct"] = errno.EINVAL
    permit = rig.permit(syscalls=server)
    assert permit.enter(soon())
    assert not permit.direct
    with caplog.at_level(logging.CRITICAL):
        assert permit.lost()
    permit.leave()
    assert permit.enter(soon())
    permit.leave()
    assert rig.read["one"] == 2


def test_permit_of_a_target_that_nobody_uses_is_given_back(rig: Rig) -> None:
    """Its last session ended, and no command anywhere has to wait for it."""
    permit = rig.permit()
    permit.attend()
    permit.attend()
    assert permit.enter(soon())
    permit.leave()
    permit.rest()
    assert permit.held
    permit.rest()
    eventually(lambda: not permit.held, "it is still held")
    assert rig.free()

    permit.attend()
    assert permit.enter(soon())
    permit.rest()
    assert permit.held
    permit.leave()
    eventually(lambda: not permit.held, "it is still held")


def test_idle_target_asks_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No question at the doorbell while no permit is held, but one that was on its way; after a
    while nobody listens.
    """
    monkeypatch.setattr(watch, "LINGER", 0.2)
    calls = Failing()
    permit = rig.permit(syscalls=calls)
    permit.attend()
    assert permit.enter(soon())
    permit.leave()
    eventually(lambda: "find_lock" in calls.calls[4:], "the watch does not ask")
    permit.rest()
    eventually(lambda: not permit.held, "it is still held")
    asked = calls.calls.count("find_lock")
    listening = watch.watch_of(rig.root, calls)
    eventually(lambda: not listening._running, "it goes on listening")

    assert calls.calls.count("find_lock") <= asked + 1


def test_hundred_luns_cost_one_question(rig: Rig) -> None:
    """One for the root and interval, however many permits are held."""
    calls = Failing()
    permits = [rig.permit(str(n), syscalls=calls) for n in range(50)]
    for number, permit in enumerate(permits):
        permit.number = number
        assert permit.enter(soon())
        permit.leave()
    asked = calls.calls.count("find_lock")
    eventually(lambda: calls.calls.count("find_lock") > asked, "the watch does not ask")
    asked = calls.calls.count("find_lock")
    begun = time.monotonic()
    time.sleep(10 * watch.INTERVAL)

    asked = calls.calls.count("find_lock") - asked
    assert asked <= (time.monotonic() - begun) / watch.INTERVAL + 2


class Listening:
    """A permit, as far as the watch knows it."""

    host, door, path = 77, "target", "disk.img"

    def __init__(self, number: int) -> None:
        self.number = number
        self.held = True
        self.heard: list[bool] = []

    def knock(self, heard: bool) -> None:
        """See `Listener.knock`."""
        self.heard.append(heard)

    def renew(self) -> None:
        """See `Listener.renew`."""


@pytest.mark.parametrize("rung", [(), (0,), (17,), (49,), (3, 4), tuple(range(50))])
def test_ring_for_one_of_many_luns_costs_no_question_for_each(
    tmp_path: Path, rung: tuple[int, ...]
) -> None:
    """Or the others would be heard late, for as long as it rings; and nobody misses a ring."""
    calls = Failing()
    listening = watch.Watch(str(tmp_path), calls)
    permits = [Listening(number) for number in reversed(range(50))]
    with contextlib.ExitStack() as stack:
        for number in rung:
            bell = stack.enter_context(Doorbell(str(tmp_path), Syscalls(), 5))
            assert bell.ring(number)
        provide(str(tmp_path), Syscalls())

        listening._ask(permits)

        assert {permit.number for permit in permits if permit.heard == [True]} == set(rung)
        assert all(permit.heard in ([True], [False]) for permit in permits)
        if len(rung) < 3:
            assert calls.calls.count("find_lock") <= 1 + 16 * len(rung)
    listening._ask(permits)
    assert all(permit.heard[1:] == [False] for permit in permits)
    listening._drop()


def test_closed_permit_lets_those_inside_finish_and_nobody_in(rig: Rig) -> None:
    """The descriptor is closed by the last one, since its number may be another file's then."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.close()
    assert not permit.enter(soon())
    assert os.fstat(permit.fd).st_size == SIZE
    permit.leave()

    eventually(lambda: permit.fd == -1, "the descriptor is still open")
    assert rig.free()
    assert not permit.enter(soon())
    permit.close()


def test_closed_permit_that_was_never_used_holds_nothing(rig: Rig) -> None:
    """Opened for its size, say."""
    permit = rig.permit()
    permit.open()
    assert opened(rig.image) == 1
    permit.close()
    assert opened(rig.image) == 0


def opened(path: str) -> int:
    """Descriptors of this process that lead to a file."""
    return len([found for _, found in open_descriptors() if found == path])


def test_image_that_was_replaced_is_opened_anew(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A backup in its place is another file; a permit on the old one fences nothing there."""
    permit = rig.permit()
    assert permit.enter(soon())
    permit.leave()
    old = os.fstat(permit.fd).st_ino
    Path(rig.image).rename(rig.image + "~")
    Path(rig.image).write_bytes(bytes(SIZE))
    permit.bar("me")
    assert permit.yielded(soon())
    permit.admit("me")

    with caplog.at_level(logging.ERROR):
        assert permit.enter(soon())
    assert os.fstat(permit.fd).st_ino != old
    permit.leave()


def test_unlock_that_fails_closes_the_descriptor(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing gives every lock back."""
    server = Failing()
    permit = rig.permit(syscalls=server)
    assert permit.enter(soon())
    permit.leave()
    server.errors["unlock"] = errno.EIO
    permit.bar("me")
    with caplog.at_level(logging.ERROR):
        assert permit.yielded(soon())
    server.errors.clear()
    assert rig.free()
    permit.admit("me")
    assert permit.enter(soon())
    permit.leave()


def test_locks_that_fail_keep_everybody_out(rig: Rig) -> None:
    """A mount without a lock service."""
    server = Failing()
    permit = rig.permit(syscalls=server)
    server.errors["set_lock"] = errno.ENOLCK
    assert not permit.enter(soon())
    assert permit.fault is not None
    server.errors.clear()
    assert permit.enter(soon())
    permit.leave()


@pytest.mark.usefixtures("strangers")
def test_permit_that_nobody_listens_for_is_not_held(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread to listen at the doorbell: nobody enters; the next to try has one started."""
    permit = rig.permit(syscalls=Syscalls())
    permit.attend()
    failed = starve(monkeypatch, "doorbell-")

    assert not permit.enter(soon())
    assert len(failed) == 1
    assert "cannot be listened to: can't start new thread" in str(permit.fault)
    assert not permit.held
    assert rig.free()

    assert permit.enter(soon())
    permit.leave()
    with rig.gate().narrow(soon()):
        assert not permit.held


def test_closed_permit_says_when_it_is_given_back(rig: Rig) -> None:
    """Whoever keeps other hosts away must do so until the last read or write has ended."""
    permit = rig.permit()
    ends: list[bool] = []
    assert permit.enter(soon())
    permit.close(lambda: ends.append(rig.free()))
    assert ends == []
    permit.leave()
    eventually(lambda: bool(ends), "nobody says so")
    permit.close(lambda: ends.append(rig.free()))
    assert ends == [True, True]


def test_closed_permit_that_was_never_used_says_so_at_once(rig: Rig) -> None:
    """Nobody is there to say it later."""
    ends: list[int] = []
    rig.permit().close(lambda: ends.append(1))
    assert ends == [1]
