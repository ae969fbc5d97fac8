"""Figures of a pack: those that a browser fetches parts of are refused."""

from __future__ import annotations

import json

import pytest

from saework import plots
from saework.reproduction.pack_figures import figure_of


def test_a_figure_of_saeworks_comes_back():
    figure = plots.histogram({"a": [1.0, 2.0]}, title="t", x="x")
    assert figure_of(figure.to_json()) == figure


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"layout": {"images": [{"source": "http://x/y.png"}]}}, "images"),
        ({"layout": {"template": {"layout": {"images": [{"source": "//x"}]}}}}, "images"),
        ({"frames": [{"layout": {"images": [{"source": "//x"}]}}]}, "images"),
        ({"data": [{"type": "scattergeo"}]}, "scattergeo"),
        ({"layout": {"mapbox2": {"style": "open-street-map"}}}, "mapbox2"),
    ],
)
def test_a_figure_that_fetches_is_refused(figure, words):
    with pytest.raises(ValueError, match=f"a figure of the pack has {words}, which a browser"):
        figure_of(json.dumps(figure))
