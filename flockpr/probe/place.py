"""The directory that a probe makes for itself, and how that of a crashed one is recognised."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from typing import Final

import attrs

PREFIX: Final = ".flockpr-probe-"
NAME: Final = re.compile(r"\.flockpr-probe-[0-9a-f]{16}")
OWNER: Final = "owner.json"
JOINED: Final = "joined"
TEST: Final = "test"
MAIL: Final = "mail"
ABANDONED: Final = 3600.0
"""Seconds without a sign of life, by the file server's clock, after which a directory of
another host is nobody's: no probe takes that long.
"""


@attrs.frozen
class Owner:
    """Who made a directory.

    Attributes:
        host: Name of the host.
        boot: Identifier of its boot.
        pid: Process.
        namespace: In which name space that number counts.
        started: When that process was started, in ticks; numbers are used again.
        waits: Whether a second host may join.
    """

    host: str
    boot: str
    pid: int
    namespace: str
    started: str
    waits: bool = False


def new_name() -> str:
    """A name that no other probe has."""
    return PREFIX + secrets.token_hex(8)


def myself(*, waits: bool = False) -> Owner:
    """This process."""
    pid = os.getpid()
    return Owner(os.uname().nodename, boot_id(), pid, _namespace(), _started(pid), waits)


def boot_id() -> str:
    """Identifier of this boot; empty where the kernel does not tell."""
    return _line("/proc/sys/kernel/random/boot_id")


def abandoned(owner: Owner | None, me: Owner, age: float) -> bool:
    """Whether the maker of a directory is gone.

    Args:
        owner: Who made it; None where that was not written yet, or cannot be read.
        me: This process.
        age: Seconds since its last sign of life, by the file server's clock.
    """
    if age >= ABANDONED:
        return True
    if owner is None or owner.host != me.host:
        return False
    if owner.boot != me.boot:
        return bool(owner.boot and me.boot)
    if owner.namespace != me.namespace:
        return False
    return _started(owner.pid) != owner.started


def _started(pid: int) -> str:
    # After the name in brackets, which may itself hold blanks and brackets; proc_pid_stat(5).
    fields = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
