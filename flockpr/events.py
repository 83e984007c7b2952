"""What an operator has to know of: locks and mounts that were lost, hosts that are waited for.

One function for each kind of event. It is logged with a name that stays (`event=lost-permit`),
counted for whoever exports metrics, and handed to the journal of its logical unit, if this
process has one. None of that raises, and none of it waits for a file system: the journal is
written by a thread of its own, which ends when there is nothing to write.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import attrs

log = logging.getLogger(__name__)

BURST = 5
"""Events of a kind in one place that are shown ..."""
PERIOD = 60.0
"""... within so many seconds; the others are only counted."""
_MOST_PENDING = 1000
_LINGER = 2.0
_AT_EXIT = 1.0
_MOST_PLACES = 10_000


class Kind(enum.StrEnum):
    """What happened; the value is a promise to whoever reads logs, journals and metrics."""

    LOST_PERMIT = "lost-permit"
    LOST_LOCKS = "lost-locks"
    LOST_MOUNT = "lost-mount"
    MOUNT_BACK = "mount-back"
    COMMIT_CONFLICT = "commit-conflict"
    FORCED_GATE = "forced-gate"
    SILENT_HOST = "silent-host"
    FENCED_HOST = "fenced-host"

    @property
    def level(self) -> int:
        """Of the line in the log."""
        return _LEVELS.get(self, logging.WARNING)


_LEVELS = {
    Kind.LOST_PERMIT: logging.ERROR,
    Kind.LOST_MOUNT: logging.ERROR,
    Kind.FENCED_HOST: logging.ERROR,
    Kind.COMMIT_CONFLICT: logging.INFO,  # the other one was faster; the command is decided again
}


@attrs.frozen
class Event:
    """Something that happened.

    Attributes:
        kind: What.
        where: The image, or the lock directory, that it happened to.
        text: In words.
        time: Seconds since the epoch.
    """

    kind: Kind
    where: str
    text: str
    time: float


Write: TypeAlias = Callable[[Event], None]
"""Puts an event into the journal of one logical unit."""


def lost_permit(where: str, detail: str = "it is taken again") -> None:
    """The file server gave an image's permit, or may have given it, to somebody else."""
    _happened(Kind.LOST_PERMIT, where, f"the permit was lost; {detail}")


def lost_locks(where: str) -> None:
    """The file server took the locks of a lock directory away."""
    _happened(Kind.LOST_LOCKS, where, "the file server took our locks away; they are taken again")


def lost_mount(where: str, detail: str = "") -> None:
    """A lock directory or an image is missing, or is not what it was."""
    _happened(Kind.LOST_MOUNT, where, _joined("the mount was lost", detail))


def mount_back(where: str, lost: float) -> None:
    """What was lost is back as it was; with that its journal can be written again.

    Args:
        where: The lock directory or the image.
        lost: Seconds.
    """
    _happened(Kind.MOUNT_BACK, where, f"the mount is back after {lost:.0f} s")


def commit_conflict(where: str, detail: str = "the command is decided again") -> None:
    """Another daemon committed the number that this one was about to commit."""
    _happened(Kind.COMMIT_CONFLICT, where, f"another daemon committed first; {detail}")


def forced_gate(where: str, hosts: Iterable[str], detail: str = "") -> None:
    """Permits of hosts that an operator declared fenced are not waited for."""
    names = ", ".join(hosts)
    _happened(Kind.FORCED_GATE, where, _joined(f"declared fenced, not waited for: {names}", detail))


def silent_host(where: str, host: str, waited: float) -> None:
    """A host does not give its permit back.

    Args:
        where: The image.
        host: Its name.
        waited: Seconds.
    """
    text = (
        f"{host} has not given its permit back for {waited:.1f} s; `flockpr gate show` tells more"
    )
    _happened(Kind.SILENT_HOST, where, text)


def fenced_host(where: str, detail: str) -> None:
    """This host finds itself declared fenced, and serves no more."""
    _happened(Kind.FENCED_HOST, where, detail)


