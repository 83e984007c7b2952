"""Which byte means what: permits on the image, rings at the doorbell.

A permit's byte says whose it is, and so does the ring of a command: who is in the way can be
told from the locks alone, whatever became of the host. A host is a number of 40 bits (see
`flockpr.gate.hosts`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from flockpr.store.layout import HOSTS, KNOCK, KNOCK_GROUPS, PERMIT_INSTANCES, PERMITS

EVERYBODY = 0
"""The group of all hosts: a command rings for their targets' permits."""


class Range(NamedTuple):
    """Bytes of a file.

    Attributes:
        start: First byte.
        length: Bytes.
    """

    start: int
    length: int


ALL_PERMITS = Range(PERMITS, HOSTS * PERMIT_INSTANCES)
"""What a command that takes access away takes exclusively, in one system call."""


def any_permit(host: int) -> Range:
    """A byte for a target of a host: another one at each try, since two may serve there."""
    instance = random.randrange(PERMIT_INSTANCES)  # noqa: S311 - no secret
    return Range(PERMITS + host * PERMIT_INSTANCES + instance, 1)


def permits_of(host: int) -> Range:
    """The bytes of all targets of a host."""
    return Range(PERMITS + host * PERMIT_INSTANCES, PERMIT_INSTANCES)


def host_at(offset: int) -> int:
    """The host whose permit a byte is."""
    return (offset - PERMITS) // PERMIT_INSTANCES


def all_permits_but(hosts: Iterable[int]) -> tuple[Range, ...]:
    """The bytes of all targets but those of some hosts, ascending.

    Ascending, so that of two commands that take them piece by piece one has them all some time.
    """
    ranges = []
    start = ALL_PERMITS.start
    for host in sorted(set(hosts)):
        left_out = permits_of(host)
        if left_out.start > start:
            ranges.append(Range(start, left_out.start - start))
        start = left_out.start + left_out.length
    end = ALL_PERMITS.start + ALL_PERMITS.length
    if start < end:
        ranges.append(Range(start, end - start))
    return tuple(ranges)


def group_of(host: int) -> int:
    """The group in which a host is called when it alone is meant: 7 bits of its number fit.

    Another host of that group gives its permit back for nothing, and takes it again later.
    """
    return 1 + host % (KNOCK_GROUPS - 1)


def ring(number: int, host: int, group: int = EVERYBODY) -> Range:
    """The byte of a host's ring for the permits of a LUN."""
    return Range(KNOCK + (number * HOSTS + host) * KNOCK_GROUPS + group, 1)


def rings(first: int, last: int | None = None) -> Range:
    """The bytes of all rings for a LUN, or for all from number `first` to `last`."""
    size = HOSTS * KNOCK_GROUPS
    return Range(KNOCK + first * size, ((first if last is None else last) - first + 1) * size)


def ringing(start: int) -> tuple[int, int]:
    """Who rings with a byte: LUN number and host."""
    who = (start - KNOCK) // KNOCK_GROUPS
    return who // HOSTS, who % HOSTS


def groups_at(start: int, length: int) -> range:
    """The groups that are called with some bytes of one host."""
    group = (start - KNOCK) % KNOCK_GROUPS
    return range(group, group + length)
