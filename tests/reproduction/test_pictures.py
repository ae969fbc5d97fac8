"""Figures as PNGs, made smaller, and put into words. Without a browser, drawing is skipped."""

from __future__ import annotations

import base64
import importlib.util
import io
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from saework.reproduction import pictures
from saework.views import plots

GROUPS = {"rare": ([1, 2], [3, 4]), "the rest": ([5], [6])}


def as_data(figure) -> dict:
    return json.loads(figure.to_json())


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


def test_without_a_browser_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    assert pictures.browser() is None
    with pytest.raises(OSError, match="figures cannot be drawn: no Chromium is installed"):
        pictures.drawn([{}])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    install = 'not installed (pip install -c constraints.txt -e ".[test]")'
    assert pictures.missing() == f"Kaleido and Pillow {install}"
    assert pictures.missing({"playwright": "Playwright"}) == f"Playwright {install}"


def test_nothing_to_draw_needs_no_browser(monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    assert pictures.drawn([]) == []


@pytest.mark.skipif(pictures.missing() is not None, reason=str(pictures.missing()))
def test_figures_are_drawn_each_as_itself_and_nothing_is_fetched(monkeypatch):
    for name in ("http_proxy", "https_proxy"):  # where a request would fail at once
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    heights = (None, 200)
    figures = [as_data(go.Figure(go.Bar(x=[1], y=[2]), layout={"height": h})) for h in heights]
    red = as_data(go.Figure(go.Bar(x=[1], y=[2], marker={"color": "rgb(250, 0, 0)"})))
    images = [
        Image.open(io.BytesIO(base64.b64decode(png))) for png in pictures.drawn([*figures, red])
    ]
    assert [image.size for image in images] == [(700, 340), (700, 200), (700, 340)]
    is_red = [(250, 0, 0) in colours_of(image) for image in images]
    assert is_red == [False, False, True]


def colours_of(image) -> set:
    return {colour for _, colour in image.convert("RGB").getcolors()}


@pytest.mark.skipif(pictures.missing() is not None, reason=str(pictures.missing()))
def test_a_figure_that_cannot_be_drawn_is_an_error():
    with pytest.raises(Exception, match="."):
        pictures.drawn([{"data": 1, "layout": {}}])