def counts() -> Mapping[tuple[Kind, str], int]:
    """How often each kind happened to each image or lock directory since the process began."""
    with _lock:
        return dict(_counts)


def totals() -> Mapping[Kind, int]:
    """How often each kind happened since the process began; every kind is there."""
    result = dict.fromkeys(Kind, 0)
    for (kind, _), count in counts().items():
        result[kind] += count
    return result


# --------------------------------------------------------------------------- journals


def attach(where: str, journal: str, write: Write) -> None:
    """Have the events of an image, or of a lock directory, written into a journal.

    Args:
        where: As the events name it.
        journal: The lock directory of the journal; attached twice, it gets each event once.
        write: Writes one; called by one thread at a time. It may raise OSError.
    """
    with _lock:
        entry = _journals[where].setdefault(journal, _Attached(write))
        entry.users += 1


def detach(where: str, journal: str) -> None:
    """Undo one `attach`."""
    with _lock:
        found = _journals.get(where, {})
        entry = found.get(journal)
        if entry is None:
            return
        entry.users -= 1
        if not entry.users:
            del found[journal]
        if not found:
            _journals.pop(where, None)


def flush(timeout: float = _AT_EXIT) -> bool:
    """Wait until all events are in their journals; False if that takes longer."""
    return _post.flush(timeout)


@attrs.define
class _Attached:
    write: Write
    users: int = 0


class _Post:
    """Events on their way to journals. A file system that hangs keeps only its thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: collections.deque[tuple[Event, Write]] = collections.deque()
        self._running = False
        self._busy = False

    def put(self, event: Event, journals: Iterable[Write]) -> None:
        """Have it written; too many at once are dropped, since a journal is no promise."""
        with self._changed:
            for write in journals:
                if len(self._pending) < _MOST_PENDING:
                    self._pending.append((event, write))
            if self._pending and not self._running:
                try:
                    threading.Thread(target=self._run, name="events", daemon=True).start()
                    self._running = True
                except RuntimeError:  # no more threads
                    self._pending.clear()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until there is nothing left."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._pending or self._busy), timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._pending and not self._changed.wait_for(self._has_work, _LINGER):
                    self._running = False
                    return
                event, write = self._pending.popleft()
                self._busy = True
            try:
                write(event)
            except OSError as error:
                log.debug("%s: an event cannot be written into its journal: %s", event.where, error)
            except Exception:
                log.exception("%s: internal error", event.where)

    def _has_work(self) -> bool:
        return bool(self._pending)


# --------------------------------------------------------------------------- how it is told


@attrs.define
class _Recent:
    """How much was shown of a kind in a place lately."""

    since: float = float("-inf")
    shown: int = 0
    hidden: int = 0

    def admits(self, now: float) -> bool:
        """Whether one more may be shown."""
        if now - self.since >= PERIOD:
            self.since, self.shown = now, 0
        if self.shown >= BURST:
            self.hidden += 1
            return False
        self.shown += 1
        return True


_lock = threading.Lock()
_counts: dict[tuple[Kind, str], int] = {}
_recent: dict[tuple[Kind, str], _Recent] = {}
_journals: dict[str, dict[str, _Attached]] = collections.defaultdict(dict)
_post = _Post()


def _happened(kind: Kind, where: str, text: str) -> None:
    key = (kind, where)
    with _lock:
        if key not in _counts and len(_counts) >= _MOST_PLACES:
            key = (kind, "")
        _counts[key] = _counts.get(key, 0) + 1
        recent = _recent.setdefault(key, _Recent())
        if not recent.admits(time.monotonic()):
            return
        hidden, recent.hidden = recent.hidden, 0
        journals = [entry.write for entry in _journals.get(where, {}).values()]
    if hidden:
        text = f"{text} (and {hidden} more since)"
    log.log(kind.level, "%s: %s", where, text, extra={"event": str(kind)})
    _post.put(Event(kind, where, text, time.time()), journals)


def _joined(text: str, detail: str) -> str:
    return f"{text}: {detail}" if detail else text


@atexit.register
def _end() -> None:
    with contextlib.suppress(Exception):
        flush()
