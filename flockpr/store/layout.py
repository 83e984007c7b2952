"""Names and byte offsets of a lock directory, format 1.

`docs/format.md` holds the same tables, and a test compares the two: moving one of these is
an incompatible change of format.
"""

from __future__ import annotations

import re
from typing import Final

FORMAT: Final = 1
"""The newest document format that this version reads and writes."""

# ROOT/<lun>/
IDENTITY: Final = "lun.json"
LOCKS: Final = "locks"
COMMITS: Final = "commits"
DATABASE: Final = "commits.sqlite"
DATABASE_JOURNAL: Final = "commits.sqlite-journal"
AUDIT: Final = "audit"
JOURNAL: Final = "journal"
REGISTRY: Final = "registry.json"

# ROOT/.hosts/
FENCED_PREFIX: Final = "fenced-"

# ROOT/
NUMBERS: Final = ".numbers"
DOORBELL: Final = ".doorbell"
HOST_RECORDS: Final = ".hosts"
NEW_PREFIX: Final = ".new-"
DELETED_PREFIX: Final = ".deleted-"

ASIDE_PREFIX: Final = ".aside-"
"""Documents under construction; in the directory that they will be linked or renamed into."""

NUMBER_DIGITS: Final = 16
COMMIT_NAME: Final = re.compile(r"(\d{16})\.json")
SEGMENT_NAME: Final = re.compile(r"(\d{16})\.jsonl")

LOCK_BASE: Final = 1 << 62
"""Lock bytes lie far beyond any data: bytes 0 to 4095 of the file are a stamp, a hint only."""

ORDER: Final = LOCK_BASE + 0x0
"""Exclusive, by the daemon that is about to commit: order, not safety."""
TIDY: Final = LOCK_BASE + 0x1
"""Exclusive, by the daemon that archives and prunes: saves double work, not safety."""
READS_FORMAT: Final = LOCK_BASE + 0x100
"""Shared, at READS_FORMAT + f, by each daemon whose newest format is f."""
SLOT: Final = LOCK_BASE + 0x10000
"""Exclusive, at SLOT + n, by the daemon that serves the registrant with slot n."""
GATE: Final = LOCK_BASE + 0x100000
"""From here on kept free for the gate between reservations and reads and writes."""
HOST: Final = LOCK_BASE + (1 << 40)
"""Shared, at HOST + h, by each target of the host with hash h that serves the LUN."""
HOSTS: Final = 1 << 40
"""So many hashes of hosts there are."""
ALONE: Final = HOST + HOSTS
"""Shared, at ALONE + h, by each target of host h that must not serve beside another host's."""

# Of ROOT/.doorbell
KNOCK: Final = LOCK_BASE + 0x0
"""Exclusive, at KNOCK + (LUN's number * HOSTS + h) * KNOCK_GROUPS + g, by a command of host h that
wants permits: of all targets if g is 0, else of those of the hosts in group g.
"""
KNOCK_GROUPS: Final = 1 << 7

# Of the image
PERMITS: Final = LOCK_BASE + (1 << 56)
"""Exclusive, at PERMITS + h * PERMIT_INSTANCES + a random number, by each target of host h while
it reads and writes; the whole range by a command that takes access away; always on the
description that reads, writes or proves.
"""
PERMIT_INSTANCES: Final = 1 << 16

MAX_DOCUMENT: Final = 16 << 20
"""Larger documents are not ours: the largest state is about a megabyte."""

KEEP_COMMITS: Final = 256
"""Numbered commits that stay below the head, for slow readers and slow writers."""
SEGMENT: Final = 256
"""Commits in one archived segment of the audit trail."""
KEEP_TRANSACTIONS: Final = 10_000
"""Transactions that the audit trail keeps at the least."""
KEEP_SECONDS: Final = 30 * 24 * 3600
"""Age up to which the audit trail keeps more than that ..."""
KEEP_SEGMENTS: Final = 2048
"""... as long as there are no more segments than this."""

MAX_NAME: Final = 64
LUN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""Names of logical units: safe as a directory name, in a shell and in a log."""


def commit_name(number: int) -> str:
    """File name of a numbered commit."""
    return str(number).zfill(NUMBER_DIGITS) + ".json"


def segment_name(first: int) -> str:
    """File name of the audit segment whose first transaction is `first`."""
    return str(first).zfill(NUMBER_DIGITS) + ".jsonl"
