"""Who holds permits, who knocks, who waits for whom: what `flockpr gate show` and `status` show.

What is held is asked of the file server. Names, doors and times are what the hosts said of
themselves, by their own clocks, and a host that says nothing has a number all the same.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from flockpr.errors import StateUnreadable
from flockpr.gate import fenced, places, records, roster
from flockpr.gate.holders import walk
from flockpr.gate.hosts import host_number
from flockpr.gate.image import SYSCALLS
from flockpr.store import files
from flockpr.store.clock import seconds_since
from flockpr.store.identity import LunIdentity
from flockpr.store.layout import DOORBELL
from flockpr.store.syscalls import Syscalls

SILENT = 3 * roster.BEAT
"""Seconds without a word after which a host that has a permit is called silent."""


@attrs.frozen
class LunGate:
    """The gate of one logical unit, at about one moment.

    Attributes:
        lun: Logical unit number.
        image: Path of the image.
        permits: So many permits each host has, by its number.
        narrowing: A command that takes access away has the permits of others.
        rings: Numbers of the hosts whose commands ring, and whether for everybody.
    """

    lun: int
    image: str
    permits: Mapping[int, int]
    narrowing: bool
    rings: Mapping[int, bool]

    @property
    def narrowers(self) -> tuple[int, ...]:
        """The hosts of which one has all permits with a command. Its lock covers the bytes of all
        and says nothing, but it rings for everybody meanwhile; so do others that wait for it.
        """
        if not self.narrowing:
            return ()
        return tuple(sorted(host for host, everybody in self.rings.items() if everybody))

    def in_the_way(self, number: int) -> bool:
        """Whether anybody waits for a host: for a permit, or until it rings no more."""
        return bool(self.permits.get(number)) or number in self.rings


@attrs.frozen
class Overview:
    """What is known of the hosts of a root, for people; nothing is decided by it.

    Attributes:
        root: The root directory.
        hosts: What hosts said of themselves, by number.
        fenced: What operators declared, by number.
    """

    root: str
    hosts: Mapping[int, roster.HostRecord]
    fenced: Mapping[int, fenced.Declaration]

    @classmethod
    def of(cls, root: str, syscalls: Syscalls | None = None) -> Overview:
        """Read the records of a root. Never raises."""
        return cls(root, roster.read(root, syscalls), fenced.read(root, syscalls))

    def name(self, number: int) -> str | None:
        """The name of a host, as far as it is known."""
        if number in self.hosts:
            return self.hosts[number].name
        declared = self.fenced.get(number)
        return declared.host if declared and declared.host else None

    def label(self, number: int) -> str:
        """The name of a host, or a text with its number."""
        return self.name(number) or roster.text_of(number)

    def age(self, number: int) -> float | None:
        """Seconds since a host wrote last, by the clocks of both; None where it never did."""
        record = self.hosts.get(number)
        return None if record is None else seconds_since(record.last_contact)

    def here(self, number: int) -> bool:
        """Whether it is this host: by its number, or as what runs since the same boot. The number
        is another one once the host has been given another name, and that of a target which runs
        since before is not.
        """
        record, boot = self.hosts.get(number), roster.boot_id()
        return number == host_number() or (record is not None and record.boot_id == boot != "")

    def silent(self, number: int) -> bool:
        """Whether a host that is in the way has not been heard of for long, or never."""
        age = self.age(number)
        return age is None or age > SILENT

    # ------------------------------------------------------------------ as JSON

    def host_to_json(self, number: int) -> dict[str, Any]:
        """The documented object that stands for a host in a list of hosts."""
        record = self.hosts.get(number)
        return {
            **self.named(number),
            "here": self.here(number),
            "boot_id": record.boot_id if record else None,
            "doors": list(record.doors) if record else [],
            "last_contact": record.last_contact if record else None,
            "age_s": self.age(number),
            "processes": [_process_to_json(one) for one in record.processes] if record else [],
            "fenced": _declared_to_json(self.fenced.get(number)),
        }

    def gate_to_json(self, gate: LunGate) -> dict[str, Any]:
        """The documented object that stands for the gate of a logical unit."""
        return {
            "image": gate.image,
            "permits": [
                {**self.named(number), "count": count, "silent": self.silent(number)}
                for number, count in sorted(gate.permits.items())
            ],
            "narrowing": gate.narrowing,
            "narrowers": [f"{number:0{records.DIGITS}x}" for number in gate.narrowers],
            "knocks": [
                {**self.named(number), "everybody": everybody, "silent": self.silent(number)}
                for number, everybody in sorted(gate.rings.items())
            ],
            "waits": [
                {
                    **self.named(record.number),
                    "pid": process.pid,
                    "since": wait.since,
                    "age_s": seconds_since(wait.since),
                    "for": [self.named(number) for number in wait.hosts],
                }
                for record in self.hosts.values()
                for process in record.processes
                for wait in process.waits
                if wait.lun == gate.lun
            ],
        }

    def named(self, number: int) -> dict[str, Any]:
        """Number and name of a host."""
        return {"number": f"{number:0{records.DIGITS}x}", "host": self.name(number)}

    def concerned(self, gates: Iterable[LunGate]) -> list[int]:
        """All hosts that there is something to say of, the most recently heard of first."""
        numbers = {*self.hosts, *self.fenced}
        for gate in gates:
            numbers |= {*gate.permits, *gate.rings}
        for record in self.hosts.values():
            numbers |= {n for one in record.processes for wait in one.waits for n in wait.hosts}
        return sorted(numbers, key=lambda n: (self._order(n), self.label(n), n))

    def _order(self, number: int) -> float:
        age = self.age(number)
        return float("inf") if age is None else round(age / SILENT)


def look(root: str, identity: LunIdentity, syscalls: Syscalls | None = None) -> LunGate | None:
    """Ask the file server who has permits of a logical unit and who knocks for them.

    Returns:
        None for a logical unit without an image, which has no gate.

    Raises:
        StoreError: It cannot be asked.
    """
    if identity.image is None:
        return None
    sys_ = syscalls or SYSCALLS
    path = os.path.join(root, identity.image)
    permits: Counter[int] = Counter()
    narrowing = False
    for start, length in _locks(sys_, path, places.ALL_PERMITS):
        if length == 1:
            permits[places.host_at(start)] += 1
        else:  # only a command has more than one byte
            narrowing = True
    rings: dict[int, bool] = {}
    bell = os.path.join(root, DOORBELL)
    for start, length in _locks(sys_, bell, places.rings(identity.lun), missing=True):
        host = places.ringing(start)[1]
        everybody = places.EVERYBODY in places.groups_at(start, length)
        rings[host] = rings.get(host, False) or everybody
    return LunGate(identity.lun, path, dict(permits), narrowing, rings)


def _locks(
    sys_: Syscalls, path: str, place: places.Range, *, missing: bool = False
) -> list[tuple[int, int]]:
    """Exclusive locks of others: start and length. A file that may be missing has none."""
    try:
        fd = _open(sys_, path)
    except FileNotFoundError as error:
        if missing:
            return []
        raise files.unavailable(error, "cannot be opened", path) from error
    except OSError as error:
        raise files.unavailable(error, "cannot be opened", path) from error
    try:
        if not stat.S_ISREG(sys_.fstat(fd).st_mode):
            raise StateUnreadable("is no regular file", path, "restore it")
        return [(lock.start, lock.length) for lock in walk(fd, *place, sys_)]
    except OSError as error:
        raise files.unavailable(error, "cannot be asked for locks", path) from error
    finally:
        files.close_quietly(sys_, fd)


def _open(sys_: Syscalls, path: str) -> int:
    """Read-write where that is allowed: then every file system answers rightly."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return sys_.open(path, os.O_RDWR | flags)
    except FileNotFoundError:
        raise
    except OSError:
        return sys_.open(path, os.O_RDONLY | flags)


def _process_to_json(process: roster.Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "doors": list(process.doors),
        "since": process.since,
        "last_contact": process.last_contact,
    }


def _declared_to_json(declared: fenced.Declaration | None) -> dict[str, Any] | None:
    if declared is None:
        return None
    return {
        "time": declared.time,
        "user": declared.user,
        "declared_on": declared.declared_on,
        "proof": declared.proof,
        "lun": declared.lun,
    }
