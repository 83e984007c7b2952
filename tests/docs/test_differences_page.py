"""docs/differences-lio.md is what the comparison of today finds."""

from __future__ import annotations

from tests.support.differential import ROWS, differences, recorded
from tests.support.differential_page import page
from tests.support.docs import read


def test_every_difference_is_a_known_one() -> None:
    """Nothing is answered otherwise than LIO does without a reason; and each reason is met."""
    found, counts = differences(recorded())
    unknown = [one for one in found if not one.row]
    assert not unknown
    assert {one.row for one in found} == set(ROWS)
    assert counts["compared"] > 3 * (counts["skipped"] + counts["attentions"])


def test_page_is_what_the_comparison_finds() -> None:
    """`python -m tests.support.differential_page > docs/differences-lio.md` writes it."""
    assert read("docs/differences-lio.md") == page()
