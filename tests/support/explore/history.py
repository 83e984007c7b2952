"""Whether one order of all commands explains every answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from flockpr.core.events import NexusLoss, PowerCycle, occur
from flockpr.core.machine import step
from flockpr.core.model import LogicalUnitState
from flockpr.logical_unit import Result
from flockpr.store.document import Document
from tests.support.linearizability import Operation, check
from tests.support.simworld import NOTHING_DONE, Sent


@attrs.define(eq=False)
class Asked(Sent):
    """One command, by which task, and when: by the count of all that was asked or answered."""

    task: str = ""
    begun: int = 0
    ended: int = 0


def judge_history(
    asked: Iterable[Asked],
    cycles: Iterable[tuple[int, int | None]],
    chain: Sequence[Document],
) -> None:
    """See that an order explains all answers.

    Args:
        asked: The commands.
        cycles: When each power cycle was asked for, and when it was acknowledged, if it was.
        chain: What was committed; the first is what all began with.

    Raises:
        NotLinearizable: There is none.
    """
    history: list[Operation[Any, Any]] = [
        Operation(
            sent.daemon.unit._store.host,
            (sent.nexus, sent.command),
            sent.begun,
            sent.ended if sent.answered else None,
            sent.result if sent.answered else None,
        )
        for sent in asked
        if sent.result is None or sent.result not in NOTHING_DONE
    ]
    for begun, ended in cycles:
        done = None if ended is None else "done"
        history.append(Operation("administrator", PowerCycle(), begun, ended, done))
    for before, document in itertools.pairwise(chain):
        if "NEXUS LOSS" in actions(document):
            held = before.snapshot.state.spc2
            assert held is not None
            history.append(Operation("whoever noticed", NexusLoss(held.holder), 0))
    check(history, chain[0].snapshot.state, _model)


def _model(state: LogicalUnitState, asked: Any) -> Any:
    if isinstance(asked, PowerCycle | NexusLoss):
        return occur(state, asked).state, "done"
    outcome = step(state, *asked, report_attentions=False)
    return outcome.state, Result.of(outcome.reply)


def actions(document: Document) -> set[str]:
    """What a transaction did, by name."""
    return {applied.action for applied in document.applied}
