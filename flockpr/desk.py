"""One thread for all connections of a door, or of many, whose commands need no waiting.

Most commands read what is known, and cost a handful of system calls. With a thread for each
connection every one of these calls passes the interpreter's lock around; with one thread for
all of them nothing is passed. So a connection that is in step, and whose client is known, sits
down here. What needs time is not done here: a command that has to be carried out is handed to
the threads of its LUN, which send the reply; a client's files are closed by spare threads; whatever
else is out of the ordinary gets the connection a thread of its own.

What is left are calls that do not wait: on sockets, and looks at names on a file system of this
host. Should one hang all the same, because a disk died or somebody means harm, a guard sees it.
When one command has taken longer than `PATIENCE`, another thread takes its place with all the
other connections, and the one that hangs keeps the connection that it hangs with. Whose that is
has no place here for a while, a longer one each time, however often it connects: so nobody can
have the others wait again and again.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from flockpr.units.hush import Hush
from flockpr.units.respite import Respite

_log = logging.getLogger("flockpr.desk")

PATIENCE = 0.1
"""Seconds that one command may take before the others get another thread."""
LOOK = PATIENCE / 2
"""Seconds between two looks of the guard, while there is anything to look after."""
SURELY = 1.0
"""Seconds after which they get one on a machine as well that is too busy to tell."""
LATE = 1.0
"""Seconds between two looks for connections that take too long with what they began."""
REST_AFTER = 2.0
"""Seconds without a command after which the guard waits for the next one ..."""
REST = 5.0
"""... but not longer than this."""
SOON = 100e-6
"""Seconds within which a client sends its next command, if it is one of those that are quick ..."""
EAGER = 40e-6
"""... and is waited for without going to sleep, since to be woken takes about as long as this."""
_FUTEX = {"x86_64": b"202", "aarch64": b"98"}.get(os.uname().machine, b"")
MAX_AWAY = 4096
"""Owners that are remembered; the one that hung first is forgotten."""


class Turn(enum.Enum):
    """How a turn of a connection ended."""

    STAY = enum.auto()
    """It is to be looked at again when something comes."""
    ANSWERED = enum.auto()
    """Likewise, and it has been answered: the next command may come at once."""
    PARK = enum.auto()
    """Something came while a command is carried out: leave it alone until that is answered."""
    LEAVE = enum.auto()
    """It needs a thread of its own."""
    END = enum.auto()
    """It is over."""
    GONE = enum.auto()
    """It hung, and has got a thread meanwhile: leave it alone."""


class Sitter(Protocol):
    """What sits at the desk. None of the calls waits or raises, but for a hanging system call."""

    def fileno(self) -> int:
        """The descriptor to be watched."""

    def turn(self) -> Turn:
        """Something came, or the end of the stream: deal with it."""

    def park(self) -> bool:
        """Nobody watches it from now on; False if it wants to be watched all the same."""

    def overdue(self, now: float) -> bool:
        """Look whether anything of it takes too long; whether anything may come to do so."""

    def dismissed(self) -> bool:
        """It hangs in a turn. The thread of that turn is its own from now on, unless it has got
        one meanwhile: then False.
        """

    @property
    def owner(self) -> Hashable:
        """Whose it is."""


_Sitter = TypeVar("_Sitter", bound=Sitter)


class _Lead(Generic[_Sitter]):
    """What a thread that has the desk, and its guard, know of each other.

    Attributes:
        busy: The connection whose turn it is, if any; whoever takes it out decides what comes
            next.
        keeps: Whether the thread keeps the connection that it hung with.
    """

    def __init__(self) -> None:
        self.busy: list[_Sitter] = []
        self.keeps = False


class Desk(Generic[_Sitter]):
    """One thread, its guard, and the connections that it serves.

    Args:
        serve: Serves a connection in the caller's thread from now on.
        alone: Likewise in another thread; returns at once.
        ended: A connection is over; returns at once.

    Attributes:
        alone: As given.
        hush: For whoever answers several connections that sit here.
    """

    def __init__(
        self,
        *,
        serve: Callable[[_Sitter], None],
        alone: Callable[[_Sitter], None],
        ended: Callable[[_Sitter], None],
    ) -> None:
        self._serve = serve
        self.alone = alone
        self.hush = Hush()
        self._ended = ended
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._end: int | None = None
        self._sitting: dict[int, _Sitter] = {}
        self._thread: threading.Thread | None = None
        self._guard: threading.Thread | None = None
        self._lead = _Lead[_Sitter]()
        self._turns = 0
        self._begun = 0
        self._away: dict[Hashable, Respite] = {}
        self._wary = Respite()
        self._stopping = False
        self._resting = False
        self._wake = threading.Event()

    def welcomes(self, owner: Hashable) -> bool:
        """Whether a connection of theirs may sit down now."""
        away = self._away.get(owner)
        return not self._stopping and (away is None or not away.lasts)

    @property
    def wary(self) -> bool:
        """Whether something hung here a while ago: then nothing is to be done here that may, even
        if it hardly ever does. Names are cheap, and somebody may take another one each time.
        """
        return self._wary.lasts

    def take(self, sitter: _Sitter) -> bool:
        """Serve a connection from now on; False if that cannot be."""
        with self._lock:
            if not self.welcomes(sitter.owner) or not self._staffed():
                return False
            if sitter in self._lead.busy:
                return False  # it hangs here still, and is about to be let go
            self._sitting[sitter.fileno()] = sitter
            try:
                self._poll.register(sitter.fileno(), select.EPOLLIN)
            except OSError:  # no memory for one more
                del self._sitting[sitter.fileno()]
                return False
        return True

    def serves(self, sitter: _Sitter) -> bool:
        """Whether it is, or may be, in the middle of a turn of this one."""
        with self._lock:
            return sitter in self._lead.busy

    def watch_again(self, sitter: _Sitter) -> None:
        """What a parked connection waited for has been done: see to what came meanwhile."""
        with contextlib.suppress(OSError, ValueError):
            self._poll.register(sitter.fileno(), select.EPOLLIN)

    def release(self, sitter: _Sitter) -> None:
        """Serve it no longer."""
        self._sitting.pop(sitter.fileno(), None)
        with contextlib.suppress(OSError, ValueError):
            self._poll.unregister(sitter.fileno())

    def stop(self) -> None:
        """End the threads, as far as they do not hang. Idempotent."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        if self._end is not None:
            os.eventfd_write(self._end, 1)
        self._wake.set()
        if self._guard is not None:
            self._guard.join()
        if self._thread is not None:
            self._thread.join(SURELY)
            if self._thread.is_alive():
                return  # it hangs, and may come back to these
        self._poll.close()
        if self._end is not None:
            os.close(self._end)

    # ------------------------------------------------------------------ the thread

    def _staffed(self) -> bool:
        """Whether there are threads; they begin with the first connection."""
        if self._guard is not None:
            return True
        guard = threading.Thread(target=self._watch, name="desk-guard", daemon=True)
        try:
            if self._end is None:
                self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._poll.register(self._end, select.EPOLLIN)
            if self._thread is None:
                self._begin()
            guard.start()
        except (RuntimeError, OSError):
            return False
        self._guard = guard
        return True

    def _begin(self) -> None:
        """Start a thread; it has the desk until another one is started."""
        lead = _Lead[_Sitter]()
        self._begun += 1
        name = f"desk-{self._begun}"
        thread = threading.Thread(target=self._serve_all, args=(lead,), name=name, daemon=True)
        thread.start()
        self._thread, self._lead = thread, lead

    def _serve_all(self, lead: _Lead[_Sitter]) -> None:
        """Serve whoever has something to be served, until the end or until it took too long."""
        busy = lead.busy
        sitting = self._sitting
        answered = quick = False
        while not self._stopping:
            ready, quick = self._next(answered, quick)
            answered = False
            if self._resting:
                self._wake.set()
            if self.hush.lasts:
                self.hush.wait()
                ready = self._poll.poll(0)  # more have come by now
            for descriptor, _ in ready:
                sitter = sitting.get(descriptor)
                if sitter is None:
                    continue
                self._turns += 1
                busy.append(sitter)
                turn = sitter.turn()
                try:
                    busy.pop()
                except IndexError:
                    # It hung with this one, and another thread has the desk by now.
                    with self._lock:  # when the guard has done with it
                        keeps = lead.keeps
                    return self._outlived(sitter, turn) if keeps else None
                if turn is Turn.ANSWERED:
                    answered = True
                elif turn is not Turn.STAY and turn is not Turn.GONE:
                    self._after(sitter, turn)
        return None

    def _next(self, answered: bool, quick: bool) -> tuple[list[tuple[int, int]], bool]:
        """What comes next; and whether clients are quick, if they were just answered.

        Not while a command is carried out: its thread needs the interpreter more than this one.
        """
        poll = self._poll.poll
        if not answered:
            return poll(), False
        begun = time.monotonic()
        while quick:
            ready = poll(0)
            if ready:
                return ready, True
            quick = time.monotonic() - begun < EAGER
        ready = poll()
        return ready, time.monotonic() - begun < SOON

    def _after(self, sitter: _Sitter, turn: Turn) -> None:
        if turn is Turn.PARK:
            with contextlib.suppress(OSError, ValueError):
                self._poll.unregister(sitter.fileno())
            if not sitter.park():
                self.watch_again(sitter)
            return
        self.release(sitter)
        if turn is Turn.LEAVE:
            self.alone(sitter)
        else:
            self._ended(sitter)

    def _outlived(self, sitter: _Sitter, turn: Turn) -> None:
        if turn is Turn.GONE:
            return
        if turn is Turn.END:
            self._ended(sitter)
        else:
            self._serve(sitter)

    # ------------------------------------------------------------------ its guard

    def _watch(self) -> None:
        seen = stuck = 0
        unfinished = False
        moved = checked = time.monotonic()
        while not self._stopping:
            time.sleep(LOOK)
            now = time.monotonic()
            if now - checked >= LATE:
                checked = now
                unfinished = False
                for sitter in list(self._sitting.values()):
                    unfinished |= sitter.overdue(now)
            lead, turns = self._lead, self._turns
            if turns != seen:
                seen, stuck, moved = turns, 0, now
            elif lead.busy:
                stuck += _in_a_call(self._thread)
                if stuck * LOOK >= PATIENCE or now - moved >= SURELY:
                    stuck = 0
                    self._replace(lead)
            elif now - moved >= REST_AFTER and not unfinished:
                self._rest()

    def _rest(self) -> None:
        """Do not look until something comes; now and then all the same."""
        self._wake.clear()
        self._resting = True
        if not self._stopping:
            self._wake.wait(REST)
        self._resting = False

    def _replace(self, lead: _Lead[_Sitter]) -> None:
        with self._lock:
            try:
                sitter = lead.busy.pop()
            except IndexError:  # it has just come back
                return
            self.release(sitter)
            lead.keeps = sitter.dismissed()
            self._send_away(sitter.owner)
            self._wary.begin()
        while not self._stopping:
            try:
                self._begin()
            except RuntimeError as error:
                _log.error("no thread for the other connections yet: %s", error)
                time.sleep(LOOK)
            else:
                break
        _log.warning("a command took long: the other connections have got another thread")

    def _send_away(self, owner: Hashable) -> None:
        away = self._away.pop(owner, None) or Respite()
        away.begin()
        self._away[owner] = away
        if len(self._away) > MAX_AWAY:
            del self._away[next(iter(self._away))]


def _in_a_call(thread: threading.Thread | None) -> bool:
    """Whether a thread waits in a system call, but for the interpreter's lock: on a busy machine
    most threads that take long want for nothing but a processor.
    """
    if thread is None:
        return False
    try:
        with open(f"/proc/self/task/{thread.native_id}/syscall", "rb") as file:
            number = file.read().split()[0]
    except OSError:
        return True  # it cannot be told
    return number not in (b"running", _FUTEX)
