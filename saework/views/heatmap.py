"""Tokens and their values as a heatmap that needs no script: HTML in a notebook, else text.

Colour is never the only sign. Each value is the token's tooltip, and text behind the token. A
screen hides that text, because the colour shows the value. But it is read aloud and printed, and it
is visible where styles are removed (GitHub, a text browser, forced colours). A dashed line above a
token means "below zero".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saework.core.argument_kinds import checked, is_number
from saework.core.arguments import as_real_numbers
from saework.core.errors import in_words
from saework.core.files import write_whole
from saework.core.tokens import SPACE, visible
from saework.views.heatmap_markup import (
    HEATMAP_STYLE,
    LEGEND_STYLE,
    MARK_STYLE,
    NEGLIGIBLE,
    ROOT_STYLE,
    escaped_label,
    html_with_value,
    is_right_to_left,
    number_text,
    page,
    style_attribute,
    swatch,
    text_with_value,
    token_style,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Values = Sequence[float] | Float[Tensor, "..."]
    """One number per token."""

# What the scale shows, as shares of the maximum.
STEPS = (0, 0.25, 0.5, 0.75, 1)
SIGNED_STEPS = (-1, -0.5, 0, 0.5, 1)


@dataclass(frozen=True)
class TokenHeatmap:
    """Tokens with one or two values each.

    It shows itself as HTML in a notebook, else as text.
    """

    strings: tuple[str, ...]
    """The tokens, unchanged."""
    values: tuple[float, ...]
    """One value per token: the colour."""
    max_value: float
    """The size of value that gets the strongest colour (and the thickest bar)."""
    label: str = ""
    """What the value is, with its unit."""
    second: tuple[float, ...] | None = None
    """A second value per token: a bar below it, as thick as the value is large."""
    second_label: str = ""
    """What the second value is."""
    mark: int | None = None
    """The token with a frame around it."""

    def html(self, *, style: bool = True, legend: bool = True) -> str:
        """The heatmap as HTML.

        Args:
            style: put the style sheet inside, as a notebook needs it. Without it, put
                ``HEATMAP_STYLE`` into the page's head: valid HTML, and smaller for many heatmaps.
            legend: put the scale below. Leave it out where many heatmaps share one.

        Returns:
            One ``div``, in which every token is escaped.
        """
        any_rtl = any(map(is_right_to_left, self.strings))
        parts = [f'<div class="saework-heat" style="{ROOT_STYLE}">']
        if style:
            parts.append(f"<style>{HEATMAP_STYLE}</style>")
        parts.append('<div dir="auto" style="unicode-bidi:plaintext">')
        for i in range(len(self.strings)):
            parts.append(self._span(i, any_rtl))
        parts.append("</div>")
        if legend:
            parts.append(self._legend())
        parts.append("</div>")
        return "".join(parts)

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        """The text, with the value in brackets behind each token that is not (nearly) zero."""
        text = ""
        for i, string in enumerate(self.strings):
            value = self._written_value(i)
            text += text_with_value(string, value)
        notes = []
        if self.label:
            notes.append(self.label)
        notes.append(f"strongest colour at {number_text(self.max_value)}")
        if self.second is not None:
            second_label = self.second_label or "the second value"
            notes.append(f"behind the bar: {second_label}")
        return f"{text}\n({'; '.join(notes)})"

    def save(self, path: str | Path) -> Path:
        """Write a self-contained HTML file: no script, no outside reference.

        Returns:
            The path of the file.
        """
        title = "Token heatmap"
        if self.label:
            title = visible(self.label).replace(SPACE, " ")
        body = self.html(style=False)
        return write_whole(path, page(title, body))

    def _values_of(self, i: int) -> tuple[float, ...]:
        """The one or two values of a token."""
        if self.second is None:
            return (self.values[i],)
        return self.values[i], self.second[i]

    def _written_value(self, i: int) -> str:
        """The value behind a token, such as ``[1.2]`` or ``[1.2|0]``; empty if (nearly) zero."""
        values = self._values_of(i)
        largest = max(map(abs, values))
        if largest < NEGLIGIBLE * self.max_value:
            return ""
        numbers = "|".join(map(number_text, values))
        return f"[{numbers}]"

    def _span(self, i: int, any_rtl: bool) -> str:
        """One token as HTML: its text in its colour, its tooltip, and its value behind it."""
        text = self.strings[i]
        values = self._values_of(i)
        declarations = token_style(self.max_value, *values)
        tag = "span"
        if i == self.mark:
            tag = "b"
            declarations.append(MARK_STYLE)
        style = style_attribute(declarations)
        numbers = " | ".join(map(number_text, values))
        tooltip = f"{escape(visible(text))}: {numbers}"
        written = self._written_value(i)
        if written:
            # among right-to-left text a number's sign would move behind it
            direction = " dir=ltr" if any_rtl else ""
            written = f"<sub{direction}>{written}</sub>"
        content = html_with_value(text, written)
        # a browser does not break a line at a visible space, so say where it may
        may_break = ""
        if i > 0 and text.startswith((" ", "\t")):
            may_break = "<wbr>"
        return f'{may_break}<{tag} title="{tooltip}"{style}>{content}</{tag}>'

    def _legend(self) -> str:
        """The scale, what each value is, and where it is largest."""
        signed = min(self.values) < 0
        steps = SIGNED_STEPS if signed else STEPS
        scale = [escaped_label(self.label or "value")]
        for step in steps:
            value = step * self.max_value
            scale.append(swatch(value, self.max_value))
        notes = [" ".join(scale), self._largest(self.values)]
        if signed:
            notes.append("dashed line above: below zero")
        if self.second is not None:
            second_label = escaped_label(self.second_label or "second value")
            notes.append(f"bar below, as thick: {second_label}")
            notes.append(self._largest(self.second))
        words = "; ".join(notes)
        return f'<div dir="ltr" style="{LEGEND_STYLE}"><small>{words}</small></div>'

    def _largest(self, values: tuple[float, ...]) -> str:
        """Where the values are largest in size, in words (HTML)."""
        sizes = list(map(abs, values))
        largest = max(sizes)
        if largest == 0:
            return "zero everywhere"
        i = sizes.index(largest)
        token = escape(visible(self.strings[i]))
        words = f"largest {number_text(values[i])} on <bdi>{token}</bdi>"
        if largest > self.max_value:
            words += ", beyond the scale"
        return words


@checked
def token_heatmap(
    strings: Sequence[str],
    values: Values,
    *,
    max_value: float | None = None,
    label: str = "",
    second: Values | None = None,
    second_label: str = "",
    mark: int | None = None,
) -> TokenHeatmap:
    """Colour tokens by value: blue above zero, vermilion below.

    >>> token_heatmap(["def", " area", "("], [0.0, 2.5, 1.25], label="activation")
    def·area[2.5]([1.25]
    (activation; strongest colour at 2.5)

    Args:
        strings: the tokens' text. Any text is allowed: markup and invisible characters are shown.
        values: one number per token. A tensor of any shape is read flat.
        max_value: the size that gets the strongest colour. Give the same to several heatmaps to
            compare them; by default it is the largest size here.
        label: what the value is, with its unit. It stands at the scale.
        second: a second number per token on the same scale, such as another feature: a bar below.
        second_label: what the second number is.
        mark: the index of a token to put a frame around.

    Returns:
        A heatmap that a notebook shows; ``save(path)`` writes it as a page.

    Raises:
        ValueError: if the lengths differ, there is nothing to show, a value is not finite,
            ``max_value`` is not positive, or there is no token to mark.

    Source: ``create_html`` of the gelu-1l notebook, which gave negative values a broken colour.
    """
    strings = _as_strings(strings)
    values = _as_floats(values, "values")
    columns = [values]
    if second is not None:
        second = _as_floats(second, "second")
        columns.append(second)
    numbers = _checked_numbers(strings, columns)
    if max_value is None:
        max_value = max(map(abs, numbers)) or 1.0
    if not (is_number(max_value) and math.isfinite(max_value) and max_value > 0):
        raise ValueError(
            f"max_value is {in_words(max_value)}; give a positive number, "
            "or leave it out for the largest value"
        )
    if mark is not None and not 0 <= mark < len(strings):
        last = len(strings) - 1
        raise ValueError(f"mark is {mark}, but there are {len(strings)} tokens; give 0..{last}")
    return TokenHeatmap(strings, values, float(max_value), label, second, second_label, mark)


def _as_strings(strings: Any) -> tuple[str, ...]:
    """Raises: ValueError for anything but a list of strings."""
    if not isinstance(strings, Sequence) or isinstance(strings, bytes):
        raise ValueError(
            f"strings are {in_words(strings)}; give a list, such as str_tokens(...) returns"
        )
    for string in strings:
        if not isinstance(string, str):
            raise ValueError(f"strings hold {in_words(string)}; give the text of each token")
    return tuple(strings)


def _as_floats(values: Any, what: str) -> tuple[float, ...]:
    """Raises: ValueError for anything but real numbers."""
    return tuple(as_real_numbers(values, what).detach().double().flatten().tolist())


def _checked_numbers(
    strings: tuple[str, ...], columns: list[tuple[float, ...]]
) -> tuple[float, ...]:
    """The numbers of all columns, if each has one per string and all are finite."""
    for column in columns:
        if column and len(column) != len(strings):
            raise ValueError(
                f"{len(strings)} strings but {len(column)} values; give one value per string"
            )
    if not strings or not all(columns):
        raise ValueError(
            "there is nothing to show: strings and values are empty; give at least one token"
        )
    numbers = sum(columns, ())
    if not all(map(math.isfinite, numbers)):
        raise ValueError("values hold NaN or infinity; a colour needs finite numbers")
    return numbers
