"""The first page of a reproduction."""

from __future__ import annotations

from datetime import datetime

import nbformat

from saework import Claim, Ledger
from saework.reproduction.index_page import Page, index_page, title_of

WHEN = datetime(2026, 11, 28, 15, 3)


def test_the_page_says_what_was_run_and_links_to_it():
    claims = [
        Claim("own", 1, "", "regression value: recorded", 0, "gelu-1l-mini"),
        Claim("theirs", 2, "", "a paper", 0, "gelu-1l-mini"),
    ]
    ledger = Ledger(claims, tier="gelu-1l-mini")
    ledger.record("theirs", 2)
    pages = [
        Page("00_a", "What <is> it?", None, has_pack=True),
        Page("01_b", "Why?", "ValueError: <b>", has_pack=False),
    ]
    html = index_page("gelu-1l-mini", pages, ledger, when=WHEN)
    assert "2026-11-28 15:03" in html and "<code>saework reproduce gelu-1l-mini</code>" in html
    assert "saework 0" in html and "torch 2" in html and "Python 3" in html
    assert 'href="00_a.html"' in html and 'href="00_a.safetensors"' in html
    assert 'href="01_b.safetensors"' not in html
    assert "What &lt;is&gt; it?" in html and "failed: ValueError: &lt;b&gt;" in html
    assert html.index("theirs") < html.index("own</"), "published claims come first"
    assert "src=" not in html and "<script" not in html and "http" not in html


def test_the_title_is_the_first_heading():
    cells = [
        nbformat.v4.new_code_cell("# not this"),
        nbformat.v4.new_markdown_cell("a badge\n\n# What is it?\n\n# Later"),
    ]
    assert title_of(nbformat.v4.new_notebook(cells=cells)) == "What is it?"
    assert title_of(nbformat.v4.new_notebook(cells=cells[:1])) == ""
