"""The one look of all figures: colours, what separates groups without colour, axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import plotly.graph_objects as go

from saework.core.errors import in_words
from saework.views.themes import FIGURES_IN_NOTEBOOKS

Group = TypeVar("Group")

# Okabe and Ito's colours, which look different with every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
# What separates groups on a grey print, in the order of the colours.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "x", "triangle-up", "square", "diamond")
PATTERNS = ("", "/", "x", ".", "-")
INK = "#333333"
FAINT = "#e6e6e6"
GREY = "#666666"
AXIS_GREY = "#888888"
LINE_GREY = "#999999"
WHITE = "#ffffff"
_AXIS_STYLE = {
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": AXIS_GREY,
    "linecolor": AXIS_GREY,
    "showline": True,
    "gridcolor": FAINT,
    "zeroline": False,
    "title": {"standoff": 8},
    "automargin": True,
}
TEMPLATE = {
    "layout": {
        "colorway": COLOURS,
        "font": {"family": "sans-serif", "size": 12, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        "paper_bgcolor": WHITE,
        "plot_bgcolor": WHITE,
        "xaxis": {**_AXIS_STYLE, "showgrid": False},
        "yaxis": _AXIS_STYLE,
        "legend": {"itemwidth": 40},
        "barmode": "overlay",
        "hovermode": "closest",
        "height": 340,
        "margin": {"l": 60, "r": 20, "t": 45, "b": 45},
    }
}
"""The look as plain data, which each figure carries."""


class ThemedFigure(go.Figure):
    """A plotly figure that follows the theme of JupyterLab, VS Code and Colab.

    A figure's colours are part of its data, and the kernel cannot know the reader's theme. So a
    style sheet is shown before the figure.
    """

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({"text/html": FIGURES_IN_NOTEBOOKS}, raw=True)
        super()._ipython_display_()


def with_look(figure: go.Figure, *, title: str, x: str, y: str) -> go.Figure:
    """The figure itself, with its title, the labels of its axes, and ``TEMPLATE``."""
    return figure.update_layout(
        template=TEMPLATE,
        title_text=title,
        xaxis_title_text=x,
        yaxis_title_text=y,
    )


def bar_marker(i: int) -> dict[str, Any]:
    """The marker of group ``i``'s bars: a colour, and a pattern for all groups but the first."""
    marker: dict[str, Any] = {"color": COLOURS[i], "line": {"width": 0}}
    if PATTERNS[i]:
        marker["pattern"] = {
            "shape": PATTERNS[i],
            "fillmode": "overlay",
            "size": 6,
            "solidity": 0.35,
        }
    return marker


def distinguishable(groups: Mapping[str, Group]) -> Iterable[tuple[str, Group]]:
    """Names and groups, if there is a colour for each.

    Raises:
        ValueError: if there are more groups than colours, or no groups by name.
    """
    if not isinstance(groups, Mapping):
        raise ValueError(f"groups is {in_words(groups)}; give a dict, values by name")
    most = len(COLOURS)
    if len(groups) > most:
        raise ValueError(
            f"{len(groups)} groups, but only {most} colours stay apart for all; "
            f"draw {most} or fewer"
        )
    return groups.items()
