"""Figures as PNGs. What needs a browser is skipped without one; the rest says how a picture is made smaller and put into words."""

from __future__ import annotations

import base64
import importlib.util
import io
import json

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from saework.reproduction import pictures
from saework.reproduction.html import PLOTLY_MIME, page
from saework.reproduction.record import add_pictures, figures_in, record
from saework.views import plots

GROUPS = {"rare": ([1, 2], [3, 4]), "the rest": ([5], [6])}


def as_data(figure) -> dict:
    return json.loads(figure.to_json())


def recorded(figure):
    """A notebook as the recording command has it before it draws."""
    output = nbformat.v4.new_output(
        "display_data", data={PLOTLY_MIME: as_data(figure), "text/plain": "figure"}
    )
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output])]
    )


def test_a_figure_in_words():
    words = pictures.described(as_data(plots.line(GROUPS, title="Loss", x="step", y="loss (nats)")))
    assert words == "Loss; x: step; y: loss (nats); groups: rare, the rest"
    assert pictures.described(as_data(go.Figure(go.Bar(x=[1], y=[2])))) == "A figure"
    assert pictures.described({"data": [], "layout": {"title": "Short"}}) == "Short"


def test_no_colour_is_lost_in_a_smaller_picture():
    pixels = np.full((200, 700, 3), 255, dtype=np.uint8)
    pixels[50:150, 100:] = np.random.default_rng(0).integers(
        (0, 120, 80), (40, 200, 140), (100, 600, 3)
    )  # many greens
    pixels[10:13, 10:13] = (0, 114, 178)  # and one blue point
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    small = pictures.smaller(png.getvalue())
    assert len(small) < len(png.getvalue()) / 2
    seen = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert abs(seen[11, 11] - (0, 114, 178)).max() < 25 and (seen[0, 0] >= 254).all()


def test_no_browser_is_said_and_the_rest_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    monkeypatch.setattr("saework.reproduction.record.execute", lambda source, target: None)
    path = tmp_path / "one.ipynb"
    notebook = recorded(plots.line(GROUPS, title="Loss", x="step", y="loss (nats)"))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Title?"))
    nbformat.write(notebook, path)
    said = []
    record(path, repository=None, say=said.append)
    assert said == [
        "one.ipynb: its figures got no picture, so GitHub will show none: no Chromium is installed (on Debian and Ubuntu: apt install chromium)"
    ]
    assert figures_in(nbformat.read(path, as_version=4))
    with pytest.raises(OSError, match="figures cannot be drawn: no Chromium is installed"):
        pictures.drawn([{}])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (
        pictures.missing()
        == 'Playwright and Pillow not installed (pip install -c constraints.txt -e ".[test]")'
    )


def test_nothing_to_draw_needs_no_browser(monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    assert pictures.drawn([]) == []


@pytest.mark.skipif(pictures.missing() is not None, reason=str(pictures.missing()))
def test_a_recorded_figure_has_a_picture_and_a_page_shows_it_once():
    notebook = recorded(plots.scatter(GROUPS, title="Rates", x="rate", y="cosine"))
    add_pictures(notebook)
    (output,) = figures_in(notebook)
    picture = base64.b64decode(output.data["image/png"])
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (700, 340) and len(picture) < 60_000
        colours = {colour for _, colour in image.convert("RGB").getcolors()}
    assert len(colours) > 20, "the figure is blank"
    assert output.metadata == {
        "image/png": {"alt": "Rates; x: rate; y: cosine; groups: rare, the rest"}
    }
    nbformat.validate(notebook)
    html = page(notebook, title="one")
    assert output.data["image/png"].strip() not in html and html.count('role="figure"') == 1
    assert 'aria-label="Rates; x: rate; y: cosine; groups: rare, the rest"' in html
