"""The mount table: what stands between a path and its storage."""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

TABLE: Final = "/proc/self/mountinfo"
_ESCAPE = re.compile(r"\\([0-7]{3})")


@attrs.frozen
class Mount:
    """One line of the mount table, proc_pid_mountinfo(5).

    Attributes:
        kind: Type of the file system, such as ``nfs4``.
        source: What is mounted, such as ``server:/export``.
        point: Where.
        options: Those of the mount and those of its file system, in the order of the table.
        device: Its device number as the table has it, such as ``0:50``.
    """

    kind: str
    source: str
    point: str
    options: tuple[str, ...]
    device: str = attrs.field(default="", eq=False)

    def has(self, *names: str) -> bool:
        """Whether one of these options is set, in these very words."""
        return any(name in self.options for name in names)

    def values(self, name: str) -> tuple[str, ...]:
        """What follows ``name=``, each time that it is there."""
        start = f"{name}="
        return tuple(one[len(start) :] for one in self.options if one.startswith(start))

    def value(self, name: str) -> str | None:
        """What follows ``name=``; None where the option is not there."""
        return next(iter(self.values(name)), None)


def read_table() -> str:
    """The mount table of this process; empty where it cannot be read."""
    try:
        with open(TABLE, encoding="utf-8", errors="replace") as table:
            return table.read()
    except OSError:
        return ""


def mount_of(device: int, path: str, table: str | None = None) -> Mount | None:
    """The mount that a file is on.

    Args:
        device: Its device number.
        path: Its path, absolute: it decides where the device is mounted twice, and where the
            table has another number than the file (subvolumes of btrfs).
        table: The mount table; that of this process when None.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = [
        (number == wanted, _covers(mount.point, path), len(mount.point), index, mount)
        for index, (number, mount) in enumerate(_lines(read_table() if table is None else table))
    ]
    # The last of equal ones: it was mounted over the others.
    fitting = [one for one in found if one[0] or one[1]]
    return max(fitting, key=lambda one: one[:4])[4] if fitting else None


def covering(path: str, table: str | None = None) -> Mount | None:
    """The mount that a path leads to now, told without touching it: it may hang.

    Args:
        path: Absolute, without symbolic links.
        table: The mount table; that of this process when None.
    """
    found = [
        (len(mount.point), index, mount)
        for index, (_, mount) in enumerate(_lines(read_table() if table is None else table))
        if _covers(mount.point, path)
    ]
    return max(found, key=lambda one: one[:2])[2] if found else None


def filesystem_type(device: int) -> str | None:
    """The file system type of a device number in this process's mount table."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((mount.kind for number, mount in _lines(read_table()) if number == wanted), None)


def _covers(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _lines(table: str) -> list[tuple[str, Mount]]:
    mounts = []
    for line in table.split("\n"):
        fields = line.split(" ")
        try:
            rest = fields[fields.index("-", 6) + 1 :]
            options = (*fields[5].split(","), *rest[2].split(","))
            mount = Mount(rest[0], _plain(rest[1]), _plain(fields[4]), options, fields[2])
        except (ValueError, IndexError):
            continue
        mounts.append((fields[2], mount))
    return mounts


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
