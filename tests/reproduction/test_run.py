"""Pages that refer to nothing outside, and notebooks that hold nothing of one machine."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import nbformat
import plotly.graph_objects as go
import pytest

from saework.reproduction.html import PLOTLY_MIME, WIDGET_MIME, page
from saework.reproduction.record import _set_badge, _set_setup, cleaned, edges_in, setup_cell
from saework.views.tables import RAW_MIME, show

FIGURE = go.Figure(go.Bar(x=[1, 2], y=[3, 4]))


def notebook(*outputs):
    cell = nbformat.v4.new_code_cell(
        "1",
        execution_count=1,
        outputs=[nbformat.v4.new_output("display_data", data=data) for data in outputs],
    )
    cell.metadata = {"execution": {"iopub.status.busy": "2026"}, "tags": ["parameters"]}
    metadata = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {}},
        "papermill": {"duration": 1},
    }
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title?"), cell], metadata=metadata
    )


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
    urls = re.findall(r"url\(\s*['\"]?(?!data:|['\"]?data:)([^)'\"]+)", styles) + re.findall(
        r"@import", styles
    )
    return [value for value in parser.found + urls if not value.startswith(("data:", "#"))]


def test_a_page_fetches_nothing_and_embeds_plotly_once():
    figure = {PLOTLY_MIME: FIGURE.to_plotly_json()}
    widget = {WIDGET_MIME: {"model_id": "1"}, "text/plain": "VBox()"}
    html = page(notebook(figure, figure, widget), title="a page")
    assert "VBox()" not in html
    assert fetched_by(html) == []
    assert html.count("Plotly.newPlot(") >= 2
    assert len(re.findall(r"plotly\.js v\d", html)) == 1
    assert "cdnjs" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)


def test_the_check_of_pages_can_fail():
    assert (
        fetched_by(
            '<img src="https://a.b/c.png"><link href="x.css"><style>a{background:url(https://a.b)}</style>'
        )
        != []
    )


def test_cleaning_leaves_nothing_of_this_machine():
    raw = show({"x": 1.0})._repr_mimebundle_()
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}
    executed = notebook(raw, widget)
    executed.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stdout", text="printed")
    )
    clean = cleaned(executed)
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[1].metadata == {"tags": ["parameters"]}
    assert [sorted(output.get("data", {})) for output in clean.cells[1].outputs] == [
        ["text/html", "text/plain"],
        [],
    ]
    nbformat.validate(clean)


def test_what_a_live_widget_holds_in_html_stays():
    widget = {
        WIDGET_MIME: {"model_id": "1"},
        "text/plain": "explore()",
        "text/html": "<p>its last heatmap</p>",
    }
    clean = cleaned(notebook(dict(widget)))
    assert [sorted(output.data) for output in clean.cells[1].outputs] == [
        ["text/html", "text/plain"]
    ]
    assert "<p>its last heatmap</p>" in page(notebook(dict(widget)), title="a page")


def test_numbers_near_a_rounding_edge_are_found():
    edge, safe = show({"x": 1.23500001})._repr_mimebundle_(), show({"x": 1.232})._repr_mimebundle_()
    assert RAW_MIME in edge
    assert edges_in(notebook(edge, safe)) == [1.23500001]


@pytest.mark.parametrize("address", [None, "https://github.com/someone/saework"])
def test_the_badge_and_the_setup_cell_follow_the_address(address):
    nb = notebook()
    nb.cells.append(nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]}))
    for _ in range(2):  # a second time changes nothing
        _set_badge(nb, "00_start_here.ipynb", address)
        _set_setup(nb, address)
    if address is None:
        assert nb.cells[0].source == "# Title?"
        assert "on Colab: README, The notebooks" in nb.cells[2].source
    else:
        assert (
            nb.cells[0].source.count(
                "colab.research.google.com/github/someone/saework/blob/main/notebooks/00_start_here.ipynb"
            )
            == 1
        )
        assert nb.cells[0].source.endswith("# Title?")
        assert nb.cells[2].source.endswith(
            '    %pip install --quiet "git+https://github.com/someone/saework" {kept}'
        )


def test_the_setup_cell_keeps_numpy_and_torch(monkeypatch):
    """Run as a reader on Colab runs it, with saework missing and pip noted down instead of started."""
    import importlib.metadata
    import importlib.util

    from IPython.core.interactiveshell import InteractiveShell

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "saework" else find(name)
    )
    shell, ran = InteractiveShell(), []
    shell.register_magic_function(ran.append, magic_name="pip")
    shell.run_cell(setup_cell("https://github.com/someone/saework")).raise_error()
    kept = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "torch"))
    assert ran == [f'install --quiet "git+https://github.com/someone/saework" {kept}']


def test_the_setup_cell_without_an_address_says_what_to_run(monkeypatch):
    import importlib.util

    exec(setup_cell(None))  # saework is here: nothing happens
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"run: pip install -e \. \(on Colab: README, The notebooks\)"
    ):
        exec(setup_cell(None))
