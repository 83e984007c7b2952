"""A directory that is short enough for sockets, with one logical unit in its root."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from flockpr.store.kinds import LOCKDIR, SQLITE
from tests.support.daemons import make_lun


@pytest.fixture
def directory() -> Iterator[str]:
    """A short directory with a root and a logical unit."""
    yield from _directory(LOCKDIR)


@pytest.fixture
def database() -> Iterator[str]:
    """The same, with a database; in memory, where its many syncs take no time."""
    memory = "/dev/shm"
    yield from _directory(SQLITE, memory if os.access(memory, os.W_OK) else None)


def _directory(store: str, parent: str | None = None) -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="faults-", dir=parent)
    try:
        make_lun(path, store=store)
        yield path
    finally:
        for log in sorted(pathlib.Path(path).glob("*.log")):  # shown with a failure
            print(f"--- {log.name}", log.read_text(encoding="utf-8", errors="replace")[-4000:])
        shutil.rmtree(path, ignore_errors=True)
