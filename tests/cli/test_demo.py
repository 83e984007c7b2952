"""`flockpr demo`: played for real, and with hosts that answer wrongly."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from flockpr import InitiatorPort, LogicalUnit, Nexus
from flockpr.cli import demo_story, main
from flockpr.cli.demo_story import LUN, DemoError, Host, Story
from flockpr.prhelper.client import HelperReply
from tests.support.docs import ROOT

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="fpr") as path:
        yield path


class HostWithoutSocket(Host):
    """A host whose daemon is a logical unit in this process."""

    def __init__(self, name: str, guest: str, root: str) -> None:
        super().__init__(name, guest, root)
        self._path = os.path.join(root, "root", LUN)
        self._nexus = Nexus(InitiatorPort(guest))
        self._unit: LogicalUnit | None = None

    def start(self) -> None:
        """Open the logical unit."""
        self._unit = LogicalUnit.open(self._path)

    def kill(self) -> None:
        """Close it."""
        if self._unit is not None:
            self._unit.close()
            self._unit = None

    stop = kill

    def send(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        """Execute without a socket between."""
        if self._unit is None:
            raise DemoError(f"{self.name} is not running")
        result = self._unit.execute(self._nexus, cdb, data_out, report_attentions=False)
        return HelperReply(result.status, result.sense.ljust(96, b"\0"), result.data_in)


class HostThatAgreesToAll(HostWithoutSocket):
    """Answers GOOD to whatever it is told: what a helper that does nothing would do."""

    def send(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> HelperReply:
        """GOOD, and nothing to read."""
        return HelperReply(0, bytes(96), b"")


def test_demo_played_for_real_tells_its_story_and_exits_0() -> None:
    """Two daemons, real sockets, kill -9: every step as it must be, in a screen, nothing left."""
    with tempfile.TemporaryDirectory(prefix="fpr") as scratch:
        played = subprocess.run(
            [sys.executable, "-m", "flockpr", "demo"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": scratch},
            timeout=110,
        )
        left = os.listdir(scratch)

    assert played.stderr == ""
    assert played.returncode == 0
    assert re.search(r"^All \d+ steps were answered as they must be", played.stdout, re.MULTILINE)
    lines = played.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert left == []


def test_demo_unstartable_daemon_fails_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """The daemon's last words are shown."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    assert main(["demo"]) == 1

    assert "host1 does not serve: no luck today" in capsys.readouterr().err


def test_story_right_answers_exits_0(
    monkeypatch: pytest.MonkeyPatch, directory: str, capsys: Capture
) -> None:
    """The story expects what the rules answer."""
    monkeypatch.setattr(demo_story, "Host", HostWithoutSocket)

    with Story(directory) as story:
        assert story.play() == 0

    assert "WRONG" not in capsys.readouterr().out


def test_story_wrong_answers_are_shown_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, directory: str, capsys: Capture
) -> None:
    """A helper that agrees to everything does not pass for one that works."""
    monkeypatch.setattr(demo_story, "Host", HostThatAgreesToAll)

    with Story(directory) as story:
        assert story.play() == 1

    text = capsys.readouterr().out
    assert "WRONG, expected RESERVATION CONFLICT" in text
    assert "WRONG, expected key 0xa11ce" in text
    assert "All " not in text
