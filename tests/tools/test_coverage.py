"""The page under docs/ is the one that the tool writes."""

from __future__ import annotations

from pathlib import Path

from saework.loading.coverage import coverage
from tools.coverage import page


def test_the_committed_page_is_fresh():
    committed = Path(__file__).parents[2] / "docs" / "coverage.md"
    assert committed.read_text(encoding="utf-8") == page()


def test_the_page_has_the_sum():
    table = coverage()
    total = table["saes"].sum()
    right = table.loc[table["refused"] == "", "saes"].sum()
    assert f"{total:,} of {total:,}" in page() and f"With {right:,} of them" in page()
