"""The roster: who serves and who waits, as each process says it of itself, for people.

A file of its own for each process, so that two of them never overwrite each other. It is
refreshed while the process has a permit, or waits for one, and only then: an idle target costs
nothing. Nothing is decided by it, and failing to write it fails nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from flockpr.errors import StoreError
from flockpr.gate import records
from flockpr.gate.hosts import BOOT_ID, own_name
from flockpr.gate.image import SYSCALLS
from flockpr.store import files
from flockpr.store.clock import seconds_since, utc_now
from flockpr.store.layout import ASIDE_PREFIX
from flockpr.store.strict import Malformed, Reader
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two records of one process."""
KEEP = 30 * 86400
"""Seconds for which the record of a host that is gone stays: a lock of a NFSv3 client that is
gone stays for ever, and somebody will want to know whose it is.
"""
_MOST_WAITS = 64
_MOST_FOR = 256


@attrs.frozen
class Wait:
    """What a process waits for.

    Attributes:
        lun: Logical unit number.
        since: UTC.
        hosts: Numbers of the hosts in the way.
    """

    lun: int
    since: str
    hosts: tuple[int, ...]


@attrs.frozen
class Process:
    """What one process said of itself last.

    Attributes:
        pid: On its host.
        doors: Through which it takes commands.
        since: When it wrote first, UTC.
        last_contact: When it wrote last, UTC, by its host's clock.
        waits: What it waits for.
    """

    pid: int
    doors: tuple[str, ...]
    since: str
    last_contact: str
    waits: tuple[Wait, ...]


@attrs.frozen
class HostRecord:
    """What the processes of one host said.

    Attributes:
        number: Of the host, in this boot.
        name: Of the host.
        boot_id: Of its boot.
        processes: By process id.
    """

    number: int
    name: str
    boot_id: str
    processes: tuple[Process, ...]

    @property
    def last_contact(self) -> str:
        """When any of them wrote last, UTC."""
        return max(process.last_contact for process in self.processes)

    @property
    def doors(self) -> tuple[str, ...]:
        """Those of all of them."""
        return tuple(sorted({door for process in self.processes for door in process.doors}))


# --------------------------------------------------------------------------- reading


def read(root: str, syscalls: Syscalls | None = None) -> dict[int, HostRecord]:
    """All hosts that have a record that can be read. Never raises."""
    sys_ = syscalls or SYSCALLS
    hosts: dict[int, HostRecord] = {}
    with contextlib.suppress(OSError, StoreError):
        fd = records.open_records(sys_, root)
        if fd is None:
            return hosts
        try:
            for name in sorted(sys_.listdir(fd)):
                if (found := records.process_of(name)) is None:
                    continue
                with contextlib.suppress(OSError, StoreError, Malformed):
                    record = _load(sys_, fd, name, found[0])
                    hosts[record.number] = _joined(hosts.get(record.number), record)
        finally:
            files.close_quietly(sys_, fd)
    return hosts


def name_of(root: str, number: int, syscalls: Syscalls | None = None) -> str:
    """The name of a host, or a text with its number. Never raises."""
    record = read(root, syscalls).get(number)
    return record.name if record is not None else text_of(number)


def text_of(number: int) -> str:
    """A host without a record."""
    return f"host {number:0{records.DIGITS}x}"


def _joined(one: HostRecord | None, other: HostRecord) -> HostRecord:
    if one is None:
        return other
    processes = sorted((*one.processes, *other.processes), key=lambda process: process.pid)
    return attrs.evolve(other, processes=tuple(processes))


def _load(sys_: Syscalls, fd: int, name: str, number: int) -> HostRecord:
    """A record; members that a newer version added are passed over, since it is for people."""
    reader = records.load(sys_, name, dir_fd=fd, number=number)
    process = Process(
        pid=reader.integer("pid", 1, 1 << 30),
        doors=reader.strings("doors", 16, longest=16),
        since=_time(reader, "since"),
        last_contact=_time(reader, "last_contact"),
        waits=tuple(_wait(Reader(one, "wait")) for one in reader.items("waits", _MOST_WAITS)),
    )
    host, boot = reader.string("host"), reader.string("boot_id")
    return HostRecord(number, host, boot, (process,))


def _wait(reader: Reader) -> Wait:
    hosts = reader.strings("for", _MOST_FOR)
    lun, since = reader.integer("lun", 0, 1 << 20), _time(reader, "since")
    try:
        return Wait(lun, since, tuple(int(one, 16) for one in hosts))
    except ValueError as error:
        raise Malformed("wait.for has an element that is no number of a host") from error


def _time(reader: Reader, name: str) -> str:
    text = reader.string(name, most=40)
    if seconds_since(text) is None:
        raise Malformed(f"record.{name} is no time")
    return text


# --------------------------------------------------------------------------- writing


