"""A process that may not start another thread, for once."""

from __future__ import annotations

import threading

import pytest


def starve(monkeypatch: pytest.MonkeyPatch, prefix: str) -> list[str]:
    """Let the next start of a thread fail whose name begins so, as the system fails it.

    Returns:
        The names of those that failed.
    """
    start = threading.Thread.start
    failed: list[str] = []

    def starting(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix) and not failed:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    return failed
