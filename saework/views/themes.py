"""What a dark theme changes: figures and heatmaps in notebooks, figures in exported pages."""

from __future__ import annotations

DARK_NOTEBOOKS = (
    ':is(body[data-jp-theme-light="false"],body.vscode-dark,body.vscode-high-contrast,'
    'html[theme="dark"])'
)
"""A dark JupyterLab, VS Code or Colab, as a CSS selector."""
DARK_PAPER = "#111111"
BRIGHTER = 1.6  # of a heatmap's colours: as much as text on them allows (4.5:1, tested)
INK_ON_DARK = "#d8d8d8"
GRID_ON_DARK = "#444444"
_PLOT = ".js-plotly-plot"
# Plotly writes a figure's colours (figure_style.py) into each of its elements.
_FIGURE_RULES = {
    ".main-svg": "background: transparent",
    "rect.bg": "fill-opacity: 0",
    ':is(.infolayer, [class$="tick"]) text': f"fill: {INK_ON_DARK}",
    # hollow points
    '.points [style*="fill: rgb(255, 255, 255)"]': f"fill: {DARK_PAPER}",
    ".gridlayer path": f"stroke: {GRID_ON_DARK}",
    '[style*="stroke: rgb(51, 51, 51)"]': f"stroke: {INK_ON_DARK}",
    '.shapelayer [style*="stroke: rgb(42, 63, 95)"]': "stroke: #9fb3cc",
    '[style*="fill: rgb(51, 51, 51)"]:not(text)': f"fill: {INK_ON_DARK}",
}


def dark_figures(scope: str = "") -> str:
    """CSS that gives plotly figures the colours of a dark page.

    Args:
        scope: a selector of what the figures stand in; by default they stand anywhere.
    """
    rules = []
    for part, declaration in _FIGURE_RULES.items():
        rules.append(f"{scope} {_PLOT} {part} {{ {declaration} !important; }}".strip())
    return "\n".join(rules)


FIGURES_IN_NOTEBOOKS = f"<style>@media screen {{\n{dark_figures(DARK_NOTEBOOKS)}\n}}</style>"
"""What a notebook shows before a figure: nothing to see, and colours where the theme is dark."""
HEATMAPS_IN_NOTEBOOKS = (
    f"@media screen{{{DARK_NOTEBOOKS} .saework-heat [style*=background]"
    f"{{filter:brightness({BRIGHTER})}}}}"
)
"""Without it, weak levels would vanish on a dark page."""
