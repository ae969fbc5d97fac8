"""Strings and numbers to a heatmap that needs no script: HTML in a notebook, text in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch

from saework.tokens import NEWLINE, visible

# Two ends that stay apart for every common colour blindness (Okabe and Ito's blue and vermilion).
POSITIVE, NEGATIVE = "0,114,178", "213,94,0"
STRONGEST = 0.65  # of opacity, so that text stays readable on a light and on a dark page

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light dark;background:Canvas;color:CanvasText}}body{{margin:2rem auto;max-width:60rem;padding:0 1rem}}</style>
</head><body><main>
<h1 style="font-size:1rem">{title}</h1>
{body}
</main></body></html>
"""


@dataclass(frozen=True)
class TokenHeatmap:
    """Tokens with a value each. Shows itself as HTML in a notebook and as text elsewhere."""

    strings: tuple[str, ...]
    """The tokens, as they came."""
    values: tuple[float, ...]
    """One value a token."""
    max_value: float
    """The size of value that gets the strongest colour."""

    def _repr_html_(self) -> str:
        spans = "".join(self._span(text, value) for text, value in zip(self.strings, self.values))
        return f'<div style="font-family:monospace;line-height:1.7">{spans}<div>{self._legend()}</div></div>'

    def __repr__(self) -> str:
        """The text, with the value in brackets behind each token that is not (nearly) zero."""
        parts = []
        for text, value in zip(self.strings, self.values):
            shown = f"[{value:.3g}]" if abs(value) >= 0.005 * self.max_value and value != 0 else ""
            parts.append(f"{NEWLINE}\n".join(map(visible, text.split("\n"))) + shown)
        return "".join(parts) + f"\n(strongest colour at {self.max_value:.3g})"

    def save(self, path: str | Path) -> Path:
        """Write a self-contained HTML file: no script, no outside reference."""
        path = Path(path)
        path.write_text(_PAGE.format(title="Token heatmap", body=self._repr_html_()), encoding="utf-8")
        return path

    def _span(self, text: str, value: float) -> str:
        title = f"{escape(visible(text), quote=True)}: {value:.3g}"
        shown = f"{NEWLINE}<br>".join(escape(visible(line), quote=True) for line in text.split("\n"))
        return f'<span title="{title}" style="{_style(value, self.max_value)}">{shown}</span>'

    def _legend(self) -> str:
        ends = [-self.max_value, 0.0, self.max_value] if min(self.values) < 0 else [0.0, self.max_value]
        swatches = " ".join(f'<span style="{_style(v, self.max_value)}">{v:.3g}</span>' for v in ends)
        return f"<small>scale: {swatches}</small>"


def token_heatmap(strings: Sequence[str], values, *, max_value: float | None = None) -> TokenHeatmap:
    """Colour tokens by value: blue above zero, vermilion below.

    Args:
        strings: the tokens' text. Anything goes in, and comes out visible and inert.
        values: one number a token; a tensor of any shape is read flat.
        max_value: the size that gets the strongest colour, so that several heatmaps compare;
            by default the largest size here.

    Raises: ValueError if the lengths differ, there is nothing to show, a value is not finite, or
    ``max_value`` is not positive.

    Source: ``create_html`` of the gelu-1l notebook, whose negative values got a broken colour.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().flatten().tolist()
    values = tuple(float(value) for value in values)
    strings = tuple(strings)
    if len(strings) != len(values):
        raise ValueError(f"{len(strings)} strings but {len(values)} values; give one value a string")
    if not strings:
        raise ValueError("there is nothing to show: strings and values are empty; give at least one token")
    if not all(map(math.isfinite, values)):
        raise ValueError("values hold NaN or infinity; a colour needs finite numbers")
    if max_value is None:
        max_value = max(map(abs, values)) or 1.0
    if not (math.isfinite(max_value) and max_value > 0):
        raise ValueError(f"max_value is {max_value}; give a positive number, or leave it out for the largest value")
    return TokenHeatmap(strings, values, float(max_value))


def _style(value: float, max_value: float) -> str:
    strength = STRONGEST * min(1.0, abs(value) / max_value)
    colour = f"background-color:rgba({POSITIVE if value > 0 else NEGATIVE},{strength:.2f});" if strength >= 0.005 else ""
    return f"{colour}border-radius:3px;border-bottom:1px solid rgba(128,128,128,.35);white-space:pre-wrap"
