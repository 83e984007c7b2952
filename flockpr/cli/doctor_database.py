"""Whether the database of a logical unit is whole, where nobody looks at each command."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from flockpr.store.layout import DATABASE
from flockpr.store.sqlite_file import connect, failure

PATIENCE = 2.0
"""Seconds that the check may take: commits wait for it."""
_STEPS = 10_000
"""Instructions of SQLite between two looks at the clock."""


def find_damage(root: str, name: str, *, patience: float = PATIENCE) -> Iterator[dict[str, Any]]:
    """Findings about the database of a logical unit that has one, and was opened before.

    Who opens it has the newest transactions checked. What is moved to the trail is not looked at
    until somebody asks for it; this looks at all of it.

    Args:
        root: The root.
        name: Of the logical unit.
        patience: Seconds that it may take.

    Raises:
        StoreError: It cannot be read.
    """
    path = os.path.join(root, name, DATABASE)
    end = time.monotonic() + patience
    connection = connect(path)
    try:
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise failure(error, "cannot be read", path) from error
        yield _finding(
            f"Its database is too large to be checked in the {patience:g} s for which commits may "
            "wait.",
            "check a backup: sqlite3 COPY 'PRAGMA integrity_check'",
        )
        return
    except sqlite3.Error as error:
        raise failure(error, "cannot be read", path) from error
    finally:
        connection.close()
    if found != ["ok"]:
        yield _finding(
            f"Its database is damaged where commands do not look: {'; '.join(found)}.",
            "restore it from a backup",
        )


def _finding(text: str, remedy: str) -> dict[str, Any]:
    return {"kind": "database", "text": text, "remedy": remedy}
