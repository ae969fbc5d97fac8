"""Pages as a browser and a screen reader get them: valid, inert, self-contained."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from jinja2 import UndefinedError
from page_checks import cells, html_of, tree, words_of

from saework import feature_page
from saework.core.tokens import visible
from saework.views.feature_page.html import TEMPLATES, Made, render
from saework.views.feature_page.index import ORDERS
from saework.views.feature_page.write import write_pages

SVG = "{http://www.w3.org/2000/svg}"
# A script, anything fetched, an id that could clash, a handler.
FORBIDDEN = r"<(script|link|img|iframe|object)|https?:|src=|href=|url\(|@import| id=| on\w+="


@pytest.fixture(params=[7, 20, 31, 0])
def root_and_html(request, book, pages, tmp_path):
    """Each page's tree and file; the last is of a dead feature."""
    page = pages.get(request.param) or feature_page(book, request.param)
    html = html_of(page, tmp_path)
    return page, tree(html), html


def test_a_page_is_whole_and_fetches_nothing(root_and_html):
    _, root, html = root_and_html
    assert html.startswith("<!DOCTYPE html>")
    assert root.get("lang") == "en"
    assert words_of(root.find(".//title")).startswith("Feature ")
    assert root.find("body/main") is not None
    assert re.findall(FORBIDDEN, html) == []


def test_a_page_is_readable_without_seeing_it(root_and_html):
    page, root, html = root_and_html
    headings = [str(each.tag) for each in root.iter() if re.fullmatch("h[1-6]", str(each.tag))]
    assert headings == ["h1"] + ["h2"] * (3 if page.dead else 8)
    for table in root.iter("table"):
        assert words_of(table.find("caption"))
        assert {th.get("scope") for th in table.iter("th")} <= {"col", "row", "rowgroup"}
        assert all(row[0].tag == "th" for row in table.iter("tr"))
    charts = list(root.iter(f"{SVG}svg"))
    of_what = ["activations", "the effect over the vocabulary"][1 if page.dead else 0 :]
    assert len(charts) == len(of_what)
    for svg, words in zip(charts, of_what):
        assert svg.get("role") == "img"
        assert svg.get("aria-label").startswith(f"Histogram of {words}: ")


def test_in_a_notebook_the_page_brings_its_style_and_no_document(pages):
    html = pages[7]._repr_html_()
    assert html.startswith("<style>")
    assert "<html" not in html and "<body" not in html
    assert "<h1>Feature 7</h1>" in html
    sheet = html[: html.index("</style>")].removeprefix("<style>")
    selectors = re.findall(r"(?:^|})\s*([^{}@]+){", sheet)
    assert len(selectors) > 20
    for selector in ",".join(selectors).split(","):
        # Nothing else of the notebook is styled.
        assert selector.strip().startswith((".saework-page", ".saework-heat"))


HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table>",
    '" onmouseover="x',
    "&lt;",
    "<!--",
    "\u202e",
    "\n\n",
    "\0",
    "{x}",
    "{{ page }}",
]


class HostileTokenizer:
    """Decodes each token to something that a page must not believe."""

    bos_token_id = 1

    def __len__(self):
        return 4096

    def batch_decode(self, rows, **options):
        return [HOSTILE[row[0] % len(HOSTILE)] if row else "" for row in rows]

    def convert_ids_to_tokens(self, ids):
        return [HOSTILE[token % len(HOSTILE)] for token in ids]


@pytest.fixture(scope="module")
def hostile_page(book):
    return feature_page(replace(book, tokenizer=HostileTokenizer()), 7)


def test_hostile_tokens_come_out_inert(book, hostile_page, tmp_path):
    html = html_of(hostile_page, tmp_path)
    root = tree(html)
    assert list(root.iter("script")) == []
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not any(name.startswith("on") for name in attributes)
    tokens = [row[0] for row in cells(root, "The strongest firings")[1:]]
    ids = [int(book.tokens[example.row, example.pos]) for example in hostile_page.top]
    expected = [visible(HOSTILE[i % len(HOSTILE)]) for i in ids]
    assert tokens == [" ".join(text.split()) for text in expected]
    dangerous = {"<script>alert(1)</script>", "</td></table>", '"·onmouseover="x', "&lt;"}
    assert {unescape(token) for token in tokens} & dangerous
    assert "\u202e" not in html and "\0" not in html


def test_a_hostile_index_is_inert(hostile_page, tmp_path):
    index = write_pages([hostile_page], tmp_path).read_text(encoding="utf-8")
    assert list(tree(index).iter("script")) == []


def test_every_template_escapes_and_none_asks_for_what_is_not_there():
    made = Made("<i>", "", ("saework",))
    parts = {"rows": [], "order": ORDERS[0], "orders": ORDERS, "counted": "", "made": made}
    index = render("index.html", source="<i>&", **parts)
    assert "&lt;i&gt;&amp;" in index and "<i>" not in index
    with pytest.raises(UndefinedError):
        render("index.html", **parts)


def test_nothing_but_the_heatmaps_is_marked_as_safe():
    trusted = [
        (path.name, found)
        for path in sorted(TEMPLATES.iterdir())
        for found in re.findall(r"{{([^}]*\|\s*safe)", path.read_text(encoding="utf-8"))
    ]
    assert trusted == [
        ("document.html", " heatmap_style|safe"),
        ("notebook.html", " heatmap_style|safe"),
        ("parts.html", " part.heatmap(example)|safe"),
    ]
