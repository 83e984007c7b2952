"""What a probe found, and what each finding means for the two doors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from flockpr.filesystems.rules import (
    ALONE,
    LOCKD,
    MOUNT_RULES,
    OTHER,
    TRIED_RULES,
    Finding,
    Outcome,
    Rule,
    Weight,
)

__all__ = ["RULES", "Finding", "Outcome", "Rule", "Weight"]

_NO, _IF, _NIL = Weight.REFUSE, Weight.CONDITION, Weight.NOTHING
_PAIR = "`flockpr probe DIR --peer` on two hosts passes"
_AGAIN = "look at the file server and the kernel log, and run the probe again"

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        # One host, one directory.
        "place": Rule("a directory of its own", _NO, _NO, _NO, remedy=_AGAIN),
        "lock-processes": Rule("locks of two processes", _NO, _NO, _NO, remedy=OTHER),
        "lock-close": Rule("a lock when another descriptor closes", _NO, _NO, _NO, remedy=OTHER),
        "lock-death": Rule("locks of a process that died", _IF, _NO, _NO, ALONE, OTHER),
        "flock": Rule("flock beside locks of bytes", _NIL, _NIL, _NIL),
        "link": Rule("link as compare-and-swap", _NO, _NO, _NO, remedy=OTHER),
        "rename": Rule("rename, whole and in order", _NO, _NO, _NO, remedy=OTHER),
        "revalidation": Rule("names that appear", _NO, _NO, _NO, remedy=OTHER),
        "sync": Rule("fsync of a directory", _NO, _NO, _NO, remedy=OTHER),
        **TRIED_RULES,
        "hole": Rule("holes", _NIL, _NIL, _NIL),
        # Two hosts.
        "peer": Rule("a second host", _IF, _IF, _IF, _PAIR),
        "same-host": Rule("two hosts", _IF, _IF, _NIL, _PAIR, "run --peer on another host"),
        "peer-silent": Rule("what the other host writes", _NO, _NO, _NO, remedy=_AGAIN),
        "lock-hosts": Rule("locks of two hosts", _IF, _NO, _NO, ALONE, LOCKD),
        "lock-ranges-hosts": Rule(
            "locks of different bytes, two hosts", _NO, _NO, _NO, remedy=OTHER
        ),
        "lock-close-hosts": Rule(
            "a lock when another descriptor closes, two hosts", _IF, _NO, _NO, ALONE, OTHER
        ),
        "link-hosts": Rule("link as compare-and-swap, two hosts", _NO, _NO, _NO, remedy=OTHER),
        "rename-hosts": Rule("rename, two hosts", _NO, _NO, _NO, remedy=OTHER),
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
        **MOUNT_RULES,
    }
)
"""Every name that a finding can have."""
