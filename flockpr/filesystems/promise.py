"""From facts to a promise: may a target gate reads and writes there, and beside other hosts?

Pure. What counts is in `rules`; here it is only weighed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import attrs

from flockpr.filesystems.kinds import CLUSTER, NETWORK
from flockpr.filesystems.mount_rules import Facts, findings_of
from flockpr.filesystems.rules import ANSWERS, RULES, Answer, Finding, Outcome, Weight


class Gated(enum.Enum):
    """Whether a command that takes access away stops reads and writes for sure."""

    YES = "yes"
    DECLARED = "declared"
    NO = "no"


class Fencing(enum.Enum):
    """What an operator declares about a host that is cut off."""

    NONE = "none"
    EXTERNAL = "external"


@attrs.frozen
class Promise:
    """What holds on a file system.

    Attributes:
        gated: Whether reads and writes are refused as the reservations say: yes, yes as long as
            what was declared is true, or no.
        many_hosts: Targets of several hosts may serve one LUN.
        cluster_lock: A command that takes access away has to force the image's own cluster
            lock, because the locks of a lost host are given away before it is fenced.
        filesystem: Which one, for people.
        conditions: What the operator has to see to.
        reasons: Why it is not gated.
        remedies: What to do about that.
        advisory: Whether reservations may be recorded there.
        advisory_reasons: Why not, or only under conditions.
    """

    gated: Gated
    many_hosts: bool
    cluster_lock: bool
    filesystem: str
    conditions: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    advisory: Answer = Answer.YES
    advisory_reasons: tuple[str, ...] = ()

    @property
    def one_host(self) -> bool:
        """Whether it is a file system of one host, where one kernel sees to everything."""
        return self.gated is Gated.YES and not self.many_hosts

    @property
    def exclusive(self) -> bool:
        """Whether one host's targets alone may serve a LUN there."""
        return self.gated is Gated.NO

    def line(self) -> str:
        """One line for people, without the conditions."""
        if self.gated is Gated.NO:
            return f"nothing is promised on {self.filesystem}: {'; '.join(self.reasons)}"
        reach = "any number of hosts" if self.many_hosts else "this host"
        declared = ", by the fencing that was declared" if self.gated is Gated.DECLARED else ""
        return f"reservations are enforced for the targets of {reach}{declared} ({self.filesystem})"

    def to_json(self) -> dict[str, Any]:
        """The object `promise` of `--json` documents."""
        return {
            "gated": self.gated.value,
            "many_hosts": self.many_hosts,
            "cluster_lock": self.cluster_lock,
            "filesystem": self.filesystem,
            "conditions": list(self.conditions),
            "reasons": list(self.reasons),
            "remedies": list(self.remedies),
            "advisory": self.advisory.value,
            "advisory_reasons": list(self.advisory_reasons),
        }


def judge(
    facts: Facts, fencing: Fencing = Fencing.NONE, tried: tuple[Finding, ...] = ()
) -> Promise:
    """What is promised where these are the facts.

    What could not be found out counts as if it had been found bad: nobody tells a program later.

    Args:
        facts: About the mount.
        fencing: What the operator declared.
        tried: What was found by trying.
    """
    findings = (*findings_of(facts), *tried)
    against = [one for one in findings if _speaks_against(one, fencing)]
    declared = any(_is_declared(one) for one in findings)
    clustered = facts.kind in CLUSTER
    gated = Gated.NO if against else Gated.DECLARED if declared else Gated.YES
    return Promise(
        gated,
        many_hosts=gated is not Gated.NO and (clustered or facts.kind in NETWORK),
        cluster_lock=clustered,
        filesystem=facts.filesystem,
        conditions=_once(_condition(one) for one in findings if one not in against),
        reasons=_once(_reason(one) for one in against),
        remedies=_once(RULES[one.name].remedy for one in against),
        advisory=ANSWERS[max(map(_advisory, findings), default=Weight.NOTHING)],
        advisory_reasons=_once(_reason(one) for one in findings if _advisory(one)),
    )


def together(root: Promise, image: Promise) -> Promise:
    """The promise of a lock directory and of an image, which may be on two mounts."""
    if root == image:
        return image
    order = (Gated.NO, Gated.DECLARED, Gated.YES)
    gated = min(root.gated, image.gated, key=order.index)
    where = root.filesystem
    if image.filesystem != where:
        where = f"{image.filesystem}, the lock directory on {root.filesystem}"
    return Promise(
        gated,
        many_hosts=root.many_hosts and image.many_hosts,
        cluster_lock=image.cluster_lock,
        filesystem=where,
        conditions=_once((*image.conditions, *root.conditions)),
        reasons=_once((*image.reasons, *(f"the lock directory: {one}" for one in root.reasons))),
        remedies=_once((*image.remedies, *root.remedies)),
        advisory=root.advisory,
        advisory_reasons=root.advisory_reasons,
    )


def _speaks_against(finding: Finding, fencing: Fencing) -> bool:
    rule = RULES[finding.name]
    weight = rule.weight(finding.outcome, "gated")
    if finding.outcome is Outcome.UNKNOWN or weight is Weight.REFUSE:
        return weight is not Weight.NOTHING
    return _is_declared(finding) and fencing is Fencing.NONE


def _is_declared(finding: Finding) -> bool:
    return finding.outcome is Outcome.BAD and RULES[finding.name].declared


def _advisory(finding: Finding) -> Weight:
    return RULES[finding.name].weight(finding.outcome, "advisory")


def _condition(finding: Finding) -> str:
    if finding.outcome is Outcome.NOTE:
        return finding.what
    rule = RULES[finding.name]
    return rule.condition if rule.weight(finding.outcome, "gated") is Weight.CONDITION else ""


def _reason(finding: Finding) -> str:
    return f"{RULES[finding.name].title}: {finding.what}"


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
