"""Numbers to plotly figures: labelled axes with units, one quiet look, and nothing that colour alone tells.

The look is ``TEMPLATE``, plain data that each figure carries; plotly's own default stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

# Okabe and Ito's colours, which stay apart for every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
# What tells groups apart on a grey print, in the order of the colours.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "x", "triangle-up", "square", "diamond")
PATTERNS = ("", "/", "x", ".", "-")
INK, FAINT = "#333333", "#e6e6e6"
_AXIS = {
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#888888",
    "linecolor": "#888888",
    "showline": True,
}
_AXIS |= {"gridcolor": FAINT, "zeroline": False, "title": {"standoff": 8}, "automargin": True}
TEMPLATE = {
    "layout": {
        "colorway": COLOURS,
        "font": {"family": "sans-serif", "size": 12, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "xaxis": {**_AXIS, "showgrid": False},
        "yaxis": _AXIS,
        "legend": {"itemwidth": 40},
        "barmode": "overlay",
        "hovermode": "closest",
        "height": 340,
        "margin": {"l": 60, "r": 20, "t": 45, "b": 45},
    }
}
"""The one look of all figures, as data."""


def histogram(
    groups: Mapping[str, object],
    *,
    title: str,
    x: str,
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    percent: bool = True,
) -> go.Figure:
    """Histograms over one another, each as a share of its own group.

    Args:
        groups: values by name; values that are not finite are left out.
        x: the axis label, with its unit.
        limits: of the x axis; by default those of the values.
        percent: share of the group; otherwise counts.
    """
    values = {name: _finite(group) for name, group in groups.items()}
    everything = np.concatenate([[], *values.values()])
    if not len(everything):
        raise ValueError("there are no finite values to draw; give at least one")
    low, high = limits or (everything.min(), everything.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    figure = go.Figure()
    for i, (name, group) in enumerate(_few(values)):
        heights = np.histogram(group, edges)[0]
        shown = 100 * heights / max(1, len(group)) if percent else heights
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=shown,
            width=np.diff(edges),
            name=f"{name} ({len(group):,})",
            marker=_filled(i),
            opacity=0.65 if len(values) > 1 else 1,
        )
    return _quiet(figure, title=title, x=x, y="percent of group" if percent else "count")


def bars(heights, edges, *, title: str, x: str, y: str = "count") -> go.Figure:
    """Bars of given heights between given edges (a histogram that was counted already)."""
    heights, edges = np.asarray(heights), np.asarray(edges)
    figure = go.Figure(
        go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=heights, width=np.diff(edges), marker=_filled(0))
    )
    return _quiet(figure, title=title, x=x, y=y)


def scatter(
    groups: Mapping[str, tuple], *, title: str, x: str, y: str, log_x: bool = False
) -> go.Figure:
    """Points by group: ``{name: (x values, y values)}``."""
    figure = go.Figure()
    for i, (name, (xs, ys)) in enumerate(_few(groups)):
        marker = {"color": COLOURS[i], "symbol": SYMBOLS[i], "size": 6, "opacity": 0.5}
        figure.add_scattergl(
            x=np.asarray(xs), y=np.asarray(ys), mode="markers", name=name, marker=marker
        )
    _quiet(figure, title=title, x=x, y=y).update_layout(legend_itemsizing="constant")
    return figure.update_xaxes(type="log") if log_x else figure


def line(groups: Mapping[str, tuple], *, title: str, x: str, y: str) -> go.Figure:
    """Lines by group: ``{name: (x values, y values)}``."""
    figure = go.Figure()
    for i, (name, (xs, ys)) in enumerate(_few(groups)):
        look = {
            "line": {"color": COLOURS[i], "dash": DASHES[i]},
            "marker": {"symbol": SYMBOLS[i], "size": 7},
        }
        figure.add_scatter(
            x=np.asarray(xs), y=np.asarray(ys), mode="lines+markers", name=name, **look
        )
    return _quiet(figure, title=title, x=x, y=y)


def sorted_rates(rates, steps, *, title: str, floor: float) -> go.Figure:
    """Firing rates sorted from high to low on a log axis, one curve a step, and a slider over the steps.

    Args: ``rates`` ``[steps, d_sae]``: fractions of tokens; those below ``floor`` are drawn there. ``steps``: what each row is called.
    """
    curves = np.sort(np.maximum(np.asarray(rates, dtype=float), floor), axis=1)[:, ::-1]
    figure = go.Figure()
    for i, curve in enumerate(curves):
        last = i == len(curves) - 1
        figure.add_scatter(
            x=np.arange(len(curve)),
            y=curve,
            mode="lines",
            line={"color": COLOURS[0]},
            visible=last,
            showlegend=False,
        )
    moves = [
        {
            "label": str(int(step)),
            "method": "restyle",
            "args": ["visible", [i == j for j in range(len(curves))]],
        }
        for i, step in enumerate(steps)
    ]
    figure.update_layout(
        sliders=[
            {
                "steps": moves,
                "active": len(moves) - 1,
                "currentvalue": {"prefix": "step "},
                "pad": {"t": 40},
            }
        ]
    )
    _quiet(figure, title=title, x="rank of the feature", y="firing rate (fraction of tokens)")
    return figure.update_yaxes(type="log", range=[np.log10(floor), 0.05], dtick=1).update_layout(
        height=420
    )


def histories(groups: Mapping[str, object], steps, *, marks=(), title: str) -> go.Figure:
    """Firing rates over training on a log axis: ``{name: rates [steps, features]}``, a colour and a dash a group, a line a feature.

    Args: ``marks``: steps at which a dotted line is drawn. Features that did not fire leave a gap.
    """
    figure = go.Figure()
    for i, (name, rates) in enumerate(_few(groups)):
        look = {
            "mode": "lines",
            "line": {"color": COLOURS[i], "dash": DASHES[i], "width": 1},
            "name": name,
            "legendgroup": name,
        }
        for first, history in enumerate(np.asarray(rates, dtype=float).T):
            figure.add_scatter(
                x=steps, y=np.where(history > 0, history, np.nan), showlegend=first == 0, **look
            )
    for mark in marks:
        figure.add_vline(x=mark, line={"width": 1, "dash": "dot", "color": "#999999"})
    return _quiet(
        figure, title=title, x="training step", y="firing rate (fraction of tokens)"
    ).update_yaxes(type="log", dtick="D2")


def differences(panels: Mapping[str, object], *, title: str, y: str) -> go.Figure:
    """Differences with intervals, a panel a measure, two in a row; hollow where the interval holds 0.

    Args: ``panels``: ``{measure: frame}`` with columns ``difference``, ``low``, ``high``, a row a variant; ``y``: what the rows are.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=-(-len(panels) // 2),
        cols=2,
        shared_yaxes=True,
        vertical_spacing=0.16,
        horizontal_spacing=0.04,
    )
    for i, (measure, frame) in enumerate(panels.items()):
        row, column = divmod(i, 2)
        shown = (frame["low"] > 0) | (frame["high"] < 0)
        bars = {
            "type": "data",
            "array": frame["high"] - frame["difference"],
            "arrayminus": frame["difference"] - frame["low"],
            "color": "#666666",
        }
        marker = {
            "size": 9,
            "color": np.where(shown, COLOURS[1], "#ffffff"),
            "line": {"width": 1.5, "color": np.where(shown, COLOURS[1], "#666666")},
        }
        points = go.Scatter(
            x=frame["difference"],
            y=frame.index,
            mode="markers",
            error_x=bars,
            marker=marker,
            showlegend=False,
        )
        figure.add_trace(points, row=row + 1, col=column + 1)
        figure.add_vline(x=0, line={"width": 1, "color": "#999999"}, row=row + 1, col=column + 1)
        figure.update_xaxes(title_text=measure, row=row + 1, col=column + 1)
    _quiet(figure, title=title, x=next(iter(panels)), y=y)
    return figure.update_yaxes(autorange="reversed").update_layout(
        height=300 * -(-len(panels) // 2), margin={"l": 130}
    )


def _quiet(figure: go.Figure, *, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        template=TEMPLATE, title_text=title, xaxis_title_text=x, yaxis_title_text=y
    )


def _filled(i: int) -> dict:
    """The marker of a bar: colour, a pattern for every group but the first, and an edge that shows where bars overlap."""
    pattern = (
        {"shape": PATTERNS[i], "fillmode": "overlay", "size": 6, "solidity": 0.35}
        if PATTERNS[i]
        else None
    )
    return {"color": COLOURS[i], "line": {"width": 0}, **({"pattern": pattern} if pattern else {})}


def _few(groups: Mapping[str, object]):
    if len(groups) > len(COLOURS):
        raise ValueError(
            f"{len(groups)} groups, but only {len(COLOURS)} colours stay apart for all; draw {len(COLOURS)} or fewer"
        )
    return groups.items()


def _finite(values) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    return values[np.isfinite(values)]
