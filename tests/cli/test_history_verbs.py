"""`status --at`, `diff`, `blame`, `log --key` and `watch`: the past and the present for people."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios
from typing import Any

import pytest

from flockpr import LogicalUnit, OutAction, create_lun
from flockpr.cli import main
from flockpr.cli.blame import story
from flockpr.cli.keys import KeyPattern, parse_key
from flockpr.cli.style import PLAIN, Style, style_for
from flockpr.cli.text import table
from flockpr.unit_status import readable_key
from tests.support.daemon_process import PATIENCE, environment, eventually
from tests.support.docs import read, rows, section
from tests.support.luns import ALICE, BOB, TYPE, out, preempted_lun

Capture = pytest.CaptureFixture[str]
NODE_KEY = int.from_bytes(b"node1".ljust(8, b"\0"), "big")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """A root with a logical unit that two contested, and one took over."""
    preempted_lun(str(tmp_path), "disk")
    return str(tmp_path)


def printed(capsys: Capture, *words: str, code: int = 0) -> str:
    """What a verb prints."""
    assert main(list(words)) == code
    return capsys.readouterr().out


def document(capsys: Capture, *words: str) -> dict[str, Any]:
    """The JSON that a verb prints."""
    found: dict[str, Any] = json.loads(printed(capsys, *words, "--json"))
    return found


# ------------------------------------------------------------------ status


def test_status_shows_keys_that_are_text_and_who_is_to_be_told(
    tmp_path: pathlib.Path, capsys: Capture
) -> None:
    """And when they registered."""
    create_lun(str(tmp_path), "disk")
    with LogicalUnit.open(str(tmp_path / "disk")) as unit:
        out(unit, ALICE, OutAction.REGISTER, new=NODE_KEY)
        out(unit, BOB, OutAction.REGISTER, new=0xB2)
        out(unit, ALICE, OutAction.RESERVE, own=NODE_KEY, type_=TYPE)
        out(unit, ALICE, OutAction.RELEASE, own=NODE_KEY, type_=TYPE)

    headings, alice, bob = printed(capsys, "status", "--root", str(tmp_path)).splitlines()[2:5]
    assert headings.split() == [
        *("INITIATOR", "PORT", "KEY", "LIVENESS", "HOST", "DOOR"),
        *("REGISTERED", "KEY", "TEXT", "WAITING"),
    ]
    assert re.search(r" \d+ s ago +node1", alice)
    assert bob.endswith("2a/04")
    found = document(capsys, "status", "--root", str(tmp_path))["luns"][0]["registrations"]
    assert [one["key_text"] for one in found] == ["node1", None]
    assert [one["attentions"] for one in found] == [[], ["2a/04"]]


def test_status_at_shows_what_was(root: str, capsys: Capture) -> None:
    """Transaction 4 had Alice as the holder; now it is Bob."""
    then = document(capsys, "status", "disk", "--at", "4", "--root", root)["luns"][0]
    now = document(capsys, "status", "disk", "--root", root)["luns"][0]
    assert then["number"] == 4
    assert then["reservation"]["holder"]["initiator"].endswith("alice")
    assert now["reservation"]["holder"]["initiator"].endswith("bob")
    assert set(then) == set(now)
    assert {one["liveness"] for one in then["registrations"]} == {"unknown"}
    assert "held by iqn.2026-01.example:alice" in printed(
        capsys, "status", "disk", "--at", "4", "--root", root
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["status", "--at", "4"], 2, "--at needs the name"),
        (["status", "disk", "--at", "0"], 2, "is no transaction"),
        (["status", "disk", "--at", "99"], 1, "remedy: 1 to 5 are"),
        (["diff", "disk", "1", "99"], 1, "the state of transaction 99 is not kept"),
    ],
)
def test_past_that_is_not_there_is_said(
    words: list[str], code: int, told: str, root: str, capsys: Capture
) -> None:
    """With what there is instead."""
    assert main([*words, "--root", root]) == code
    assert told in capsys.readouterr().err


# ------------------------------------------------------------------ diff


def test_diff_shows_what_came_and_went_and_by_whom(root: str, capsys: Capture) -> None:
    """Between the reservation and now Bob preempted Alice."""
    text = printed(capsys, "diff", "disk", "4", "--root", root)
    assert text.startswith("disk: transaction 4 -> 5\n")
    assert (
        "- reservation: Write Exclusive, registrants only, held by iqn.2026-01.example:al" in text
    )
    assert (
        "+ reservation: Write Exclusive, registrants only, held by iqn.2026-01.example:bo" in text
    )
    assert "- iqn.2026-01.example:alice (port 1), key 0x00000000000000a1" in text
    assert re.search(r"^  5  \S+  iqn\.2026-01\.example:bob  PREEMPT$", text, re.MULTILINE)
    found = document(capsys, "diff", "disk", "4", "5", "--root", root)
    assert found["gone"] == [
        {
            "initiator": "iqn.2026-01.example:alice",
            "target_port": 1,
            "key": "0x00000000000000a1",
        }
    ]
    assert (found["registered"], found["rekeyed"]) == ([], [])
    assert [one["action"] for one in found["commands"]] == ["PREEMPT"]


def test_diff_of_one_transaction_with_itself_is_empty(root: str, capsys: Capture) -> None:
    """It says so."""
    text = printed(capsys, "diff", "disk", "4", "4", "--root", root)
    assert text == "disk: transaction 4 -> 4\n  no difference\n"


def test_diff_page_describes_the_document(root: str, capsys: Capture) -> None:
    """Key for key, at the top."""
    table_ = rows(section(read("docs/cli.md"), "### JSON of diff"))
    described = {key.strip("`") for key, *_ in table_}
    found = document(capsys, "diff", "disk", "4", "--root", root)
    assert {key for key in described if "." not in key} == set(found)


# ------------------------------------------------------------------ blame and log


def test_blame_tells_the_story_of_a_key(root: str, capsys: Capture) -> None:
    """Registered, reserved with, and preempted by another."""
    found = document(capsys, "blame", "0xA1", "--root", root)
    assert [one["what"] for one in found["entries"]] == [
        "registered it",
        "reserved with it",
        "preempted it, with key 0x00000000000000b2",
    ]
    assert found["entries"][2]["initiator"].endswith("bob")
    assert found["registered"] == []
    text = printed(capsys, "blame", "b2", "disk", "--refused", "--root", root)
    assert "was refused: RESERVATION CONFLICT" in text
    assert "preempted key 0x00000000000000a1 with it" in text
    assert "registered now: iqn.2026-01.example:bob on disk, gone, holder" in text


def test_blame_unknown_key_says_so(root: str, capsys: Capture) -> None:
    """It is an answer."""
    assert printed(capsys, "blame", "text:beef", "--root", root) == "nobody used key 'beef'\n"


def record(action: str, who: str, key: int, other: int = 0) -> dict[str, Any]:
    """As much of a record as a story looks at."""
    return {
        "action": action,
        "initiator": who,
        "target_port": 1,
        "key": f"0x{key:016x}",
        "service_action_key": f"0x{other:016x}",
    }


@pytest.mark.parametrize(
    ("records", "story_"),
    [
        ([("REGISTER", "a", 0, 1), ("REGISTER", "a", 1, 0)], ["registered", "unregistered"]),
        ([("REGISTER", "a", 0, 1), ("REGISTER", "a", 1, 2)], ["registered", "changed it to"]),
        ([("REGISTER", "a", 0, 1), ("REGISTER", "b", 0, 2)], ["registered"]),
        ([("REGISTER", "a", 0, 1), ("REGISTER", "a", 1, 1)], ["registered it", "registered it a"]),
        ([("REGISTER", "a", 0, 1), ("CLEAR", "b", 2)], ["registered", "cleared it with all"]),
        ([("REGISTER", "a", 0, 1), ("CLEAR", "a", 1)], ["registered", "cleared all with it"]),
        ([("CLEAR", "b", 2)], []),
        ([("REGISTER", "a", 0, 1), ("PREEMPT", "b", 2, 0)], ["registered", "preempted all"]),
        ([("REGISTER", "a", 0, 1), ("PREEMPT", "b", 2, 3)], ["registered"]),
        ([("REGISTER", "a", 0, 1), ("PREEMPT", "a", 1, 1)], ["registered", "preempted the oth"]),
        ([("REGISTER", "a", 0, 1), ("RELEASE", "a", 1)], ["registered", "released with it"]),
        ([("REGISTER AND MOVE", "a", 2, 1)], ["registered it for another"]),
        ([("REGISTER", "a", 0, 1), ("POWER CYCLE", "", 0)], ["registered", "lost power"]),
    ],
)
def test_story_keeps_account_of_who_has_the_key(
    records: list[tuple[str, str, int, int]], story_: list[str]
) -> None:
    """Also where the command does not name it."""
    told = [one["what"] for one in story((record(*one) for one in records), KeyPattern(number=1))]
    assert len(told) == len(story_)
    assert all(what.startswith(begins) for what, begins in zip(told, story_, strict=True)), told


def test_log_key_keeps_what_was_sent_with_it(root: str, capsys: Capture) -> None:
    """As either key of the command, hex or text."""
    found = document(capsys, "log", "disk", "--key", "a1", "--root", root)
    assert [one["action"] for one in found["records"]] == ["REGISTER", "RESERVE", "PREEMPT"]
    refused = document(capsys, "log", "disk", "--key", "B2", "--refused", "--root", root)
    assert [one["action"] for one in refused["records"]] == ["RESERVE"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("a1", KeyPattern(number=0xA1)),
        ("0xA1", KeyPattern(number=0xA1)),
        ("node1", KeyPattern(text="node1")),
        ("text:beef", KeyPattern(text="beef")),
    ],
)
def test_parse_key_takes_hex_before_text(text: str, pattern: KeyPattern) -> None:
    """Unless it is said to be text."""
    assert parse_key(text) == pattern


@pytest.mark.parametrize("text", ["", "text:", "ninechars", "é", "00112233445566778", "text:a\tb"])
def test_parse_key_nonsense_is_refused(text: str) -> None:
    """With what is understood."""
    with pytest.raises(argparse.ArgumentTypeError, match="is no key"):
        parse_key(text)


def test_key_pattern_matches_text_wherever_its_zeros_are() -> None:
    """Some write it to the left, some to the right."""
    pattern = KeyPattern(text="node1")
    assert pattern.matches(f"0x{NODE_KEY:016x}")
    assert pattern.matches(f"0x{int.from_bytes(b'node1', 'big'):016x}")
    assert not pattern.matches("0x00000000000000a1")
    assert not pattern.matches(None)
    assert not pattern.matches(["x"])


@pytest.mark.parametrize(
    ("key", "text"),
    [(NODE_KEY, "node1"), (0xA1, None), (0x41, None), (0x4142, "AB"), (0x410042, None)],
)
def test_readable_key_is_text_or_none(key: int, text: str | None) -> None:
    """One letter is rather a number."""
    assert readable_key(key) == text


# ------------------------------------------------------------------ colours


def test_style_colours_are_for_terminals_that_want_them() -> None:
    """Neither for files nor against somebody's wish."""
    leader, follower = pty.openpty()
    try:
        with open(follower, "w", closefd=False, encoding="utf-8") as terminal:
            assert style_for(terminal, {}) == Style()
            assert style_for(terminal, {"NO_COLOR": "1"}) is PLAIN
            assert style_for(terminal, {"TERM": "dumb"}) is PLAIN
        with open(os.devnull, "w", encoding="utf-8") as file:
            assert style_for(file, {}) is PLAIN
    finally:
        os.close(leader)
        os.close(follower)


