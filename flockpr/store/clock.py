"""The wall clock, for records that people read; nothing is decided by it."""

from __future__ import annotations

import datetime as dt
import functools


def now() -> dt.datetime:
    """Now, UTC; tests put a clock of their own in its place."""
    return dt.datetime.now(dt.UTC)


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds and "Z"."""
    at = now()
    minute = _minute(at.year, at.month, at.day, at.hour, at.minute)
    return f"{minute}:{at.second:02}.{at.microsecond:06}Z"


@functools.lru_cache(maxsize=1)  # each commit asks twice
def _minute(year: int, month: int, day: int, hour: int, minute: int) -> str:
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}"


def seconds_since(text: str) -> float | None:
    """Seconds from a time that `utc_now` wrote until now; None if it is not such a text."""
    try:
        then = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        return None
    return (now() - then).total_seconds()
