"""The permits of this process, by image: who narrows in the same process need not ring for them.

An accelerator and nothing more: the locks of two descriptions exclude each other inside one
process as well.
"""

from __future__ import annotations

import threading
from typing import Protocol

Key = tuple[int, int]
"""Device and inode."""


class Yielding(Protocol):
    """What a command that narrows access asks of a permit in its own process."""

    @property
    def held(self) -> bool:
        """Whether somebody who wants it exclusively has to wait for it."""

    def bar(self, who: object) -> None:
        """Let nobody enter until `admit(who)`; returns at once."""

    def yielded(self, deadline: float) -> bool:
        """Wait until the permit, which is barred, is not held; False if not in time."""

    def admit(self, who: object) -> None:
        """`who` needs it no more."""


_lock = threading.Lock()
_permits: dict[Key, list[Yielding]] = {}


def register(key: Key, permit: Yielding) -> None:
    """This permit is, or may soon be, held on this file."""
    with _lock:
        _permits.setdefault(key, []).append(permit)


def withdraw(key: Key, permit: Yielding) -> None:
    """It is not any more."""
    with _lock:
        left = [other for other in _permits.get(key, ()) if other is not permit]
        if left:
            _permits[key] = left
        else:
            _permits.pop(key, None)


def permits_of(key: Key) -> list[Yielding]:
    """The permits of this process on a file."""
    with _lock:
        return list(_permits.get(key, ()))
