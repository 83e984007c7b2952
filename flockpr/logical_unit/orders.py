"""A command on its way, and what several of them come to when they are decided in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState, Nexus, UnitConfig
from flockpr.core.outcome import Outcome
from flockpr.spc.cdb import Command
from flockpr.store.base import Snapshot

MAX_TOGETHER = 256
"""Commands that one commit carries at the most: what comes later is not kept waiting by them."""


class NeedsGate(Exception):
    """What would be committed takes access away: only with the gate held. Nothing was done."""


Verdict = Outcome | Exception
"""What became of a command: its outcome, which is durable; or why there is none: `StoreError`,
`NeedsGate`, or a mistake of ours.
"""


@attrs.frozen(eq=False)
class Order:
    """A command on its way.

    Attributes:
        nexus: Who sends it.
        command: The command.
        report: Whether pending unit attentions are reported to this nexus.
        deadline: When it is BUSY unless its commit has been issued, by `time.monotonic`.
        may_issue: Asked immediately before the commit; False makes the command BUSY.
        withdrawn: Whether nobody waits for it any more; its wait for the gate ends then.
    """

    nexus: Nexus
    command: Command
    report: bool
    deadline: float
    may_issue: Callable[[], bool] | None
    withdrawn: Callable[[], bool]

    @property
    def late(self) -> bool:
        """Whether it is known that it may not be issued any more. Unlike `in_time` it asks only."""
        return time.monotonic() >= self.deadline or self.withdrawn()

    def in_time(self) -> bool:
        """Whether it may still be issued; from True on it cannot be withdrawn."""
        return time.monotonic() < self.deadline and (self.may_issue is None or self.may_issue())


@attrs.define(eq=False)
class Step:
    """One command, decided.

    Attributes:
        order: The command.
        before: The state that it was decided on.
        outcome: What it comes to.
    """

    order: Order
    before: LogicalUnitState
    outcome: Outcome

    @property
    def changes(self) -> bool:
        """Whether there is something to commit."""
        return self.outcome.state is not self.before


@attrs.define(eq=False)
class Plan:
    """Commands that were decided one after the other, each on the state after the one before.

    Attributes:
        base: The transaction that the first was decided on.
        state: The state after the last.
        steps: The commands.
        gated: Commands that would take access away. Nothing is done of them here.
    """

    base: Snapshot
    state: LogicalUnitState
    steps: list[Step] = attrs.Factory(list)
    gated: list[Order] = attrs.Factory(list)

    @property
    def changes(self) -> list[Step]:
        """Those that there is something to commit of."""
        return [step for step in self.steps if step.changes]


def plan(
    base: Snapshot,
    orders: Sequence[Order],
    *,
    config: UnitConfig,
    epochs: Mapping[Nexus, int | None],
    needs_gate: Callable[[LogicalUnitState, Outcome, Command], bool],
) -> Plan:
    """Decide commands in turn, as far as one commit can carry them; at least the first.

    What takes access away is left out: it waits for others, and these must not wait with it.

    A change of a SPC-2 reservation ends a plan, and is the only change in it: the byte range of
    its holder has to be had before the commit, and another one is tried if it cannot be.

    Args:
        base: What to begin with.
        orders: The commands, in the order in which they came.
        config: The limits of the logical unit.
        epochs: The attention epoch that each nexus was shown last.
        needs_gate: Whether an outcome, on that state, takes access away.
    """
    made = Plan(base, base.state)
    shown: dict[Nexus, int | None] = {}
    changes = 0
    for order in orders:
        nexus = order.nexus
        outcome = step(
            made.state,
            nexus,
            order.command,
            config=config,
            report_attentions=order.report,
            seen_epoch=shown[nexus] if nexus in shown else epochs.get(nexus),
        )
        if needs_gate(made.state, outcome, order.command):
            made.gated.append(order)
            continue
        alone = outcome.state.spc2 != made.state.spc2
        if alone and changes:
            break
        made.steps.append(Step(order, made.state, outcome))
        shown[nexus] = outcome.seen_epoch
        changes += outcome.state is not made.state
        made.state = outcome.state
        if alone or changes >= MAX_TOGETHER:
            break
    return made
