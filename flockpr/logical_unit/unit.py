"""The commands of a logical unit, and who is connected to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from flockpr.core.model import Nexus
from flockpr.core.outcome import Outcome
from flockpr.errors import Busy, LunNotFound, OutcomeUnknown, StateLost, StoreError
from flockpr.logical_unit.administration import Administration
from flockpr.logical_unit.orders import NeedsGate, Order, Verdict
from flockpr.logical_unit.record import action_name
from flockpr.logical_unit.results import Result, failure
from flockpr.spc.cdb import OtherCommand, parse_command
from flockpr.spc.codes import Opcode, Status
from flockpr.spc.sense import INTERNAL_TARGET_FAILURE
from flockpr.store.base import Store, nexus_text
from flockpr.store.opening import open_store

if TYPE_CHECKING:
    from flockpr.gate import Held

log = logging.getLogger(__name__)

_ANSWERED_ALWAYS = frozenset({Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE})
"""Commands that work while the state cannot be read (reference 4.11)."""


@attrs.frozen
class Narrowing:
    """A command that takes access away, before anything was done: it has to wait for others.

    Attributes:
        run: Waits, carries it out and answers, in the caller's thread; once.
    """

    run: Callable[[], Result]


class LogicalUnit(Administration):
    """A logical unit, opened by one door of one process. Thread-safe.

    Args:
        store: Its lock directory; closed with this object.
        door: Name of the door, for the record.
        keep_tidy: Publish and prune at the end of each command; a daemon does that after
            the reply instead, by `tidy`.

    Use as a context manager, or call `close`.
    """

    def __init__(self, store: Store, *, door: str = "api", keep_tidy: bool = True) -> None:
        super().__init__(store, door=door, keep_tidy=keep_tidy)
        self._told = ""

    @classmethod
    def open(cls, path: str, *, door: str = "api", host: str | None = None) -> LogicalUnit:
        """Open the lock directory ROOT/<lun>.

        Args:
            path: The directory.
            door: Name of the door, for the record.
            host: Name of this host, for the record; the default is the system's.

        Raises:
            ConfigError: `door` or `host` cannot be written into a document.
            LunNotFound: There is no such lock directory.
            StoreError: It cannot be read as ours.
        """
        return cls(open_store(path, host=host), door=door)

    # ------------------------------------------------------------------ commands

    def execute(
        self,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        report_attentions: bool = True,
        long_parameter_length: bool = True,
        timeout: float = 10.0,
        may_issue: Callable[[], bool] | None = None,
    ) -> Result:
        """Carry out one command and answer it; the answer is durable.

        A command that takes access away answers GOOD only when no target lets a command
        through by the state before it any more; see `flockpr.gate`.

        Args:
            nexus: Who sends it.
            cdb: The command descriptor block.
            data_out: Its parameter list.
            report_attentions: Whether pending unit attentions are reported to this nexus.
            long_parameter_length: False where only bytes 7-8 of PERSISTENT RESERVE OUT
                are its length (the helper door).
            timeout: Seconds after which a command that has not begun to commit is BUSY.
            may_issue: Asked immediately before the commit; False makes the command BUSY.

        Returns:
            The result. Whatever goes wrong with the store is one too: BUSY (nothing was
            done), NOT READY, 07/44/01 (the state cannot be read), 05/25/00 (no such LUN),
            ABORTED COMMAND 0B/08/01 (outcome unknown).
        """
        answer = self.attempt(
            nexus,
            cdb,
            data_out,
            report_attentions=report_attentions,
            long_parameter_length=long_parameter_length,
            timeout=timeout,
            may_issue=may_issue,
        )
        return answer.run() if isinstance(answer, Narrowing) else answer

    def attempt(
        self,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        *,
        report_attentions: bool = True,
        long_parameter_length: bool = True,
        timeout: float = 10.0,
        may_issue: Callable[[], bool] | None = None,
        withdrawn: Callable[[], bool] = lambda: False,
    ) -> Result | Narrowing:
        """As `execute`, but a command that takes access away is handed back before anything is
        done, for whoever may not wait as long as that can take. Its wait ends, with BUSY, when
        `withdrawn` says so.
        """
        order = Order(
            nexus,
            parse_command(cdb, data_out, long_parameter_length=long_parameter_length),
            report_attentions,
            time.monotonic() + timeout,
            may_issue,
            withdrawn,
        )
        return self.attempt_all([order])[0]

    def attempt_all(self, orders: Sequence[Order]) -> list[Result | Narrowing]:
        """As `attempt`, for commands that came one after the other; they share their commit.

        What cannot happen, and does with one of several, is HARDWARE ERROR, internal target
        failure, for that one, and is logged. With a single command it is raised.
        """
        try:
            verdicts = self._carry_out(orders, None)
        except StoreError as error:
            return [self._failed(error, order) for order in orders]
        return [self._answer(order, got) for order, got in zip(orders, verdicts, strict=True)]

    def read_at_once(
        self, nexus: Nexus, cdb: bytes, *, report_attentions: bool = False, looks: bool = True
    ) -> Result | None:
        """Answer a command that only reads, if that takes no more than a look at the newest
        transaction; it is then the answer of `execute`.

        Never waits: not for another command, not for a file server of another host.

        Args:
            nexus: Who sends it.
            cdb: The command.
            report_attentions: As `execute`; a nexus that has one to be told gets no answer here.
            looks: See `Store.head_at_once`. Without, only what was answered before is, which takes
                no time.

        Returns:
            The result, whose status is GOOD; or None, which says nothing: use `execute`.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            head = None if self._lost is not None else self._store.head_at_once(looks=looks)
            if head is None or (report_attentions and self._decisions.owes(nexus, head.state)):
                return None
            glance = self._decisions.glance
            return (glance.answer if looks else glance.known)(nexus, cdb, head)
        finally:
            self._lock.release()

    def _answer(self, order: Order, verdict: Verdict) -> Result | Narrowing:
        if isinstance(verdict, NeedsGate):
            return Narrowing(lambda: self._narrow(order))
        if isinstance(verdict, StoreError):
            return self._failed(verdict, order)
        if isinstance(verdict, Exception):
            what, who = action_name(order.command), nexus_text(order.nexus)
            log.error("%s from %s: internal error", what, who, exc_info=verdict)
            return Result.check(INTERNAL_TARGET_FAILURE)
        return Result.of(verdict.reply, verdict.aborted)

    def _narrow(self, order: Order) -> Result:
        def work(held: Held | None) -> Outcome:
            (verdict,) = self._carry_out([order], held)
            if isinstance(verdict, Exception):
                raise verdict
            return verdict

        try:
            outcome = self._through_gate(work, order.deadline, order.withdrawn)
        except StoreError as error:
            return self._failed(error, order)
        if self._keep_tidy:
            self.tidy()  # not before: the targets wait for the permit
        return Result.of(outcome.reply, outcome.aborted)

    def _carry_out(self, orders: Sequence[Order], held: Held | None) -> Sequence[Verdict]:
        if not (self._lock.acquire(blocking=False) or self._lock.acquire(timeout=_left(orders))):
            return [Busy("not in time")] * len(orders)
        try:
            self._check_lost()
            verdicts = self._decisions.decide(orders, held)
            if any(isinstance(verdict, Outcome) for verdict in verdicts):
                self._told = ""
                if self._keep_tidy and held is None:
                    self._tidy()
            return verdicts
        finally:
            self._lock.release()

    # ------------------------------------------------------------------ presence

    def attend(self, nexus: Nexus) -> bool:
        """A door says that this nexus is connected: stand for its registration.

        Returns:
            False if the state could not be read: say it again later.
        """
        with self._lock:
            if self._lost is not None:
                return True  # there will be nothing to stand for
            try:
                state = self._store.head().state
            except StoreError as error:
                self._note_lost(error)
                if str(error) != self._told:  # it is said again before each command
                    log.warning("%s", error)
                return False
            if not self._decisions.remembers(nexus) and not state.overflowed:
                # Logged in: a power cycle from here on concerns it, before its first command.
                self._decisions.remember(nexus, state.attention_epoch)
            self._decisions.standing.stand_for(nexus, state)
            return True

    def leave(self, nexus: Nexus) -> None:
        """A door says that this nexus is gone. Its registration and reservation stay
        (SPC-4 5.13.5); a SPC-2 reservation of its ends.
        """
        with self._lock:
            self._decisions.forget(nexus)
            slot = self._decisions.standing.forget(nexus)
            try:
                if slot is not None and self._lost is None:
                    self._decisions.lose(nexus, slot)
            except StoreError as error:
                self._note_lost(error)
                log.warning("%s", error)

    # ------------------------------------------------------------------ failures

    def _failed(self, error: StoreError, order: Order) -> Result:
        """Fail closed: what cannot be read is never answered as empty."""
        command = order.command
        self._note_lost(error)
        # Once, until a command is answered: a guest that is told so asks a hundred times a
        # second. An unknown outcome is one of that command, and for a person to look into.
        known = str(error) == self._told and not isinstance(error, OutcomeUnknown)
        self._told = str(error)
        level = logging.DEBUG if known else logging.ERROR
        log.log(level, "%s from %s: %s", action_name(command), nexus_text(order.nexus), error)
        if isinstance(command, OtherCommand) and command.opcode in _ANSWERED_ALWAYS:
            return Result(Status.GOOD)
        return failure(error)

    def _note_lost(self, error: StoreError) -> None:
        """For a daemon's: whoever keeps it tidy lets go of its files, and it stays lost."""
        if not self._keep_tidy and isinstance(error, StateLost | LunNotFound):
            self._lost = error


def _left(orders: Sequence[Order]) -> float:
    """Seconds until the time of the last of them is over."""
    return max(0.0, max(order.deadline for order in orders) - time.monotonic())