def test_table_colours_take_no_room() -> None:
    """What is behind a coloured cell stands where it would."""
    plain = table(("A", "B"), [("x", "y"), ("long", "z")])
    coloured = table(
        ("A", "B"), [("x", "y"), ("long", "z")], paint=lambda _, cell: f"\033[1m{cell}"
    )
    assert [line.replace("\033[1m", "") for line in coloured] == plain


# ------------------------------------------------------------------ watch


def test_watch_prints_what_changes_only(root: str, capsys: Capture) -> None:
    """Three looks at what stands still are one text, or one document."""
    words = ["watch", "disk", "--root", root, "--interval", "0.05", "--count", "3"]
    assert printed(capsys, *words).count("disk: generation") == 1
    (line,) = printed(capsys, *words, "--json").splitlines()
    found = json.loads(line)
    assert set(found) == {"format", "time", "hosts", "luns"}
    assert found["luns"][0]["name"] == "disk"


def test_watch_shows_a_change_and_ends_with_the_interrupt(
    root: str, tmp_path: pathlib.Path
) -> None:
    """Ctrl-C is how it ends, and no failure."""
    printed_to = tmp_path / "out"
    command = [sys.executable, "-m", "flockpr", "watch", "--root", root, "--interval", "0.1"]
    with printed_to.open("w") as output:
        process = subprocess.Popen([*command, "--json"], stdout=output, env=environment())
    try:
        eventually(lambda: len(printed_to.read_text().splitlines()) == 1, "the first look")
        with LogicalUnit.open(os.path.join(root, "disk")) as unit:
            out(unit, ALICE, OutAction.REGISTER_AND_IGNORE_EXISTING_KEY, new=0xA2)
        eventually(lambda: len(printed_to.read_text().splitlines()) > 1, "the second")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    lines = printed_to.read_text().splitlines()
    assert [json.loads(line)["format"] for line in lines] == [1] * len(lines)


