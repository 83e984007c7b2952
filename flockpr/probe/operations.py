"""What one process does in the directory under test, call by call, over the syscalls seam.

Each operation is small and does as the store does: it opens the directory anew before it
looks for a name, writes aside and renames, and locks open file descriptions.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from flockpr.errors import StoreError
from flockpr.filesystems.facts import facts_of
from flockpr.gate.image import open_image
from flockpr.probe import place
from flockpr.probe.mounts import Host
from flockpr.store import files
from flockpr.store.rangelock import CONTENTION
from flockpr.store.syscalls import Syscalls

KINDS: Final = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
BLOCK: Final = 4096
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_PAUSE: Final = 0.02
_MOST: Final = 1 << 20


class Operations:
    """One process's hands.

    Args:
        path: The directory that is probed.
        syscalls: Where the calls go.
    """

    def __init__(self, path: str, syscalls: Syscalls) -> None:
        self._path = path
        self._sys = syscalls
        self._place = ""
        self._handles: dict[int, int] = {}
        self._next = 1

    def perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request says; what it answers, or the number of the error."""
        name = request.get("do")
        method = OPERATIONS.get(name) if isinstance(name, str) else None
        try:
            if method is None:
                raise OSError(errno.ENOSYS, f"no such operation: {name}")
            return {"value": method(self, **request.get("with", {}))}
        except OSError as error:
            return {"errno": error.errno or errno.EIO, "text": error.strerror or str(error)}
        except StoreError as error:
            return {"errno": getattr(error, "errno", None) or errno.EIO, "text": error.what}
        except (TypeError, ValueError, KeyError) as error:
            return {"errno": errno.EINVAL, "text": str(error)}

    # The place itself.

    def make(self, name: str, owner: Mapping[str, Any]) -> None:
        """Make the probe's own directory, and use it."""
        with self._opened(self._path) as fd:
            self._sys.mkdir(_own(name), 0o700, dir_fd=fd)
        with self._opened(os.path.join(self._path, name)) as fd:
            self._write(fd, place.OWNER, json.dumps(dict(owner)))
            self._sys.mkdir(place.TEST, 0o700, dir_fd=fd)
            self._sys.mkdir(place.MAIL, 0o700, dir_fd=fd)
        self._place = name

    def enter(self, name: str) -> None:
        """Use a directory that another process made."""
        self._place = _own(name)
        with self._room(place.TEST):
            pass

    def remove(self, name: str) -> None:
        """Remove a probe's directory and all that is in it."""
        with self._opened(self._path) as fd:
            files.remove_tree(self._sys, _own(name), dir_fd=fd)

    def probes(self) -> list[dict[str, Any]]:
        """The directories of probes, of this one and of others, by name."""
        with self._opened(self._path) as fd:
            names = sorted(name for name in self._sys.listdir(fd) if place.NAME.fullmatch(name))
        found = (self._describe(name) for name in names)
        return [one for one in found if one is not None]

    def _describe(self, name: str) -> dict[str, Any] | None:
        owner: object = None
        try:
            with self._opened(os.path.join(self._path, name)) as fd:
                inside = self._sys.listdir(fd)
                if place.OWNER in inside:
                    with contextlib.suppress(ValueError, StoreError):
                        owner = json.loads(files.read_whole(self._sys, place.OWNER, dir_fd=fd))
                where = place.MAIL if place.MAIL in inside else "."
                seen = self._sys.stat(where, dir_fd=fd).st_mtime
        except FileNotFoundError:
            return None  # its maker has just removed it
        return {
            "name": name,
            "owner": owner if isinstance(owner, dict) else None,
            "joined": place.JOINED in inside,
            "seen": seen,
        }

    def join(self, name: str) -> bool:
        """Be the second host of a probe that waits; False where another one was faster."""
        with self._opened(os.path.join(self._path, _own(name))) as fd:
            try:
                files.write_new(self._sys, place.JOINED, b"", dir_fd=fd, mode=0o600)
            except FileExistsError:
                return False
        self._place = name
        return True

    def joined(self) -> bool:
        """Whether a second host has come."""
        with self._room(".") as fd:
            return place.JOINED in self._sys.listdir(fd)

    def server_time(self) -> float:
        """The file server's clock, as it stamps files."""
        self.stir()
        with self._room(place.MAIL) as fd:
            return self._sys.fstat(fd).st_mtime

    # Files.

    def names(self, room: str = place.TEST) -> list[str]:
        """What is in a room, the directory opened anew."""
        with self._room(room) as fd:
            return sorted(self._sys.listdir(fd))

    def write(self, name: str, text: str, room: str = place.TEST) -> None:
        """Make a new file."""
        with self._room(room) as fd:
            self._write(fd, _file(name), text)

    def publish(self, name: str, text: str, room: str = place.TEST) -> None:
        """Write aside and rename, over what is there."""
        with self._room(room) as fd:
            aside = f"{_file(name)}.aside"
            self._write(fd, aside, text)
            self._sys.rename(aside, name, source_fd=fd, target_fd=fd)
            self._sys.fsync(fd)

    def read(self, name: str, room: str = place.TEST) -> str | None:
        """What is in a file now; None where there is none."""
        with self._room(room) as fd:
            return self._read(fd, _file(name))

    def stir(self) -> None:
        """Change the room of the mail: a sign of life, and this host's caches of it go."""
        with self._room(place.MAIL) as fd:
            name = f"stir-{os.getpid()}-{time.monotonic_ns()}"
            self._write(fd, name, "")
            self._sys.unlink(name, dir_fd=fd)

    def link(self, source: str, target: str) -> bool:
        """Give a file a second name; False where the name is taken."""
        with self._room() as fd:
            return self._link(fd, _file(source), _file(target))

    def race(self, tag: str, who: str, rivals: int, slots: int, limit: float) -> list[int]:
        """Try to be the first to link each of many names; which ones it says it got."""
        ready = f"{_file(tag)}-ready-"
        with self._room() as fd:
            self._write(fd, f"{ready}{_file(who)}", who)
        self._gather(ready, rivals, limit)
        with self._room() as fd:
            return [
                slot
                for slot in range(slots)
                if self._link(fd, f"{ready}{who}", f"{tag}-slot-{slot}")
            ]

    def _gather(self, ready: str, rivals: int, limit: float) -> None:
        """Wait until everybody is there, that it be a race."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if sum(name.startswith(ready) for name in self.names()) >= rivals:
                return
            time.sleep(_PAUSE)
        raise OSError(errno.ETIMEDOUT, "a file of another process did not appear")

    def replace(self, name: str, count: int) -> None:
        """Replace a file again and again, by ever newer and longer ones."""
        for number in range(1, count + 1):
            self.publish(name, edition(number))

    def watch(self, name: str, count: int, limit: float) -> str:
        """Read a file until its last edition is there; what was wrong, or nothing."""
        newest, deadline = 0, time.monotonic() + limit
        while newest < count:
            time.sleep(_PAUSE / 4)
            if time.monotonic() > deadline:
                return f"after {limit:.0f} s edition {newest} of {count} is read"
            try:
                text = self.read(name)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                # On NFS, where it is replaced more quickly than it is found and read: asked again
                # until it is not replaced any more, since who reads the store asks again, too.
                continue
            if text is None:
                if newest:
                    return f"the name was gone after edition {newest}"
            else:
                number = edition_number(text)
                if number is None:
                    return f"a file in pieces was read after edition {newest}"
                if number < newest:
                    return f"edition {number} was read after edition {newest}"
                newest = number
        return ""

    def sync(self) -> None:
        """Synchronize the directory."""
        with self._room() as fd:
            self._sys.fsync(fd)

    def direct(self, name: str) -> bool:
        """Whether reads and writes can pass the page cache by, as the target's do."""
        with self._room() as fd:
            self._write(fd, _file(name), "\0" * BLOCK)
        image = open_image(os.path.join(self._path, self._place, place.TEST, name), self._sys)
        try:
            return image.direct and image.honoured()
        finally:
            image.close()

    def hole(self, name: str) -> None:
        """Make a hole."""
        with self._room() as fd:
            self._write(fd, _file(name), "x" * 4 * BLOCK)
            hole = self._sys.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=fd)
            try:
                self._sys.punch(hole, BLOCK, BLOCK)
            finally:
                files.close_quietly(self._sys, hole)

    # Locks.

    def open(self, name: str) -> int:
        """A new description of a file, which is made where it is not there."""
        with self._room() as fd:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            opened = self._sys.open(_file(name), flags, dir_fd=fd)
        handle, self._next = self._next, self._next + 1
        self._handles[handle] = opened
        return handle

    def close(self, handle: int) -> None:
        """Close a description."""
        self._sys.close(self._handles.pop(handle))

    def lock(self, handle: int, kind: str, start: int, length: int = 1) -> bool:
        """Lock bytes, without waiting; False where somebody else has them."""
        try:
            self._sys.set_lock(self._handles[handle], KINDS[kind], start, length)
        except OSError as error:
            if error.errno in CONTENTION:
                return False
            raise
        return True

    def locked(self, handle: int, start: int) -> bool:
        """Whether somebody else has a byte exclusively, asked as a reader."""
        fd = self._handles[handle]
        return self._sys.get_lock(fd, fcntl.F_RDLCK, start, 1) != fcntl.F_UNLCK

    def flock(self, handle: int) -> None:
        """Lock the whole file with flock."""
        self._sys.flock(self._handles[handle], fcntl.LOCK_EX | fcntl.LOCK_NB)

    # The host.

    def clock(self) -> float:
        """The host's clock."""
        return time.time()

    def describe(self) -> dict[str, Any]:
        """The host and its mount."""
        with self._opened(self._path) as fd:
            facts = facts_of(self._path, fd=fd)
        return attrs.asdict(Host(os.uname().nodename, place.boot_id(), facts))

    # Beneath.

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        fd = self._sys.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            files.close_quietly(self._sys, fd)

    @contextlib.contextmanager
    def _room(self, room: str = place.TEST) -> Iterator[int]:
        if room not in (place.TEST, place.MAIL, ".") or not self._place:
            raise OSError(errno.EINVAL, "no such room")
        path = os.path.join(self._path, self._place, room)
        fd = files.open_directory(self._sys, path)
        try:
            yield fd
        finally:
            files.close_quietly(self._sys, fd)

    def _write(self, fd: int, name: str, text: str) -> None:
        files.write_new(self._sys, name, text.encode(), dir_fd=fd, mode=0o600)

    def _read(self, fd: int, name: str) -> str | None:
        for attempt in range(3):
            try:
                return files.read_whole(self._sys, name, dir_fd=fd, most=_MOST).decode("utf-8")
            except FileNotFoundError:
                return None
            except OSError as error:
                # Replaced between open and read: NFS says so, and the store asks again, too.
                if error.errno != errno.ESTALE or attempt == 2:
                    raise
        return None

    def _link(self, fd: int, source: str, target: str) -> bool:
        try:
            self._sys.link(source, target, dir_fd=fd)
        except FileExistsError:
            return False
        return True


def edition(number: int) -> str:
    """Contents whose wholeness can be seen."""
    return f"{number} " + f"{number} " * (number * 37 % 500) + f"end {number}"


def edition_number(text: str) -> int | None:
    """Which edition it is; None when it is not a whole one."""
    first = text.partition(" ")[0]
    number = int(first) if first.isdecimal() else -1
    return number if number >= 0 and text == edition(number) else None


def _file(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"no name of a file: {name!r}")
    return name


def _own(name: str) -> str:
    if not place.NAME.fullmatch(name):
        raise ValueError(f"no name of a probe: {name!r}")
    return name


REMOTE: Final = (
    *("names", "write", "publish", "read", "link", "race", "replace", "watch"),
    *("open", "close", "lock", "locked", "clock", "describe"),
)
"""What the first host may ask of the second."""
_LOCAL: Final = (
    *("make", "enter", "remove", "probes", "join", "joined", "server_time", "stir"),
    *("sync", "direct", "hole", "flock"),
)
OPERATIONS: Final[Mapping[str, Callable[..., Any]]] = {
    name: getattr(Operations, name) for name in (*REMOTE, *_LOCAL)
}
