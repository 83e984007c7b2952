"""What the running daemon gives each of its doors, and what it says after it is ready."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator

import pytest

from flockpr.daemon import service
from flockpr.daemon.activation import Notifier
from flockpr.daemon.service import Service
from flockpr.daemon.settings import ServedSocket, Settings
from flockpr.daemon.sockets import open_doors
from tests.support.daemon_process import short_directory


@pytest.fixture
def short() -> Iterator[pathlib.Path]:
    """A directory for sockets."""
    with short_directory() as directory:
        yield directory


def test_service_divides_the_connections_among_its_doors(
    short: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A crowd at one door must not take the open files that the others need."""
    monkeypatch.setattr(service, "_raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(service, "affordable_connections", lambda doors: 900 // doors)
    sockets = tuple(ServedSocket(path=str(short / name)) for name in "abc")
    settings = Settings(root=str(short), sockets=sockets)
    with caplog.at_level(logging.INFO, "flockpr"):
        running = Service(settings, open_doors(settings), Notifier(), hangup_ends=False)
        running.start()
        running._drain(1.0)
    assert caplog.text.count("up to 300 connections") == 3


def test_service_is_ready_before_it_looks_at_the_root(
    short: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root may hang; the names are those that doors were told to serve."""
    order: list[object] = []
    monkeypatch.setattr(Notifier, "ready", lambda _, text: order.append("ready"))
    monkeypatch.setattr(service, "start_survey", lambda root, luns, _: order.append((root, luns)))
    sockets = (
        ServedSocket(path=str(short / "a"), lun="typo"),
        ServedSocket(path=str(short / "b")),
    )
    settings = Settings(root=str(short), sockets=sockets)
    running = Service(settings, open_doors(settings), Notifier(), hangup_ends=False)
    running.start()
    running._drain(1.0)
    assert order == ["ready", (str(short), ["typo"])]
