"""What a directory or an image stands on, and what can be promised there.

Facts are read from the kernel's tables (`facts`, `mounts`), each finding is weighed by one table
(`rules`), and the sum is a `Promise`: whether a command that takes access away stops reads and
writes for sure, on one host or on many. `flockpr probe` goes by the same table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flockpr._lazy import loader

if TYPE_CHECKING:
    from flockpr.filesystems.guard import Guard
    from flockpr.filesystems.mount_rules import Facts
    from flockpr.filesystems.promise import Fencing, Gated, Promise, judge, together
    from flockpr.filesystems.terms import Terms, declare, promise_of, promised

__all__ = [
    "Facts",
    "Fencing",
    "Gated",
    "Guard",
    "Promise",
    "Terms",
    "declare",
    "judge",
    "promise_of",
    "promised",
    "together",
]

__getattr__ = loader(
    __name__,
    {
        "flockpr.filesystems.guard": ("Guard",),
        "flockpr.filesystems.mount_rules": ("Facts",),
        "flockpr.filesystems.promise": ("Fencing", "Gated", "Promise", "judge", "together"),
        "flockpr.filesystems.terms": ("Terms", "declare", "promise_of", "promised"),
    },
)
