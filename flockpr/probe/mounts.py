"""The mount of each host that takes part in a probe, judged by the table of all; pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flockpr.filesystems.mount_rules import Facts, findings_of
from flockpr.filesystems.rules import Finding


@attrs.frozen
class Host:
    """A host, as its mount table and its kernel describe it.

    Attributes:
        name: Its name.
        boot: Identifier of its boot, the same for all containers of one kernel.
        facts: What the directory is on, and what the kernel says of that.
    """

    name: str
    boot: str
    facts: Facts


def judge_mount(host: Host) -> Iterator[Finding]:
    """What the mount says."""
    for finding in findings_of(host.facts):
        yield attrs.evolve(finding, host=host.name)
