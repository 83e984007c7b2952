"""What this process has open.

Of the process as a whole nothing exact can be said: a thread that an earlier test left behind
closes its files when it comes to it. So a test counts what is its own: files below its directory.
"""

from __future__ import annotations

import contextlib
import os


def open_descriptors() -> set[tuple[str, str]]:
    """What this process has open: number and target."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def count_open(path: str) -> int:
    """How many descriptors of this process lead to that file."""
    target = os.path.realpath(path)
    return sum(1 for _, found in open_descriptors() if found == target)


def open_below(path: str | os.PathLike[str]) -> list[str]:
    """What is open below a directory, and the directory itself; deleted or not."""
    top = os.path.realpath(path)
    ours = (f"{top}/", f"{top} (deleted)")
    return sorted(
        found for _, found in open_descriptors() if found == top or found.startswith(ours)
    )
