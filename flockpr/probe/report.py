"""What a probe found, as a document that both hosts print; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flockpr.filesystems.mount_rules import Facts
from flockpr.filesystems.mounts import Mount
from flockpr.probe.findings import RULES, Finding, Outcome, Weight
from flockpr.probe.mounts import Host, judge_mount
from flockpr.probe.verdict import TIERS, Answer, judge, relevant, weight


@attrs.frozen
class Report:
    """Everything that was found.

    Attributes:
        directory: What was probed, as this host names it.
        hosts: Those that took part; empty where the directory did not even say what it is.
        tried: What the steps found.
        removed: Leftovers of crashed probes that were removed.
        left: What could not be removed at the end.
    """

    directory: str
    hosts: tuple[Host, ...]
    tried: tuple[Finding, ...]
    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of the mounts and those of the steps."""
        return (*(one for host in self.hosts for one in judge_mount(host)), *self.tried)

    def answers(self) -> dict[str, Answer]:
        """The answer of each tier."""
        return {tier: judge(self.findings, tier).answer for tier in TIERS}

    @property
    def whole(self) -> bool:
        """Whether everything was found out that was tried, as far as hosts took part."""
        return all(one.outcome is not Outcome.UNKNOWN or one.name == "peer" for one in self.tried)

    @property
    def with_second_host(self) -> bool:
        """Whether another host took part."""
        return any(one.name == "peer" and one.outcome is Outcome.GOOD for one in self.tried)

    def failed(self, tier: str) -> tuple[str, ...]:
        """What a step has shown to be wrong and speaks against a tier. What the mounts say is not
        in it: that is judged anew by whoever serves there.
        """
        return tuple(
            f"{RULES[one.name].title}: {one.what}"
            for one in relevant(self.findings)
            if one in self.tried
            and one.outcome is Outcome.BAD
            and weight(one, tier) is Weight.REFUSE
        )

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`, without its format number."""
        findings = self.findings
        return {
            "directory": self.directory,
            **{tier: _verdict(findings, tier) for tier in TIERS},
            "hosts": [_host(one) for one in self.hosts],
            "findings": [_finding(one) for one in findings],
            "removed": list(self.removed),
            "left": list(self.left),
        }

    def to_letter(self) -> dict[str, Any]:
        """What the second host has to know."""
        return {
            "hosts": [attrs.asdict(one) for one in self.hosts],
            "tried": [{**attrs.asdict(one), "outcome": one.outcome.value} for one in self.tried],
        }


def from_letter(directory: str, letter: Mapping[str, Any]) -> Report:
    """The report of the first host, on the second.

    Raises:
        ValueError, KeyError, TypeError: It is none.
    """
    tried = [Finding(**{**one, "outcome": Outcome(one["outcome"])}) for one in letter["tried"]]
    if any(one.name not in RULES for one in tried):
        raise ValueError("the other host's flockpr is another version")
    return Report(directory, tuple(read_host(one) for one in letter["hosts"]), tuple(tried))


def read_host(value: Mapping[str, Any]) -> Host:
    """A host from the description that its helper gave."""
    facts = value["facts"]
    mount = facts["mount"]
    if mount is not None:
        mount = Mount(**{**mount, "options": tuple(mount["options"])})
    return Host(**{**value, "facts": Facts(**{**facts, "mount": mount})})


def _verdict(findings: tuple[Finding, ...], tier: str) -> dict[str, Any]:
    verdict = judge(findings, tier)
    return {
        "verdict": verdict.answer.value,
        "conditions": list(verdict.conditions),
        "reasons": list(verdict.reasons),
        "remedies": list(verdict.remedies),
    }


def _host(host: Host) -> dict[str, Any]:
    mount = host.facts.mount
    return {
        "name": host.name,
        "type": mount.kind if mount else None,
        "source": mount.source if mount else None,
        "mount_point": mount.point if mount else None,
        "options": list(mount.options) if mount else [],
        "recover_lost_locks": host.facts.recover_lost_locks,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "title": RULES[finding.name].title,
        "host": finding.host,
        "outcome": finding.outcome.value,
        "what": finding.what,
        **{tier: weight(finding, tier).name.lower() for tier in TIERS},
    }
