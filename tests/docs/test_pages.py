"""All pages: links lead somewhere, and nobody is promised fencing."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.support.docs import ROOT, anchors, pages, prose

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+|\n\s*\n|\n\s*[-|]")
_FENCING = re.compile(r"\bfenc(?:e|es|ed|er|ing)\b", re.IGNORECASE)
_CODE = re.compile(r"`[^`]*`")
_DENIAL = re.compile(
    r"\b(?:not|never|no|nothing|none|cannot|without|still needs?)\b", re.IGNORECASE
)
_OF_OTHERS = re.compile(
    r"\b(?:GFS2|dlm|fence_\w+|NFS\w*|server|target|operator|declare\w*|declaration\w*)\b",
    re.IGNORECASE,
)
"""Who does it, or needs it: file systems and their servers, agents, the target door, and whoever
declares it done.
"""


def _name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_page_internal_links_resolve(page: pathlib.Path) -> None:
    """Every relative link names a file that is there, and a heading that it has."""
    for target in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page

        assert file.exists(), f"{_name(page)} links to {target}"
        if fragment:
            assert fragment in anchors(file.read_text(encoding="utf-8")), target


def claims_of_fencing(text: str) -> list[str]:
    """Sentences that speak of fencing, neither deny it nor say that somebody else does it."""
    return [
        sentence
        for sentence in _SENTENCE_END.split(prose(text))
        if _FENCING.search(_CODE.sub("", sentence))
        and not _DENIAL.search(sentence)
        and not _OF_OTHERS.search(sentence)
    ]


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_page_never_calls_the_helper_door_fencing(page: pathlib.Path) -> None:
    """It sees no reads and writes: whoever took it for fencing would lose data."""
    assert claims_of_fencing(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("sentence", "claims"),
    [
        ("The helper door fences the loser.", 1),
        ("The fencing that you need.", 1),
        ("This is not fencing.", 0),
        ("GFS2 needs fencing of its nodes.", 0),
        ("The target fences who was preempted.", 0),
        ("An operator declares a host fenced.", 0),
        ("What `fenced` means.", 0),
        ("A line\nof fencing.", 1),
    ],
)
def test_claims_of_fencing_sentence_found_or_not(sentence: str, claims: int) -> None:
    """The check itself finds a claim and lets a denial pass."""
    assert len(claims_of_fencing(sentence)) == claims


NOTES = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("note", NOTES, ids=_name)
def test_decision_note_has_its_parts_and_is_listed(note: pathlib.Path) -> None:
    """Number and title agree with the list; a note says what was weighed and what follows."""
    text = note.read_text(encoding="utf-8")
    title = text.split("\n", 1)[0].removeprefix("# ")
    listed = (note.parent / "README.md").read_text(encoding="utf-8")

    assert f"- [{title}]({note.name})" in listed
    assert title.startswith(f"{note.name[:4]}. ")
    for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
        assert f"\n{part}" in text, part
