"""Slow references for the numbers of feature pages, and a strict reader of their HTML."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest
import torch
from conftest import slow_features

from saework import FeaturePage, Workbook

RESIDUAL = "blocks.0.hook_resid_pre"


def slow_activations(book: Workbook) -> torch.Tensor:
    """``[batch, pos, d_sae]``, with BOS."""
    return slow_features(book.model, book.sae, book.tokens, book.hook)


def slow_loss_changes(
    book: Workbook, feature: int, row: int, *, edit_bos: bool = False
) -> list[float]:
    """Change of loss of each next token of a row, with the feature taken out of all its tokens.

    BOS stays as it is unless ``edit_bos``. The last token has no next one: NaN.
    """
    tokens = book.tokens[row : row + 1]
    activation = slow_activations(book)[row : row + 1, :, feature].clone()
    if not edit_bos:
        activation[:, 0] = 0

    def edit(x, hook):
        return x - activation[..., None] * book.sae.W_dec[feature]

    clean = slow_losses_of_row(book, tokens, [])
    ablated = slow_losses_of_row(book, tokens, [(book.hook, edit)])
    return [*(ablated - clean).tolist(), math.nan]


def slow_losses_of_row(book: Workbook, tokens: torch.Tensor, hooks: list) -> torch.Tensor:
    """Loss of each next token of one row, nats."""
    logits = book.model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")
    return torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")


def check_ablation(book: Workbook, page: FeaturePage, *, edit_bos: bool = False) -> None:
    """Compare each example's change of loss, and what the page makes of them."""
    examples = {"top": page.top}
    firings = {}
    for interval in page.intervals:
        bounds = (interval.low, interval.high)
        examples[bounds], firings[bounds] = interval.examples, interval.firings
    assert list(examples) == list(page.ablation["interval"])
    rows = {example.row for group in examples.values() for example in group}
    changes_of = partial(slow_loss_changes, book, page.feature, edit_bos=edit_bos)
    changes = {row: changes_of(row) for row in rows}

    total = variance = weights = 0.0
    for line in page.ablation.itertuples():
        shown = examples[line.interval]
        expected = [changes[example.row][example.pos] for example in shown]
        found = [example.loss_change for example in shown]
        assert found == pytest.approx(expected, abs=2e-5, nan_ok=True)
        measured = [change for change in expected if not math.isnan(change)]
        n = len(measured)
        assert line.tokens == n
        if not n:
            continue
        assert line.loss_change == pytest.approx(np.mean(measured), abs=2e-5)
        assert line.raised == np.mean([change > 0 for change in measured])
        if line.interval == "top":
            continue
        n_all = firings[line.interval]
        assert line.weight == n_all / page.count
        total += line.weight * np.mean(measured)
        weights += line.weight
        variance += line.weight**2 * slow_variance_of_mean(measured, n_all)
    assert page.mean_loss_change == pytest.approx(total / weights, abs=2e-5)
    error = math.sqrt(variance) / weights
    assert page.loss_change_error == pytest.approx(error, abs=2e-5, nan_ok=True)


def slow_variance_of_mean(sample: list[float], n_all: int) -> float:
    """Of a sample without replacement: Cochran, Sampling Techniques, equation 2.20."""
    n = len(sample)
    if n == n_all:
        return 0.0
    if n == 1:
        return math.nan
    spread = sum((value - np.mean(sample)) ** 2 for value in sample) / (n - 1)
    return spread / n * (n_all - n) / n_all


def tree(html: str) -> Element:
    """The page's elements, by a parser that accepts no mistake."""
    builder = html5lib.getTreeBuilder("etree")
    parser = html5lib.HTMLParser(builder, strict=True, namespaceHTMLElements=False)
    return parser.parse(html)


def html_of(page: FeaturePage, folder: Path) -> str:
    """The file that the page saves."""
    return page.save(folder / "page.html").read_text(encoding="utf-8")


def words_of(element: Element) -> str:
    """All text of an element, white space made plain."""
    return " ".join("".join(element.itertext()).split())


def cells(element: Element, caption: str) -> list[list[str]]:
    """The table whose caption starts so, as rows of words; its head comes first."""
    for table in element.iter("table"):
        if words_of(table.find("caption")).startswith(caption):
            return [
                [words_of(cell) for cell in row if cell.tag in ("th", "td")]
                for row in table.iter("tr")
            ]
    raise AssertionError(f"no table {caption!r}")
