"""Numbers as plotly figures, with labelled axes and units.

Groups differ by more than their colour. Plotly's own default style does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from saework.core.argument_kinds import is_number
from saework.core.arguments import check_positive
from saework.core.arrays import as_array
from saework.core.errors import in_words
from saework.views.figure_data import by_step, centres, checked_limits, finite, log_ticks, points
from saework.views.figure_style import (
    COLOURS,
    DASHES,
    GREY,
    LINE_GREY,
    SYMBOLS,
    WHITE,
    ThemedFigure,
    bar_marker,
    distinguishable,
    with_look,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

TALL_PX = 420
PANEL_ROW_PX = 300
MANY = 100_000
DIFFERENCE_COLUMNS = ("difference", "low", "high")
RATE_AXIS = "firing rate (fraction of tokens)"


def histogram(
    groups: Mapping[str, ArrayLike],
    *,
    title: str,
    x: str,
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    percent: bool = True,
    outline: bool = False,
) -> go.Figure:
    """Histograms over one another, each as a share of its own group.

    Args:
        groups: values by name. Values that are not finite are left out.
        title: the figure's title.
        x: the label of the x axis, with its unit.
        bins: how many bars.
        limits: of the x axis; by default those of the values.
        percent: share of the group in per cent; otherwise counts.
        outline: lines in place of filled bars, for groups that overlap.

    Raises:
        ValueError: if there is no finite value, or more groups than colours; for limits that are no
            two finite numbers, the lower one first.
    """
    values = {name: finite(group) for name, group in distinguishable(groups)}
    all_values = np.concatenate([[], *values.values()])
    if not len(all_values):
        raise ValueError("there are no finite values to draw; give at least one")
    check_positive(bins, "bins")
    low, high = checked_limits(limits) or (all_values.min(), all_values.max())
    if high <= low:
        high = low + 1
    edges = np.linspace(low, high, bins + 1)
    figure = ThemedFigure()
    for i, (name, group) in enumerate(values.items()):
        heights = np.histogram(group, edges)[0]
        if percent:
            heights = 100 * heights / max(1, len(group))
        label = f"{name} ({len(group):,})"
        if outline:
            figure.add_trace(_outline(heights, edges, label, i))
            continue
        figure.add_bar(
            x=centres(edges),
            y=heights,
            width=np.diff(edges),
            name=label,
            marker=bar_marker(i),
            opacity=0.65 if len(values) > 1 else 1,
        )
    y = "percent of group" if percent else "count"
    return with_look(figure, title=title, x=x, y=y)


def bars(
    heights: ArrayLike, edges: ArrayLike, *, title: str, x: str, y: str = "count"
) -> go.Figure:
    """Bars of given heights between given edges: a histogram that was counted before.

    Args:
        heights: one per bar.
        edges: of the bars, one more than heights.
        title: the figure's title.
        x: the label of the x axis, with its unit.
        y: the label of the y axis.

    Raises:
        ValueError: there is not one edge more than heights.
    """
    edges, heights = as_array(edges, dtype=float), as_array(heights, dtype=float)
    if edges.shape != (heights.size + 1,) or heights.ndim != 1:
        raise ValueError(
            f"edges have shape {edges.shape} and heights {heights.shape}; "
            "give one edge more than heights"
        )
    bar = go.Bar(
        x=centres(edges),
        y=heights,
        width=np.diff(edges),
        marker=bar_marker(0),
    )
    return with_look(ThemedFigure(bar), title=title, x=x, y=y)


def scatter(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = False,
) -> go.Figure:
    """Points by group.

    Args:
        groups: ``{name: (x values, y values)}``.
        title: the figure's title.
        x: the label of the x axis, with its unit.
        y: the label of the y axis, with its unit.
        log_x: whether the x axis is logarithmic.

    Raises:
        ValueError: if there are more groups than colours, or a group has not as many x as y.
    """
    figure = ThemedFigure()
    for i, (name, group) in enumerate(distinguishable(groups)):
        xs, ys = points(group, name)
        marker = {"color": COLOURS[i], "symbol": SYMBOLS[i], "size": 6, "opacity": 0.5}
        figure.add_scattergl(
            x=xs,
            y=ys,
            mode="markers",
            name=name,
            marker=marker,
        )
    with_look(figure, title=title, x=x, y=y)
    figure.update_layout(legend_itemsizing="constant")
    if log_x:
        figure.update_xaxes(type="log")
    return figure


def line(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = False,
) -> go.Figure:
    """Lines by group, with a symbol at each point.

    Args:
        groups: ``{name: (x values, y values)}``.
        title: the figure's title.
        x: the label of the x axis, with its unit.
        y: the label of the y axis, with its unit.
        log_x: whether the x axis is logarithmic, with ticks at 1, 2 and 5 (or at powers of ten,
            where it covers three decades or more).

    Raises:
        ValueError: if there are more groups than colours, or a group has not as many x as y.
    """
    figure = ThemedFigure()
    for i, (name, group) in enumerate(distinguishable(groups)):
        xs, ys = points(group, name)
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[i], "dash": DASHES[i]},
            marker={"symbol": SYMBOLS[i], "size": 7},
        )
    with_look(figure, title=title, x=x, y=y)
    if log_x:
        ticks = log_ticks([trace.x for trace in figure.data])
        labels = [f"{tick:,g}" if tick < MANY else f"{tick:,.0f}" for tick in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=labels)
    return figure


def sorted_rates(rates: ArrayLike, steps: Sequence[int], *, title: str, floor: float) -> go.Figure:
    """Firing rates from high to low on a log axis: one curve per step, and a slider over steps.

    Args:
        rates: fractions of tokens, ``[step, d_sae]``.
        steps: the training step of each row.
        title: the figure's title.
        floor: a rate below this is drawn at this height.

    Raises:
        ValueError: for rates and steps that do not fit, or a floor that is not above 0.
    """
    rates = by_step(rates, steps, "rates")
    if not is_number(floor) or not 0 < floor < 1:
        raise ValueError(f"floor is {in_words(floor)}; give a rate above 0, such as 1e-6")
    floored = np.maximum(rates, floor)
    curves = np.sort(floored, axis=1)[:, ::-1]
    last = len(curves) - 1
    figure = ThemedFigure()
    for i, curve in enumerate(curves):
        figure.add_scatter(
            x=np.arange(len(curve)),
            y=curve,
            mode="lines",
            line={"color": COLOURS[0]},
            visible=i == last,
            showlegend=False,
        )
    slider_steps = []
    for i, step in enumerate(steps):
        # at this place of the slider only curve i is visible
        visible = [i == j for j in range(len(curves))]
        slider_steps.append(
            {
                "label": str(int(step)),
                "method": "restyle",
                "args": ["visible", visible],
            }
        )
    slider = {
        "steps": slider_steps,
        "active": len(slider_steps) - 1,
        "currentvalue": {"prefix": "step "},
        "pad": {"t": 40},
    }
    figure.update_layout(sliders=[slider])
    with_look(figure, title=title, x="rank of the feature", y=RATE_AXIS)
    figure.update_yaxes(
        type="log",
        range=[np.log10(floor), 0.05],
        dtick=1,
    )
    return figure.update_layout(height=TALL_PX)


def histories(
    groups: Mapping[str, ArrayLike],
    steps: ArrayLike,
    *,
    marks: Iterable[float] = (),
    title: str,
) -> go.Figure:
    """Firing rates over training on a log axis: one line per feature, one colour per group.

    Args:
        groups: fractions of tokens, ``{name: rates [step, feature]}``. A rate of zero is a gap.
        steps: the training step of each row.
        marks: steps at which a dotted vertical line is drawn.
        title: the figure's title.

    Raises:
        ValueError: if there are more groups than colours.
    """
    steps = as_array(steps)
    figure = ThemedFigure()
    for i, (name, rates) in enumerate(distinguishable(groups)):
        for feature, history in enumerate(by_step(rates, steps, f"group {name!r}").T):
            figure.add_scatter(
                x=steps,
                y=np.where(history > 0, history, np.nan),
                mode="lines",
                line={"color": COLOURS[i], "dash": DASHES[i], "width": 1},
                name=name,
                legendgroup=name,
                showlegend=feature == 0,  # once per group
            )
    for mark in marks:
        dotted = {"width": 1, "dash": "dot", "color": LINE_GREY}
        figure.add_vline(x=mark, line=dotted)
    with_look(figure, title=title, x="training step", y=RATE_AXIS)
    return figure.update_yaxes(type="log", dtick="D2")


def differences(panels: Mapping[str, pd.DataFrame], *, title: str, y: str) -> go.Figure:
    """Differences with intervals: one panel per measure; hollow where the interval contains 0.

    Args:
        panels: ``{measure: frame}`` with columns ``difference``, ``low`` and ``high``, and one row
            per variant.
        title: the figure's title.
        y: what the rows are.

    Raises:
        ValueError: if there is no panel, or a column is missing.
    """
    from plotly.subplots import make_subplots

    for measure, frame in panels.items():
        lacking = [name for name in DIFFERENCE_COLUMNS if name not in frame]
        if lacking:
            raise ValueError(f"the panel {measure!r} lacks {', '.join(lacking)}")
    if not panels:
        raise ValueError("there are no panels to draw; give at least one")
    n_rows = -(-len(panels) // 2)  # two panels in a row, rounded up
    figure = make_subplots(
        rows=n_rows,
        cols=2,
        shared_yaxes=True,
        vertical_spacing=0.16,
        horizontal_spacing=0.04,
        figure=ThemedFigure(),
    )
    for i, (measure, frame) in enumerate(panels.items()):
        row, column = divmod(i, 2)
        panel = {"row": row + 1, "col": column + 1}  # plotly counts from 1
        figure.add_trace(_interval_points(frame), **panel)
        zero_line = {"width": 1, "color": LINE_GREY}
        figure.add_vline(x=0, line=zero_line, **panel)
        figure.update_xaxes(title_text=measure, **panel)
    first_measure = next(iter(panels))
    with_look(figure, title=title, x=first_measure, y=y)
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(height=PANEL_ROW_PX * n_rows, margin={"l": 130})


def _interval_points(frame: pd.DataFrame) -> go.Scatter:
    """Each difference as a point with its interval; filled if the interval leaves out 0."""
    difference = frame["difference"]
    leaves_out_zero = (frame["low"] > 0) | (frame["high"] < 0)
    interval = {
        "type": "data",
        "array": frame["high"] - difference,
        "arrayminus": difference - frame["low"],
        "color": GREY,
    }
    marker = {
        "size": 9,
        "color": np.where(leaves_out_zero, COLOURS[1], WHITE),
        "line": {"width": 1.5, "color": np.where(leaves_out_zero, COLOURS[1], GREY)},
    }
    return go.Scatter(
        x=difference,
        y=frame.index,
        mode="markers",
        error_x=interval,
        marker=marker,
        showlegend=False,
    )


def _outline(heights: np.ndarray, edges: np.ndarray, name: str, i: int) -> go.Scatter:
    """A histogram as a line of steps from the axis and back to it."""
    return go.Scatter(
        x=np.repeat(edges, 2),
        y=np.concatenate([[0], np.repeat(heights, 2), [0]]),
        mode="lines",
        name=name,
        line={"color": COLOURS[i], "dash": DASHES[i], "width": 2},
    )
