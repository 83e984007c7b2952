"""Sequences of reservation commands on two paths of a device, the same each time they are made."""

from __future__ import annotations

import random
from collections.abc import Iterator

from attrs import frozen

KEYS = (0x0, 0xA1, 0xB2, 0xC3D4E5F60718293A)
TYPES = (1, 3, 5, 6, 7, 8)


@frozen
class Sent:
    """One command.

    Args:
        path: 0 or 1: by which path.
        cdb: The command.
        data_out: Its parameter list.
        what: In words, for a page.
    """

    path: int
    cdb: bytes
    data_out: bytes = b""
    what: str = ""


def read(path: int, action: int, length: int = 8192) -> Sent:
    """PERSISTENT RESERVE IN."""
    return Sent(path, bytes((0x5E, action, 0, 0, 0, 0, 0, length >> 8, length & 255, 0)))


def write(
    path: int,
    action: int,
    key: int = 0,
    service_key: int = 0,
    *,
    kind: int = 0,
    flags: int = 0,
    more: bytes = b"",
) -> Sent:
    """PERSISTENT RESERVE OUT; `more` is what follows the 24 bytes of its list."""
    data = key.to_bytes(8) + service_key.to_bytes(8) + bytes((0, 0, 0, 0, flags, 0, 0, 0)) + more
    size = len(data)
    cdb = bytes((0x5F, action, kind, 0, 0, 0, 0, size >> 8, size & 255, 0))
    return Sent(path, cdb, data)


def looks(path: int = 0) -> Iterator[Sent]:
    """All that can be read, whole and cut."""
    for action in range(4):
        yield read(path, action)
    for action, length in ((0, 8), (0, 9), (1, 16), (1, 0), (2, 8), (3, 24), (0x1F, 24)):
        yield read(path, action, length)


def scripted() -> list[Sent]:
    """Each service action where it succeeds, and where it is refused; each type; bad fields."""
    found = [*looks(), write(0, 1, 0, kind=5), write(0, 6, 0, 0xA1), *looks()]
    for kind in TYPES:
        found += [
            write(0, 1, 0xA1, kind=kind),
            *looks(),
            write(1, 1, 0xB2, kind=kind),
            write(1, 6, 0, 0xB2),
            write(1, 1, 0xB2, kind=kind),
            write(0, 1, 0xA1, kind=kind),
            *looks(1),
            write(1, 2, 0xB2, kind=kind),
            write(0, 2, 0xA1, kind=TYPES[TYPES.index(kind) - 1]),
            write(0, 2, 0xBAD, kind=kind),
            write(0, 2, 0xA1, kind=kind),
            read(1, 1),
            write(1, 1, 0xB2, kind=kind),
            write(0, 4, 0xA1, 0xB2, kind=kind),
            *looks(1),
            write(1, 6, 0, 0xB2),
            write(1, 5, 0xB2, 0xDEAD, kind=kind),
            write(1, 4, 0xB2, 0xA1, kind=kind),
            *looks(),
            write(0, 6, 0, 0xA1),
            write(0, 0, 0xA1, 0),
            write(0, 6, 0, 0xA1, flags=1),
            write(0, 4, 0xA1, 0, kind=kind),
            write(0, 3, 0xA1),
            *looks(1),
            write(0, 0, 0, 0xA1),
        ]
    found += [
        write(0, action, 0xA1, 0xB2, kind=kind)
        for action in (1, 2, 4)
        for kind in (0, 2, 0x15, 0xF)
    ]
    found += [write(0, action, 0xA1, 0xB2, kind=1) for action in range(7, 32)]
    found += [write(0, 0, 0xA1, 0xB2, flags=flags) for flags in (2, 4, 8, 0xF1)]
    for size in (0, 1, 8, 23, 25, 28, 8192):
        cdb = bytes((0x5F, 6, 0, 0, 0, 0, 0, size >> 8, size & 255, 0))
        found.append(Sent(0, cdb, bytes(size)))
    return [*found, write(0, 6, 0, 0xA1), write(0, 3, 0xA1), *looks()]


def random_walk(seed: int, count: int) -> list[Sent]:
    """Commands that mostly make sense, and are followed by a look at what they have come to.

    PREEMPT AND ABORT that finds somebody is not among them: with tcm_loop of Linux 6.1 it waits
    for itself for ever (core_tmr_lun_reset flushes the work item that it is called from), also
    when sg_persist sends it to the disk and there is no helper at all.
    """
    source = random.Random(seed)
    found: list[Sent] = []
    while len(found) < count:
        path, kind = source.randrange(2), source.choice(TYPES)
        action = source.choice((0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 6, 6, 6))
        key, service_key = source.choice(KEYS), source.choice(KEYS)
        found.append(write(path, action, key, service_key, kind=kind, flags=source.choice((0, 1))))
        found += [read(path, 0), read(path, 1), read(1 - path, 3)]
    return found
