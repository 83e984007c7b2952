"""The site: the pages of docs/, with references made from the parser and from docstrings.

The order of the pages is that of docs/index.md, whose headings and lists are the navigation.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import flockpr
from flockpr._version import __version__
from flockpr.cli import build_parser
from flockpr.cli.grammar import Command, describe

ROOT = pathlib.Path(__file__).resolve().parents[1]
GENERATED = {
    "reference-cli": "All verbs and options",
    "reference-api": "All names of the Python API",
}
_LINK = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\.md\)$", re.MULTILINE)
_CONF = """\
project = "flockpr"
author = "the authors of flockpr"
version = release = {version!r}
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "flockpr"
html_show_sphinx = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# A console session and a line with "..." in it are no source that a lexer knows.
suppress_warnings = ["misc.highlighting_failure"]
"""


def write(directory: pathlib.Path) -> None:
    """Build the site; a warning is an error.

    Args:
        directory: Where to.

    Raises:
        CalledProcessError: Sphinx found a mistake, and has said which.
    """
    with tempfile.TemporaryDirectory() as name:
        source = pathlib.Path(name) / "source"
        stage(source)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
        subprocess.run([*command, str(source), str(directory)], check=True)


def stage(source: pathlib.Path) -> None:
    """Lay out what Sphinx reads.

    Args:
        source: A directory that is not there yet.
    """
    shutil.copytree(ROOT / "docs", source)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, source / name.lower())
    for page in source.rglob("*.md"):
        page.write_text(_links(page.read_text(encoding="utf-8"), page, source), encoding="utf-8")
    (source / "reference-cli.md").write_text(_commands(), encoding="utf-8")
    (source / "reference-api.md").write_text(_api(), encoding="utf-8")
    index = source / "index.md"
    index.write_text(_index(index.read_text(encoding="utf-8")), encoding="utf-8")
    (source / "conf.py").write_text(_CONF.format(version=__version__), encoding="utf-8")


def _links(text: str, page: pathlib.Path, source: pathlib.Path) -> str:
    """Links of the repository as links of the site: what was above docs/ is in it now."""
    if page.parent == source and page.name in ("readme.md", "changelog.md", "contributing.md"):
        text = text.replace("](docs/", "](").replace("](CONTRIBUTING.md", "](contributing.md")
        text = text.replace("](CHANGELOG.md", "](changelog.md").replace("](LICENSE)", "](#more)")
    for name in ("README", "CHANGELOG", "CONTRIBUTING"):
        text = text.replace(f"](../{name}.md", f"]({name.lower()}.md")
    return text


def navigation(text: str) -> dict[str, list[tuple[str, str]]]:
    """Headings of the index, each with the titles and pages of its list."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {
        heading: _LINK.findall(body) for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def _index(text: str) -> str:
    chapters = navigation(text)
    chapters["Look up"] += [(title, name) for name, title in GENERATED.items()]
    listed = {name for entries in chapters.values() for _, name in entries}
    # A page that the index does not name can be found all the same.
    pages = sorted((ROOT / "docs").glob("*.md"))
    chapters["Look up"] += [
        (page.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# "), page.stem)
        for page in pages
        if page.stem not in {*listed, "index"}
    ]
    chapters["Understand"] += [("Changes", "changelog"), ("Contributing", "contributing")]
    lines = [text.replace("](../README.md)", "](readme.md)"), ""]
    for heading, entries in chapters.items():
        lines += ["```{toctree}", ":hidden:", f":caption: {heading}", ""]
        lines += ["The README <readme>"] * (heading == "Begin here")
        lines += [f"{title} <{name}>" for title, name in entries]
        lines += ["```", ""]
    notes = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    lines += ["```{toctree}", ":hidden:", ":caption: Decision notes", ""]
    lines += [f"decisions/{note.stem}" for note in notes]
    return "\n".join((*lines, "```", ""))


def _commands() -> str:
    """Every verb with all that its parser takes."""
    lines = [
        "# All verbs and options",
        "",
        "Made from the parser that checks the command line.",
        "",
    ]
    for command in describe(build_parser()).walk():
        lines += [f"## {command.name}", "", _sentence(command), ""]
        lines += [f"```text\n{_usage(command)}\n```", ""]
        rows = [
            (f"`{word.name}`", word.help or "name of the logical unit") for word in command.operands
        ]
        rows += [
            (
                f"`{', '.join(option.flags)}`" + (f" `{option.value}`" if option.value else ""),
                option.help,
            )
            for option in command.options
        ]
        lines += ["| word | meaning |", "|---|---|"]
        lines += [f"| {name} | {_cell(text)} |" for name, text in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that a table shows as it is."""
    return re.sub(r"([|*_<>\[\]])", r"\\\1", " ".join(text.split()))


def _sentence(command: Command) -> str:
    text = command.description or command.summary
    return _cell(text[:1].upper() + text[1:]).rstrip(".") + "."


def _usage(command: Command) -> str:
    words = [command.name, "[OPTION ...]"]
    if command.commands:
        words += ["{" + ",".join(one.path[-1] for one in command.commands) + "}", "..."]
    for word in command.operands:
        name = word.name + " ..." * word.repeatable
        words.append(name if word.required else f"[{name}]")
    return " ".join(words)


def _api() -> str:
    """Every public name, by its docstring."""
    lines = ["# All names of the Python API", "", "Made from the docstrings of `flockpr`. ", ""]
    lines += ["[The guide](python-api.md) has examples.", ""]
    for name in sorted(flockpr.__all__):
        value = getattr(flockpr, name)
        lines += [f"## {name}", "", "```{eval-rst}"]
        if isinstance(value, type):
            lines += [f".. autoclass:: {value.__module__}.{value.__qualname__}", "   :members:"]
        elif callable(value):
            lines += [f".. autofunction:: {value.__module__}.{value.__qualname__}"]
        else:
            lines += [f".. autodata:: flockpr.{name}"]
        lines += ["   :noindex:", "```", ""]
    return "\n".join(lines)
