"""Refused commands and events: for people who ask why a node got a conflict, or stood still.

One journal per daemon, and one per process for events. A record, not a promise: it is appended
without a sync, and losing it changes nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Any

from flockpr.errors import StoreError
from flockpr.events import Event
from flockpr.store import files
from flockpr.store.base import Applied, applied_to_json
from flockpr.store.layout import JOURNAL
from flockpr.store.syscalls import Syscalls

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
"""A journal beyond this becomes NAME.old, and the one before that is gone."""
KEEP_JOURNALS = 128
"""Journals of this many daemons stay; the longest untouched go first."""
_EVENTS = f"events-{secrets.token_hex(16)}"
"""Of this process."""


class Journal:
    """The journal of one daemon for one logical unit.

    Args:
        syscalls: Where the calls go.
        lun_fd: Descriptor of the lock directory; stays the caller's.
        daemon: Id of this daemon.
        host: Name of this host.
        mode: Permission bits of new files.
    """

    def __init__(
        self, syscalls: Syscalls, lun_fd: int, *, daemon: str, host: str, mode: int
    ) -> None:
        self._sys = syscalls
        self._lun_fd = lun_fd
        self._host = host
        self._name = f"{daemon}.jsonl"
        self._mode = mode
        self._fd = -1
        self._size = 0
        self._failed = False

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            files.close_quietly(self._sys, self._fd)
            self._fd = -1

    def note(self, applied: Applied) -> None:
        """Append one refused command. Never raises: the first failure is logged."""
        self.append(applied_to_json(applied))

    def append(self, value: dict[str, Any]) -> None:
        """Append one line, with the name of the host. Never raises: the first failure is logged."""
        data = (json.dumps({"host": self._host, **value}) + "\n").encode()
        try:
            if self._fd < 0:
                self._open()
            if self._size + len(data) > MAX_BYTES:
                self._open()
            files.write_all(self._sys, self._fd, data)
            self._size += len(data)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("cannot write the journal %s: %s", self._name, error)
            self._failed = True

    def _open(self) -> None:
        """Open the journal, and first set a full one aside."""
        directory = files.open_directory(self._sys, JOURNAL, dir_fd=self._lun_fd)
        try:
            if self._fd >= 0:
                self.close()
                self._sys.rename(
                    self._name, f"{self._name}.old", source_fd=directory, target_fd=directory
                )
            else:
                self._drop_old(directory)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = self._sys.open(self._name, flags, self._mode, dir_fd=directory)
            self._sys.fchmod(self._fd, self._mode)  # a strict umask must not lock the group out
            self._size = self._sys.fstat(self._fd).st_size
        finally:
            files.close_quietly(self._sys, directory)

    def _drop_old(self, directory: int) -> None:
        names = self._sys.listdir(directory)
        if len(names) < KEEP_JOURNALS:
            return
        by_age = sorted(names, key=lambda n: self._sys.stat(n, dir_fd=directory).st_mtime)
        for name in by_age[: len(names) - KEEP_JOURNALS + 1]:
            files.discard(self._sys, name, dir_fd=directory)


class EventJournal:
    """The events of one logical unit that this process saw. Opened for each line: they are rare,
    and the lock directory may have been away and come back.

    Args:
        syscalls: Where the calls go.
        path: The lock directory.
        host: Name of this host.
        mode: Permission bits of new files.
    """

    def __init__(self, syscalls: Syscalls, path: str, *, host: str, mode: int) -> None:
        self._sys = syscalls
        self._path = path
        self._host = host
        self._mode = mode

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            OSError: The lock directory cannot be opened.
        """
        fd = files.open_directory(self._sys, self._path)
        journal = Journal(self._sys, fd, daemon=_EVENTS, host=self._host, mode=self._mode)
        try:
            journal.append(event_to_json(event))
        finally:
            journal.close()
            files.close_quietly(self._sys, fd)


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as a line of a journal, but for the host."""
    time = dt.datetime.fromtimestamp(event.time, dt.UTC).isoformat(timespec="microseconds")
    return {
        "time": time.replace("+00:00", "Z"),
        "event": str(event.kind),
        "where": event.where,
        "text": event.text,
    }


def is_event(line: dict[str, Any]) -> bool:
    """Whether a line of a journal is an event; else it is a refused command."""
    return "event" in line


def read_journals(syscalls: Syscalls, lun_fd: int) -> Iterator[dict[str, Any]]:
    """All refused commands and events that any journal still has, journal by journal.

    Lines that cannot be read are passed over: a journal is a record, not a promise.
    """
    try:
        directory = files.open_directory(syscalls, JOURNAL, dir_fd=lun_fd)
    except OSError:
        return
    try:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = sorted(syscalls.listdir(directory))
        for name in names:
            try:
                data = files.read_whole(syscalls, name, dir_fd=directory, most=2 * MAX_BYTES)
            except (OSError, StoreError):
                continue
            for line in data.splitlines():
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    yield value
    finally:
        files.close_quietly(syscalls, directory)
