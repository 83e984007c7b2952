"""How far a long operation is, on a terminal's standard error; nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from flockpr.cli.text import printable

_AFTER = 1.0
"""Seconds that pass before anything is shown: what is done by then was not long."""
_EVERY = 0.2
_CLEAR = "\r\033[K"


class Progress:
    """A line that is kept current, and gone when all is done. Use as a context manager.

    Args:
        verb: For the line.
        what: What is counted, such as ``commands`` or ``MiB``.
    """

    def __init__(self, verb: str, what: str) -> None:
        self._head, self._what = f"flockpr {verb}: ", what
        self._next = time.monotonic() + _AFTER if sys.stderr.isatty() else float("inf")
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def tell(self, done: int, of: int) -> None:
        """So much of it is done; cheap, so it may be called as often as it is true."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        self._shown = True
        percent = f" ({100 * done // of} %)" if of else ""
        line = printable(f"{self._head}{done} of {of} {self._what}{percent}")
        sys.stderr.write(f"{_CLEAR}{line}")
        sys.stderr.flush()