class _Entry:
    """The record of this process in one root; thread-safe.

    Args:
        root: The root directory.
        number: Of this host.
        syscalls: Where the calls go.
    """

    def __init__(self, root: str, number: int, syscalls: Syscalls) -> None:
        self._root = root
        self._number = number
        self._sys = syscalls
        self._lock = threading.Lock()
        self._name = records.process_name(number, secrets.token_hex(4))
        self._since = utc_now()
        self._doors: set[str] = set()
        self._waits: dict[object, Wait] = {}
        self._next = float("-inf")
        self._swept = False
        self._failed = False

    def beat(self, door: str | None) -> bool:
        """Write it, where that is due; whether it was."""
        now = time.monotonic()
        with self._lock:
            if now < self._next and (door is None or door in self._doors):
                return False
            # First: a share that hangs is not asked by all threads. And a little less: whoever
            # calls each BEAT seconds is not to be told each other time that it is too early.
            self._next = now + 0.8 * BEAT
            self._doors |= {door} if door else set()
        self._write()
        return True

    def wait(self, who: object, wait: Wait | None) -> None:
        """Begin to wait, or wait no more."""
        with self._lock:
            if wait is not None:
                self._waits[who] = wait
            elif self._waits.pop(who, None) is None:
                return
            gone = not self._waits and not self._doors
            self._next = time.monotonic() + BEAT
        if gone:  # a command line that waited has nothing to say any more
            self._remove()
        else:
            self._write()

    def _write(self) -> None:
        try:
            directory = records.provide(self._sys, self._root)
            try:
                if not self._swept:
                    self._swept = True
                    _sweep(self._sys, directory.fd, self._number, self._name)
                self._replace(directory)
            finally:
                files.close_quietly(self._sys, directory.fd)
            self._failed = False
        except (OSError, StoreError) as error:
            if not self._failed:
                log.warning("%s: cannot be written: %s", records.path_of(self._root), error)
            self._failed = True

    def _replace(self, directory: records.Directory) -> None:
        fd, aside = directory.fd, f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
        directory.write(self._sys, aside, self._encode(), sync=False)
        try:
            self._sys.rename(aside, self._name, source_fd=fd, target_fd=fd)
        except OSError:
            files.discard(self._sys, aside, dir_fd=fd)
            raise

    def _remove(self) -> None:
        with contextlib.suppress(OSError, StoreError):
            fd = records.open_records(self._sys, self._root)
            if fd is not None:
                files.discard(self._sys, self._name, dir_fd=fd)
                files.close_quietly(self._sys, fd)

    def _encode(self) -> bytes:
        with self._lock:
            value: dict[str, Any] = {
                "format": records.FORMAT,
                "number": f"{self._number:0{records.DIGITS}x}",
                "host": own_name(self._number),
                "boot_id": boot_id(),
                "pid": os.getpid(),
                "doors": sorted(self._doors),
                "since": self._since,
                "last_contact": utc_now(),
                "waits": [_wait_to_json(one) for one in list(self._waits.values())[:_MOST_WAITS]],
            }
        return (json.dumps(value) + "\n").encode()


def _wait_to_json(wait: Wait) -> dict[str, Any]:
    hosts = [f"{number:0{records.DIGITS}x}" for number in wait.hosts[:_MOST_FOR]]
    return {"lun": wait.lun, "since": wait.since, "for": hosts}


def announce(root: str, number: int, door: str, syscalls: Syscalls | None = None) -> bool:
    """Say that this process serves at a door; cheap, to be called often. Never raises.

    Args:
        root: The root directory.
        number: Of this host, `host_number()`.
        door: `iscsi` or another name of a door.
        syscalls: Where the calls go.

    Returns:
        Whether the record was due, each `BEAT` seconds.
    """
    return _entry(root, number, syscalls or SYSCALLS).beat(door)


def beat(root: str, number: int, syscalls: Syscalls | None = None) -> bool:
    """Refresh the record of a process that has nothing new to say; as `announce`."""
    return _entry(root, number, syscalls or SYSCALLS).beat(None)


@contextlib.contextmanager
def waiting(
    root: str, number: int, lun: int, hosts: Iterable[int], syscalls: Syscalls | None = None
) -> Iterator[None]:
    """Say that this process waits for permits of these hosts; call `beat` while that lasts.
    Raises nothing of its own.

    Args:
        root: The root directory.
        number: Of this host.
        lun: Logical unit number.
        hosts: Numbers of the hosts that it waits for.
        syscalls: Where the calls go.
    """
    entry, who = _entry(root, number, syscalls or SYSCALLS), object()
    entry.wait(who, Wait(lun, utc_now(), tuple(sorted(hosts))))
    try:
        yield
    finally:
        entry.wait(who, None)


def boot_id() -> str:
    """The id of this boot; empty where the kernel does not say."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _sweep(sys_: Syscalls, fd: int, number: int, ours: str) -> None:
    """Remove records of processes of this host that are gone, and very old ones of others."""
    for name in sys_.listdir(fd):
        found = records.process_of(name)
        if found is None or name == ours:
            continue
        with contextlib.suppress(OSError, StoreError, Malformed):
            process = _load(sys_, fd, name, found[0]).processes[0]
            old = (seconds_since(process.last_contact) or 0.0) > KEEP
            if old or (found[0] == number and not _runs(process.pid)):
                files.discard(sys_, name, dir_fd=fd)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False  # or in a container of its own, where it writes its record again
    except OSError:
        return True
    return True


_lock = threading.Lock()
_entries: dict[tuple[str, int, Syscalls], _Entry] = {}


def _entry(root: str, number: int, syscalls: Syscalls) -> _Entry:
    key = (os.path.realpath(root), number, syscalls)
    with _lock:
        return _entries.setdefault(key, _Entry(root, number, syscalls))
