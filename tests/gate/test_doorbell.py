"""The doorbell: who rings, for whom, and who has to listen."""

from __future__ import annotations

import errno
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StoreError
from flockpr.gate import Doorbell, ears, fences, places
from flockpr.gate.doorbell import Ring
from flockpr.store.syscalls import Syscalls
from tests.support.gates import Failing

HERE, THERE = 5, 6
NUMBER = 3
Bells = Callable[[int], Doorbell]


@pytest.fixture
def bells(tmp_path: Path) -> Iterator[Bells]:
    """Descriptions of a root's doorbell, by number of the host."""
    opened: list[Doorbell] = []

    def bell(host: int) -> Doorbell:
        opened.append(Doorbell(str(tmp_path), Syscalls(), host))
        return opened[-1]

    yield bell
    for one in opened:
        one.close()


def nobody(_: int, __: frozenset[int]) -> frozenset[int]:
    """Everybody is heeded."""
    return frozenset()


def test_two_hosts_ring_at_once_and_two_commands_of_one_host_do_not(bells: Bells) -> None:
    """Each host has a byte of its own, and the permits themselves say who is first."""
    one, other, listener = bells(HERE), bells(THERE), bells(HERE)
    assert one.ring(NUMBER)
    assert other.ring(NUMBER)
    assert not bells(HERE).ring(NUMBER)
    assert listener.rings(0, 9) == [Ring(NUMBER, HERE, True), Ring(NUMBER, THERE, True)]
    one.close()
    assert listener.wanted(NUMBER, HERE, nobody)
    other.hush(NUMBER)
    assert not listener.heard(0, 9)


def test_host_that_is_called_alone_is_wanted_and_the_others_are_not(bells: Bells) -> None:
    """Until others are called instead of it."""
    command, listener = bells(HERE), bells(THERE)
    assert command.ring(NUMBER)
    command.call(NUMBER, {10, 11})
    command.hush(NUMBER)

    for host, wanted in ((10, True), (11, True), (12, False)):
        assert listener.wanted(NUMBER, host, nobody) is wanted
        assert not listener.wanted(NUMBER + 1, host, nobody)
    assert listener.rings(NUMBER) == [Ring(NUMBER, HERE, False)]
    command.call(NUMBER, {11})
    assert not listener.wanted(NUMBER, 10, nobody)
    assert listener.wanted(NUMBER, 11, nobody)
    command.call(NUMBER, ())
    assert not listener.heard(NUMBER)


def test_host_in_the_group_of_one_that_is_called_is_wanted_too(bells: Bells) -> None:
    """Its number does not fit into the byte; it gives its permit back for nothing."""
    bells(HERE).call(NUMBER, {10})
    assert places.group_of(10) == places.group_of(137)
    assert bells(THERE).wanted(NUMBER, 137, nobody)


def test_ring_of_a_host_that_is_declared_fenced_does_not_count(bells: Bells) -> None:
    """Nobody else can silence it. Another host's beside it counts."""
    bells(HERE).ring(NUMBER)
    listener = bells(THERE)
    assert not listener.wanted(NUMBER, THERE, lambda *_: frozenset({HERE}))
    bells(THERE).ring(NUMBER)
    assert listener.wanted(NUMBER, THERE, lambda *_: frozenset({HERE}))


def test_listener_is_told_who_rings_for_it_and_that_nobody_does(bells: Bells) -> None:
    """Whom to heed is not the doorbell's to know."""
    told: list[tuple[int, frozenset[int]]] = []

    def note(number: int, ringing: frozenset[int]) -> frozenset[int]:
        told.append((number, ringing))
        return frozenset()

    listener = bells(HERE)
    assert not listener.wanted(NUMBER, THERE, note)
    bells(HERE).ring(NUMBER)
    caller = bells(THERE)
    caller.call(NUMBER, {10})
    assert listener.wanted(NUMBER, THERE, note)
    assert listener.wanted(NUMBER, 10, note)
    assert told == [(NUMBER, frozenset(one)) for one in ((), (HERE,), (HERE, THERE))]


def test_ring_without_end_is_heeded_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped while it rings does not keep all targets away for ever."""
    now = 1000.0
    monkeypatch.setattr(ears, "time", types.SimpleNamespace(monotonic=lambda: now))
    heard = ears.ears_of(str(tmp_path), Failing())
    for second in range(200):
        now = 1000.0 + second
        deaf = heard.deaf(NUMBER, frozenset({HERE, THERE} if second > 150 else {HERE}))
        heeded = second < 30 or (second - 30) % 60 >= 57
        assert (HERE in deaf) is not heeded
        assert THERE not in deaf or second > 180
    heard.deaf(NUMBER, frozenset())
    assert heard.deaf(NUMBER, frozenset({HERE})) == frozenset()


def test_nobody_looks_who_is_fenced_while_nobody_rings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a look into a directory, each 20 ms."""
    looked: list[int] = []

    def look(_: fences.Fences) -> frozenset[int]:
        looked.append(1)
        return frozenset()

    monkeypatch.setattr(fences.Fences, "look", look)
    heard = ears.ears_of(str(tmp_path), Failing())
    heard.deaf(NUMBER, frozenset())
    assert looked == []
    heard.deaf(NUMBER, frozenset({HERE}))
    assert looked == [1]


def test_nudge_silences_nobody_who_lives(bells: Bells) -> None:
    """It has the file server look, and takes nothing away."""
    command, listener = bells(HERE), bells(THERE)
    command.ring(NUMBER)
    listener.nudge(NUMBER)
    assert bells(THERE).wanted(NUMBER, THERE, nobody)
    command.close()
    listener.nudge(NUMBER)
    assert not bells(THERE).heard(NUMBER)


def test_doorbell_that_cannot_be_asked_says_so(tmp_path: Path) -> None:
    """Silence is not to be taken for an answer."""
    server = Failing()
    with Doorbell(str(tmp_path), server, HERE) as bell:
        server.errors = {"find_lock": errno.ENOLCK, "unlock": errno.EIO}
        for ask in (lambda: bell.heard(1), lambda: bell.rings(1), lambda: bell.hush(1)):
            with pytest.raises(StoreError, match="cannot be"):
                ask()
        bell.nudge(1)
