"""A log that a client cannot fill: the same complaint at most once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds in which one complaint is logged once."""
MAX_REMEMBERED: Final = 256


class QuietLog:
    """Complaints about one thing. Thread-safe.

    Args:
        logger: Where they go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._said: dict[Hashable, float] = {}

    def error(self, key: Hashable, message: str, *values: object) -> None:
        """Log an error, or at debug level when it was said a short time ago.

        Args:
            key: What makes two complaints the same.
            message: As for `logging`.
            values: As for `logging`.
        """
        now = time.monotonic()
        with self._lock:
            fresh = now - self._said.get(key, -INTERVAL) < INTERVAL
            if not fresh:
                if len(self._said) >= MAX_REMEMBERED:
                    self._said.clear()
                self._said[key] = now
        self._logger.log(logging.DEBUG if fresh else logging.ERROR, message, *values)
