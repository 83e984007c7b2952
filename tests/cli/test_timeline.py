"""`flockpr timeline`: a picture that shows who was registered, who held, who met a conflict."""

from __future__ import annotations

import json
import os
import pathlib
import re
import xml.etree.ElementTree as ET

import pytest

from flockpr import LogicalUnit, OutAction
from flockpr.cli import main
from flockpr.cli.timeline_svg import draw
from tests.support.luns import BOB, BOB_KEY, out, preempted_lun

Capture = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def root(tmp_path: pathlib.Path) -> str:
    """A root in which Alice held, Bob met a conflict, preempted and left."""
    preempted_lun(str(tmp_path), "disk")
    with LogicalUnit.open(os.path.join(tmp_path, "disk")) as unit:
        out(unit, BOB, OutAction.REGISTER, own=BOB_KEY, new=0)
    return str(tmp_path)


def told(picture: ET.Element) -> list[str]:
    """What a mouse is told, in the order of drawing."""
    return [found.text or "" for found in picture.iter(f"{SVG}title")]


def test_timeline_draws_who_held_and_who_met_a_conflict(root: str, capsys: Capture) -> None:
    """A lane for each; the holder's bar is another one than a registrant's."""
    assert main(["timeline", "disk", "--root", root]) == 0
    picture = ET.fromstring(capsys.readouterr().out)
    words = told(picture)
    alice = [one for one in words if one.startswith("iqn.2026-01.example:alice: key")]
    bob = [one for one in words if one.startswith("iqn.2026-01.example:bob")]
    held = "key 0x00000000000000a1, holds Write Exclusive, registrants only, from transaction 4"
    assert alice[0].endswith("key 0x00000000000000a1, from transaction 2")
    assert alice[1].endswith(held)
    assert any("RESERVE, RESERVATION CONFLICT" in one for one in bob)
    classes = [found.get("class") for found in picture.iter(f"{SVG}rect")]
    assert (classes.count("r"), classes.count("h")) == (2, 2)


def test_timeline_html_is_one_file_that_loads_nothing(root: str, tmp_path: pathlib.Path) -> None:
    """No script, no link, no address but the name space."""
    path = tmp_path / "disk.html"
    assert main(["timeline", "disk", "--root", root, "-o", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert re.findall(r"https?://[^\s\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in text
    ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def test_timeline_nothing_overlaps_and_all_is_inside(root: str, capsys: Capture) -> None:
    """Bars of a lane follow each other, within the picture."""
    assert main(["timeline", "disk", "--root", root]) == 0
    picture = ET.fromstring(capsys.readouterr().out)
    width, height = (int(picture.get(name, "0")) for name in ("width", "height"))
    lanes: dict[str, list[tuple[int, int]]] = {}
    for bar in picture.iter(f"{SVG}rect"):
        if bar.get("class") is None:
            continue
        x, y, size = (int(bar.get(name, "0")) for name in ("x", "y", "width"))
        assert 0 < x < x + size <= width
        assert 0 < y < height
        lanes.setdefault(str(y), []).append((x, x + size))
    for bars in lanes.values():
        ends = [end for pair in sorted(bars) for end in pair]
        assert ends == sorted(ends)


def test_timeline_limit_and_json_tell_what_is_drawn(root: str, capsys: Capture) -> None:
    """The newest states."""
    assert main(["timeline", "disk", "--root", root, "--limit", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"format", "root", "name", "states", "conflicts"}
    assert [one["number"] for one in found["states"]] == [5, 6]
    assert found["states"][1]["registrations"] == []
    assert found["conflicts"] == []


def test_timeline_names_do_not_become_markup() -> None:
    """Initiators are called what they like."""
    state = {"number": 1, "time": "t", "commands": ["<b>"], "type_name": None}
    registration = {"initiator": '<i>"&', "target_port": 1, "key": "0x01", "holder": False}
    conflict = {"time": "u", "initiator": '<i>"&', "action": "<RESERVE>"}
    picture = ET.fromstring(
        draw("<disk>", [{**state, "registrations": [registration]}], [conflict])
    )
    assert {found.tag.removeprefix(SVG) for found in picture.iter()} <= {
        *("svg", "title", "style", "rect", "text", "line", "g")
    }


def test_timeline_other_kinds_of_files_are_refused(root: str, capsys: Capture) -> None:
    """Before anything is written."""
    assert main(["timeline", "disk", "--root", root, "-o", "disk.png"]) == 2
    assert "neither .svg nor .html" in capsys.readouterr().err
