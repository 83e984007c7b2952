"""The mount of each host that takes part in a probe, judged by the table of all; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from flockpr.filesystems.mount_rules import Facts, findings_of
from flockpr.filesystems.mounts import Mount
from flockpr.filesystems.rules import Finding


@attrs.frozen
class Host:
    """A host, as its mount table and its kernel describe it.

    Attributes:
        name: Its name.
        boot: Identifier of its boot, the same for all containers of one kernel.
        mount: What the directory is on; None where that is not known.
        recover_lost_locks: As in `Facts`, like what follows.
        lockd: See there.
        lock_protocol: See there.
        dlm_fences: See there.
        dlm_locks: See there.
    """

    name: str
    boot: str
    mount: Mount | None
    recover_lost_locks: str | None = None
    lockd: bool | None = None
    lock_protocol: str | None = None
    dlm_fences: bool | None = None
    dlm_locks: bool | None = None

    @property
    def facts(self) -> Facts:
        """Without who it is."""
        values = attrs.asdict(self, recurse=False)
        return Facts(**{name: values[name] for name in attrs.fields_dict(Facts)})


def told(facts: Facts) -> dict[str, Any]:
    """Facts as the arguments of `Host`."""
    return attrs.asdict(facts, recurse=False)


def judge_mount(host: Host) -> Iterator[Finding]:
    """What the mount says."""
    for finding in findings_of(host.facts):
        yield attrs.evolve(finding, host=host.name)
