"""A daemon after thousands of commands and hundreds of connections, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading

import pytest

from flockpr.spc.codes import Status
from tests.support.daemons import (
    BY_THE_UNITS,
    PATIENCE,
    READ_FULL_STATUS,
    Daemon,
    Door,
    Guest,
    chain,
    committed,
    decide,
    environment,
    out,
    read,
    wait_for,
)
from tests.support.scsi import REGISTER_IGNORE
from tests.support.strace import Strace

A, B, C = Door("a"), Door("b"), Door("c")
MEBIBYTE = 1 << 20


def _visit(daemon: Daemon, door: Door, visits: int, commands: int) -> None:
    """Connect, send some commands, go; again and again."""
    for visit in range(visits):
        with daemon.guest(door) as guest:
            for number in range(commands):
                sent = out(REGISTER_IGNORE, 0, 1 + number) if number % 3 == 0 else read(visit % 4)
                assert guest.send(sent).status == Status.GOOD


def _crowd(daemon: Daemon, visits: int, commands: int) -> None:
    failures: list[BaseException] = []

    def run(door: Door) -> None:
        try:
            _visit(daemon, door, visits, commands)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(door,)) for door in daemon.doors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _rude_visits(daemon: Daemon, count: int) -> None:
    """Connections that say nothing, half a greeting, or leave with an answer under way."""
    path = daemon.path(daemon.doors[0])
    for number in range(count):
        if number % 3 == 2:
            with daemon.guest() as guest:
                guest.send_only(read(READ_FULL_STATUS))
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rude:
            rude.settimeout(PATIENCE)
            rude.connect(path)
            if number % 3:
                rude.sendall(b"\0\0")


def _idle(daemon: Daemon) -> int:
    """Wait until all connections are gone; how many descriptors are left.

    But for those of desks: on a busy machine a socket gets a desk and a guard of its own now and
    then, for good, and never more than one.
    """

    def alone() -> bool:
        sockets = [name for name in daemon.descriptors() if name.startswith("socket:")]
        # The main thread, the one for commands that wait too long, the one of the logical unit,
        # and for each socket the one that accepts, the one of the desk and its guard.
        most = 3 + 3 * len(daemon.doors)
        return len(sockets) == len(daemon.doors) and len(daemon.threads()) <= most

    wait_for(alone, lambda: f"{len(daemon.threads())} threads, {daemon.descriptors()}")
    return sum(not name.startswith("anon_inode:") for name in daemon.descriptors())


@pytest.mark.parametrize(
    ("rounds", "visits"),
    [(2, 40), pytest.param(20, 200, marks=[pytest.mark.sweep, pytest.mark.timeout(3600)])],
    ids=["short", "long"],
)
def test_daemon_after_thousands_of_commands_holds_no_more_than_before(
    directory: str, rounds: int, visits: int
) -> None:
    """Descriptors, threads and memory do not grow with commands and connections."""
    with Daemon(directory, "one", [A, B, C]) as daemon:
        _crowd(daemon, visits, 8)  # whatever is kept for good is there after this
        _rude_visits(daemon, 30)
        before, memory = _idle(daemon), daemon.resident()
        for _ in range(rounds):
            _crowd(daemon, visits, 8)
            _rude_visits(daemon, 30)
        assert _idle(daemon) == before, daemon.descriptors()
        grown = daemon.resident() - memory
        print(f"{before} descriptors; grown by {grown >> 10} KiB from {memory >> 10}")
        assert grown < 8 * MEBIBYTE
        assert daemon.stop() == 0
    chain(directory)


@pytest.mark.peer("strace")
def test_daemon_that_is_terminated_answers_what_is_in_execution(directory: str) -> None:
    """SIGTERM: no new connection, the command in execution is answered, 0, the socket is gone."""
    with (
        Daemon(directory, "one", [A], *BY_THE_UNITS, "--drain", "60") as daemon,
        daemon.guest() as guest,
    ):
        worker, _ = daemon.workers(guest)
        before = committed(directory)
        sent = out(REGISTER_IGNORE, 0, 7)
        after, good = decide(before, guest.who, sent)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(guest.send(sent)))
        output = os.path.join(directory, "trace")
        with Strace(worker, output, inject=["fsync:delay_enter=600s:when=1"]) as tracer:
            thread.start()
            wait_for(lambda: any(call.name == "fsync" for call in tracer.so_far()))
            daemon.terminate()
            wait_for(lambda: not os.path.exists(daemon.path(A)))
            assert not answers
            tracer.detach()  # ends the delay
        thread.join()
        assert answers == [good]
        assert daemon.wait() == 0
        assert committed(directory) == after


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_daemon_that_is_told_to_end_ends_with_0(directory: str, how: signal.Signals) -> None:
    """SIGTERM and SIGINT: silent clients hold nothing up, exit 0, own socket gone."""
    with Daemon(directory, "one", [A, B]) as daemon, daemon.guest(A) as guest, daemon.guest(B):
        assert guest.send(read()).status == Status.GOOD
        os.kill(daemon.pid, how)
        assert daemon.wait() == 0
        assert not os.path.exists(daemon.path(A))
        assert not os.path.exists(daemon.path(B))


def test_second_daemon_on_a_live_socket_is_refused(directory: str) -> None:
    """A live socket is never stolen: the second daemon ends with an error, the first serves on."""
    with Daemon(directory, "one", [A]) as daemon, daemon.guest() as guest:
        inode = os.lstat(daemon.path(A)).st_ino
        second = subprocess.run(
            daemon.command,
            env=environment(directory),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert second.returncode not in (0, -signal.SIGKILL)
        assert daemon.path(A) in second.stderr
        assert "Traceback" not in second.stderr
        assert os.lstat(daemon.path(A)).st_ino == inode
        assert guest.send(read()).status == Status.GOOD
        with daemon.guest() as another:
            assert another.send(read()).status == Status.GOOD


def test_daemon_after_a_kill_takes_its_dead_socket_over(directory: str) -> None:
    """SIGKILL leaves a socket behind that nobody listens on: the next start replaces it."""
    with Daemon(directory, "one", [A]) as daemon:
        for key in (1, 2, 3):
            daemon.kill()
            assert os.path.exists(daemon.path(A))
            daemon.start()
            with daemon.guest() as guest:
                _register(guest, key)


def _register(guest: Guest, key: int) -> None:
    assert guest.send(out(REGISTER_IGNORE, 0, key)).status == Status.GOOD
