"""The loop of every command and event: decide on the head, commit, or decide again.

Commands that came while a commit was under way share the next one: they are decided in turn,
each on the state that the one before it would leave, and one document carries what they come
to. All of them are answered after it, those as well that changed nothing, because they may
have been decided on what others changed. If somebody else has committed meanwhile, all of
them are decided anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flockpr.core import attention
from flockpr.core.access import narrows
from flockpr.core.events import Event, NexusLoss, occur
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome
from flockpr.errors import OutcomeUnknown, StoreError
from flockpr.logical_unit.glance import Glance
from flockpr.logical_unit.orders import NeedsGate, Order, Plan, Step, Verdict, plan
from flockpr.logical_unit.record import command_line, event_lines, served_after, worth_noting
from flockpr.logical_unit.standing import Standing
from flockpr.spc.cdb import Command, PersistentReserveOut, Release, Reserve
from flockpr.spc.codes import OutAction, Status
from flockpr.store.base import Applied, Served, Snapshot, Store
from flockpr.store.clock import utc_now

if TYPE_CHECKING:
    from flockpr.gate import Held

__all__ = ["MAX_REMEMBERED", "Decisions", "NeedsGate"]

MAX_REMEMBERED = 4096
"""Nexuses whose attention epoch one daemon remembers; the longest silent is forgotten."""


_unproven: set[str] = set()
"""Incarnations of the logical units that are unproven; for all doors of the process."""
_proven: dict[str, str] = {}
"""By incarnation, the newest transaction of which it is known that nobody goes by a state before
it: this process proved it with the gate held, or one below it that took no access away from
anybody since; for all doors of the process.
"""

_CHANGING = (PersistentReserveOut, Reserve, Release)

_ASSERTING = frozenset(
    {
        OutAction.RESERVE,
        OutAction.PREEMPT,
        OutAction.PREEMPT_AND_ABORT,
        OutAction.REGISTER,
        OutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
        OutAction.REGISTER_AND_MOVE,
    }
)
"""Whose GOOD says that somebody has no access, also where it changes nothing."""


class Decisions:
    """What is decided and committed for one opened logical unit. Called with its lock held.

    Args:
        store: Its lock directory.
        door: Name of the door, for the record.
        gated: It has an image, so that somebody may be reading and writing.

    Attributes:
        config: The limits of the logical unit.
        standing: The byte ranges of those who are connected.
        glance: The answers to the newest state that was seen.
    """

    def __init__(self, store: Store, door: str, *, gated: bool) -> None:
        self.config = UnitConfig(target_ports=store.identity.target_ports)
        self.standing = Standing(store)
        self.glance = Glance(self.config)
        self._store = store
        self._door = door
        self._me = Served(store.host, store.daemon, door)
        self._gated = gated
        self._epochs: dict[Nexus, int | None] = {}
        self._under_gate = ""
        self._begun: list[Order] = []

    def decide(self, orders: Sequence[Order], held: Held | None = None) -> list[Verdict]:
        """Carry out commands that came one after the other, as many with one commit as it can
        carry. Each has the effect that it has alone, at a moment between the call and the return.

        Args:
            orders: The commands; with the gate held, one.
            held: The gate, if it is held.

        Returns:
            What became of each. `NeedsGate`: the gate is not held, and has to be. `StoreError`:
            see `Store.commit`. Any other exception, where there are several commands: what
            cannot happen did, and whether this one was done is not known.
        """
        verdicts: dict[Order, Verdict] = {}
        left, together = list(orders), len(orders)
        while left:
            some = left[:together]
            try:
                verdicts.update(self._decide_some(some, held))
            except Exception as error:
                if len(orders) == 1:
                    raise
                # What was not begun is decided alone from here on, so that the one that it came
                # from takes no other one with it.
                lost = self._begun or (some if together == 1 else [])
                verdicts.update(dict.fromkeys(lost, error))
                together = 1
            left = [order for order in left if order not in verdicts]
        return [verdicts[order] for order in orders]

    def _decide_some(self, orders: list[Order], held: Held | None) -> dict[Order, Verdict]:
        """Carry out the first of these commands, with as many others as go together with it.

        Those that are not in what is returned had no effect, and are to be decided anew: they
        may have been decided on what was not committed.
        """
        guess = self._guess(orders, held)
        ordered = asked = guess is not None
        try:
            while True:
                self._begun = []
                base = guess or self._store.head()
                if base.state.spc2 is not None:
                    orders = orders[:1]  # whose commit frees it, if its holder is lost
                    base = self._without_lost_holder(base, orders[0].in_time, held)
                made = self._plan(base, orders, held)
                if made.state is base.state:
                    if guess is not None:
                        guess, ordered = None, False
                        continue  # no commit will tell whether it is the newest
                    self._store.ensure_durable(base)
                    return self._done(made, base, held)
                if not ordered:
                    ordered = asked = True
                    if self._store.order():
                        continue  # others committed while we waited: look again
                late: list[Order] = []
                try:
                    after = self._commit(made, held, late)
                except StoreError as error:
                    return dict.fromkeys(late or [one.order for one in made.changes], error)
                if after is not None:
                    return self._done(made, after, held)
                if guess is not None:  # for which nobody may have asked for the right
                    guess, ordered = None, False
        except (StoreError, NeedsGate) as error:
            return dict.fromkeys(orders, error)
        finally:
            if asked:
                self._store.disorder()

    def _guess(self, orders: Sequence[Order], held: Held | None) -> Snapshot | None:
        """A transaction to decide on without a look, if a commit is to tell whether it was the
        newest; with the right to commit next.

        Not with the gate held, for which others wait, nor where the loss of a holder's nexus may
        have to come first, nor while another daemon has that right: who looks first takes longer,
        and would lose to who does not again and again.
        """
        guess = None if held is not None else self._store.likely_head()
        if guess is None or guess.state.spc2 is not None:
            return None
        if not any(isinstance(one.command, _CHANGING) for one in orders):
            return None
        return guess if self._store.order_at_once() else None

    def _plan(self, base: Snapshot, orders: Sequence[Order], held: Held | None) -> Plan:
        known = self._is_proven(base)

        def needs_gate(before: LogicalUnitState, outcome: Outcome, command: Command) -> bool:
            try:
                self._check_gate(before, outcome, command, held, known=known)
            except NeedsGate:
                return True
            return False

        return plan(base, orders, config=self.config, epochs=self._epochs, needs_gate=needs_gate)

    def _done(self, made: Plan, after: Snapshot, held: Held | None) -> dict[Order, Verdict]:
        """What was planned has come about, durably: note it for those who ask next."""
        self._begun = [one.order for one in made.steps]
        self._follow(made.base, after, held)
        verdicts: dict[Order, Verdict] = {order: NeedsGate() for order in made.gated}
        for one in made.steps:
            order, outcome = one.order, one.outcome
            if not one.changes and worth_noting(order.command, outcome):
                self._store.note_refusal(self._line(one, utc_now()))
            self.remember(order.nexus, outcome.seen_epoch)
            verdicts[order] = outcome
        for nexus in dict.fromkeys(one.order.nexus for one in made.steps):
            if self.standing.stand_for(nexus, after.state):
                self.glance.settle(nexus, after)
        return verdicts

    def apply(
        self, what: Event, action: str, in_time: Callable[[], bool], held: Held | None
    ) -> Snapshot:
        """Commit what an event does, unless it changes nothing.

        Raises:
            NeedsGate: The gate is not held, and has to be.
            StoreError: See `Store.commit`.
        """
        while True:
            after = self._apply_to(self._store.head(), what, action, in_time, held)
            if after is not None:
                return after

    def lose(self, nexus: Nexus, slot: int) -> None:
        """A nexus is gone, and what ends with it: a SPC-2 reservation. The slot is dropped."""
        try:
            while True:
                base = self._store.head()
                if base.state.spc2 is None or base.state.spc2.holder != nexus:
                    return
                if self._apply_to(base, NexusLoss(nexus), "NEXUS LOSS", lambda: True, None):
                    return
        finally:
            self._store.drop(slot)

    def remembers(self, nexus: Nexus) -> bool:
        """Whether it is known which attention epoch this nexus was shown."""
        return nexus in self._epochs

    def remember(self, nexus: Nexus, epoch: int | None) -> None:
        """It was shown this one."""
        self._epochs.pop(nexus, None)
        self._epochs[nexus] = epoch
        if len(self._epochs) > MAX_REMEMBERED:
            del self._epochs[next(iter(self._epochs))]

    def owes(self, nexus: Nexus, state: LogicalUnitState) -> bool:
        """Whether a nexus has to be told of a unit attention first."""
        return bool(attention.pending(state, nexus, self._epochs.get(nexus)))

    def forget(self, nexus: Nexus) -> None:
        """It logged out."""
        self._epochs.pop(nexus, None)
        self.glance.forget(nexus)

    @property
    def unproven(self) -> bool:
        """Whether a change that took access away was committed by this process, or may have
        been, and it is not known that nobody went on by the state before.
        """
        return self._store.identity.incarnation in _unproven

    @unproven.setter
    def unproven(self, unproven: bool) -> None:
        (_unproven.add if unproven else _unproven.discard)(self._store.identity.incarnation)

    def confirm(self) -> None:
        """What was done last with the gate held is proven."""
        self.unproven = False
        _proven[self._store.identity.incarnation] = self._under_gate

    # ------------------------------------------------------------------ steps

    def _is_proven(self, base: Snapshot) -> bool:
        return _proven.get(self._store.identity.incarnation) == base.txid

    def _follow(self, base: Snapshot, after: Snapshot, held: Held | None) -> None:
        """A transaction came after another: with the gate held it is to be proven yet; without
        it takes no access away, and is proven if the one before it is.
        """
        if held is not None:
            self._under_gate = after.txid
        elif after is not base and self._is_proven(base):
            _proven[self._store.identity.incarnation] = after.txid

    def _check_gate(
        self,
        before: LogicalUnitState,
        outcome: Outcome,
        command: Command | None,
        held: Held | None,
        *,
        known: bool,
    ) -> None:
        """Whether this may be done as things are: with the gate held, or without the need.

        A command that finds done what it asks for depends on the one that did it, as one that
        reads depends on a commit being durable. That one may be unproven still: this process may
        be about to prove it or may have failed, and of another process or host nothing is known.
        So it is proven here, unless that is `known` already.

        PREEMPT AND ABORT takes the gate also where it leaves everybody their access, when no
        reservation remains: the commands that it ends may be under way in any target.

        Raises:
            NeedsGate: It may not.
        """
        if not self._gated:
            return
        asserts = outcome.reply.status is Status.GOOD and isinstance(
            command, PersistentReserveOut | Reserve | Release
        )
        depends = _excludes(command, changes=outcome.state is not before)
        doubtful = self.unproven or (not known and depends)
        aborts = bool(outcome.aborted)
        # A command that changes nothing is most of what comes, and the look at every nexus's
        # access is most of what that would cost.
        narrowing = outcome.state is not before and narrows(before, outcome.state)
        if (doubtful and asserts) or aborts or narrowing:
            if held is None:
                raise NeedsGate
            held.committed = True

    def _commit(self, made: Plan, held: Held | None, late: list[Order]) -> Snapshot | None:
        """Commit a plan; see `Store.commit`.

        `late` gets those whose time was over when it was to be issued, which it then was not.
        """
        base, changes = made.base, made.changes
        new = None
        if made.state.spc2 != base.state.spc2:
            (only,) = changes
            only.outcome = self.standing.with_free_slot(only.outcome)
            made.state = only.outcome.state
            new = made.state.spc2

        def may_issue() -> bool:
            # Nobody is asked to be issued while it is known that this commit will not be: of a
            # command that said yes it is not known any more that nothing was done.
            late.extend(one.order for one in changes if one.order.late)
            if not late:
                late.extend(one.order for one in changes if not one.order.in_time())
            self._begun = [] if late else [one.order for one in made.steps]
            return not late

        nexuses = {one.order.nexus for one in changes}
        time = utc_now()
        wanted = False
        try:
            after = self._store.commit(
                base,
                made.state,
                [self._line(one, time) for one in changes],
                served=served_after(base.served, made.state, nexuses, self._me),
                may_issue=may_issue,
            )
            wanted = after is not None
        except Exception as error:
            # After a mistake of ours nobody knows either what came of it.
            mistaken = not isinstance(error, StoreError) and bool(self._begun)
            if mistaken or isinstance(error, OutcomeUnknown):
                wanted = True
                # It may land when the gate is open again.
                self.unproven = self.unproven or held is not None
            raise
        finally:
            if new is not None and wanted:
                self.standing.stand_in(new.holder, new.slot)
            elif new is not None:
                self._store.drop(new.slot)  # or it would stand for another one's reservation
        return after

    def _line(self, one: Step, time: str) -> Applied:
        order = one.order
        return command_line(
            order.nexus, order.command, one.before, one.outcome, door=self._door, time=time
        )

    def _without_lost_holder(
        self, base: Snapshot, in_time: Callable[[], bool], held: Held | None
    ) -> Snapshot:
        """Free a SPC-2 reservation whose holder's nexus is lost (reference 1.4).

        Whoever serves the holder holds its byte range; being able to take it means that
        nobody does.
        """
        while True:
            spc2 = base.state.spc2
            if spc2 is None or self.standing.holds(spc2.holder, spc2.slot):
                return base
            if not self._store.hold(spc2.slot):
                return base
            try:
                what = NexusLoss(spc2.holder)
                after = self._apply_to(base, what, "NEXUS LOSS", in_time, held)
            finally:
                self._store.drop(spc2.slot)
            base = after or self._store.head()

    def _apply_to(
        self,
        base: Snapshot,
        what: Event,
        action: str,
        in_time: Callable[[], bool],
        held: Held | None,
    ) -> Snapshot | None:
        outcome = occur(base.state, what, config=self.config)
        if outcome.reply.status is not Status.GOOD:
            raise StoreError(*_refused(base.state, outcome, action, self._store.path))
        if outcome.state is base.state:
            return base
        self._check_gate(base.state, outcome, None, held, known=True)
        applied = event_lines(what, action, base.state, outcome, door=self._door)
        served = served_after(base.served, outcome.state, frozenset(), self._me)
        after = self._store.commit(base, outcome.state, applied, served=served, may_issue=in_time)
        if after is not None:
            self._follow(base, after, held)
        return after


def _refused(
    state: LogicalUnitState, outcome: Outcome, action: str, path: str
) -> tuple[str, str, str]:
    """What is wrong, where, and what to do, when an event is refused."""
    if outcome.reply.status is Status.RESERVATION_CONFLICT:
        held = "holds a SPC-2 reservation" if state.spc2 else "is registered"
        return f"{action}: somebody {held}", path, "`flockpr status` shows who; nothing was done"
    return f"{action}: {outcome.reply.sense}", path, "nothing was done"


def _excludes(command: Command | None, *, changes: bool) -> bool:
    """Whether GOOD to this command says that somebody has no access, whom the command itself
    takes none from. One that preempts says so also where it changes something: who is preempted
    may have had none before.
    """
    if isinstance(command, PersistentReserveOut):
        preempts = command.service_action in (OutAction.PREEMPT, OutAction.PREEMPT_AND_ABORT)
        return preempts or (not changes and command.service_action in _ASSERTING)
    return not changes and isinstance(command, Reserve)
