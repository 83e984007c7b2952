"""docs/when-it-breaks.md: every command in it is run, and what it says of them is what they do."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import attrs
import pytest

from flockpr import LogicalUnit, OutAction, Status, events, read_identity
from flockpr.cli import build_parser
from flockpr.errors import HostFenced
from flockpr.events import Event, Kind
from flockpr.gate import Permit, fenced
from flockpr.gate.hosts import host_number
from flockpr.store.journal import EventJournal
from flockpr.store.syscalls import Syscalls
from tests.support import gate_story
from tests.support.docs import ROOT, block_after, prose, read, rows, section
from tests.support.gates import LONG, soon
from tests.support.luns import ALICE, ALICE_KEY, BOB, contested_lun, out

PAGE = read("docs/when-it-breaks.md")
COMMANDS = re.findall(r"<!-- command: ([\w-]+) -->", PAGE)
PROOF = "power cut at the PDU, console is dark"


@attrs.frozen
class Place:
    """A root in which node2 is silent."""

    root: pathlib.Path

    def run(self, name: str, *, host: str = "node2", codes: tuple[int, ...] = (0,)) -> str:
        """Run a block of the page as somebody who pastes it; what it prints."""
        environ = {
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "ROOT": str(self.root),
            "NAME": "disk",
            "HOST": host,
        }
        block = block_after(PAGE, f"<!-- command: {name} -->")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode in codes, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    """Alice holds; node1 serves and waits for node2; its permit was lost once."""
    root = str(tmp_path)
    disk = contested_lun(root)
    image = os.path.join(root, str(disk.image))
    journal = EventJournal(Syscalls(), f"{root}/disk", host="node1", mode=0o600)
    with contextlib.ExitStack() as story:
        story.enter_context(gate_story.everything(root, disk.lun, image))
        now = Event(Kind.LOST_PERMIT, image, "the permit was lost", time.time())
        journal.write(now)
        yield Place(tmp_path)


def test_commands_of_the_page_are_all_run_here() -> None:
    """No block of shell without a name, and no name without a test that runs it."""
    source = pathlib.Path(__file__).read_text(encoding="utf-8")

    assert PAGE.count("```sh") == len(COMMANDS) == len(set(COMMANDS))
    assert [name for name in COMMANDS if f'run("{name}"' not in source] == []


def test_verbs_that_the_page_names_in_passing_are_there() -> None:
    """With their options."""
    help_texts = {
        words: subprocess.run(
            [sys.executable, "-m", "flockpr", *words.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for words in (
            "gate show",
            "gate force",
            "gate forget",
            "log",
            "lun show",
            "status",
            "probe",
        )
    }
    spans = re.findall(r"`flockpr ([^`]+)`", prose(PAGE))
    assert spans
    for span in spans:
        words = next(known for known in help_texts if span.startswith(known))
        for option in re.findall(r"--[\w-]+", span):
            assert option in help_texts[words], span
    for option in re.findall(r"`(--[\w-]+)`", prose(PAGE)):
        assert any(option in text for text in help_texts.values()), option
    assert build_parser()


def test_look_shows_what_the_page_says(place: Place) -> None:
    """Who holds, who has permits, who waits for whom, what was refused, what happened."""
    shown = place.run("look")

    assert "held by iqn.2026-01.example:alice" in shown
    assert "permits: node1, node2 (silent), node3 (silent)" in shown
    assert "waits: node1 (pid 4711) for node2" in shown
    assert "RESERVATION CONFLICT" in shown
    assert "lost-permit" in shown


def test_example_of_a_silent_host_looks_like_the_real_one(place: Place) -> None:
    """The same headings, and lines that begin alike."""
    example = section(PAGE, "## A host is silent").split("```text\n")[1].split("```")[0]
    shown = place.run("look")

    assert example.splitlines()[0].split() == ["HOST", "NUMBER", "DOORS", "LAST", "CONTACT"]
    assert re.search(r"^HOST +NUMBER +DOORS +LAST CONTACT", shown, re.MULTILINE)
    for begin in ("  permits: node1, node2 (silent)", "  waits: node1 (pid 4711) for node2, for "):
        assert begin in example
        assert begin in shown


def test_silent_hosts_are_found_by_the_script(place: Place) -> None:
    """One a line, with the logical unit."""
    assert place.run("silent").splitlines() == ["disk node2", "disk node3"]


def test_force_as_the_page_has_it(place: Place) -> None:
    """First it only looks; then the host is declared fenced, with the proof and an event."""
    assert "nothing was done" in place.run("force-look")
    assert fenced.numbers(str(place.root)) == {gate_story.FENCED}

    assert "declared fenced" in place.run("force")
    assert fenced.read(str(place.root))[gate_story.SILENT].proof == PROOF
    after = place.run("force-after")
    assert PROOF in after
    assert "forced-gate" in after


def test_force_of_the_page_lets_a_command_pass(tmp_path: pathlib.Path) -> None:
    """Bob preempts, although the dead host still has its permit at the server."""
    root = str(tmp_path)
    disk = contested_lun(root)
    image = os.path.join(root, str(disk.image))
    gate_story.say(root, gate_story.SILENT, "node2", contact=gate_story.LONG_AGO)
    with gate_story.permit(image, gate_story.SILENT), LogicalUnit.open(f"{root}/disk") as unit:
        Place(tmp_path).run("force")
        assert out(unit, BOB, OutAction.PREEMPT, own=0xB2, new=ALICE_KEY, type_=5) == Status.GOOD
    assert events.flush(LONG)  # or the journal may get it later
    with LogicalUnit.open(f"{root}/disk") as unit:
        kinds = [event["event"] for event in unit.events()]
    assert kinds.count("forced-gate") == 2


def test_host_that_was_declared_fenced_does_not_serve(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its target gets nobody in, says why, and has an event."""
    root = str(tmp_path)
    disk = contested_lun(root)
    fenced.declare(root, host_number("node9"), proof=PROOF, host="node9")
    with caplog.at_level(logging.ERROR), LogicalUnit.open(f"{root}/disk"):
        target = Permit(root, disk.lun, str(disk.image), on_open=lambda _: None, host="node9")
        target.attend()
        try:
            assert not target.enter(soon())
        finally:
            target.close()

    assert isinstance(target.fault, HostFenced)
    assert target.fault.for_a_person
    assert "reboot" in target.fault.remedy
    assert PROOF in str(target.fault)
    told = [vars(one).get("event") for one in caplog.records]
    assert "fenced-host" in told


