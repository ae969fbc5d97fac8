"""Markup of a heatmap: the colour of a token, its value behind it, the scale, the page around."""

from __future__ import annotations

import math
import unicodedata
from html import escape
from pathlib import Path

from saework.core.tokens import NEWLINE, visible
from saework.views.themes import HEATMAPS_IN_NOTEBOOKS

# Blue and a dark vermilion look different with every common colour blindness. They are transparent,
# so that the page's own text is readable on them in light and dark themes (4.5:1, tested).
POSITIVE = "0,114,178"
NEGATIVE = "200,80,0"
# On a dark page weak levels of those would vanish; these are as far from it (tested too).
POSITIVE_ON_DARK = "64,156,222"
NEGATIVE_ON_DARK = "240,130,50"
STRONGEST = 0.55  # the opacity of the largest value
NEGLIGIBLE = 0.005  # share of the maximum: a smaller value has no colour and is not written
THICKEST_BAR_PX = 5  # the bar below a token, for a second value
RIGHT_TO_LEFT = {"R", "AL"}  # Unicode's classes of letters that are written from right to left

_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
ROOT_STYLE = ";".join(
    [
        "position:relative",
        f"font-family:{_FONT}",
        "line-height:1.9",
        "overflow-wrap:anywhere",
        # each line has the direction of its own text, however the lines are mixed
        "unicode-bidi:plaintext",
        "text-align:start",
        "-webkit-print-color-adjust:exact",
        "print-color-adjust:exact",
    ]
)
LEGEND_STYLE = "margin-top:.4em;font-family:system-ui,sans-serif"
MARK_STYLE = "outline:2px solid;outline-offset:1px"
# The style sheet goes into every heatmap of a notebook, so it is stored there without line ends.
_CSS_FILE = Path(__file__).with_name("heatmap.css")
_CSS_LINES = _CSS_FILE.read_text(encoding="utf-8").splitlines()
HEATMAP_STYLE = "".join(map(str.strip, _CSS_LINES)) + HEATMAPS_IN_NOTEBOOKS
"""The style sheet. A page needs it once in its head for heatmaps of ``html(style=False)``."""
_PAGE_STYLE = (
    "@media screen{:root{color-scheme:light dark}}"  # on paper it is light
    ":root{background:Canvas;color:CanvasText}"
    "body{margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "h1{font:600 1.1rem system-ui,sans-serif}"
)


DARK_STYLE = (
    "@media screen and (prefers-color-scheme:dark){:root{"
    f"--saework-positive:{POSITIVE_ON_DARK};--saework-negative:{NEGATIVE_ON_DARK}"
    "}}"
)
"""For a page whose heatmaps are ``adaptive``: brighter colours where the reader's theme is dark."""


def adaptive(html: str) -> str:
    """Heatmaps of HTML in colours that ``DARK_STYLE`` changes.

    A notebook stores them in plain colours, since JupyterLab's theme is not that of the browser.
    """
    for name, colour in {"positive": POSITIVE, "negative": NEGATIVE}.items():
        # With "background", so that no figure's data is changed.
        plain = f"background:rgba({colour},"
        html = html.replace(plain, f"background:rgba(var(--saework-{name},{colour}),")
    return html


def number_text(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}"


def escaped_label(label: str) -> str:
    """A label as HTML in which nothing is hidden; its spaces stay spaces."""
    words = map(visible, label.split(" "))
    return escape(" ".join(words))


def text_with_value(token: str, value: str) -> str:
    """A token as visible text, its value behind it."""
    lines = map(visible, token.split("\n"))
    return _joined_lines(list(lines), "\n", value)


def html_with_value(token: str, value: str) -> str:
    """A token as escaped HTML, its value (HTML) behind it."""
    lines = map(visible, token.split("\n"))
    escaped = map(escape, lines)
    return _joined_lines(list(escaped), "<br>", value)


def _joined_lines(lines: list[str], line_break: str, value: str) -> str:
    """The lines of a token, the value behind the last one that is not empty."""
    line_end = NEWLINE + line_break
    after = value
    ends_with_a_break = len(lines) > 1 and not lines[-1]
    if ends_with_a_break:
        # the value stays on the line of its token: before the final break
        lines = lines[:-1]
        after = NEWLINE + value + line_break
    return line_end.join(lines) + after


def token_style(max_value: float, value: float, second: float = 0.0) -> list[str]:
    """The CSS declarations that show one token's value, and its second value."""
    declarations = []
    strength = min(1.0, abs(value) / max_value)
    if strength >= NEGLIGIBLE:
        opacity = f"{STRONGEST * strength:.2f}".lstrip("0")
        colour = POSITIVE if value > 0 else NEGATIVE
        declarations.append(f"background:rgba({colour},{opacity})")
        if value < 0:
            declarations.append("border-top:1px dashed")
    if abs(second) >= NEGLIGIBLE * max_value:
        strength = min(1.0, abs(second) / max_value)
        thickness = math.ceil(THICKEST_BAR_PX * strength)
        line = "solid" if second > 0 else "dashed"
        declarations.append(f"border-bottom:{thickness}px {line}")
    return declarations


def style_attribute(declarations: list[str]) -> str:
    """The attribute of these CSS declarations, with a space before it; empty without any."""
    if not declarations:
        return ""
    style = ";".join(declarations)
    return f' style="{style}"'


def swatch(value: float, max_value: float) -> str:
    """A value in its own colour, for the scale."""
    declarations = ["padding:0 .6em"]
    declarations += token_style(max_value, value)
    style = style_attribute(declarations)
    return f"<span{style}>{number_text(value)}</span>"


def is_right_to_left(text: str) -> bool:
    """Whether text holds a letter that is written from right to left."""
    directions = map(unicodedata.bidirectional, text)
    return not RIGHT_TO_LEFT.isdisjoint(directions)


def page(title: str, body: str) -> str:
    """A whole HTML page around heatmaps that have no style sheet of their own."""
    title = escape(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>{_PAGE_STYLE}
{HEATMAP_STYLE}
{DARK_STYLE}</style>
</head><body><main>
<h1>{title}</h1>
{adaptive(body)}
</main></body></html>
"""
