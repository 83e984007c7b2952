"""A target's permit to read and write one image by the state that it has read.

The permit is taken for whoever wants to enter first, and given back by whoever leaves last, so
an idle LUN holds nothing. System calls hang while a cluster gets over the loss of a node, or the
file server is away. So none is made with the lock of the object held, and those that take the
permit have a thread of their own: a command has to be answered in time.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from flockpr import events
from flockpr.errors import StoreError, StoreUnavailable
from flockpr.gate import aside
from flockpr.gate.hosts import host_number
from flockpr.gate.image import SYSCALLS
from flockpr.gate.phase import Phase
from flockpr.gate.stake import Stake
from flockpr.gate.watch import watch_of
from flockpr.store import files
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

_OPEN = Phase.OPEN
"""By name: looking a member up in its class takes longer than all else that `enter` does."""


class Permit:
    """The permit of one process for one LUN; thread-safe.

    A read or write is one `enter`, the system calls on `fd`, one `leave`. Between them nothing
    may be waited for that another command has to do: a command that takes access away waits
    for all who entered.

    Args:
        root: The root directory.
        number: Logical unit number.
        image: Path of the image, relative to the root.
        on_open: Called with a deadline each time the permit was taken, before anybody enters:
            reads the state again. Whatever it raises keeps everybody out.
        on_descriptor: Called with each new descriptor of the image, before the permit is
            taken on it. Whatever it raises keeps everybody out.
        host: Name of this host; the system's by default.
        door: Name of the door, for the record.
        syscalls: Where the calls go.

    Attributes:
        fault: Why nobody gets in, beyond that a command which narrows access is under way.
    """

    def __init__(
        self,
        root: str,
        number: int,
        image: str,
        *,
        on_open: Callable[[float], None],
        on_descriptor: Callable[[int], None] | None = None,
        host: str | None = None,
        door: str = "iscsi",
        syscalls: Syscalls | None = None,
    ) -> None:
        self.number = number
        self.host = host_number(host)
        self.door = door
        self.fault: StoreError | None = None
        self._on_open = on_open
        syscalls = syscalls or SYSCALLS
        self._watch = watch_of(root, syscalls)
        self._stake = Stake(
            root,
            number,
            image,
            host=self.host,
            owner=self,
            on_descriptor=on_descriptor,
            syscalls=syscalls,
        )
        self.path = self._stake.path
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._phase = Phase.IDLE
        self._inside = 0
        self._turn = 0
        self._bars: set[object] = set()
        self._knocked = False
        self._lost = False
        self._ending = False
        self._closed: list[Callable[[], None]] = []
        self._attending = 0
        self._resting = False

    # ------------------------------------------------------------------ the descriptor

    @property
    def fd(self) -> int:
        """The descriptor to read and write through, between `enter` and `leave`; else it may
        be closed and be another file's at any moment. -1 while there is none.
        """
        return self._stake.fd

    @property
    def direct(self) -> bool:
        """Whether it is O_DIRECT, so that lengths, offsets and buffers must be aligned."""
        return self._stake.direct

    @property
    def held(self) -> bool:
        """Whether somebody who wants it exclusively has to wait for this one."""
        return self._phase in (Phase.READING, Phase.OPEN, Phase.DRAINING, Phase.RELEASING)

    def open(self) -> None:
        """Open the image already now, without the permit.

        Raises:
            StoreError: It cannot be opened read-write.
        """
        with self._lock:
            if self._phase is not Phase.IDLE or self._stake.image is not None:
                return
            self._phase = Phase.TAKING
        try:
            self._stake.open()
        except OSError as error:
            raise files.unavailable(error, "cannot be used", self.path) from error
        finally:
            self._settle()

    # ------------------------------------------------------------------ reads and writes

    def enter(self, deadline: float) -> bool:
        """Begin a read or write.

        Args:
            deadline: When to give up, by `time.monotonic`.

        Returns:
            Whether it may be done. If not, `fault` says why, or else a command that narrows
            access took too long.
        """
        return self.enter_at_once() or self._enter_slowly(deadline)

    def enter_at_once(self) -> bool:
        """As `enter`, if nothing has to be waited for; False says nothing else."""
        with self._lock:
            if self._phase is not _OPEN:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """End a read or write."""
        with self._lock:
            self._inside -= 1
            if self._phase is _OPEN and not self._resting:
                return  # nobody wants it
            release = self._begin_release()
        if release:
            aside.begin(self._release)

    def lost(self) -> bool:
        """A read or write failed in a way that a lost permit fails (EIO, ESTALE, ENOLCK); to be
        asked by whoever has entered.

        Returns:
            Whether the permit has to be taken for lost. Then nobody enters until all have left;
            the descriptor is closed, because nothing else makes the server forget, and the
            next to enter opens and takes anew. False: the image itself is at fault.
        """
        image = self._stake.image
        if image is not None and image.direct and image.honoured():
            return False
        events.lost_permit(self.path)
        with self._lock:
            self._lost = True
            if self._phase is Phase.OPEN:
                self._phase = Phase.DRAINING
        return True

    def renew(self) -> None:
        """Give it back with the descriptor, once those inside have left: it may not be what it
        seems. Who enters then takes it anew, if that may be.
        """
        with self._lock:
            self._lost = True
            if self._phase is Phase.OPEN:
                self._phase = Phase.DRAINING
            release = self._begin_release()
        if release:
            aside.begin(self._release)

    def attend(self) -> None:
        """A session is attached."""
        with self._lock:
            self._attending += 1
            self._resting = False

    def rest(self) -> None:
        """A session is detached. After the last one the permit is given back, so that no
        command anywhere has to wait for a target that nobody uses.
        """
        with self._lock:
            self._attending -= 1
            self._resting = self._attending <= 0
            release = self._begin_release()
        if release:
            aside.begin(self._release)

    def close(self, then: Callable[[], None] = lambda: None) -> None:
        """Let nobody enter any more, and give back permit and descriptor after the last left.

        Args:
            then: Called once that is done, perhaps by whoever leaves last.
        """
        with self._lock:
            over = self._phase is Phase.CLOSED
            if not over:
                self._closed.append(then)
            self._ending = True
            if self._phase is Phase.OPEN:
                self._phase = Phase.DRAINING
            release = self._begin_release()
            idle = self._phase is Phase.IDLE
            if idle:
                self._phase = Phase.RELEASING
        if release or idle:
            self._release()
        if over:
            then()

    # ------------------------------------------------------------------ whoever narrows

    def bar(self, who: object) -> None:
        """Let nobody enter until `admit(who)`; returns at once."""
        with self._lock:
            self._bars.add(who)
            if self._phase is Phase.OPEN:
                self._phase = Phase.DRAINING

    def yielded(self, deadline: float) -> bool:
        """Wait until the permit, which is barred, is not held; False: a read or write is slow."""
        while True:
            with self._lock:
                release = self._begin_release()
                if not release:
                    if not self.held:
                        return True  # or about to be given back, by a thread that took it late
                    if not self._wait(deadline):
                        return False
            if release:
                self._release()
                return True

    def admit(self, who: object) -> None:
        """`who` needs it no more."""
        with self._lock:
            self._bars.discard(who)
            self._reopen()

    def knock(self, heard: bool) -> None:
        """The watch heard somebody who wants it exclusively, or nobody (any more)."""
        with self._lock:
            self._knocked = heard
            if heard and self._phase is Phase.OPEN:
                self._phase = Phase.DRAINING
            elif not heard:
                self._reopen()
            release = self._begin_release()
        if release:
            aside.begin(self._release)

    # ------------------------------------------------------------------ taking it

    def _enter_slowly(self, deadline: float) -> bool:
        while True:
            with self._lock:
                if self._ending:
                    self.fault = StoreUnavailable("is not served any more", self.path)
                    return False
                if self._phase is Phase.OPEN:
                    self._inside += 1
                    return True
                if self._phase is not Phase.IDLE or self._bars:
                    if not self._wait(deadline):
                        self.fault = None
                        return False
                    continue
                self._phase = Phase.TAKING
                self._turn += 1
                turn = self._turn
            again = aside.within(functools.partial(self._take, turn, deadline), deadline)
            if again is None:  # something hangs, and goes on when it can
                self.fault = None
            if not again:
                return False

    def _take(self, turn: int, deadline: float) -> bool:
        """Take it and read the state again; False where whoever wants to enter has to give up."""
        try:
            if self._lost:  # since it was given back last
                self._lost = False
                self._stake.drop()
            if not self._stake.take(deadline, self._given_up):
                self._settle()
                self.fault = None
                return time.monotonic() < deadline
            if not self._may_read():
                self._release()
                return True  # whoever narrows in this process goes first
            self._watch.add(self)
            self._on_open(deadline)
        except StoreError as error:
            self._fail(error, turn)
            return False
        except OSError as error:
            self._fail(files.unavailable(error, "cannot be used", self.path), turn)
            return False
        except Exception as error:
            log.exception("%s: the state cannot be read again", self.path)
            what = f"the state cannot be read again: {error}"
            self._fail(StoreUnavailable(what, self.path), turn)
            return False
        self._open(turn)
        return True

    def _open(self, turn: int) -> None:
        """The state has been read: whoever waits may enter, unless somebody in this process wants
        to narrow access since. Nobody has entered who would give it back.
        """
        with self._lock:
            if self._phase is not Phase.READING or self._turn != turn:
                return
            barred = self._given_up()
            self._phase = Phase.RELEASING if barred else Phase.OPEN
            self.fault = None
            self._changed.notify_all()
        if barred:
            self._release()

    def _given_up(self) -> bool:
        """Whether nobody is to take it at the moment."""
        return bool(self._bars) or self._ending

    def _may_read(self) -> bool:
        """The byte is held: read the state, unless somebody in this process narrows access."""
        with self._lock:
            if self._given_up():
                self._phase = Phase.RELEASING
                return False
            self._phase = Phase.READING
            self._knocked = False
            return True

    def _fail(self, error: StoreError, turn: int) -> None:
        """Nobody enters for this reason; the next to try tries anew."""
        self.fault = error
        with self._lock:
            ours = self._turn == turn and self._phase in (Phase.TAKING, Phase.READING)
            if ours:
                self._phase = Phase.RELEASING
        if ours:
            self._release()

    # ------------------------------------------------------------------ giving it back

    def _begin_release(self) -> bool:
        """Whether the caller, who holds the lock, has to give it back now."""
        unwanted = self._phase is Phase.DRAINING or (self._phase is Phase.OPEN and self._resting)
        # While the state is being read again nothing is under way that would have to end.
        barred = self._given_up() or self._knocked or self._lost
        unwanted = unwanted or bool(self._phase is Phase.READING and barred)
        if self._inside or not unwanted:
            return False
        self._phase = Phase.RELEASING
        return True

    def _release(self) -> None:
        """Give the byte back; with the descriptor, where that is the only way."""
        if not self._stake.give_back():
            self._lost = True
        self._settle()

    def _settle(self) -> None:
        """It is not held: whoever enters takes it, or it is over."""
        while True:
            if self._lost or self._ending:
                self._stake.drop()
            with self._lock:
                if self._ending and self._stake.image is not None:
                    continue  # asked to end just now
                self._lost = False
                self._phase = Phase.CLOSED if self._ending else Phase.IDLE
                self._changed.notify_all()
                closed = self._closed if self._ending else []
                self._closed = []
            for then in closed:
                then()
            return

    def _reopen(self) -> None:
        """Whoever wanted it does no more, and it was held all the time: nothing to read again."""
        barred = self._given_up() or self._knocked or self._lost
        if self._phase is Phase.DRAINING and not barred:
            self._phase = Phase.OPEN
        self._changed.notify_all()

    def _wait(self, deadline: float) -> bool:
        """Wait for a change; False at the deadline."""
        left = deadline - time.monotonic()
        return left > 0 and self._changed.wait(left)
