"""The widgets: type text, choose a feature, watch the heatmap. Core ipywidgets, no server, no link."""

from __future__ import annotations

import math
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan as scan_tokens
from saework.core.arguments import check_feature
from saework.core.tokens import not_bos, str_tokens, visible
from saework.loading.workbook import Workbook
from saework.views.explorer.controls import BY_LOGIT, EXAMPLES, add_controls, arranged, set_options
from saework.views.explorer.text_reading import features_on, features_raising, read, token_forms
from saework.views.heatmap import TokenHeatmap

SAMPLE = "def area(width, height):\n    # Multiply the two sides, and return the result.\n    return width * height"
LAZY_TOKENS = 8_192  # scanned for examples where no scan was given: a few seconds for gelu-1l
BEFORE, AFTER = 40, 24  # tokens of an example's context that are shown


def text_heatmap(
    workbook: Workbook, text: str, feature: int, *, max_value: float | None = None
) -> TokenHeatmap:
    """One feature on one text, as a heatmap; what ``explore`` shows, for readers without a kernel.

    BOS is left out of the picture, as its activation says nothing about the text.
    """
    return read(workbook, text).heatmap(feature, max_value=max_value)


def explore(
    workbook: Workbook, feature: int = 0, text: str = SAMPLE, *, scan: FeatureScan | None = None
) -> Explorer:
    """Type text, choose a feature, and watch the heatmap move.

    A feature is chosen by its number, from those that fire on a token that a slider points at, or
    by a search over tokens. A scale can be pinned, a second feature set beside the first, and the
    feature's strongest examples stepped through and edited. The model runs when the text changes;
    another feature costs one encoder column. Something that cannot be shown (a text too long, words
    that are no single token) is said below the heatmap, and the last one stays.

    Args:
        scan: a scan of the workbook's tokens, for examples; without it, the first time that examples
            are asked for, the first 8,192 tokens are scanned (BOS left out).

    Returns: an ipywidgets box; each control is an attribute, such as ``.text``, ``.feature``,
    ``.maximum``, and ``.output`` (HTML). ``.heatmap`` is what it shows, to keep or to save.
    Where no widget can be drawn (GitHub, exported HTML), the heatmap that it had when displayed is shown.
    Raises: ValueError for a first feature that does not exist, a text that cannot be run, or a scan of another width.
    """
    return Explorer(workbook, feature, text, scan)


