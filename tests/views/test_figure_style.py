"""The look of the figures: groups that differ on a grey print too, and a template that is data."""

import copy
import json

import pandas as pd
import plotly.graph_objects as go
import pytest

from saework.views import plots
from saework.views.figure_style import (
    COLOURS,
    DASHES,
    PATTERNS,
    SYMBOLS,
    TEMPLATE,
    ThemedFigure,
    bar_marker,
    distinguishable,
    with_look,
)
from saework.views.themes import FIGURES_IN_NOTEBOOKS

LABELS = {"title": "A title", "x": "log10 firing rate", "y": "count"}


@pytest.mark.parametrize("signs", [COLOURS, DASHES, SYMBOLS, PATTERNS])
def test_each_group_has_a_sign_of_its_own(signs):
    assert len(set(signs)) == len(signs) == len(COLOURS)


def test_a_figure_gets_its_labels_and_the_template():
    figure = go.Figure()
    assert with_look(figure, **LABELS) is figure
    layout = figure.layout
    assert layout.title.text == "A title"
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("log10 firing rate", "count")
    assert layout.template.layout.font.size == TEMPLATE["layout"]["font"]["size"]


def test_bars_of_the_first_group_are_plain_and_the_others_have_a_pattern():
    assert bar_marker(0) == {"color": COLOURS[0], "line": {"width": 0}}
    assert bar_marker(1)["pattern"]["shape"] == "/"
    assert bar_marker(1)["color"] == COLOURS[1]


def test_more_groups_than_colours_are_refused():
    groups = {str(i): i for i in range(5)}
    assert list(distinguishable(groups)) == list(groups.items())
    with pytest.raises(ValueError, match="6 groups, but only 5 colours .* draw 5 or fewer"):
        distinguishable(groups | {"one more": 0})


def test_the_template_is_plain_data_that_no_call_changes():
    before = copy.deepcopy(TEMPLATE)
    figure = plots.bars([1], [0, 1], **LABELS)
    figure.update_layout(template_layout_height=100)
    assert TEMPLATE == before and json.dumps(before)
    assert plots.bars([1], [0, 1], **LABELS).layout.template.layout.height == 340


def test_in_a_notebook_the_style_of_dark_themes_comes_before_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append((data, raw)))
    monkeypatch.setattr("plotly.io.show", shown.append)
    figure = plots.bars([1], [0, 1], **LABELS)
    figure._ipython_display_()
    assert shown == [({"text/html": FIGURES_IN_NOTEBOOKS}, True), figure]


def test_every_figure_follows_the_theme():
    rates = [[0.1, 0.2], [0.3, 0.1]]
    frame = pd.DataFrame({"difference": [1.0], "low": [0.5], "high": [2.0]}, index=["a"])
    groups = {"a": ([1, 2], [1, 2])}
    figures = [
        plots.histogram({"a": [1.0]}, title="t", x="x"),
        plots.bars([1], [0, 1], **LABELS),
        plots.scatter(groups, **LABELS),
        plots.line(groups, **LABELS),
        plots.sorted_rates(rates, [0, 1], title="t", floor=1e-3),
        plots.histories({"a": rates}, [0, 1], title="t"),
        plots.differences({"loss": frame}, title="t", y="variant"),
    ]
    drawing = [name for name in vars(plots) if callable(vars(plots)[name]) and name.islower()]
    own = [name for name in drawing if vars(plots)[name].__module__ == plots.__name__]
    assert len([name for name in own if not name.startswith("_")]) == len(figures)
    for figure in figures:
        assert type(figure) is type(copy.deepcopy(figure)) is ThemedFigure
