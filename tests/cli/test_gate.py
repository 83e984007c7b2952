"""`flockpr gate`: who has permits, who waits for whom, and answering for a host."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

import pytest

from flockpr import LogicalUnit, LunIdentity, Status, create_lun
from flockpr.cli import main
from flockpr.gate import Permit, fenced, forcing, roster
from flockpr.gate.hosts import host_number
from flockpr.gate.overview import Overview
from flockpr.spc.codes import OutAction
from tests.support.gate_story import (
    FENCED,
    LONG_AGO,
    SERVING,
    SILENT,
    everything,
    knock,
    permit,
    say,
)
from tests.support.gates import LONG, eventually, soon, usable
from tests.support.luns import ALICE, ALICE_KEY, TYPE, out

Capture = pytest.CaptureFixture[str]
PROOF = "power cut at 12:00, seen on the console"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """An empty root."""
    return str(tmp_path)


@pytest.fixture
def disk(root: str) -> LunIdentity:
    """A logical unit with an image."""
    return create_lun(root, "disk", size=1 << 20)


@pytest.fixture
def image(root: str, disk: LunIdentity) -> str:
    """Path of its image."""
    assert disk.image is not None
    return os.path.join(root, disk.image)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer is not called for seconds."""
    monkeypatch.setattr(forcing, "CALL", 0.05)
    monkeypatch.setattr(forcing, "FRESH", 10 * LONG)


def document(root: str, capsys: Capture, *argv: str, code: int = 0) -> dict[str, Any]:
    """What a verb prints as JSON."""
    assert main([*argv, "--root", root, "--json"]) == code
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def force(root: str, *argv: str, host: str = "node2") -> int:
    """Answer for a host."""
    command = ["gate", "force", "disk", "--root", root, "--host", host, "--proof", PROOF]
    return main([*command, *argv])


# --------------------------------------------------------------------------- show