class Explorer(widgets.VBox):
    """What ``explore`` returns: controls, heatmap, and the reactions between them."""

    def __init__(self, workbook: Workbook, feature: int, text: str, scan: FeatureScan | None):
        d_sae = workbook.sae.W_dec.shape[0]
        check_feature(feature, d_sae)
        if scan is not None and len(scan.count) != d_sae:
            raise ValueError(
                f"the scan has {len(scan.count)} features and this SAE {d_sae}; give a scan of this SAE, or leave scan= out"
            )
        self._workbook, self._scan, self._row = workbook, scan, None
        self._quiet, self._marked, self._text_error = False, False, ""
        self._reading = read(workbook, text)
        add_controls(self, feature=feature, text=text, d_sae=d_sae)
        super().__init__(children=arranged(self), layout=widgets.Layout(width="auto"))
        self._listen()
        self._follow_text()

    @property
    def heatmap(self) -> TokenHeatmap:
        """What is shown now."""
        return self._heatmap

    def __repr__(self) -> str:
        return f"explore(feature={self.feature.value})\n{self._heatmap!r}"

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live view, and the heatmap for whoever reads this without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"text/plain": repr(self), "text/html": self._heatmap._repr_html_()}

    # ---- reactions ----

    def _listen(self) -> None:
        reactions = {
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
            control.observe(self._unless_quiet(reaction), names="value")
        self.previous.on_click(lambda button: self._step(-1))
        self.next.on_click(lambda button: self._step(+1))
        self.edit.on_click(lambda button: self._edit())

    def _unless_quiet(self, reaction):
        """The reaction to a reader's change; what a control was set to by another one says nothing new."""

        def react(change) -> None:
            if self._quiet:
                return
            with self._quietly():
                try:
                    reaction(change)
                except ValueError as error:
                    self._say(str(error), error=True)

        return react

    @contextmanager
    def _quietly(self):
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _on_text(self, change) -> None:
        try:
            self._reading, self._text_error = read(self._workbook, self.text.value), ""
        except ValueError as error:
            self._text_error = str(error)
            return self._draw()
        return self._follow_text()

    def _on_feature(self, change) -> None:
        self._show_example(0)
        self._draw()

    def _on_maximum(self, change) -> None:
        self.pin.value = self.maximum.value > 0
        self._draw()

    def _on_pin(self, change) -> None:
        self.maximum.value = _rounded_up(self._heatmap.max_value) if self.pin.value else 0
        self._draw()

    def _on_compare(self, change) -> None:
        self.second.disabled = not self.compare.value
        self._draw()

    def _on_second(self, change) -> None:
        self._draw()

    def _on_token(self, change) -> None:
        self._marked = True
        self._draw()
        self._list_firing()

    def _on_choice(self, change) -> None:
        if change["new"] is not None and change["new"] != self.feature.value:
            self.feature.value = change["new"]
            self._on_feature(change)

    def _on_search(self, change) -> None:
        self.found.options, self.found.index = (), None
        if not self.search.value:
            return self._say("")
        workbook = self._workbook
        tokens = token_forms(self.search.value, workbook.tokenizer)
        named = dict(zip(tokens, map(visible, str_tokens(tokens, workbook.tokenizer))))
        if self.search_by.value == BY_LOGIT:
            found = features_raising(workbook, tokens)
            labels = [
                f"{row.index}: {row.value:+.3g} on {named[row.token]}"
                for row in found.itertuples(index=False)
            ]
        else:
            found = features_on(self._examples_scan(), workbook.tokens, tokens)
            labels = [
                f"{row.index}: {row.value} of {row.of} examples"
                for row in found.itertuples(index=False)
            ]
        set_options(self.found, labels, found["index"].tolist())
        what = "strongest first" if len(found) else "none has its strongest examples there"
        self._say(f"{' or '.join(named.values())}: {len(found)} features, {what}")

    def _on_example(self, change) -> None:
        self._show_example(self.example.value)

    def _step(self, by: int) -> None:
        self.example.value = max(0, min(self.example.value + by, self.example.max))

    # ---- what is shown ----

    def _draw(self) -> None:
        """The heatmap of the last text that could be read, from activations that are there already."""
        second = self.second.value if self.compare.value else None
        mark = self.token.value if self._marked else None
        self._heatmap = self._reading.heatmap(
            self.feature.value, second=second, max_value=self.maximum.value or None, mark=mark
        )
        self.output.value = self._heatmap._repr_html_()
        self._select()
        self._say(self._text_error, error=True)

    def _select(self) -> None:
        """The lists show the feature that is on, where they have it."""
        with self._quietly():
            for listing in (self.fires, self.found):
                features = [value for _, value in listing.options]
                listing.index = (
                    features.index(self.feature.value) if self.feature.value in features else None
                )

    def _say(self, words: str, *, error: bool = False) -> None:
        self.message.value = (
            f'<div role="{"alert" if error else "status"}">{escape(words, quote=False)}</div>'
            if words
            else ""
        )

    def _follow_text(self) -> None:
        """Show the text that was read; the slider points at its tokens, and stays where it was if it can.

        The heatmap goes out before the list of what fires, which takes as long as all the rest.
        """
        first, strings = self._reading.first, self._reading.strings
        labels = [f"{pos}: {visible(strings[pos])}" for pos in range(first, len(strings))]
        at = self.token.index if self._marked else len(labels) - 1
        with (
            self._quietly()
        ):  # tokens first, and then where: sent together, the browser keeps the old range
            self.token.options = list(zip(labels, range(first, len(strings))))
            self.token.index = min(at, len(labels) - 1)
        self._draw()
        self._list_firing()

    def _list_firing(self) -> None:
        firing = self._reading.firing(self.token.value)
        labels = [f"{row.index}: {row.value:.3g}" for row in firing.itertuples(index=False)]
        with self._quietly():
            set_options(self.fires, labels, firing["index"].tolist())
        self._select()

    # ---- examples ----

    def _examples_scan(self) -> FeatureScan:
        if self._scan is None:
            workbook = self._workbook
            tokens = workbook.tokens[: max(1, LAZY_TOKENS // workbook.tokens.shape[1])]
            self._say(f"reading {tokens.numel():,} tokens for examples, once")
            mask = not_bos(tokens, workbook.tokenizer)
            top_k = min(EXAMPLES, int(mask.sum()))
            self._scan = scan_tokens(
                workbook.model,
                workbook.sae,
                tokens,
                hook=workbook.hook,
                mask=mask,
                top_k=top_k,
                progress=False,
            )
        return self._scan

    def _show_example(self, number: int) -> None:
        """One of the feature's strongest examples in its context; 0 for none."""
        self._example, shown = None, ""
        try:
            examples = self._examples(number) if number else ()
            number = min(number, len(examples))
            if number:
                self._example = examples.iloc[number - 1]
                shown = self._example_html(number, len(examples))
        finally:
            with self._quietly():
                self.example.value = number if self._example is not None else 0
            self.example_output.value, self.edit.disabled = shown, self._example is None

    def _examples(self, number: int):
        scan, feature = self._examples_scan(), self.feature.value
        examples = scan.top_examples(
            feature, self._workbook.tokens, self._workbook.tokenizer, n=EXAMPLES
        )
        few = f"feature {feature} has {len(examples)} examples in the {scan.n_tokens:,} tokens scanned"
        self._say(few if number > len(examples) else "")
        return examples

    def _example_html(self, number: int, of: int) -> str:
        row, pos, scanned = (self._example[name] for name in ("batch", "pos", "activation"))
        if self._row is None or self._row[0] != row:
            self._row = row, read(self._workbook, self._workbook.tokens[row])
        reading = self._row[1]
        here = float(reading.values(self.feature.value)[pos])
        heatmap = reading.heatmap(
            self.feature.value,
            max_value=self.maximum.value or None,
            mark=pos,
            window=self._window(),
        )
        said = f"Example {number} of {of}: row {row}, position {pos}, activation {here:.3g}"
        if not math.isclose(here, scanned, rel_tol=0.02, abs_tol=1e-3):
            said += f"; the scan has {scanned:.3g}: was it made with other weights or text?"
        return f"<div>{said}</div>{heatmap._repr_html_()}"

    def _window(self) -> range:
        """The positions of an example's context; BOS only where the example lies on it."""
        pos = int(self._example["pos"])
        return range(
            max(min(1, pos), pos - BEFORE), min(pos + AFTER + 1, self._workbook.tokens.shape[1])
        )

    def _edit(self) -> None:
        """The example's context becomes the text, and the slider points at its token."""
        if self._example is None:
            return self._say("there is no example to edit; step to one first", error=True)
        example, window, workbook = self._example, self._window(), self._workbook
        row = workbook.tokens[int(example["batch"])]
        start = max(1, window.start)
        text = workbook.tokenizer.decode(
            row[start : window.stop].tolist(),
            clean_up_tokenization_spaces=False,
            skip_special_tokens=False,
        )
        self.text.value = text.strip("\ufffd")  # half a character at an end
        if self._text_error:
            return None
        at = int(example["pos"]) - start + 1
        tokens = self._reading.tokens[0]
        if at < len(tokens) and tokens[at] == row[int(example["pos"])]:
            with self._quietly():
                self.token.value = at
            self._on_token(None)
            here = float(self._reading.values(self.feature.value)[at])
            self._say(
                f"activation {example['activation']:.3g} in its row, {here:.3g} here, where the text before it is only what you see"
            )
        return None


def _rounded_up(value: float) -> float:
    """Three significant digits, upwards, so that nothing passes the scale."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.3g}")
