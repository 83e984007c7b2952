"""`flockpr timeline`, looked at: a browser paints it, and what has to be seen is there."""

from __future__ import annotations

import pathlib
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from flockpr.cli import main
from tests.support.daemon_process import PATIENCE, environment, short_directory
from tests.support.luns import preempted_lun
from tests.support.peers import find
from tests.support.png import Picture

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(600)]
SVG = "{http://www.w3.org/2000/svg}"
REGISTERED, HOLDS, CONFLICT = (0x9E, 0xCA, 0xE1), (0x21, 0x71, 0xB5), (0xCB, 0x18, 0x1D)


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A root in which Alice held, Bob met a conflict and preempted."""
    with short_directory() as path:
        preempted_lun(str(path / "root"), "disk")
        yield path


def painted(page: pathlib.Path) -> Picture:
    """What a headless Chromium shows of a file."""
    browser = find("chromium") or find("chromium-browser") or find("google-chrome")
    if browser is None:
        pytest.skip("not installed: chromium")
    picture = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,600"]
    done = subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.as_uri()],
        env=environment(HOME=str(page.parent)),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert picture.exists(), done.stdout + done.stderr
    return Picture(picture.read_bytes())


def test_picture_has_every_bar_where_it_is_drawn(folder: pathlib.Path) -> None:
    """Light where registered, dark where it holds, in each lane."""
    file = folder / "disk.svg"
    assert main(["timeline", "disk", "--root", str(folder / "root"), "-o", str(file)]) == 0
    picture = painted(file)
    tree = ET.fromstring(file.read_text())
    bars = [one for one in tree.iter(f"{SVG}rect") if one.get("class") in ("r", "h")]
    assert {one.get("class") for one in bars} == {"r", "h"}
    for bar in bars:
        x, y = (round(float(bar.get(name) or "")) for name in ("x", "y"))
        wide, high = (float(bar.get(name) or "") for name in ("width", "height"))
        assert wide > 8
        assert high > 8
        # Beside the corner, which is round, and the words, which are in the middle.
        seen = picture.at(x + int(wide) // 2, y + int(high) - 2)
        assert seen == (REGISTERED if bar.get("class") == "r" else HOLDS)
    assert picture.count(CONFLICT) > 5


def test_page_shows_the_same(folder: pathlib.Path) -> None:
    """The HTML file, which needs nothing besides."""
    file = folder / "disk.html"
    assert main(["timeline", "disk", "--root", str(folder / "root"), "-o", str(file)]) == 0
    picture = painted(file)
    for colour in (REGISTERED, HOLDS):
        assert picture.count(colour) > 200
    assert picture.count(CONFLICT) > 5
