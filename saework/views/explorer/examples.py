"""A feature's strongest examples: from a scan, in their context, as heatmap and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan as scan_tokens
from saework.core.protocols import WorkbookParts
from saework.core.tokens import not_bos
from saework.views.explorer.controls import MAX_EXAMPLES
from saework.views.explorer.text_reading import Reading, read

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

LAZY_SCAN_TOKENS = 8_192  # a few seconds for gelu-1l
# Tokens of an example's context that are shown.
EXAMPLE_TOKENS_BEFORE = 40
EXAMPLE_TOKENS_AFTER = 24
HALF_A_CHARACTER = "\ufffd"  # what a cut through a character's bytes decodes to


@dataclass(frozen=True)
class Example:
    """A place where a feature fires strongly."""

    feature: int
    number: int
    """Counted from 1, the strongest."""
    n_examples: int
    """Of this feature in the scan, up to 20."""
    row: int
    pos: int
    activation: float
    """As the scan has it."""


@dataclass(frozen=True)
class ExampleText:
    """An example's context as text to edit."""

    text: str
    n_before: int
    """The tokens before the example's token, if the text is tokenized as in its row. -1 where it
    is the BOS that is put in front of the text."""
    token: int
    """The id of that token."""


class ExampleReader:
    """The examples of any feature of a workbook. Without a scan, it makes one when asked.

    Attributes:
        scan: the scan that examples come from; None until ``make_scan`` is called.
    """

    def __init__(self, workbook: WorkbookParts, scan: FeatureScan | None) -> None:
        self._workbook = workbook
        self.scan = scan
        self._last_row: int | None = None
        self._last_reading: Reading | None = None

    @property
    def rows_to_scan(self) -> Int[Tensor, "batch pos"]:
        """The workbook's first rows, about 8,192 tokens."""
        tokens = self._workbook.tokens
        n_rows = max(1, LAZY_SCAN_TOKENS // tokens.shape[1])
        return tokens[:n_rows]

    def make_scan(self) -> FeatureScan:
        """Scan ``rows_to_scan``, BOS left out."""
        workbook = self._workbook
        tokens = self.rows_to_scan
        mask = not_bos(tokens, workbook.tokenizer)
        n_scanned = int(mask.sum())
        self.scan = scan_tokens(
            workbook.model,
            workbook.sae,
            tokens,
            hook=workbook.hook,
            mask=mask,
            top_k=min(MAX_EXAMPLES, n_scanned),
            progress=False,
        )
        return self.scan

    def strongest(self, scan: FeatureScan, feature: int) -> list[Example]:
        """The feature's examples in a scan of the workbook's tokens, strongest first.

        Raises:
            ValueError: if the scan kept no positions.
        """
        workbook = self._workbook
        frame = scan.top_examples(feature, workbook.tokens, workbook.tokenizer, n=MAX_EXAMPLES)
        places = frame[["batch", "pos", "activation"]].itertuples(index=False)
        return [
            Example(feature, number, len(frame), int(row), int(pos), float(activation))
            for number, (row, pos, activation) in enumerate(places, start=1)
        ]

    def html(self, example: Example, *, max_value: float | None = None) -> str:
        """The example in its context: where it is, and a heatmap with a frame around its token.

        It says so if the activation is not the one in the scan (by more than 2%).
        """
        reading = self._reading_of(example.row)
        here = float(reading.values(example.feature)[example.pos])
        heatmap = reading.heatmap(
            example.feature,
            max_value=max_value,
            mark=example.pos,
            window=self._window(example),
        )
        words = (
            f"Example {example.number} of {example.n_examples}: "
            f"row {example.row}, position {example.pos}, activation {here:.3g}"
        )
        if not math.isclose(here, example.activation, rel_tol=0.02, abs_tol=1e-3):
            words += (
                f"; the scan has {example.activation:.3g}: was it made with other weights or text?"
            )
        return f"<div>{words}</div>{heatmap._repr_html_()}"

    def text(self, example: Example) -> ExampleText:
        """The tokens that ``html`` shows, without BOS, as text."""
        workbook = self._workbook
        row = workbook.tokens[example.row]
        window = self._window(example)
        start = max(self._first_of_text(example.row), window.start)
        text = workbook.tokenizer.decode(
            row[start : window.stop].tolist(),
            clean_up_tokenization_spaces=False,
            skip_special_tokens=False,
        )
        return ExampleText(
            text=text.strip(HALF_A_CHARACTER),
            n_before=example.pos - start,
            token=int(row[example.pos]),
        )

    def _reading_of(self, row: int) -> Reading:
        """The reading of a row; the last one is kept, as its next example is often there too."""
        if self._last_reading is None or self._last_row != row:
            self._last_reading = read(self._workbook, self._workbook.tokens[row])
            self._last_row = row
        return self._last_reading

    def _first_of_text(self, row: int) -> int:
        """The position at which a row's text begins: behind its BOS, if it has one."""
        bos = getattr(self._workbook.tokenizer, "bos_token_id", None)
        return int(bos is not None and int(self._workbook.tokens[row, 0]) == bos)

    def _window(self, example: Example) -> range:
        """The positions of an example's context; BOS only if the example is BOS."""
        pos = example.pos
        n_pos = self._workbook.tokens.shape[1]
        first = min(self._first_of_text(example.row), pos)
        start = max(first, pos - EXAMPLE_TOKENS_BEFORE)
        stop = min(n_pos, pos + EXAMPLE_TOKENS_AFTER + 1)
        return range(start, stop)
