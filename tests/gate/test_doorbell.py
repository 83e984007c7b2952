"""The doorbell: who rings, for whom, and who has to listen."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flockpr.errors import StoreError
from flockpr.gate import Doorbell, places
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


def nobody() -> frozenset[int]:
    """No host is declared fenced."""
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
    assert not listener.wanted(NUMBER, THERE, lambda: frozenset({HERE}))
    bells(THERE).ring(NUMBER)
    assert listener.wanted(NUMBER, THERE, lambda: frozenset({HERE}))


def test_nobody_asks_who_is_fenced_while_nobody_rings(bells: Bells) -> None:
    """It would be a look into a directory, each 20 ms."""

    def asked() -> frozenset[int]:
        raise AssertionError

    assert not bells(HERE).wanted(NUMBER, HERE, asked)


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
