"""Figures of a replay pack, which may come from anybody: none that a browser fetches parts of."""

from __future__ import annotations

import json
import re
from typing import Any

OUTSIDE_TRACES = {
    *("scattergeo", "choropleth", "image"),
    *("scattermap", "choroplethmap", "densitymap"),
    *("scattermapbox", "choroplethmapbox", "densitymapbox"),
}
"""Plotly's traces that a browser fetches maps or pictures for."""
MAPS = re.compile(r"(geo|map|mapbox)\d*")
"""Parts of a plotly layout that a browser fetches maps for."""


def figure_of(content: str) -> Any:
    """A plotly figure that fetches nothing.

    Raises:
        ValueError: for pictures and maps, which a browser would fetch.
    """
    import plotly.io

    from saework.views.figure_style import ThemedFigure

    outside = sorted(_outside_parts(json.loads(content)))
    if outside:
        raise ValueError(
            f"a figure of the pack has {', '.join(outside)}, which a browser fetches from outside; "
            "it was made by hand, and is refused"
        )
    return ThemedFigure(plotly.io.from_json(content))


def _outside_parts(figure: dict[str, Any]) -> set[str]:
    """What a browser would fetch for a figure's JSON: pictures, and maps."""
    layout = figure.get("layout") or {}
    template = layout.get("template") or {}
    frames = figure.get("frames") or []
    found = set()
    for part in (figure, template, *frames):
        part_layout = part.get("layout") or {}
        if part_layout.get("images"):
            found.add("images")
        # plotly's own template has settings of maps, which draw none
        if part is not template:
            found |= {name for name in part_layout if MAPS.fullmatch(name)}
            kinds = {str(trace.get("type")) for trace in part.get("data") or []}
            found |= kinds & OUTSIDE_TRACES
    return found
