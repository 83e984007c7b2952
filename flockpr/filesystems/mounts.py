"""The mount table: what stands between a path and its storage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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
    text = read_table() if table is None else table
    found = [
        (line.device == wanted, _covers(line.point, path), len(line.point), index, line)
        for index, line in enumerate(_lines(text))
        if line.device == wanted or _covers(line.point, path)
    ]
    # The last of equal ones: it was mounted over the others.
    return max(found, key=lambda one: one[:4])[4].mount() if found else None


def covering(path: str, table: str | None = None) -> Mount | None:
    """The mount that a path leads to now, told without touching it: it may hang.

    Args:
        path: Absolute, without symbolic links.
        table: The mount table; that of this process when None.
    """
    text = read_table() if table is None else table
    found = [
        (len(line.point), index, line)
        for index, line in enumerate(_lines(text))
        if _covers(line.point, path)
    ]
    return max(found, key=lambda one: one[:2])[2].mount() if found else None


def filesystem_type(device: int) -> str | None:
    """The file system type of a device number in this process's mount table."""
    mount = _any_of(device)
    return mount.kind if mount else None


def asks_its_server(device: int) -> bool:
    """Whether a file system is one whose client answers by what the server says, when it is asked
    for attributes as they are now: NFS from 4.1 on. In 4.0 an open looks for the name, so it knows
    more than attributes do. With `softreval` the client answers itself, from its cache, for a
    server that it does not reach.
    """
    mount = _any_of(device)
    if mount is None or mount.kind != "nfs4" or mount.has("softreval"):
        return False
    return mount.value("vers") in ("4.1", "4.2")


def _any_of(device: int) -> Mount | None:
    """The first mount of a file system: what the file system says of itself, all of them have."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    lines = (line for line in _lines(read_table()) if line.device == wanted)
    return next((line.mount() for line in lines), None)


def _covers(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


@attrs.frozen
class _Line:
    """A line of the table, of which the rest is read where it is wanted: a host has hundreds."""

    device: str
    point: str
    options: str
    rest: tuple[str, ...]

    def mount(self) -> Mount:
        kind, source, options = self.rest
        both = (*self.options.split(","), *options.split(","))
        return Mount(kind, unescape(source), self.point, both, self.device)


def _lines(table: str) -> Iterator[_Line]:
    for line in table.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" ", 6), after.split(" ")
        if dash and len(fields) > 5 and len(rest) == 3:
            yield _Line(fields[2], unescape(fields[4]), fields[5], (rest[0], rest[1], rest[2]))


def unescape(text: str) -> str:
    """A path as the kernel's tables have it: a space is 040 in octal there, and so on."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
