"""An executed notebook as one page that refers to nothing outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import nbformat
import plotly.graph_objects as go
from stand_ins import executed_notebook

from saework.reproduction.html import (
    PLOTLY_MIME,
    WIDGET_MIME,
    drop_theme_styles,
    drop_widgets,
    outputs_with,
    page,
)
from saework.views.figure_style import INK
from saework.views.heatmap import token_heatmap
from saework.views.heatmap_markup import POSITIVE
from saework.views.themes import FIGURES_IN_NOTEBOOKS

FIGURE = go.Figure(go.Bar(x=[1, 2], y=[3, 4]))


class References(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.found.append(value)


def fetched_by(page: str) -> list[str]:
    parser = References()
    parser.feed(page)
    styles = "".join(re.findall(r"<style.*?</style>", page, flags=re.S))
    urls = re.findall(r"url\(\s*['\"]?(?!data:|['\"]?data:)([^)'\"]+)", styles)
    urls += re.findall(r"@import", styles)
    return [value for value in parser.found + urls if not value.startswith(("data:", "#"))]


def test_a_page_fetches_nothing_and_embeds_plotly_once():
    figure = {PLOTLY_MIME: FIGURE.to_plotly_json()}
    widget = {WIDGET_MIME: {"model_id": "1"}, "text/plain": "VBox()"}
    html = page(executed_notebook(figure, figure, widget), title="a page")
    assert "VBox()" not in html
    assert fetched_by(html) == []
    assert html.count("Plotly.newPlot(") >= 2
    assert len(re.findall(r"plotly\.js v\d", html)) == 1
    assert "cdnjs" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)


def test_what_is_folded_stays_folded():
    folded = "<details><summary>Solution</summary>\n\nAnswer:\n\n```python\n42\n```\n\n</details>"
    notebook = executed_notebook({"text/plain": "1"})
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"{folded}\n\nAfter it."))
    html = page(notebook, title="a page")
    inside = html[html.index("<summary>Solution") : html.index("</details>")]
    assert "Answer:" in inside and "42" in inside and "After it" not in inside


def test_the_check_of_pages_can_fail():
    style = "<style>a{background:url(https://a.b)}</style>"
    html = f'<img src="https://a.b/c.png"><link href="x.css">{style}'
    assert fetched_by(html) == ["https://a.b/c.png", "x.css", "https://a.b"]


def test_a_page_leaves_the_notebook_as_it_was():
    notebook = executed_notebook({PLOTLY_MIME: FIGURE.to_plotly_json()}, {"text/plain": "1"})
    before = str(notebook)
    page(notebook, title="a page")
    assert str(notebook) == before


def test_the_styles_before_figures_are_dropped():
    style, table = {"text/html": FIGURES_IN_NOTEBOOKS}, {"text/html": "<table>"}
    notebook = executed_notebook(style, {PLOTLY_MIME: {}}, table)
    drop_theme_styles(notebook)
    kept = [list(output.data) for output in notebook.cells[1].outputs]
    assert kept == [[PLOTLY_MIME], ["text/html"]]
    assert 'data-jp-theme-light="false"' not in page(executed_notebook(style), title="a page")


def test_a_figure_is_put_into_words():
    figure = go.Figure(go.Bar(x=[1], y=[2]), layout={"title": "a < b"})
    html = page(executed_notebook({PLOTLY_MIME: figure.to_plotly_json()}), title="a page")
    assert 'aria-label="a &lt; b"' in html


def test_outputs_of_one_kind():
    first, second = {"text/plain": "1"}, {"text/plain": "2", "text/html": "<p>"}
    notebook = executed_notebook(first, second)
    found = outputs_with(notebook, "text/html")
    assert [output.data["text/plain"] for output in found] == ["2"]
    assert len(outputs_with(notebook, "text/plain")) == 2 and outputs_with(notebook, "x") == []


def test_what_a_live_widget_holds_in_html_stays():
    only_live = {WIDGET_MIME: {"model_id": "1"}, "text/plain": "VBox()"}
    both = {
        WIDGET_MIME: {"model_id": "1"},
        "text/plain": "explore()",
        "text/html": "<p>its last heatmap</p>",
    }
    notebook = executed_notebook(only_live, both)
    drop_widgets(notebook)
    (output,) = notebook.cells[1].outputs
    assert sorted(output.data) == ["text/html", "text/plain"] and "widgets" not in notebook.metadata
    assert "<p>its last heatmap</p>" in page(executed_notebook(both), title="a page")


def test_the_code_of_checks_is_hidden_and_what_they_print_is_shown():
    printed = nbformat.v4.new_output("stream", text="not answered yet\n")
    tags = {"tags": ["check"]}
    cells = [
        nbformat.v4.new_code_cell("answer = None"),
        nbformat.v4.new_code_cell("secret = 42", metadata=tags, outputs=[printed]),
        nbformat.v4.new_code_cell("assert secret", metadata=tags),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    html = page(notebook, title="one")
    assert "answer" in html and "not answered yet" in html and "secret" not in html
    assert notebook.cells[1].source == "secret = 42"


def test_a_page_has_a_dark_theme():
    html = page(executed_notebook({"text/plain": "1"}), title="dark")
    dark = re.findall(r'<style media="([^"]*)"[^>]*>(.*?)</style>', html, flags=re.S)
    assert {media for media, _ in dark} == {"screen and (prefers-color-scheme: dark)"}
    theme, ours = (style for _, style in dark)
    assert "--jp-layout-color0: " in theme and ".js-plotly-plot" in ours
    assert html.index("--jp-mirror-editor-comment-color: #2f6f6f") < html.index(theme)
    assert "DARK" not in ours and "COLOURS" not in html


def test_what_is_dark_of_a_figure_is_there_to_be_changed():
    """The colours that the dark theme changes are those of the figures' look."""
    ink = ", ".join(str(int(INK[i : i + 2], 16)) for i in (1, 3, 5))
    assert f"rgb({ink})" in page(executed_notebook({"text/plain": "1"}), title="dark")


def test_heatmaps_adapt_and_figures_stay():
    figure = go.Figure(go.Bar(x=[1], y=[1], marker={"color": f"rgba({POSITIVE},.5)"}))
    heatmap = {"text/html": token_heatmap(["a", "b"], [0.0, 1.0])._repr_html_()}
    outputs = [{PLOTLY_MIME: figure.to_plotly_json()}, heatmap]
    html = page(executed_notebook(*outputs), title="both")
    assert f"background:rgba(var(--saework-positive,{POSITIVE}),.55)" in html
    assert f'"rgba({POSITIVE},.5)"' in html and "--saework-positive:" in html