def test_events_of_the_last_day_are_shown(place: Place) -> None:
    """With the host where it happened."""
    line = place.run("events").splitlines()[-1]
    assert "node1" in line
    assert "lost-permit" in line


def test_probe_of_the_page_gives_a_verdict(place: Place) -> None:
    """What it is depends on where the temporary directory is."""
    assert "gated (the target door)" in place.run("probe", codes=(0, 1))


def test_history_shows_what_was_done(place: Place) -> None:
    """Whether a command whose outcome was unknown took effect."""
    shown = place.run("history")
    assert "RESERVE" in shown
    assert "generation 2" in shown


def test_state_that_cannot_be_read_names_the_file(place: Place) -> None:
    """And nothing is overwritten."""
    commit = max((place.root / "disk" / "commits").iterdir())
    commit.write_text("damaged")
    shown = place.run("unreadable")

    assert str(commit.parent) in shown
    assert commit.read_text() == "damaged"
    assert read_identity(str(place.root), "disk").name == "disk"


def test_records_that_cannot_be_read_do_no_harm(place: Place) -> None:
    """The page says so of the directory of hosts."""
    for path in (place.root / ".hosts").iterdir():
        path.write_text("damaged")
    assert fenced.numbers(str(place.root)) == frozenset()
    assert "permits: host 0000000abc (silent)" in place.run("look")


def test_who_took_it_away_is_in_the_history(place: Place) -> None:
    """Commands that changed something, and those that were refused."""
    shown = place.run("blame")
    assert "RESERVE" in shown
    assert "RESERVATION CONFLICT" in shown
    assert ALICE.initiator_port.text in shown


def test_events_of_the_page_are_those_of_the_code() -> None:
    """Names and levels."""
    levels = {name.strip("`"): level for name, level, _ in rows(section(PAGE, "## Events"))}
    assert levels == {str(kind): logging.getLevelName(kind.level).lower() for kind in Kind}
