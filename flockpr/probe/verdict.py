"""The verdict from what was found; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from flockpr.filesystems.rules import ANSWERS, TIERS, Answer
from flockpr.probe.findings import RULES, Finding, Outcome, Rule, Weight

__all__ = ["TIERS", "Answer", "Verdict", "judge", "relevant", "weight"]


@attrs.frozen
class Verdict:
    """What one tier may be used for.

    Attributes:
        answer: Yes, no, or under conditions.
        conditions: What must be the case, for each condition once.
        reasons: What was found that speaks against it.
        remedies: What to do about it.
    """

    answer: Answer
    conditions: tuple[str, ...]
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]


def weight(finding: Finding, tier: str) -> Weight:
    """What a finding does to a tier."""
    return RULES[finding.name].weight(finding.outcome, tier)


def judge(findings: Iterable[Finding], tier: str) -> Verdict:
    """The verdict of a tier.

    Args:
        findings: Everything that was found.
        tier: One of `TIERS`.
    """
    counting = [(one, weight(one, tier)) for one in relevant(findings)]
    heavy = max((how for _, how in counting), default=Weight.NOTHING)
    against = [one for one, how in counting if how is not Weight.NOTHING]
    conditional = [one for one, how in counting if how is Weight.CONDITION]
    return Verdict(
        ANSWERS[heavy],
        _once(_rule(one).condition for one in conditional),
        _once(f"{_rule(one).title}: {_where(one)}{one.what}" for one in against),
        _once(_rule(one).remedy for one in against),
    )


def relevant(findings: Iterable[Finding]) -> Sequence[Finding]:
    """Without what others make pointless: on a file system of one host no second one is missed."""
    every = list(findings)
    names = {one.name for one in every if one.outcome is Outcome.BAD}
    if "one-host" in names:
        every = [one for one in every if one.name != "peer" or one.outcome is not Outcome.UNKNOWN]
        # There nobody else can take a permit away, so nothing has to prove that it was kept.
        every = [one for one in every if one.name != "direct"]
    return every


def _rule(finding: Finding) -> Rule:
    return RULES[finding.name]


def _where(finding: Finding) -> str:
    return f"{finding.host}: " if finding.host else ""


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
