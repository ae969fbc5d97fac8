"""Strings and numbers to a heatmap that needs no script: HTML in a notebook, text in a terminal.

Colour never stands alone. Each value is the token's tooltip, and text behind the token: hidden on a
screen, where the colour says it, but read aloud, printed, and shown wherever styles are taken away
(GitHub, a text browser, forced colours). A dashed line above means "below zero".
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch

from saework.core.tokens import NEWLINE, visible

# Blue and a dark vermilion stay apart for every common colour blindness. They are see-through, so
# that the page's own text colour is readable on them in light and dark themes (4.5:1, tested).
POSITIVE, NEGATIVE, STRONGEST = "0,114,178", "200,80,0", 0.55
NEGLIGIBLE = 0.005  # of the maximum: such a value has no colour and is not written behind its token
THICKEST = 5  # pixels of the bar below a token, for a second value

_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
# unicode-bidi:plaintext gives each line the direction of its own text, however the lines are mixed.
_ROOT = (
    f"position:relative;font-family:{_FONT};line-height:1.9;overflow-wrap:anywhere;unicode-bidi:plaintext;text-align:start;"
    "-webkit-print-color-adjust:exact;print-color-adjust:exact"
)
_HIDDEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap;user-select:none"
_SHOWN = "position:static;width:auto;height:auto;overflow:visible;clip-path:none"
STYLE = (
    ".saework-heat [title]{box-shadow:inset 1px 0 rgba(128,128,128,.4)}"
    ".saework-heat sub{font-size:.65em;line-height:1;vertical-align:baseline;direction:ltr;unicode-bidi:isolate}"
    f"@media screen{{.saework-heat sub{{{_HIDDEN}}}}}"
    f"@media screen and (forced-colors:active){{.saework-heat sub{{{_SHOWN}}}}}"
)
"""What a page with heatmaps has in its head, once, if it shows them with ``html(style=False)``."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light dark;background:Canvas;color:CanvasText}}body{{margin:2rem auto;max-width:60rem;padding:0 1rem}}h1{{font:600 1.1rem system-ui,sans-serif}}
{style}</style>
</head><body><main>
<h1>{title}</h1>
{body}
</main></body></html>
"""


@dataclass(frozen=True)
class TokenHeatmap:
    """Tokens with a value each, or two. Shows itself as HTML in a notebook and as text elsewhere."""

    strings: tuple[str, ...]
    """The tokens, as they came."""
    values: tuple[float, ...]
    """One value a token: the colour."""
    max_value: float
    """The size of value that gets the strongest colour (and the thickest bar)."""
    label: str = ""
    """What the value is, with its unit."""
    second: tuple[float, ...] | None = None
    """Another value a token: a bar below it, as thick as the value is large."""
    second_label: str = ""
    """What the other value is."""
    mark: int | None = None
    """The token with a frame around it."""

    def html(self, *, style: bool = True, legend: bool = True) -> str:
        """The heatmap as HTML.

        Args:
            style: with the style sheet inside, as a notebook needs it; without, ``STYLE`` goes
                into the page's head, which is what a validator wants, and smaller where there are many.
            legend: with the scale below it; without, where many share one.
        """
        any_rtl = any(map(_is_rtl, self.strings))
        spans = "".join(self._span(i, any_rtl) for i in range(len(self.strings)))
        sheet = f"<style>{STYLE}</style>" if style else ""
        text = f'<div dir="auto" style="unicode-bidi:plaintext">{spans}</div>'
        return f'<div class="saework-heat" style="{_ROOT}">{sheet}{text}{self._legend() if legend else ""}</div>'

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        """The text, with the value in brackets behind each token that is not (nearly) zero."""
        text = "".join(
            _with_value(string, "\n", self._shown(i)) for i, string in enumerate(self.strings)
        )
        what = "; ".join(
            filter(None, [self.label, f"strongest colour at {_number(self.max_value)}"])
        )
        if self.second is not None:
            what += f"; behind the bar: {self.second_label or 'the second value'}"
        return f"{text}\n({what})"

    def save(self, path: str | Path) -> Path:
        """Write a self-contained HTML file: no script, no outside reference."""
        path = Path(path)
        title = escape(visible(self.label).replace("·", " ") or "Token heatmap")
        path.write_text(
            _PAGE.format(title=title, style=STYLE, body=self.html(style=False)), encoding="utf-8"
        )
        return path

    def _numbers(self, i: int) -> tuple[float, ...]:
        return (self.values[i],) if self.second is None else (self.values[i], self.second[i])

    def _shown(self, i: int) -> str:
        """The value behind a token, such as ``[1.2]`` or ``[1.2|0]``; empty if (nearly) zero."""
        numbers = self._numbers(i)
        return (
            f"[{'|'.join(map(_number, numbers))}]"
            if any(abs(n) >= NEGLIGIBLE * self.max_value for n in numbers)
            else ""
        )

    def _span(self, i: int, any_rtl: bool) -> str:
        text, tag = self.strings[i], "b" if i == self.mark else "span"
        title = f"{escape(visible(text), quote=True)}: {' | '.join(map(_number, self._numbers(i)))}"
        look = _look(self.max_value, *self._numbers(i)) + (
            ["outline:2px solid;outline-offset:1px"] if i == self.mark else []
        )
        style = f' style="{";".join(look)}"' if look else ""
        shown = self._shown(i)
        value = f"{'<sub dir=ltr>' if any_rtl else '<sub>'}{shown}</sub>" if shown else ""
        # visible spaces are no place to break a line, so say where one may be broken
        before = "<wbr>" if i and text[:1] in (" ", "\t") else ""
        return f'{before}<{tag} title="{title}"{style}>{_with_value(text, "<br>", value)}</{tag}>'

    def _legend(self) -> str:
        signed = min(self.values) < 0
        steps = (-1, -0.5, 0, 0.5, 1) if signed else (0, 0.25, 0.5, 0.75, 1)
        swatches = " ".join(_swatch(step * self.max_value, self.max_value) for step in steps)
        notes = [
            f"{escape(visible_label(self.label or 'value'))} {swatches}",
            self._largest(self.values),
        ]
        if signed:
            notes.append("dashed line above: below zero")
        if self.second is not None:
            notes += [
                f"bar below, as thick: {escape(visible_label(self.second_label or 'second value'))}",
                self._largest(self.second),
            ]
        return f'<div dir="ltr" style="margin-top:.4em;font-family:system-ui,sans-serif"><small>{"; ".join(notes)}</small></div>'

    def _largest(self, values: tuple[float, ...]) -> str:
        at = max(range(len(values)), key=lambda i: abs(values[i]))
        if not values[at]:
            return "zero everywhere"
        beyond = ", beyond the scale" if abs(values[at]) > self.max_value else ""
        return f"largest {_number(values[at])} on <bdi>{escape(visible(self.strings[at]))}</bdi>{beyond}"


def token_heatmap(
    strings: Sequence[str],
    values,
    *,
    max_value: float | None = None,
    label: str = "",
    second=None,
    second_label: str = "",
    mark: int | None = None,
) -> TokenHeatmap:
    """Colour tokens by value: blue above zero, vermilion below.

    Args:
        strings: the tokens' text. Anything goes in, and comes out visible and inert.
        values: one number a token; a tensor of any shape is read flat.
        max_value: the size that gets the strongest colour, so that several heatmaps compare;
            by default the largest size here.
        label: what the value is, with its unit; it stands at the scale.
        second: another number a token on the same scale, such as a second feature: a bar below.
        second_label: what the second number is.
        mark: the index of a token to put a frame around.

    Raises: ValueError if the lengths differ, there is nothing to show, a value is not finite,
    ``max_value`` is not positive, or there is no token to mark.

    Source: ``create_html`` of the gelu-1l notebook, whose negative values got a broken colour.
    """
    strings, values = tuple(strings), _numbers_of(values)
    second = None if second is None else _numbers_of(second)
    for given in filter(None, (values, second)):
        if len(strings) != len(given):
            raise ValueError(
                f"{len(strings)} strings but {len(given)} values; give one value a string"
            )
    if not strings or not values or second == ():
        raise ValueError(
            "there is nothing to show: strings and values are empty; give at least one token"
        )
    numbers = values + (second or ())
    if not all(map(math.isfinite, numbers)):
        raise ValueError("values hold NaN or infinity; a colour needs finite numbers")
    if max_value is None:
        max_value = max(map(abs, numbers)) or 1.0
    if not (math.isfinite(max_value) and max_value > 0):
        raise ValueError(
            f"max_value is {max_value}; give a positive number, or leave it out for the largest value"
        )
    if mark is not None and not 0 <= mark < len(strings):
        raise ValueError(
            f"mark is {mark}, but there are {len(strings)} tokens; give 0..{len(strings) - 1}"
        )
    return TokenHeatmap(strings, values, float(max_value), label, second, second_label, mark)


def visible_label(label: str) -> str:
    """A label in which nothing is hidden; its spaces stay spaces."""
    return " ".join(map(visible, label.split(" ")))


def _numbers_of(values) -> tuple[float, ...]:
    if isinstance(values, torch.Tensor):
        values = values.detach().flatten().tolist()
    return tuple(float(value) for value in values)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _with_value(text: str, line_end: str, value: str) -> str:
    """Visible text with its value behind it, but before a line's end; escaped if it goes into HTML."""
    lines = [visible(line) for line in text.split("\n")]
    if line_end != "\n":
        lines = [escape(line, quote=True) for line in lines]
    if len(lines) > 1 and not lines[-1]:
        return f"{NEWLINE}{line_end}".join(lines[:-1]) + NEWLINE + value + line_end
    return f"{NEWLINE}{line_end}".join(lines) + value


def _look(max_value: float, value: float, second: float = 0.0) -> list[str]:
    """The declarations that show one token's value, and its second."""
    look = []
    strength = min(1.0, abs(value) / max_value)
    if strength >= NEGLIGIBLE:
        opacity = f"{STRONGEST * strength:.2f}".lstrip("0")
        look.append(f"background:rgba({POSITIVE if value > 0 else NEGATIVE},{opacity})")
        look += ["border-top:1px dashed"] if value < 0 else []
    if abs(second) >= NEGLIGIBLE * max_value:
        thickness = math.ceil(THICKEST * min(1.0, abs(second) / max_value))
        look.append(f"border-bottom:{thickness}px {'solid' if second > 0 else 'dashed'}")
    return look


def _swatch(value: float, max_value: float) -> str:
    return f'<span style="{";".join(["padding:0 .6em", *_look(max_value, value)])}">{_number(value)}</span>'


def _is_rtl(text: str) -> bool:
    return any(unicodedata.bidirectional(character) in ("R", "AL") for character in text)