def test_gate_show_names_everybody(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Who has permits, who is silent, who is declared fenced, who knocks, who waits for whom."""
    with everything(root, disk.lun, image):
        assert main(["gate", "show", "--root", root]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].split() == ["HOST", "NUMBER", "DOORS", "LAST", "CONTACT", "STATE"]
    hosts = {line.split()[0]: line for line in lines[1:4]}
    assert set(hosts) == {"node1", "node2", "node3"}
    assert "0000000def" in hosts["node2"]
    assert hosts["node3"].split()[-3:] == ["never", "declared", "fenced"]
    assert lines[4].startswith("node3 was declared fenced by ")
    assert lines[5] == "  its power was cut"
    permits, knocks, waits = lines[-3:]
    assert lines[-4] == f"disk: {image}"
    assert permits == "  permits: node1, node2 (silent), node3 (silent)"
    assert knocks == "  knocks: node1, for all"
    assert waits.startswith("  waits: node1 (pid 4711) for node2, for ")


def test_gate_show_as_json_has_the_numbers(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """A script can tell what a person sees."""
    with everything(root, disk.lun, image):
        shown = document(root, capsys, "gate", "show", "disk")

    (unit,) = shown["luns"]
    found = {one["number"]: one["silent"] for one in unit["gate"]["permits"]}
    assert found == {"0000000abc": False, "0000000def": True, "0000000fed": True}
    assert not unit["gate"]["narrowing"]
    assert [one["host"] for one in unit["gate"]["knocks"]] == ["node1"]
    assert unit["gate"]["waits"][0]["for"] == [{"number": "0000000def", "host": "node2"}]
    declared = {one["host"]: one["fenced"] for one in shown["hosts"]}
    assert declared["node3"]["proof"] == "its power was cut"
    assert declared["node1"] is None


def test_gate_show_of_a_quiet_root_says_nobody(
    root: str, disk: LunIdentity, capsys: Capture
) -> None:
    """No host has said anything, and nothing is made in the root."""
    before = sorted(os.listdir(root))
    assert main(["gate", "show", "--root", root]) == 0

    assert capsys.readouterr().out.splitlines()[-1] == "  permits: nobody"
    assert sorted(os.listdir(root)) == before


def test_gate_show_of_an_empty_root_says_how_to_make_one(root: str, capsys: Capture) -> None:
    """As the other verbs do."""
    assert main(["gate", "show", "--root", root]) == 0
    assert "`flockpr lun create NAME`" in capsys.readouterr().out


def test_gate_show_of_a_unit_without_an_image_has_no_gate(root: str, capsys: Capture) -> None:
    """There is nothing to read or write."""
    create_lun(root, "bare")
    assert document(root, capsys, "gate", "show")["luns"][0]["gate"] is None
    assert main(["gate", "show", "--root", root]) == 0
    assert "bare: no image" in capsys.readouterr().out


def test_gate_show_of_a_command_under_way_says_so(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """It has the permits of all."""
    from flockpr.gate import Gate

    gate = Gate(root, disk.lun, str(disk.image))
    with gate.narrow(soon()):
        shown = document(root, capsys, "gate", "show")

    found = shown["luns"][0]["gate"]
    assert found["narrowing"]
    assert found["permits"] == []
    assert [int(one["number"], 16) for one in found["knocks"]] == [host_number()]
    assert [one["here"] for one in shown["hosts"]] == [True]


def test_gate_show_without_the_image_shows_the_others(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """And leaves with a code that says so."""
    create_lun(root, "other", size=1 << 20)
    os.unlink(image)
    shown = document(root, capsys, "gate", "show", code=1)

    assert [one["error"] is None for one in shown["luns"]] == [False, True]
    assert "disk.img" in shown["luns"][0]["error"]["path"]


def test_gate_show_of_an_unknown_unit_leaves_with_13(root: str) -> None:
    """No logical unit of that name."""
    assert main(["gate", "show", "nope", "--root", root]) == 13


def test_gate_show_escapes_names_of_other_machines(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """What they wrote reaches no terminal as it is."""
    say(root, SILENT, "no\x1b[2Jde")
    with permit(image, SILENT):
        assert main(["gate", "show", "--root", root]) == 0
    assert "\x1b" not in capsys.readouterr().out


# --------------------------------------------------------------------------- force


def test_gate_force_without_yes_only_looks(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """It says what it would do, and nothing is written."""
    say(root, SILENT, "node2", contact=LONG_AGO)
    with permit(image, SILENT):
        assert force(root) == 0
        assert "nothing was done" in capsys.readouterr().out
        command = ["gate", "force", "disk", "--host", "node2", "--proof", PROOF]
        assert not document(root, capsys, *command)["done"]
    assert fenced.numbers(root) == frozenset()


def test_gate_force_with_yes_declares(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Durably, with the proof; the event is in the journal of the logical unit."""
    say(root, SILENT, "node2", contact=LONG_AGO)
    with permit(image, SILENT):
        done = document(
            root, capsys, *("gate", "force", "disk", "--host", "node2", "--proof", PROOF, "--yes")
        )

    declared = fenced.read(root)[SILENT]
    assert (declared.proof, declared.host, declared.lun) == (PROOF, "node2", "disk")
    assert done["done"]
    assert done["host"]["fenced"]["proof"] == PROOF
    assert [one["name"] for one in done["luns"]] == ["disk"]
    with LogicalUnit.open(os.path.join(root, "disk")) as unit:
        (event,) = unit.events()
    assert event["event"] == "forced-gate"
    assert PROOF in event["text"]
    assert "node2" in event["text"]


def test_gate_force_lets_commands_pass(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """What was BUSY is GOOD now, although the permit is still held."""
    with permit(image, SILENT), LogicalUnit.open(os.path.join(root, "disk")) as unit:
        assert out(unit, ALICE, OutAction.REGISTER, new=ALICE_KEY) == Status.GOOD
        assert force(root, "--yes", host=f"{SILENT:010x}") == 0
        assert out(unit, ALICE, OutAction.RESERVE, own=ALICE_KEY, type_=TYPE) == Status.GOOD


def test_gate_force_again_tells_the_first(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Nothing is changed by the second operator."""
    with permit(image, SILENT):
        assert force(root, "--yes", host=f"{SILENT:010x}") == 0
        capsys.readouterr()
        command = ["gate", "force", "--all", "--host", f"{SILENT:010x}", "--proof", "another"]
        assert main([*command, "--yes", "--root", root]) == 0

    assert PROOF in capsys.readouterr().out
    assert fenced.read(root)[SILENT].proof == PROOF


def test_gate_force_of_a_host_that_lives_is_refused(
    root: str, disk: LunIdentity, image: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives its permit back when it is called, and goes on serving."""
    monkeypatch.setattr(forcing, "CALL", LONG)
    # It stands for another machine, and was not booted as one.
    monkeypatch.setattr(Overview, "here", lambda _, number: number == host_number())
    target = Permit(root, disk.lun, str(disk.image), on_open=lambda _: None, host="node9")
    target.attend()
    try:
        eventually(lambda: usable(target), "it does not serve")
        eventually(lambda: host_number("node9") in roster.read(root), "it does not say so")
        for option in ("--yes", "--yes-it-is-fenced"):
            assert force(root, option, host="node9") == 11
        assert "node9 lives" in capsys.readouterr().err
        assert fenced.numbers(root) == frozenset()
        eventually(lambda: usable(target), "it does not serve any more")
    finally:
        target.close()


def test_gate_force_of_a_host_that_was_heard_of_needs_more(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """It hangs, or was fenced a moment ago: only the operator can know."""
    say(root, SILENT, "node2")
    with permit(image, SILENT):
        assert force(root) == 0
        assert "--yes-it-is-fenced" in capsys.readouterr().out
        assert force(root, "--yes") == 11
        assert "seems to live" in capsys.readouterr().err
        assert fenced.numbers(root) == frozenset()
        assert force(root, "--yes-it-is-fenced") == 0
    assert fenced.numbers(root) == {SILENT}


def test_gate_force_of_a_host_that_died_while_it_rang_lets_targets_serve(
    root: str, disk: LunIdentity
) -> None:
    """It has no permit, but its lock at the doorbell, which nobody ends, keeps all targets away."""
    target = Permit(root, disk.lun, disk.image or "", on_open=lambda _: None)
    with knock(root, disk.lun, SILENT):
        assert not usable(target)
        assert force(root, "--yes", host=f"{SILENT:010x}") == 0
        eventually(lambda: usable(target), "it is still heeded")
    assert SILENT in fenced.numbers(root)
    target.close()


def test_gate_force_of_a_host_that_stops_ringing_is_refused(
    root: str, disk: LunIdentity, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives: its command was under way."""
    monkeypatch.setattr(forcing, "CALL", LONG)
    gave_way = forcing._gave_way
    with contextlib.ExitStack() as stack:
        stack.enter_context(knock(root, disk.lun, SILENT))

        def stops(*arguments: Any) -> bool:
            before = gave_way(*arguments)
            stack.close()
            return before

        monkeypatch.setattr(forcing, "_gave_way", stops)
        assert force(root, "--yes", host=f"{SILENT:010x}") == 11
    assert "lives" in capsys.readouterr().err
    assert fenced.numbers(root) == frozenset()


def test_gate_force_of_a_host_without_a_permit_is_refused(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Nobody waits for it."""
    say(root, SILENT, "node2", contact=LONG_AGO)
    assert force(root, "--yes") == 11
    assert "has no permit" in capsys.readouterr().err


def test_gate_force_of_this_host_is_refused(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Its target can be stopped."""
    with permit(image, host_number()):
        assert force(root, "--yes", host=f"{host_number():010x}") == 2
    assert "this very host" in capsys.readouterr().err


def test_gate_force_of_an_unknown_host_is_refused(root: str, disk: LunIdentity) -> None:
    """A slip of the operator must not declare anything."""
    assert force(root, "--yes", host="node77") == 2


def test_gate_force_of_a_name_that_two_boots_had_means_the_one_in_the_way(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """The host was rebooted, and its record of before is still there."""
    say(root, SERVING, "node2", contact=LONG_AGO)
    say(root, SILENT, "node2", contact=LONG_AGO)
    with permit(image, SILENT):
        assert force(root, "--yes") == 0
    assert fenced.numbers(root) == {SILENT}


def test_gate_force_of_a_name_that_two_holders_have_wants_a_number(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """It says which there are."""
    say(root, SERVING, "node2", contact=LONG_AGO)
    say(root, SILENT, "node2", contact=LONG_AGO)
    with permit(image, SILENT, SERVING):
        assert force(root, "--yes") == 2
        assert "0000000abc, 0000000def" in capsys.readouterr().err
        assert force(root, "--yes", host="0x0000000DEF") == 0
    assert fenced.numbers(root) == {SILENT}


@pytest.mark.parametrize("proof", ["", "   "])
def test_gate_force_without_a_proof_is_refused(
    root: str, disk: LunIdentity, image: str, proof: str
) -> None:
    """Also an empty one."""
    with permit(image, SILENT):
        command = ["gate", "force", "disk", "--root", root, "--host", f"{SILENT:010x}", "--yes"]
        assert main(command) == 2
        assert main([*command, "--proof", proof]) == 2
    assert fenced.numbers(root) == frozenset()


def test_gate_force_of_all_tells_each_unit_that_is_concerned(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """A declaration is for the host, whatever it serves."""
    other = create_lun(root, "other", size=1 << 20)
    create_lun(root, "third", size=1 << 20)
    with permit(image, SILENT), permit(os.path.join(root, str(other.image)), SILENT):
        command = ["gate", "force", "--all", "--host", f"{SILENT:010x}", "--proof", PROOF]
        done = document(root, capsys, *command, "--yes")

    assert [one["name"] for one in done["luns"]] == ["disk", "other"]
    assert fenced.read(root)[SILENT].lun == ""
    for name, expected in (("disk", 1), ("other", 1), ("third", 0)):
        with LogicalUnit.open(os.path.join(root, name)) as unit:
            assert len(list(unit.events())) == expected


def test_gate_force_in_a_root_that_cannot_be_written_leaves_with_1(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """The error names the record."""
    os.symlink("/nowhere", os.path.join(root, ".hosts"))
    with permit(image, SILENT):
        assert force(root, "--yes", host=f"{SILENT:010x}") in (1, 12)
    assert ".hosts" in capsys.readouterr().err


# --------------------------------------------------------------------------- forget


def test_gate_forget_removes_the_declarations_of_a_host_that_has_booted(
    root: str, disk: LunIdentity, capsys: Capture
) -> None:
    """Of all its boots, and of no other host; without --yes it only says so."""
    for number in (SILENT, FENCED):
        fenced.declare(root, number, proof=PROOF, host="node2")
    fenced.declare(root, 77, proof=PROOF, host="node7")
    say(root, 78, "node2")  # as it is since its boot

    assert main(["gate", "forget", "--root", root, "--host", "node2"]) == 0
    assert capsys.readouterr().out.count("would be forgotten") == 2
    assert fenced.numbers(root) == {SILENT, FENCED, 77}

    done = document(root, capsys, "gate", "forget", "--host", "node2", "--yes")
    assert done["done"]
    assert [one["number"] for one in done["hosts"]] == [f"{SILENT:010x}", f"{FENCED:010x}"]
    assert fenced.numbers(root) == {77}
    assert main(["gate", "forget", "--root", root, "--host", "node2", "--yes"]) == 2


def test_gate_forget_while_the_server_has_its_locks_is_refused(
    root: str, disk: LunIdentity, image: str, capsys: Capture
) -> None:
    """Commands would wait for them again."""
    fenced.declare(root, SILENT, proof=PROOF)
    command = ["gate", "forget", "--root", root, "--host", f"{SILENT:010x}", "--yes"]

    with permit(image, SILENT):
        assert main(command) == 11
    with knock(root, disk.lun, SILENT):
        assert main(command) == 11
    assert "still has locks" in capsys.readouterr().err
    os.rename(image, image + ".away")
    assert main(command) == 1
    assert fenced.numbers(root) == {SILENT}


def test_gate_forget_of_a_host_that_lives_is_refused(
    root: str, disk: LunIdentity, capsys: Capture
) -> None:
    """It finds its own number declared, and that is what keeps it from serving."""
    fenced.declare(root, SILENT, proof=PROOF, host="node2")
    say(root, SILENT, "node2")
    fenced.declare(root, host_number(), proof=PROOF, host="node1")

    assert main(["gate", "forget", "--root", root, "--host", "node2", "--yes"]) == 11
    assert "reboot it first" in capsys.readouterr().err
    assert main(["gate", "forget", "--root", root, "--host", "node1", "--yes"]) == 2
    assert fenced.numbers(root) == {SILENT, host_number()}
