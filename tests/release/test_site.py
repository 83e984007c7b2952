"""The site: its references are complete, its navigation leads everywhere, it builds cleanly."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

import flockpr
from flockpr.cli import build_parser
from flockpr.cli.grammar import describe
from release import site
from tests.support.docs import ROOT, read
from tests.support.peers import unavailable


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What Sphinx would read."""
    directory = tmp_path_factory.mktemp("site") / "source"
    site.stage(directory)
    return directory


def test_reference_has_every_verb_and_every_option(source: pathlib.Path) -> None:
    """Made from the parser."""
    text = (source / "reference-cli.md").read_text()
    parts = re.split(r"^## (flockpr.*)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    commands = list(describe(build_parser()).walk())
    assert set(sections) == {command.name for command in commands}
    for command in commands:
        for option in command.options:
            assert f"`{', '.join(option.flags)}`" in sections[command.name]


def test_reference_has_every_public_name(source: pathlib.Path) -> None:
    """Made from the docstrings, so each name has one."""
    text = (source / "reference-api.md").read_text()
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == sorted(flockpr.__all__)
    for name in flockpr.__all__:
        assert getattr(flockpr, name).__doc__ or not callable(getattr(flockpr, name)), name


def test_navigation_has_every_page_once(source: pathlib.Path) -> None:
    """Those that the index names, in its order, and those that it forgot."""
    text = (source / "index.md").read_text()
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    entries = [
        re.sub(r"^.*<(.*)>$", r"\1", line)
        for tree in trees
        for line in tree.splitlines()
        if line and not line.startswith(":")
    ]
    pages = {str(page.relative_to(source).with_suffix("")) for page in source.rglob("*.md")}
    assert sorted(entries) == sorted(pages - {"index"})


def test_index_leads_a_newcomer_first_to_the_tutorial() -> None:
    """Then to how it is installed."""
    chapters = site.navigation(read("docs/index.md"))
    assert list(chapters) == ["Begin here", "How to", "Look up", "Understand"]
    assert [name for _, name in chapters["Begin here"]][:2] == ["tutorial", "install"]


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_site_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    """Sphinx, with warnings as errors; all links between pages lead to a heading that is there."""
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")):
        unavailable("not installed: the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "release", "docs", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    index = (tmp_path / "site" / "index.html").read_text()
    for page in ("tutorial", "install", "reference-cli", "reference-api", "readme"):
        assert f'href="{page}.html"' in index
