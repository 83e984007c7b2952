"""Work on a thread of its own, because the system calls that it makes may never return.

Such a thread does not keep the process from ending. Where there are no more threads the work is
done by whoever asks for it, however long it takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


def begin(work: Callable[[], object]) -> None:
    """Have it done, and do not wait for it."""
    if _start(work) is None:
        work()


def within(work: Callable[[], T], deadline: float) -> T | None:
    """Have it done, and wait for that.

    Args:
        work: Does not raise.
        deadline: When to wait no longer, by `time.monotonic`.

    Returns:
        What it returned; None where that is not known yet. Then it goes on.
    """
    found: list[T] = []
    thread = _start(lambda: found.append(work()))
    if thread is None:
        return work()
    thread.join(max(0.0, deadline - time.monotonic()))
    return found[0] if found else None


def _start(work: Callable[[], object]) -> threading.Thread | None:
    thread = threading.Thread(target=work, name="permit", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        log.warning("a call that may hang is made by who asks for it: %s", error)
        return None
    return thread
