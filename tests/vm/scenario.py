"""The contest of two guests for one disk: what must be seen wherever the daemons run."""

from __future__ import annotations

import time
from typing import Protocol

from tests.vm.guests import CONFLICT, Guest, Registrant

_BACK_WITHIN = 3.5
"""Seconds: QEMU tries to send a command five times, a second apart, and then fails it."""
_ATTEMPTS = 5


class Restartable(Protocol):
    """A daemon that the story may kill."""

    def kill(self) -> None:
        """SIGKILL."""

    def start(self) -> None:
        """Start it; ready on return."""


def register_and_reserve(alice: Guest, bob: Guest, names: tuple[str, str]) -> None:
    """Both register, Alice reserves, Bob cannot; everybody sees the same.

    Args:
        alice: The first guest.
        bob: The second guest, on another daemon.
        names: Initiator names of the two.
    """
    assert alice.keys() == set()
    for guest in (alice, bob):
        done = guest.register()
        assert done.status == 0, done
    done = alice.reserve()
    assert done.status == 0, done
    for guest in (alice, bob):
        assert guest.keys() == {alice.key, bob.key}
        assert guest.holder() == alice.key
    refused = bob.reserve()
    assert refused.status == CONFLICT, refused
    assert "Reservation conflict" in refused.output
    expected = {
        Registrant(names[0], alice.key, holder=True),
        Registrant(names[1], bob.key, holder=False),
    }
    for guest in (alice, bob):
        assert guest.full_status() == expected
        assert guest.helper_connected()


def kill_under(guest: Guest, daemon: Restartable) -> float:
    """The guest's command that meets a dead daemon succeeds when the daemon is back in time.

    The guest holds the reservation: it reserves again, which changes nothing (SPC-4 5.13.9).
    A machine so busy that the daemon takes longer to start than QEMU waits proves nothing; then
    it is tried again.

    Returns:
        Seconds that the daemon was away.
    """
    for _ in range(_ATTEMPTS):
        daemon.kill()
        gone = time.monotonic()
        command = guest.start(f"--out {guest.reserving}")
        daemon.start()
        away = time.monotonic() - gone
        done = command.wait()
        if away < _BACK_WITHIN:
            assert done.status == 0, f"daemon away for {away:.1f} s: {done}"
            assert guest.holder() == guest.key
            assert guest.helper_connected()
            return away
    raise AssertionError(f"the daemon never came back within {_BACK_WITHIN} s")


def kill_between(guest: Guest, daemon: Restartable) -> None:
    """The guest's first command after a kill finds the daemon back, and its reservation."""
    daemon.kill()
    daemon.start()
    done = guest.reserve()
    assert done.status == 0, done
    assert guest.holder() == guest.key
    assert guest.helper_connected()


def preempt(alice: Guest, bob: Guest) -> None:
    """Bob preempts Alice, who holds the reservation: she is nobody then, until she registers."""
    done = bob.preempt(alice)
    assert done.status == 0, done
    for guest in (alice, bob):
        assert guest.keys() == {bob.key}
        assert guest.holder() == bob.key
    refused = alice.reserve()
    assert refused.status == CONFLICT, refused


def release(alice: Guest, bob: Guest) -> None:
    """Bob releases, Alice registers and reserves: nothing keeps her out any more."""
    for done in (bob.release(), alice.register(), alice.reserve()):
        assert done.status == 0, done
    assert bob.holder() == alice.key
    assert bob.keys() == {alice.key, bob.key}
