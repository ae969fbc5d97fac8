"""An executed notebook as one HTML file that refers to nothing outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

import nbformat
from nbformat import NotebookNode

from saework.core.files import GENERATOR
from saework.reproduction import pictures
from saework.views.heatmap_markup import DARK_STYLE, adaptive
from saework.views.themes import FIGURES_IN_NOTEBOOKS, dark_figures

PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
# nbconvert's page for JupyterLab, without its scripts, and with colours of enough contrast.
_PAGE = (
    """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}"""
    + GENERATOR
    + """{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}{{ super() }}<style>
:root {
  --jp-cell-prompt-not-active-opacity: 1;
  --jp-cell-inprompt-font-color: #2a5d84;
  --jp-cell-outprompt-font-color: #9c4221;
  --jp-mirror-editor-comment-color: #2f6f6f;
  --jp-mirror-editor-number-color: #1d6b1d;
  --jp-mirror-editor-operator-color: #8a00d4;
}
LAYOUT</style>
{{ resources.include_css("static/theme-dark.css") | replace("<style", '<style media="DARK"') }}
<style media="DARK">COLOURS</style>
{%- endblock -%}
{%- block body_header -%}{{ super() }}
{%- if resources.neighbours %}<nav class="neighbours" aria-label="pages of this run">
{%- for words, target in resources.neighbours %} <a href="{{ target | e }}">{{ words | e }}</a>
{%- endfor %}</nav>{% endif -%}
{%- endblock -%}"""
)
# What a phone and paper need: scrolling figures, rows of claims that are not towers, whole lines.
_LAYOUT = """
nav.neighbours { padding: 0.5rem 1rem; font-family: system-ui, sans-serif; }
[role="figure"] { overflow-x: auto; break-inside: avoid; }
@media screen {
  [role="figure"] .plotly-graph-div { min-width: 34rem; }
  .jp-RenderedHTML > :is(p + table, details > table) td:first-child { white-space: nowrap; }
  .jp-RenderedHTML > :is(p + table, details > table) td:nth-child(8) { min-width: 14rem; }
}
@media print {
  .jp-Notebook pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
  .jp-RenderedHTMLCommon table { font-size: 8pt !important; }
  .js-plotly-plot, .js-plotly-plot .svg-container { height: auto !important; }
  .js-plotly-plot :is(.main-svg, canvas) { width: 100% !important; max-width: none !important; }
  .js-plotly-plot .main-svg { height: 100% !important; }
  .js-plotly-plot canvas { height: auto !important; }
  .modebar-container { display: none; }
}
"""
# Figures are drawn for the screen. On paper they shrink as pictures do.
_PRINT_SCRIPT = """<script>
addEventListener("beforeprint", () => {
  for (const svg of document.querySelectorAll(".js-plotly-plot .main-svg")) {
    const [width, height] = ["width", "height"].map(name => svg.getAttribute(name));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "xMinYMin");
    svg.closest(".svg-container").style.aspectRatio = `${width} / ${height}`;
  }
});
addEventListener("afterprint", () => {
  for (const svg of document.querySelectorAll(".js-plotly-plot .main-svg")) {
    svg.removeAttribute("viewBox");
  }
});
</script>"""
_DARK = "screen and (prefers-color-scheme: dark)"
_DARK_COLOURS = """
:root {
  color-scheme: dark;
  --jp-mirror-editor-comment-color: #8abcbc;
  --jp-mirror-editor-operator-color: #c99aff;
  --jp-mirror-editor-number-color: #7ccf7c;
  --jp-cell-inprompt-font-color: #8fb8dc;
  --jp-cell-outprompt-font-color: #e8a37c;
}
"""


def page(notebook: NotebookNode, *, title: str, neighbours: Sequence[tuple[str, str]] = ()) -> str:
    """A notebook as one HTML file; plotly's script is embedded once.

    The code of cells with the tag ``check`` is left out, as JupyterLab hides it: it may hold the
    answer of an exercise. What they print is shown.

    Args:
        notebook: from ``nbformat``; it is not changed.
        title: of the page.
        neighbours: links to other pages, each as its words and its file.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    drop_theme_styles(notebook)
    drop_widgets(notebook)
    _draw_figures(notebook)
    # embed_images=True would close each <details> right behind its summary: answers would be seen
    hidden = Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {"check"}})
    colours = _DARK_COLOURS + dark_figures() + DARK_STYLE
    template = _PAGE.replace("DARK", _DARK).replace("COLOURS", colours).replace("LAYOUT", _LAYOUT)
    exporter = HTMLExporter(raw_template=template, exclude_anchor_links=True, config=hidden)
    resources = {"metadata": {"name": title}, "neighbours": list(neighbours)}
    html, _ = exporter.from_notebook_node(notebook, resources=resources)
    return adaptive(html)


def outputs_with(notebook: NotebookNode, mime: str) -> list[NotebookNode]:
    """The outputs of a notebook that have data of one kind, in order."""
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    ]


def drop_theme_styles(notebook: NotebookNode) -> None:
    """Take out the style sheets that stand before figures: only a live notebook needs them."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("data", {}) != {"text/html": FIGURES_IN_NOTEBOOKS}
            ]


def drop_widgets(notebook: NotebookNode) -> None:
    """Take live widgets out, which need a kernel and a network; their HTML stays."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _has_static_part(output)]
    for output in outputs_with(notebook, WIDGET_MIME):
        del output["data"][WIDGET_MIME]


def _has_static_part(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return WIDGET_MIME not in data or "text/html" in data


def _draw_figures(notebook: NotebookNode) -> None:
    import plotly.io

    is_first = True
    for output in outputs_with(notebook, PLOTLY_MIME):
        data = output.data.pop(PLOTLY_MIME)
        output.data.pop(pictures.PNG, None)  # the figure itself is drawn
        parts = {key: data[key] for key in ("data", "layout")}
        figure = plotly.io.from_json(json.dumps(parts))
        drawing = plotly.io.to_html(figure, full_html=False, include_plotlyjs=is_first)
        words = escape(pictures.described(data), quote=True)
        opening = f'<div role="figure" aria-label="{words}" tabindex="0">'
        script = _PRINT_SCRIPT if is_first else ""
        output.data["text/html"] = f"{opening}{drawing}</div>{script}"
        is_first = False
