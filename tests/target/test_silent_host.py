"""A host that hangs: what an operator sees, answering for it, and what becomes of it."""

from __future__ import annotations

import json
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from flockpr import LogicalUnit
from flockpr.cli import main
from flockpr.events import Kind
from flockpr.gate import forcing
from tests.support import sbc_cdbs as sbc
from tests.support.scsi import PREEMPT, REGISTER, RESERVE, WERO
from tests.support.target_rig import (
    BLOCK,
    BUSY,
    GOOD,
    PATIENCE,
    Session,
    Target,
    eventually,
    make_root,
)

JUDGE, VICTIM = 0x11, 0x22
Capture = pytest.CaptureFixture[str]
_AS_HOST = (
    "import socket, sys; socket.gethostname = lambda: {name!r}; "
    "from flockpr.gate import roster; roster.boot_id = lambda: {name!r}; "
    "from flockpr.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""A process that believes to be on another host; its locks are those of one, too."""


def on_host(name: str, root: pathlib.Path, log: pathlib.Path) -> Target:
    """A target of a host with this name."""
    options = ("--portal", "127.0.0.1:0", "--timeout", "3", "--log-format", "json")
    program = _AS_HOST.format(name=name)
    command = [sys.executable, "-c", program, "target", "--root", str(root), *options]
    return Target(root, log, command=command)


@pytest.fixture
def hosts(tmp_path: pathlib.Path) -> Iterator[tuple[Target, Target]]:
    """Targets of node1 and node2 for one disk."""
    root = make_root(tmp_path)
    with (
        on_host("node1", root, tmp_path / "node1.log") as first,
        on_host("node2", root, tmp_path / "node2.log") as second,
    ):
        yield first, second
        if second.running:
            second.signal(signal.SIGCONT)


def shown(root: pathlib.Path, capsys: Capture) -> dict[str, Any]:
    """`flockpr gate show`, of the one logical unit."""
    capsys.readouterr()
    assert main(["gate", "show", "disk", "--root", str(root), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**document, **document["luns"][0]["gate"]}


def names(found: list[dict[str, Any]]) -> set[str]:
    """The hosts in a list of them."""
    return {one["host"] for one in found}


def waits(root: pathlib.Path, capsys: Capture) -> set[tuple[str, str]]:
    """Who waits for whom."""
    found = shown(root, capsys)["waits"]
    return {(wait["host"], host) for wait in found for host in names(wait["for"])}


def force(root: pathlib.Path, *options: str) -> int:
    """Answer for node2."""
    command = ["gate", "force", "disk", "--root", str(root), "--host", "node2"]
    return main([*command, "--proof", "it is stopped", *options])


def events_of(target: Target) -> list[str]:
    """The events in a target's log."""
    lines = [json.loads(line) for line in target.log.read_text().splitlines() if line[0] == "{"]
    return [line["event"] for line in lines if "event" in line]


def hang(
    hosts: tuple[Target, Target], root: pathlib.Path, capsys: Capture
) -> tuple[Session, Session]:
    """node2 hangs with a permit while a command on node1 wants to take access away there: the
    sessions of who sends it and of its victim.
    """
    first, second = hosts
    judge, victim = first.log_in("judge"), second.log_in("victim")
    judge.must(REGISTER, 0, JUDGE)
    victim.must(REGISTER, 0, VICTIM)
    judge.must(RESERVE, JUDGE, type_=WERO)
    assert victim.command(sbc.write(0, 1), b"v" * BLOCK).status == GOOD
    eventually(lambda: "node2" in names(shown(root, capsys)["permits"]), "a permit of node2")
    eventually(lambda: "node2" in names(shown(root, capsys)["hosts"]), "a record of node2")
    second.signal(signal.SIGSTOP)
    assert judge.out(PREEMPT, JUDGE, VICTIM, type_=WERO, patient=False).status == BUSY
    return judge, victim


def test_host_that_hangs_is_named_and_the_others_go_on(
    hosts: tuple[Target, Target], capsys: Capture
) -> None:
    """PREEMPT is BUSY with nothing done; who waits for whom is shown, logged and in the journal;
    reads and writes of the living host are answered, and once the other one goes on, so does all.
    """
    first, second = hosts
    judge, victim = hang(hosts, first.root, capsys)

    assert judge.keys() == [JUDGE, VICTIM]
    assert judge.command(sbc.read(0, 1), read=BLOCK).data == b"v" * BLOCK
    assert "node2" in names(shown(first.root, capsys)["permits"])
    # The knock goes on in the background, in a thread that may need a moment to begin.
    eventually(lambda: waits(first.root, capsys) == {("node1", "node2")}, "who waits for whom")
    assert str(Kind.SILENT_HOST) in events_of(first)
    eventually(lambda: "silent-host" in journal(first.root), "the event in the journal")

    second.signal(signal.SIGCONT)
    judge.must(PREEMPT, JUDGE, VICTIM, type_=WERO)
    assert judge.keys() == [JUDGE]
    eventually(lambda: not shown(first.root, capsys)["waits"], "the end of the wait")
    assert victim.command(sbc.write(0, 1), b"w" * BLOCK).status != GOOD
    assert judge.command(sbc.read(0, 1), read=BLOCK).data == b"v" * BLOCK


def journal(root: pathlib.Path) -> list[str]:
    """The events in the journal of the logical unit."""
    with LogicalUnit.open(str(root / "disk")) as unit:
        return [event["event"] for event in unit.events()]


def test_host_that_was_answered_for_serves_no_more(
    hosts: tuple[Target, Target], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command passes it; when it wakes up it finds itself declared fenced, and is NOT READY."""
    monkeypatch.setattr(forcing, "FRESH", 10 * PATIENCE)  # this machine may be slow
    first, second = hosts
    judge, victim = hang(hosts, first.root, capsys)

    assert force(first.root) == 0
    assert force(first.root, "--yes") == 11
    assert "seems to live" in capsys.readouterr().err
    assert force(first.root, "--yes-it-is-fenced") == 0
    judge.must(PREEMPT, JUDGE, VICTIM, type_=WERO)
    assert judge.command(sbc.write(0, 1), b"j" * BLOCK).status == GOOD
    assert journal(first.root).count("forced-gate") >= 1
    eventually(lambda: journal(first.root).count("forced-gate") >= 2, "the command's own event")

    second.signal(signal.SIGCONT)
    eventually(lambda: str(Kind.FENCED_HOST) in events_of(second), "that it notices")
    eventually(lambda: victim.ready().code == (2, 4, 3), "that it is NOT READY")
    assert victim.command(sbc.write(0, 1), b"w" * BLOCK).code == (2, 4, 3)
    assert judge.command(sbc.read(0, 1), read=BLOCK).data == b"j" * BLOCK
    assert "fenced-host" in journal(first.root)


def test_host_that_lives_is_not_answered_for(hosts: tuple[Target, Target], capsys: Capture) -> None:
    """Called, it gives its permit back, and takes it again."""
    first, second = hosts
    victim = second.log_in("victim")
    assert victim.command(sbc.write(0, 1), b"v" * BLOCK).status == GOOD
    eventually(lambda: "node2" in names(shown(first.root, capsys)["hosts"]), "a record of node2")

    assert force(first.root, "--yes-it-is-fenced") == 11
    assert "node2" in capsys.readouterr().err
    assert victim.command(sbc.write(0, 1), b"w" * BLOCK).status == GOOD
