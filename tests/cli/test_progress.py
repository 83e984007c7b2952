"""How far a long operation is: shown on a terminal, after a while, and then gone."""

from __future__ import annotations

import io

import pytest

from flockpr.cli import progress
from flockpr.cli.progress import Progress


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        """See `io`."""
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told is shown."""
    monkeypatch.setattr(progress, "_AFTER", 0.0)
    monkeypatch.setattr(progress, "_EVERY", 0.0)


@pytest.mark.usefixtures("at_once")
def test_progress_is_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwritten in place; what else is printed afterwards stands alone."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with Progress("replay", "commands") as shown:
        shown.tell(1, 4)
        shown.tell(3, 4)
    first, second, last = screen.getvalue().split("\r\033[K")[1:]
    assert first == "flockpr replay: 1 of 4 commands (25 %)"
    assert second == "flockpr replay: 3 of 4 commands (75 %)"
    assert last == ""


def test_progress_of_what_is_done_soon_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing flickers."""
    monkeypatch.setattr(progress, "_AFTER", 3600.0)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with Progress("replay", "commands") as shown:
        shown.tell(1, 4)
    assert screen.getvalue() == ""


@pytest.mark.usefixtures("at_once")
def test_progress_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log has no use for it."""
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    with Progress("replay", "commands") as shown:
        shown.tell(1, 4)
    assert log.getvalue() == ""
