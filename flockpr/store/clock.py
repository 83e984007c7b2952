"""The wall clock, for records that people read; nothing is decided by it."""

from __future__ import annotations

import datetime as dt


def now() -> dt.datetime:
    """Now, UTC; tests put a clock of their own in its place."""
    return dt.datetime.now(dt.UTC)


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds and "Z"."""
    return now().isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds_since(text: str) -> float | None:
    """Seconds from a time that `utc_now` wrote until now; None if it is not such a text."""
    try:
        then = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        return None
    return (now() - then).total_seconds()
