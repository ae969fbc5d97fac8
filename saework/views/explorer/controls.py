"""The explorer's controls and how they are arranged: core ipywidgets only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets

MAX_EXAMPLES = 20  # of one feature
BY_LOGIT, BY_EXAMPLES = "logit", "examples"
SEARCHES = (
    ("features that fire on it (their strongest examples)", BY_EXAMPLES),
    ("features that raise its logit most (direct path)", BY_LOGIT),
)


@dataclass(frozen=True, eq=False)
class Controls:
    """Each part of the explorer. Each control has a label and can be reached by keyboard."""

    text: widgets.Textarea
    """The text that the model reads."""
    feature: widgets.IntText
    """The feature that is shown."""
    maximum: widgets.FloatText
    """The value with the strongest colour; 0 for the largest in the text."""
    pin: widgets.Checkbox
    """Whether that maximum stays when the text or the feature changes."""
    second: widgets.IntText
    """A second feature, shown as a bar below each token."""
    compare: widgets.Checkbox
    """Whether the second feature is shown."""
    output: widgets.HTML
    """The heatmap."""
    message: widgets.HTML
    """What a reader must know: an error, or what was found."""
    token: widgets.SelectionSlider
    """A token of the text, by position."""
    fires: widgets.Select
    """The features that fire on that token."""
    search: widgets.Text
    """A token to search features for."""
    search_by: widgets.Dropdown
    """What a feature must have to do with the token, one of ``SEARCHES``."""
    found: widgets.Select
    """The features that the search found."""
    example: widgets.IntText
    """Which of the feature's strongest examples is shown, from 1; 0 for none."""
    previous: widgets.Button
    next: widgets.Button
    edit: widgets.Button
    """Takes the example as the text."""
    example_output: widgets.HTML
    """The example's heatmap."""

    def arranged(self) -> list[widgets.Widget]:
        """The children of the explorer's box: the controls in rows that wrap."""
        return [
            self.text,
            _row(self.feature, self.maximum, self.pin),
            _row(self.second, self.compare),
            self.output,
            self.message,
            _row(
                _column(self.token, self.fires),
                _column(self.search, self.search_by, self.found),
            ),
            _row(self.example, self.previous, self.next, self.edit),
            self.example_output,
        ]


def make_controls(*, feature: int, text: str, d_sae: int) -> Controls:
    """The controls as a reader first sees them.

    Args:
        feature: the feature that is shown first.
        text: the text that is shown first.
        d_sae: how many features the SAE has.
    """
    full = widgets.Layout(width="auto")
    half = widgets.Layout(width="18em")
    area = widgets.Layout(width="auto", height="7em")
    listing = widgets.Layout(width="auto", height="10em")
    labelled = {"style": {"description_width": "8em"}}
    # No number has bounds: a browser would change what was typed to the nearest one in silence.
    any_feature = {"layout": half, **labelled}
    # a small box of its own width
    checkbox = {"value": False, "indent": False, "layout": widgets.Layout(width="auto")}
    next_feature = (feature + 1) % d_sae

    return Controls(
        text=widgets.Textarea(
            description="Text",
            value=text,
            layout=area,
            **labelled,
        ),
        feature=widgets.IntText(
            description="Feature",
            value=feature,
            **any_feature,
        ),
        maximum=widgets.FloatText(
            description="Maximum",
            tooltip="the value with the strongest colour; 0 takes the largest in the text",
            value=0,
            step=0.1,
            layout=half,
            **labelled,
        ),
        pin=widgets.Checkbox(
            description="Pin scale",
            **checkbox,
        ),
        second=widgets.IntText(
            description="Second feature",
            value=next_feature,
            disabled=True,
            **any_feature,
        ),
        compare=widgets.Checkbox(
            description="Compare with a second feature",
            **checkbox,
        ),
        output=widgets.HTML(layout=full),
        message=widgets.HTML(layout=full),
        token=widgets.SelectionSlider(
            description="Token",
            options=[("0", 0)],
            layout=full,
            **labelled,
        ),
        fires=widgets.Select(
            description="Fires here",
            options=(),
            layout=listing,
            **labelled,
        ),
        search=widgets.Text(
            description="Search token",
            placeholder="such as ·return",
            continuous_update=False,
            layout=full,
            **labelled,
        ),
        search_by=widgets.Dropdown(
            description="Search for",
            options=SEARCHES,
            layout=full,
            **labelled,
        ),
        found=widgets.Select(
            description="Found",
            options=(),
            layout=listing,
            **labelled,
        ),
        example=widgets.IntText(
            description="Example",
            value=0,
            layout=half,
            **labelled,
        ),
        previous=widgets.Button(description="Previous example"),
        next=widgets.Button(description="Next example"),
        edit=widgets.Button(description="Edit example", disabled=True),
        example_output=widgets.HTML(layout=full),
    )


class ReaderChanges:
    """Calls a reaction when a reader changes a control, not when another reaction changes it."""

    def __init__(self, on_error: Callable[[ValueError], None]) -> None:
        self._on_error = on_error
        self._are_ignored = False

    def listen(self, control: widgets.Widget, reaction: Callable[[Any], None]) -> None:
        """Call ``reaction`` with each change of the control's value.

        While it runs, changes are ignored. A ``ValueError`` that it raises goes to ``on_error``.
        """

        def react(change: Any) -> None:
            if self._are_ignored:
                return
            with self.ignored():
                try:
                    reaction(change)
                except ValueError as error:
                    self._on_error(error)

        control.observe(react, names="value")

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Change controls in here without a reaction."""
        before = self._are_ignored
        self._are_ignored = True
        try:
            yield
        finally:
            self._are_ignored = before


def set_options(listing: widgets.Select, options: list[tuple[str, int]]) -> None:
    """Give a list new options, none of them chosen.

    Args:
        listing: the list.
        options: what the reader sees, and the feature that it stands for.
    """
    listing.index = None
    listing.options = options


def select(listing: widgets.Select, feature: int) -> None:
    """Choose a feature in a list, or nothing if the list does not have it."""
    features = [value for _, value in listing.options]
    listing.index = features.index(feature) if feature in features else None


def message_html(words: str, *, error: bool) -> str:
    """A message that screen readers speak: at once if it is an error; empty without words."""
    if not words:
        return ""
    role = "alert" if error else "status"
    return f'<div role="{role}">{escape(words, quote=False)}</div>'


def check_maximum(value: float) -> float:
    """The end of the scale that was typed; 0 for none.

    Raises: ValueError, which names the range.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"Maximum is {value}; give a positive number, or 0 for the largest shown")
    return value


def check_example(number: int) -> int:
    """The number of an example that was typed; 0 for none.

    Raises: ValueError, which names the range.
    """
    if not 0 <= number <= MAX_EXAMPLES:
        raise ValueError(f"Example is {number}; give 1..{MAX_EXAMPLES}, or 0 for none")
    return number


def rounded_up(value: float) -> float:
    """A value rounded up to three significant digits, so that no activation passes the scale."""
    last_digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    # less a little, so that a value of three digits stays as it is in spite of rounding errors
    n_digits = math.ceil(value / last_digit - 1e-9)
    return float(f"{n_digits * last_digit:.3g}")


def _row(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap"))


def _column(*parts: widgets.Widget) -> widgets.VBox:
    return widgets.VBox(parts, layout=widgets.Layout(flex="1 1 24em"))
