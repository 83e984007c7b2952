"""The page that is made from these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.coverage_page import CONFORMANCE, ORDER, lines_of, page

ROOT = Path(__file__).parents[2]


def test_coverage_page_committed_is_up_to_date() -> None:
    """docs/spc-coverage.md is what the conformance tests say now."""
    committed = (ROOT / "docs" / "spc-coverage.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m tests.support.coverage_page > docs/spc-coverage.md"


def test_coverage_page_lists_every_conformance_file() -> None:
    """No conformance test escapes the page."""
    names = {path.stem.removeprefix("test_") for path in CONFORMANCE.glob("test_*.py")}
    assert names - {"coverage_page"} == set(ORDER)


def test_coverage_page_docstring_without_clause_fails() -> None:
    """A test that names no clause is an error, not a missing line."""
    with pytest.raises(ValueError, match="names no clause"):
        lines_of('"""Title."""\n\ndef test_it() -> None:\n    """Shows something."""\n')