def on_a_terminal(code: str, *words: str, size: tuple[int, int] = (24, 80)) -> str:
    """What Python prints on a terminal of so many lines and columns, until it ends well."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, size)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=follower,
        env=environment(TERM="xterm", COLUMNS="", LINES=""),
    )
    os.close(follower)
    seen = b""
    try:
        while True:
            part = os.read(leader, 65536)
            if not part:
                break
            seen += part
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(leader)
    assert process.wait(PATIENCE) == 0
    return seen.decode()


_MAIN = "import sys; from flockpr.cli import main; sys.exit(main())"
_WITHOUT_RICH = f"import sys; sys.modules['rich'] = None; {_MAIN[12:]}"


@pytest.mark.parametrize("code", [_MAIN, _WITHOUT_RICH], ids=["rich", "without"])
def test_watch_on_a_terminal_draws_a_screen(code: str, root: str) -> None:
    """In colours, and leaves the terminal as it was; with rich and without."""
    words = ("watch", "--root", root, "--count", "2", "--interval", "0.05")
    seen = on_a_terminal(code, *words)
    assert seen.startswith("\033[?1049h")
    assert seen.index("\033[?1049l") > seen.index("REGISTERED")
    assert "\033[?25h" in seen[seen.index("REGISTERED") :]
    assert "\033[31mgone" in seen
    assert "end with Ctrl-C" in seen
    assert ("pip install 'flockpr[watch]'" in seen) == (code == _WITHOUT_RICH)


@pytest.mark.parametrize("code", [_MAIN, _WITHOUT_RICH], ids=["rich", "without"])
def test_watch_in_a_small_window_says_what_is_missing(code: str, root: str) -> None:
    """It never scrolls."""
    words = ("watch", "--root", root, "--count", "1")
    seen = on_a_terminal(code, *words, size=(4, 60))
    (told,) = re.findall(r"\.\.\. (\d+) more lines", seen)
    assert int(told) > 1
    assert seen.count("\n") <= 4


def test_watch_with_rich_fits_the_window(root: str) -> None:
    """Every line, also of a table that is wider; keys and liveness are whole."""
    from rich.console import Console

    from flockpr.cli.status_documents import collect
    from flockpr.cli.watch_rich import RichScreen
    from flockpr.filesystems import Terms

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=78, height=20, color_system=None)
    shown = RichScreen(console)
    with shown:
        shown.show(collect("watch", root, ["disk"], Terms()), ["what \033 went wrong"])
    text = re.sub(r"\033\[[?\d;]*[A-Za-z]", "", screen.getvalue())
    lines = text.split("\n")
    assert len(lines) <= 20 + 1
    assert max(map(len, lines)) <= 78
    assert "what \\x1b went wrong" in text
    assert "0x00000000000000b2  gone" in text
    assert "holder" in text


@pytest.mark.parametrize("words", [["--interval", "0"], ["--interval", "x"], ["nope"]])
def test_watch_mistake_is_refused(words: list[str], root: str, capsys: Capture) -> None:
    """Before the first look."""
    assert main(["watch", *words, "--root", root]) in (2, 13)
