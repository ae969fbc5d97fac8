"""The look of the figures: groups that differ on a grey print too, and a template that is data."""

import copy
import json

import plotly.graph_objects as go
import pytest

from saework.views import plots
from saework.views.figure_style import (
    COLOURS,
    DASHES,
    PATTERNS,
    SYMBOLS,
    TEMPLATE,
    bar_marker,
    distinguishable,
    with_look,
)

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
