"""An executed notebook as one HTML file that refers to nothing outside."""

from __future__ import annotations

import json
from html import escape

import nbformat

from saework.reproduction import pictures

PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}{{ super() }}<style>
:root { --jp-cell-prompt-not-active-opacity: 1; --jp-cell-inprompt-font-color: #2a5d84; --jp-cell-outprompt-font-color: #9c4221;
  --jp-mirror-editor-comment-color: #2f6f6f; --jp-mirror-editor-number-color: #1d6b1d; --jp-mirror-editor-operator-color: #8a00d4; }
</style>{%- endblock -%}"""


def page(notebook, *, title: str) -> str:
    """A notebook as one HTML file that refers to nothing outside; plotly's script is embedded once."""
    from nbconvert import HTMLExporter

    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    _drop_widgets(notebook)
    _draw_figures(notebook)
    exporter = HTMLExporter(raw_template=_PAGE, embed_images=True, exclude_anchor_links=True)
    return exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})[0]


def _drop_widgets(notebook) -> None:
    """Live widgets need a kernel, and their renderer a network; what they hold in HTML stays."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _is_static(output)]


def _is_static(output) -> bool:
    """Whether something is left of an output when its live view is taken out (which it is)."""
    live = output.get("data", {}).pop(WIDGET_MIME, None)
    return live is None or "text/html" in output["data"]


def _draw_figures(notebook) -> None:
    import plotly.io

    script = True
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        figure = output.get("data", {}).pop(PLOTLY_MIME, None)
        if figure:
            output.data.pop(pictures.PNG, None)  # the figure itself is drawn
            words = escape(pictures.described(figure), quote=True)
            figure = plotly.io.from_json(
                json.dumps({key: figure[key] for key in ("data", "layout")})
            )
            drawing = plotly.io.to_html(figure, full_html=False, include_plotlyjs=script)
            output.data["text/html"] = f'<div role="figure" aria-label="{words}">{drawing}</div>'
            script = False
