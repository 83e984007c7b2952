"""What a probe found, and what each finding means for the two doors."""

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


@attrs.frozen
class Finding:
    """One thing that was found.

    Attributes:
        name: Which rule of `RULES` judges it.
        outcome: How it ended.
        what: One clause for people.
        host: The host where it was found; empty where it concerns all.
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
    """

    title: str
    advisory: Weight
    gated: Weight
    unknown: Weight
    condition: str = ""
    remedy: str = ""


_NO, _IF, _NIL = Weight.REFUSE, Weight.CONDITION, Weight.NOTHING
_ALONE = "this host alone uses the directory"
_PAIR = "`flockpr probe DIR --peer` on two hosts passes"
_TRIED = "you tried what happens there when a host dies or is cut off"
_OTHER = "use another file system: NFS 4.2 or GFS2"
_LOCKD = "mount with NFS 4.2; for NFS 3 start rpc.statd on both ends and mount without nolock"
_AGAIN = "look at the file server and the kernel log, and run the probe again"

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        # One host, one directory.
        "place": Rule("a directory of its own", _NO, _NO, _NO, remedy=_AGAIN),
        "lock-descriptions": Rule("locks of two descriptions", _NO, _NO, _NO, remedy=_OTHER),
        "lock-processes": Rule("locks of two processes", _NO, _NO, _NO, remedy=_OTHER),
        "lock-ranges": Rule("locks of different bytes", _NO, _NO, _NO, remedy=_OTHER),
        "lock-close": Rule("a lock when another descriptor closes", _NO, _NO, _NO, remedy=_OTHER),
        "lock-death": Rule("locks of a process that died", _IF, _NO, _NO, _ALONE, _OTHER),
        "flock": Rule("flock beside locks of bytes", _NIL, _NIL, _NIL),
        "link": Rule("link as compare-and-swap", _NO, _NO, _NO, remedy=_OTHER),
        "rename": Rule("rename, whole and in order", _NO, _NO, _NO, remedy=_OTHER),
        "revalidation": Rule("names that appear", _NO, _NO, _NO, remedy=_OTHER),
        "sync": Rule("fsync of a directory", _NO, _NO, _NO, remedy=_OTHER),
        "direct": Rule("direct reads and writes", _NIL, _NO, _IF, "O_DIRECT works", _OTHER),
        "hole": Rule("holes", _NIL, _NIL, _NIL),
        # Two hosts.
        "peer": Rule("a second host", _IF, _IF, _IF, _PAIR),
        "same-host": Rule("two hosts", _IF, _IF, _NIL, _PAIR, "run --peer on another host"),
        "peer-silent": Rule("what the other host writes", _NO, _NO, _NO, remedy=_AGAIN),
        "lock-hosts": Rule("locks of two hosts", _IF, _NO, _NO, _ALONE, _LOCKD),
        "lock-ranges-hosts": Rule(
            "locks of different bytes, two hosts", _NO, _NO, _NO, remedy=_OTHER
        ),
        "lock-close-hosts": Rule(
            "a lock when another descriptor closes, two hosts", _IF, _NO, _NO, _ALONE, _OTHER
        ),
        "link-hosts": Rule("link as compare-and-swap, two hosts", _NO, _NO, _NO, remedy=_OTHER),
        "rename-hosts": Rule("rename, two hosts", _NO, _NO, _NO, remedy=_OTHER),
        "revalidation-hosts": Rule(
            "names that appear, two hosts",
            _NO,
            _NO,
            _NO,
            remedy="mount without nocto and without long actimeo; see the page of this probe",
        ),
        "clock": Rule(
            "the hosts' clocks",
            _NIL,
            _NIL,
            _NIL,
            remedy="nothing is decided by clocks; `flockpr log` mixes times of both: run NTP",
        ),
        # The mount.
        "mount": Rule("the mount", _IF, _NO, _IF, _TRIED, "see that /proc is mounted"),
        "read-only": Rule("writing", _NO, _NO, _NO, remedy="mount it read-write"),
        "one-host": Rule("how far it reaches", _IF, _IF, _NIL, "only this host mounts it"),
        "volatile": Rule(
            "what a reboot leaves", _IF, _IF, _NIL, "all may be lost when this host reboots"
        ),
        "nfs-locks": Rule("locks of the NFS mount", _IF, _NO, _NIL, _ALONE, _LOCKD),
        "nfs-v3": Rule(
            "NFS 3",
            _NIL,
            _IF,
            _NIL,
            "a host that is cut off is fenced from outside (power, or the export withdrawn) before"
            " another one takes over: NFS 3 lets its late writes in",
            "mount with NFS 4.2",
        ),
        "nfs-soft": Rule(
            "soft mount", _NIL, _NO, _NIL, remedy="mount hard: a write that failed may land later"
        ),
        "nfs-nocto": Rule("close-to-open", _NO, _NO, _NIL, remedy="mount without nocto"),
        "nfs-recover": Rule(
            "nfs.recover_lost_locks",
            _NIL,
            _NO,
            _IF,
            "nfs.recover_lost_locks is N",
            "echo N >/sys/module/nfs/parameters/recover_lost_locks: else stale writes land",
        ),
        "nfs-export": Rule("the export", _NIL, _NIL, _NIL),
        "smb-locks": Rule("locks of the SMB mount", _IF, _NO, _NIL, _ALONE, "mount without nobrl"),
        "gfs2-locks": Rule(
            "locks of the GFS2 mount",
            _IF,
            _NO,
            _NIL,
            _ALONE,
            "mount with lock_dlm and without localflocks",
        ),
        "cluster-fencing": Rule(
            "fencing of the cluster",
            _NIL,
            _IF,
            _NIL,
            "the cluster really fences a node before its locks are given to others",
            "configure fencing (enable_fencing=1 and an agent that works), and try it",
        ),
        "untried": Rule("what is known of it", _IF, _NO, _NIL, _TRIED, _OTHER),
        "local-locks": Rule("what is known of it", _IF, _NO, _NIL, _ALONE, _OTHER),
    }
)
"""Every name that a finding can have."""
