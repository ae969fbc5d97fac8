"""Slow references for the numbers of feature pages, and a strict reader of their HTML."""

from __future__ import annotations

import math
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
    """Compare each example's change of loss, and the effect over all firings."""
    changes = [
        slow_loss_changes(book, page.feature, row, edit_bos=edit_bos)
        for row in range(len(book.tokens))
    ]
    for group in (page.top, *(interval.examples for interval in page.intervals)):
        expected = [changes[example.row][example.pos] for example in group]
        found = [example.loss_change for example in group]
        assert found == pytest.approx(expected, abs=2e-5, nan_ok=True)

    first = 0 if edit_bos else 1
    values = slow_activations(book)[:, first:, page.feature]
    firings = [
        (row, float(values[row, pos]), changes[row][first + pos])
        for row, pos in values.nonzero().tolist()
    ]
    assert page.n_firings == page.count == len(firings)
    lines = {"all": (-math.inf, math.inf)}
    lines |= {
        (interval.low, interval.high): (interval.low, interval.high) for interval in page.intervals
    }
    assert list(page.ablation["interval"]) == ["all", "top", *list(lines)[1:]]
    table = page.ablation.set_index("interval")
    assert math.isnan(table["standard_error"].iloc[1]), "the strongest are no random sample"
    for line, (low, high) in lines.items():
        inside = [
            (row, change)
            for row, value, change in firings
            if low <= value < high and not math.isnan(change)
        ]
        found = table.loc[[line]].iloc[0]
        assert found["tokens"] == len(inside)
        if inside:
            mean = np.mean([change for _, change in inside])
            assert found["loss_change"] == pytest.approx(mean, abs=2e-5)
            assert found["raised"] == np.mean([change > 0 for _, change in inside])
        error = slow_clustered_error(inside)
        assert found["standard_error"] == pytest.approx(error, abs=2e-5, nan_ok=True)
    assert page.mean_loss_change == table["loss_change"].iloc[0]
    assert page.n_ablated == table["tokens"].iloc[0]


def slow_clustered_error(values: list[tuple[int, float]]) -> float:
    """Standard error of a mean of ``(cluster, value)`` whose clusters are drawn as wholes."""
    clusters = {cluster for cluster, _ in values}
    if len(clusters) < 2:
        return math.nan
    mean = sum(value for _, value in values) / len(values)
    squares = 0.0
    for cluster in clusters:
        squares += sum(value - mean for other, value in values if other == cluster) ** 2
    return math.sqrt(squares * len(clusters) / (len(clusters) - 1)) / len(values)


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
