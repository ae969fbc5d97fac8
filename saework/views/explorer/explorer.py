"""The explorer: type text, choose a feature, watch the heatmap. Widgets, no server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.argument_kinds import checked
from saework.core.arguments import check_feature
from saework.core.parts import check_workbook
from saework.loading.workbook import Workbook
from saework.views.explorer.controls import (
    BY_LOGIT,
    MAX_EXAMPLES,
    ReaderChanges,
    check_example,
    check_maximum,
    make_controls,
    message_html,
    rounded_up,
    select,
    set_options,
)
from saework.views.explorer.examples import Example, ExampleReader
from saework.views.explorer.feature_search import (
    example_options,
    raising_options,
    token_forms,
    token_words,
)
from saework.views.explorer.keyboard import BOX, keyboard_guards
from saework.views.explorer.text_reading import read_start
from saework.views.heatmap import TokenHeatmap

SAMPLE = (
    "def area(width, height):\n"
    "    # Multiply the two sides, and return the result.\n"
    "    return width * height"
)


@checked
def explore(
    workbook: Workbook, feature: int = 0, text: str = SAMPLE, *, scan: FeatureScan | None = None
) -> Explorer:
    """Type text, choose a feature, and watch the heatmap change.

    Choose a feature by its number, from those that fire on a token, or by a search over tokens.
    You can pin the scale, show a second feature, and step through the feature's strongest examples
    and edit them. The model runs only when the text changes; another feature costs one encoder
    column. If something cannot be shown (a feature that does not exist, words that are no single
    token), a message below the heatmap says so, and the last heatmap stays. A text longer than the
    model's context is read as far as that goes. A character of several tokens stands at the first
    of them, and ``←`` at the others.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> explore(book, 526, "It doesn't matter.")
    explore(feature=526)
    It·doesn[10.4]'t·matter.
    (feature 526, activation; strongest colour at 10.4)

    Args:
        workbook: model, SAE, tokens, tokenizer and hook.
        feature: the feature to show first.
        text: the text to show first.
        scan: a scan of the workbook's tokens, for the examples. Without it, the first 8,192 tokens
            are scanned (BOS left out) when examples are first asked for.

    Returns:
        An ipywidgets box. Each control is an attribute, such as ``.text``, ``.feature``,
        ``.maximum``, and ``.output`` (HTML). ``.heatmap`` is the heatmap that it shows now. Where
        no widget can be drawn (GitHub, exported HTML), readers see the heatmap that it had when it
        was displayed.

    Raises:
        ValueError: for what is no Workbook, a first feature that does not exist, a text that cannot
            be run, or a scan of another SAE.
    """
    return Explorer(workbook, feature, text, scan)


class Explorer(widgets.VBox):
    """What ``explore`` returns: controls, heatmap, and the reactions between them."""

    def __init__(
        self, workbook: Workbook, feature: int, text: str, scan: FeatureScan | None
    ) -> None:
        check_workbook(workbook)
        d_sae = workbook.sae.W_dec.shape[0]
        check_feature(feature, d_sae)
        if scan is not None:
            scan.check_is_of(workbook)
        reading = read_start(workbook, text)
        controls = make_controls(feature=feature, text=text, d_sae=d_sae)
        children = [*keyboard_guards(), *controls.arranged()]
        super().__init__(children=children, layout=widgets.Layout(width="auto"))
        self.add_class(BOX)

        self.text = controls.text
        self.feature = controls.feature
        self.maximum = controls.maximum
        self.pin = controls.pin
        self.second = controls.second
        self.compare = controls.compare
        self.output = controls.output
        self.message = controls.message
        self.token = controls.token
        self.fires = controls.fires
        self.search = controls.search
        self.search_by = controls.search_by
        self.found = controls.found
        self.example = controls.example
        self.previous = controls.previous
        self.next = controls.next
        self.edit = controls.edit
        self.example_output = controls.example_output

        self._workbook = workbook
        self._reading = reading
        self._examples = ExampleReader(workbook, scan)
        self._shown_example: Example | None = None
        self._d_sae = d_sae
        self._feature = feature
        self._second = controls.second.value
        self._maximum = 0.0
        self._errors: dict[widgets.Widget, str] = {}
        self._token_was_chosen = False
        self._changes = ReaderChanges(on_error=self._say_error)
        self._listen()
        self._follow_text()

    @property
    def heatmap(self) -> TokenHeatmap:
        """The heatmap that is shown now."""
        return self._heatmap

    def __repr__(self) -> str:
        return f"explore(feature={self._feature})\n{self._heatmap!r}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live view, and the heatmap for readers without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        still = {"text/plain": repr(self), "text/html": self._heatmap._repr_html_()}
        return bundle | still

    def _listen(self) -> None:
        """Call a reaction when a reader changes a control."""
        reactions: dict[widgets.Widget, Callable[[Any], None]] = {
            self.text: self._on_text,
            self.feature: self._on_feature,
            self.maximum: self._on_maximum,
            self.pin: self._on_pin,
            self.compare: self._on_compare,
            self.second: self._on_second,
            self.token: self._on_token,
            self.fires: self._on_choice,
            self.search: self._on_search,
            self.search_by: self._on_search,
            self.found: self._on_choice,
            self.example: self._on_example,
        }
        for control, reaction in reactions.items():
            self._changes.listen(control, reaction)
        self.previous.on_click(self._on_previous)
        self.next.on_click(self._on_next)
        self.edit.on_click(self._on_edit)

    def _on_text(self, change: Any) -> None:
        with self._told(self.text):
            self._reading = read_start(self._workbook, self.text.value)
        if self.text in self._errors:
            self._draw()
        else:
            self._follow_text()

    def _on_feature(self, change: Any) -> None:
        with self._told(self.feature):
            self._feature = check_feature(self.feature.value, self._d_sae)
            self._show_example(0)
        self._draw()

    def _on_second(self, change: Any) -> None:
        with self._told(self.second):
            self._second = check_feature(self.second.value, self._d_sae)
        self._draw()

    def _on_maximum(self, change: Any) -> None:
        with self._told(self.maximum):
            self._maximum = check_maximum(self.maximum.value)
            self.pin.value = self._maximum > 0
        self._draw()

    def _on_pin(self, change: Any) -> None:
        self.maximum.value = rounded_up(self._heatmap.max_value) if self.pin.value else 0
        self._on_maximum(change)

    def _on_compare(self, change: Any) -> None:
        self.second.disabled = not self.compare.value
        self._on_second(change)

    @contextmanager
    def _told(self, control: widgets.Widget) -> Iterator[None]:
        """Keep what is wrong with a control's value, until it is right; it stays as typed."""
        self._errors.pop(control, None)
        try:
            yield
        except ValueError as error:
            # Two boxes take the number of a feature.
            name = f"{control.description}: " if control is self.second else ""
            self._errors[control] = f"{name}{error}"

    def _on_token(self, change: Any) -> None:
        self._token_was_chosen = True
        self._draw()
        self._list_firing()

    def _on_choice(self, change: Any) -> None:
        feature = change["new"]
        if feature is not None and feature != self._feature:
            self.feature.value = feature
            self._on_feature(change)

    def _on_search(self, change: Any) -> None:
        self.found.options = ()
        self.found.index = None
        if not self.search.value:
            self._say_state()
            return
        workbook = self._workbook
        tokens = token_forms(self.search.value, workbook.tokenizer)
        if self.search_by.value == BY_LOGIT:
            options = raising_options(workbook, tokens)
        else:
            scan = self._examples_scan()
            options = example_options(scan, workbook.tokens, tokens, workbook.tokenizer)
        set_options(self.found, options)
        words = token_words(tokens, workbook.tokenizer)
        order = "strongest first" if options else "none has its strongest examples there"
        self._say(f"{words}: {len(options)} features, {order}")

    def _on_example(self, change: Any) -> None:
        self._show_example(check_example(self.example.value))

    def _on_previous(self, button: widgets.Button) -> None:
        self._step(-1)

    def _on_next(self, button: widgets.Button) -> None:
        self._step(1)

    def _step(self, by: int) -> None:
        self.example.value = min(max(0, self.example.value + by), MAX_EXAMPLES)

    def _on_edit(self, button: widgets.Button) -> None:
        """The example's context becomes the text, and the slider points at its token."""
        example = self._shown_example
        if example is None:
            self._say("there is no example to edit; step to one first", error=True)
            return
        context = self._examples.text(example)
        self.text.value = context.text
        if self.text in self._errors:
            return
        tokens = self._reading.tokens[0].tolist()
        at = self._reading.first + context.n_before
        # a text can be tokenized otherwise than in its row, and BOS may be put before no text here
        if at < 0 or tokens[at : at + 1] != [context.token]:
            return
        with self._changes.ignored():
            self.token.value = at
        self._on_token(None)
        here = float(self._reading.values(self._feature)[at])
        self._say(
            f"activation {example.activation:.3g} in its row, {here:.3g} here, "
            "where the text before it is only what you see"
        )

    def _draw(self) -> None:
        """Show the heatmap of the last text that could be read. The model does not run."""
        self._heatmap = self._reading.heatmap(
            self._feature,
            second=self._second if self.compare.value else None,
            max_value=self._max_value(),
            mark=self.token.value if self._token_was_chosen else None,
        )
        self.output.value = self._heatmap._repr_html_()
        self._select_feature()
        self._say_state()

    def _say_state(self) -> None:
        """Say what is wrong with what was typed; else how far the text was read."""
        shown = {control: words for control, words in self._errors.items() if not control.disabled}
        if shown:
            self._say("; ".join(shown.values()), error=True)
        else:
            self._say(self._reading.left_out)

    def _max_value(self) -> float | None:
        """The maximum that the reader set, if any."""
        return self._maximum or None

    def _select_feature(self) -> None:
        """Select the feature in each list that has it."""
        with self._changes.ignored():
            select(self.fires, self._feature)
            select(self.found, self._feature)

    def _say_error(self, error: ValueError) -> None:
        self._say(str(error), error=True)

    def _say(self, words: str, *, error: bool = False) -> None:
        """Show a message below the heatmap, which screen readers speak; empty for none."""
        self.message.value = message_html(words, error=error)

    def _follow_text(self) -> None:
        """Show the text that was read. The slider keeps its place, if the text is long enough.

        The heatmap is sent before the list of what fires, which takes as long as all the rest.
        """
        options = self._reading.token_options
        last = len(options) - 1
        index = min(self.token.index, last) if self._token_was_chosen else last
        with self._changes.ignored():
            # first the tokens, then the place: sent together, the browser keeps the old range
            self.token.options = options
            self.token.index = index
        self._draw()
        self._list_firing()

    def _list_firing(self) -> None:
        """List the features that fire on the slider's token."""
        options = self._reading.firing_options(self.token.value)
        with self._changes.ignored():
            set_options(self.fires, options)
        self._select_feature()

    def _examples_scan(self) -> FeatureScan:
        """The scan that was given, or one that is made now."""
        if self._examples.scan is not None:
            return self._examples.scan
        n_tokens = self._examples.rows_to_scan.numel()
        self._say(f"reading {n_tokens:,} tokens for examples, once")
        return self._examples.make_scan()

    def _show_example(self, number: int) -> None:
        """Show one of the feature's strongest examples in its context; 0 for none."""
        self._shown_example = None
        html = ""
        try:
            if number > 0:
                self._shown_example = self._example(number)
            if self._shown_example is not None:
                html = self._examples.html(self._shown_example, max_value=self._max_value())
        finally:
            shown_number = 0
            if self._shown_example is not None:
                shown_number = self._shown_example.number
            with self._changes.ignored():
                self.example.value = shown_number
            self.example_output.value = html
            self.edit.disabled = self._shown_example is None

    def _example(self, number: int) -> Example | None:
        """The feature's example of that number, or its last one, or None if it has none."""
        scan = self._examples_scan()
        feature = self._feature
        examples = self._examples.strongest(scan, feature)
        n_examples = len(examples)
        words = ""
        if number > n_examples:
            words = (
                f"feature {feature} has {n_examples} examples "
                f"in the {scan.n_tokens:,} tokens scanned"
            )
        self._say(words)
        if not examples:
            return None
        return examples[min(number, n_examples) - 1]
