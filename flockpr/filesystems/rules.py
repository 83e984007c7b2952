"""What each finding about a mount means for the two doors; pure.

This is the one table by which a file system is judged: `flockpr probe` adds what it tried, the
daemons go by this part alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs


class Outcome(enum.Enum):
    """How a step ended."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    NOTE = "note"


class Weight(enum.IntEnum):
    """What a finding does to a door."""

    NOTHING = 0
    CONDITION = 1
    REFUSE = 2


class Answer(enum.Enum):
    """Whether a door may be opened on the directory."""

    YES = "yes"
    CONDITION = "only with"
    NO = "no"


ANSWERS: Final = MappingProxyType(
    {
        Weight.NOTHING: Answer.YES,
        Weight.CONDITION: Answer.CONDITION,
        Weight.REFUSE: Answer.NO,
    }
)
"""The answer that the heaviest finding leaves."""

TIERS: Final = ("advisory", "gated")
"""The helper door, and the target door."""


@attrs.frozen
class Finding:
    """One thing that was found.

    Attributes:
        name: Which rule judges it.
        outcome: How it ended.
        what: One clause for people.
        host: The host where it was found; empty where it concerns all, or only this one.
    """

    name: str
    outcome: Outcome
    what: str
    host: str = ""


@attrs.frozen
class Rule:
    """What a finding of this name means.

    Attributes:
        title: What was looked at.
        advisory: What it does to the helper door when it is bad.
        gated: What it does to the target door when it is bad.
        unknown: What it does to both when it could not be found out.
        condition: Completes "only if ...", where a weight is CONDITION.
        remedy: What to do about it.
        declared: The target door wants somebody to say that the condition holds.
    """

    title: str
    advisory: Weight
    gated: Weight
    unknown: Weight
    condition: str = ""
    remedy: str = ""
    declared: bool = attrs.field(default=False, kw_only=True)

    def weight(self, outcome: Outcome, tier: str) -> Weight:
        """What a finding does to a tier."""
        if outcome is Outcome.BAD:
            return self.advisory if tier == "advisory" else self.gated
        return self.unknown if outcome is Outcome.UNKNOWN else Weight.NOTHING


_NO, _IF, _NIL = Weight.REFUSE, Weight.CONDITION, Weight.NOTHING
ALONE: Final = "this host alone uses the directory"
OTHER: Final = "use another file system: NFS 4.2 or GFS2"
LOCKD: Final = "mount with NFS 4.2; for NFS 3 start rpc.statd on both ends and mount without nolock"
MOUNT_TABLE: Final = "see that /proc is mounted; in a chroot, that its root is a mount point"
_TRIED = "you tried what happens there when a host dies or is cut off"

MOUNT_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "mount": Rule("the mount", _IF, _NO, _IF, _TRIED, MOUNT_TABLE),
        "read-only": Rule("writing", _NO, _NO, _NO, remedy="mount it read-write"),
        "one-host": Rule("how far it reaches", _IF, _IF, _NIL, "only this host mounts it"),
        "volatile": Rule(
            "what a reboot leaves", _IF, _IF, _NIL, "all may be lost when this host reboots"
        ),
        "nfs-locks": Rule("locks of the NFS mount", _IF, _NO, _NIL, ALONE, LOCKD),
        "nfs-lockd": Rule("locks of NFS 3", _IF, _NO, _NIL, ALONE, LOCKD),
        "nfs-v2": Rule("NFS 2", _IF, _NO, _NIL, ALONE, "mount with NFS 4.2"),
        "nfs-v3": Rule(
            "NFS 3",
            _NIL,
            _IF,
            _NIL,
            "a host that is cut off is fenced from outside (power, or the export withdrawn) before"
            " another one takes over: NFS 3 lets its late writes in",
            "mount with NFS 4.2; or, where every host that is cut off is really fenced, say so"
            ' with --fencing external (fencing = "external" in [target])',
            declared=True,
        ),
        "nfs-soft": Rule(
            "soft mount", _NIL, _NO, _NIL, remedy="mount hard: a write that failed may land later"
        ),
        "nfs-nocto": Rule("close-to-open", _NO, _NO, _NIL, remedy="mount without nocto"),
        "nfs-softreval": Rule(
            "revalidation", _NO, _NO, _NIL, remedy="mount without softreval and softerr"
        ),
        "nfs-recover": Rule(
            "nfs.recover_lost_locks",
            _NIL,
            _NO,
            _IF,
            "nfs.recover_lost_locks is N",
            "echo N >/sys/module/nfs/parameters/recover_lost_locks: else stale writes land",
        ),
        "nfs-pnfs": Rule(
            "the way of reads and writes",
            _NIL,
            _NO,
            _IF,
            "the server gives no layouts (pNFS)",
            "export it without pnfs, or mount it with vers=4.0: who has the data need not know"
            " whose lock was lost",
        ),
        "nfs-export": Rule("the export", _NIL, _NIL, _NIL),
        "smb-locks": Rule("locks of the SMB mount", _IF, _NO, _NIL, ALONE, "mount without nobrl"),
        "gfs2-locks": Rule(
            "locks of the GFS2 mount",
            _IF,
            _NO,
            _IF,
            ALONE,
            "mount with lock_dlm and without localflocks, and see that /sys is mounted",
        ),
        "cluster-unfenced": Rule(
            "fencing of the cluster",
            _NIL,
            _NO,
            _NIL,
            remedy="start dlm_controld with enable_fencing=1 and configure an agent that works",
        ),
        "cluster-fencing": Rule(
            "fencing of the cluster",
            _NIL,
            _IF,
            _NIL,
            "the cluster really fences a node before its locks are given to others",
            "configure fencing (enable_fencing=1 and an agent that works), and try it",
        ),
        "untried": Rule("what is known of it", _IF, _NO, _NIL, _TRIED, OTHER),
        "local-locks": Rule("what is known of it", _IF, _NO, _NIL, ALONE, OTHER),
    }
)
"""Every name that a finding about a mount can have."""

TRIED_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "lock-descriptions": Rule("locks of two descriptions", _NO, _NO, _NO, remedy=OTHER),
        "lock-ranges": Rule("locks of different bytes", _NO, _NO, _NO, remedy=OTHER),
        "direct": Rule("direct reads and writes", _NIL, _NO, _IF, "O_DIRECT works", OTHER),
    }
)
"""What a target tries on an image before it serves it, and a probe too."""

RULES: Final[Mapping[str, Rule]] = MappingProxyType({**MOUNT_RULES, **TRIED_RULES})
"""All by which a daemon judges."""
