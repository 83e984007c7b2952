"""The table of the fault matrix is what the runs have found, and they have found nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm import matrix_page
from tests.vm.matrix import ENOUGH

DOCUMENTS = matrix_page.documents()


def test_matrix_table_is_generated_from_the_figures() -> None:
    """``python -m tests.vm.matrix_page`` would change nothing."""
    page = matrix_page.PAGE.read_text(encoding="utf-8")
    assert matrix_page.current(page) == matrix_page.section(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one["column"])
def test_matrix_figures_show_that_every_row_held(document: dict[str, Any]) -> None:
    """Nothing lost, nothing late, within the bound, and the commands acknowledged."""
    for row in document["rows"]:
        assert row["outcome"] == "held", row
        assert row["recovery"] <= row["bound"] * row["slack"], row
        assert row["acknowledged"] >= ENOUGH * row["outside"] > 0, row
        if "transfers" in row:  # not counted in runs of before 2026-11-23
            assert row["transferred"] >= ENOUGH * row["transfers"] > 0, row
        assert row["checked"] > 0, row
        assert row["writes"] > 0, row


@pytest.mark.parametrize("column", ["NFSv4.2", "NFSv3"])
def test_matrix_has_the_file_system(column: str) -> None:
    """The table has what the page promises most about."""
    assert column in {document["column"] for document in DOCUMENTS}
