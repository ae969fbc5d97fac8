"""Figures: the numbers that went in come out, and the axes say what they are."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from saework.views import plots
from saework.views.figure_style import COLOURS

LABELS = {"title": "A title", "x": "log10 firing rate", "y": "count"}


def axes(figure):
    layout = figure.layout
    return layout.title.text, layout.xaxis.title.text, layout.yaxis.title.text


def test_histogram_gives_each_group_as_its_own_share():
    groups = {"rare": [0.1, 0.2, 0.9], "rest": np.array([[0.1], [float("nan")]])}
    figure = plots.histogram(groups, title="A title", x="cosine", bins=2, limits=(0, 1))
    rare, rest = figure.data
    assert rare.y == pytest.approx([200 / 3, 100 / 3]) and rest.y == pytest.approx([100, 0])
    assert rare.x == pytest.approx([0.25, 0.75])
    assert (rare.name, rest.name) == ("rare (3)", "rest (1)")
    assert axes(figure) == ("A title", "cosine", "percent of group")


def test_histogram_counts():
    figure = plots.histogram({"all": range(10)}, title="", x="", bins=3, percent=False)
    assert list(figure.data[0].y) == [3, 3, 4] and sum(figure.data[0].width) == pytest.approx(9)
    assert figure.layout.yaxis.title.text == "count"


def test_an_outline_has_the_heights_of_the_bars():
    values = {"all": [0.1, 0.2, 0.9]}
    figure = plots.histogram(values, title="", x="", bins=2, limits=(0, 1), outline=True)
    (steps,) = figure.data
    assert isinstance(steps, go.Scatter) and steps.name == "all (3)"
    assert list(steps.x) == [0, 0, 0.5, 0.5, 1, 1]
    assert list(steps.y) == pytest.approx([0, 200 / 3, 200 / 3, 100 / 3, 100 / 3, 0])


def test_histogram_of_one_value():
    assert sum(plots.histogram({"all": [5.0]}, title="", x="").data[0].y) == 100


@pytest.mark.parametrize("groups", [{}, {"none": []}, {"none": [float("nan"), float("inf")]}])
def test_histogram_of_nothing(groups):
    with pytest.raises(ValueError, match="no finite values to draw; give at least one"):
        plots.histogram(groups, title="", x="")


def test_bars_stand_between_their_edges():
    figure = plots.bars([4, 5], [0, 1, 3], **LABELS)
    (bar,) = figure.data
    assert (list(bar.x), list(bar.y), list(bar.width)) == ([0.5, 2], [4, 5], [1, 2])
    assert axes(figure) == ("A title", "log10 firing rate", "count")


@pytest.mark.parametrize("draw, kind", [(plots.scatter, go.Scattergl), (plots.line, go.Scatter)])
def test_points_and_lines_by_group(draw, kind):
    figure = draw({"run1": ([1, 2], [3, 4]), "run2": ([5], [6])}, **LABELS)
    assert [type(trace) for trace in figure.data] == [kind, kind]
    assert [(t.name, list(t.x), list(t.y)) for t in figure.data] == [
        ("run1", [1, 2], [3, 4]),
        ("run2", [5], [6]),
    ]
    assert axes(figure) == ("A title", "log10 firing rate", "count")


@pytest.mark.parametrize(
    "xs, ticks",
    [
        ([9, 52], [1, 2, 5, 10, 20, 50, 100, 200, 500]),
        ([0, 1000, 1e7], [1e3, 1e4, 1e5, 1e6, 1e7]),
    ],
)
def test_line_can_have_a_log_axis_with_readable_ticks(xs, ticks):
    figure = plots.line({"a": (xs, xs)}, **LABELS, log_x=True)
    axis = figure.layout.xaxis
    assert axis.type == "log" and list(axis.tickvals) == ticks
    assert axis.ticktext[-1] == f"{ticks[-1]:,.0f}"
    assert plots.line({"a": (xs, xs)}, **LABELS).layout.xaxis.type is None


def test_scatter_can_have_a_log_axis():
    assert plots.scatter({"a": ([1], [1])}, **LABELS, log_x=True).layout.xaxis.type == "log"
    assert plots.scatter({"a": ([1], [1])}, **LABELS).layout.xaxis.type is None


@pytest.mark.parametrize("draw", [plots.scatter, plots.line])
def test_no_group_is_dropped_for_want_of_a_colour(draw):
    group = ([1], [1])
    assert len(draw({str(i): group for i in range(5)}, **LABELS).data) == 5
    with pytest.raises(
        ValueError, match="6 groups, but only 5 colours stay apart for all; draw 5 or fewer"
    ):
        draw({str(i): group for i in range(6)}, **LABELS)


def test_drawing_sets_no_global_style():
    import plotly.io

    before = plotly.io.templates.default
    plots.bars([1], [0, 1], **LABELS)
    assert plotly.io.templates.default == before


def test_sorted_rates_are_sorted_floored_and_have_a_step_each():
    figure = plots.sorted_rates(
        [[0.1, 0.0, 0.5], [0.2, 0.3, 0.4]], [10, 20], title="A title", floor=1e-3
    )
    assert figure.data[0].y == pytest.approx([0.5, 0.1, 1e-3]) and figure.data[
        1
    ].y == pytest.approx([0.4, 0.3, 0.2])
    assert [curve.visible for curve in figure.data] == [False, True]
    first, second = figure.layout.sliders[0].steps
    assert (first.label, second.label) == ("10", "20") and list(first.args[1]) == [True, False]
    assert figure.layout.yaxis.type == "log" and axes(figure) == (
        "A title",
        "rank of the feature",
        "firing rate (fraction of tokens)",
    )


def test_histories_have_a_line_a_feature_and_mark_the_steps():
    figure = plots.histories(
        {"most": [[0.5, 0.4], [0.6, 0.0]], "least": [[0.1], [0.2]]},
        [1, 2],
        marks=[1.5],
        title="A title",
    )
    assert [line.name for line in figure.data] == ["most", "most", "least"] and figure.data[
        0
    ].y == pytest.approx([0.5, 0.6])
    assert np.isnan(figure.data[1].y[1]) and figure.layout.shapes[0].x0 == 1.5
    assert len({line.line.color for line in figure.data}) == 2


def test_differences_are_hollow_where_the_interval_holds_zero():
    import pandas as pd

    frame = pd.DataFrame(
        {"difference": [1.0, 2.0], "low": [-1.0, 1.5], "high": [3.0, 2.5]}, index=["a", "b"]
    )
    figure = plots.differences({"MSE": frame, "L0": frame, "L1": frame}, title="A title", y="run")
    assert len(figure.data) == 3 and list(figure.data[0].marker.color) == [
        "#ffffff",
        COLOURS[1],
    ]
    assert list(figure.data[0].error_x.array) == [2.0, 0.5] and list(
        figure.data[0].error_x.arrayminus
    ) == [2.0, 0.5]
    assert axes(figure) == ("A title", "MSE", "run")


@pytest.mark.parametrize(
    "draw, signs",
    [(plots.line, ("line.dash", "marker.symbol")), (plots.scatter, ("marker.symbol",))],
)
def test_groups_differ_by_more_than_colour(draw, signs):
    figure = draw({str(i): ([1], [1]) for i in range(5)}, **LABELS)
    for name in signs:
        part, key = name.split(".")
        assert len({trace[part][key] for trace in figure.data}) == 5


def test_bars_and_histories_differ_by_more_than_colour():
    figure = plots.histogram({str(i): [1, 2] for i in range(5)}, title="", x="")
    assert len({trace.marker.pattern.shape for trace in figure.data}) == 5
    figure = plots.histories({str(i): [[0.5, 0.4], [0.6, 0.1]] for i in range(5)}, [1, 2], title="")
    assert len({trace.line.dash for trace in figure.data}) == 5


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.histogram([[1]], title="", x=""), "groups is .*; give a dict, values by"),
        (lambda: plots.histogram({"a": [1]}, title="", x="", bins=0), "bins is 0; give a whole"),
        (lambda: plots.bars([1, 2], [1, 2], title="", x=""), "give one edge more than heights"),
        (lambda: plots.sorted_rates([[0.1]], [1], title="", floor=0), "floor is 0; give a rate"),
        (lambda: plots.differences({}, title="", y=""), "there are no panels to draw; give"),
        (
            lambda: plots.differences({"m": pd.DataFrame({"low": [1]})}, title="", y=""),
            "the panel 'm' lacks difference, high",
        ),
    ],
)
def test_what_cannot_be_drawn(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
