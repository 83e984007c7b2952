"""How far a long operation is: shown on a terminal, after a while, and then gone."""

from __future__ import annotations

import io
import pathlib

import pytest

from flockpr import create_lun
from flockpr.cli import main, progress
from flockpr.cli.progress import Progress
from flockpr.store import images


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


@pytest.mark.usefixtures("at_once")
def test_progress_of_a_clone_is_that_of_its_image(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has to be copied; what the copy has is what the image had."""
    create_lun(str(tmp_path), "disk", size=8 << 20)
    image = tmp_path / "images" / "disk.img"
    with image.open("r+b") as file:
        file.write(b"1" * (3 << 20))
        file.seek(6 << 20)
        file.write(b"2" * (1 << 20))
    monkeypatch.setattr(images, "reflink", lambda *_: False)
    monkeypatch.setattr(images, "_CHUNK", 1 << 20)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert main(["lun", "clone", "disk", "copy", "--root", str(tmp_path), "--json"]) == 0
    shown = screen.getvalue().split("\r\033[K")[1:]
    assert "flockpr lun clone: 1 of 8 MiB (12 %)" in shown
    assert "flockpr lun clone: 7 of 8 MiB (87 %)" in shown
    assert shown[-1] == ""
    assert (tmp_path / "images" / "copy.img").read_bytes() == image.read_bytes()
