"""Time that only a test moves."""

from __future__ import annotations

import datetime as dt
import importlib
import types
from collections.abc import Callable

import pytest

from flockpr.store import clock as wall

USERS = (
    "flockpr.logical_unit.administration",
    "flockpr.logical_unit.orders",
    "flockpr.logical_unit.unit",
    "flockpr.store.archive",
    "flockpr.store.commits",
    "flockpr.store.directory",
    "flockpr.store.presence",
)
"""The modules that wait, or measure time, on the way from a command to the lock directory."""


class VirtualClock:
    """Stands still but for `advance` and `sleep`; begins at the time at which it was made."""

    def __init__(self) -> None:
        self._begun = dt.datetime.now(dt.UTC)
        self._seconds = 0.0
        self._watchers: list[Callable[[], None]] = []

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return self._seconds

    def now(self) -> dt.datetime:
        """The time of day that it shows."""
        return self._begun + dt.timedelta(seconds=self._seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass: leases of hosts that cannot be reached run out."""
        self._seconds += seconds
        for watcher in self._watchers:
            watcher()

    sleep = advance

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have something called whenever time has passed."""
        self._watchers.append(watcher)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the time of the store, until the end of the test."""

        def seconds() -> float:
            return 1000.0 + self._seconds

        fake = types.SimpleNamespace(monotonic=seconds, time=seconds, sleep=self.sleep)
        for name in USERS:
            monkeypatch.setattr(importlib.import_module(name), "time", fake)
        monkeypatch.setattr(wall, "now", self.now)
