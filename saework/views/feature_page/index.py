"""The list of a folder's pages: its lines, their orders, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saework.core.files import read_json, write_whole
from saework.views.feature_page.page import FeaturePage
from saework.views.feature_page.parts import decimals, percent, signed
from saework.views.feature_page.sections import is_clear, label_name
from saework.views.tables import significant

LINES = "pages.json"
"""Beside the index: its lines, for the next call."""
UNKNOWN_PARTS: dict[str, Any] = {
    "loss_change": None,
    "loss_change_error": None,
    "n_ablated": 0,
    "fires_on": "–",
    "raised": "–",
    "best_label": "–",
    "note": "",
}
"""Parts of a line that another version of saework may not have written."""
N_INDEX_TOKENS = 4
LONGEST_NOTE = 80  # characters


@dataclass(frozen=True)
class IndexRow:
    """One feature in the index. ``None`` stands for a number that is not known."""

    feature: int
    firing_rate: float
    max_activation: float
    loss_change: float | None
    """Nats, as ``FeaturePage.mean_loss_change``."""
    loss_change_error: float | None
    n_ablated: int
    fires_on: str
    """The tokens on which it fires most often."""
    raised: str
    """The tokens whose logits it raises most."""
    best_label: str
    note: str
    """The first line of the reader's own words."""
    near: tuple[int, ...]
    """The features that its page names."""

    @classmethod
    def of(cls, page: FeaturePage) -> IndexRow:
        """The page in one line."""
        raised = "–"
        if page.logits is not None:
            raised = _tokens(page.logits.raised["token"])
        note = page.note_lines[0] if page.note_lines else ""
        return cls(
            feature=page.feature,
            firing_rate=page.firing_rate,
            max_activation=page.max_activation,
            loss_change=_known(page.mean_loss_change),
            loss_change_error=_known(page.loss_change_error),
            n_ablated=page.n_ablated,
            fires_on=_tokens(page.fires_on["token"]) or "–",
            raised=raised,
            best_label=_best_label(page),
            note=note if len(note) <= LONGEST_NOTE else f"{note[:LONGEST_NOTE]}…",
            near=tuple(page.near),
        )

    @property
    def file(self) -> str:
        """The page's file."""
        return page_file(self.feature)

    @property
    def rate_text(self) -> str:
        """How often it fires, in words."""
        return percent(self.firing_rate) if self.firing_rate else "never"

    @property
    def max_text(self) -> str:
        """Its largest activation, in words."""
        return significant(self.max_activation)

    @property
    def effect_text(self) -> str:
        """The effect of ablating it, with its standard error and the number of firings."""
        if self.loss_change is None:
            return "–"
        error = math.nan if self.loss_change_error is None else self.loss_change_error
        return f"{signed(self.loss_change)} ± {decimals(error)} (n = {self.n_ablated:,})"

    @property
    def is_clear(self) -> bool:
        """Whether the effect is two standard errors from zero, or more."""
        if self.loss_change is None or self.loss_change_error is None:
            return False
        return is_clear(self.loss_change, self.loss_change_error)


def page_file(feature: int) -> str:
    """The name of the file that holds a feature's page."""
    return f"feature-{feature}.html"


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _tokens(tokens: Iterable[str]) -> str:
    return "  ".join(list(tokens)[:N_INDEX_TOKENS])


def _best_label(page: FeaturePage) -> str:
    """Of the labels whose base rate is beaten, the one with the highest F1; and its precision."""
    if page.labels is None or page.dead:
        return "–"
    above = page.labels[page.labels["beats_base_rate"]]
    if not len(above):
        return "–"
    best = above.iloc[0]
    name, precision = label_name(str(above.index[0])), percent(best["precision"])
    return f"{name} {precision} (base rate {percent(best['base_rate'])})"


@dataclass(frozen=True)
class Order:
    """One order of the index, with a file of its own: a page without a script cannot sort."""

    file: str
    column: str
    """The head of the column by which it is sorted."""
    direction: str
    """As ``aria-sort`` calls it."""
    words: str
    key: Callable[[IndexRow], Any]

    def sorted(self, rows: Iterable[IndexRow]) -> list[IndexRow]:
        """The rows in this order, ties by the feature's number."""
        return sorted(rows, key=lambda row: (self.key(row), row.feature))


def _by_effect(row: IndexRow) -> tuple[bool, float]:
    """Clear effects first, the largest first; then those that may as well be zero."""
    return not row.is_clear, -(-math.inf if row.loss_change is None else row.loss_change)


ORDERS = (
    Order("index.html", "feature", "ascending", "by number", lambda row: row.feature),
    Order(
        "index-by-rate.html",
        "fires on",
        "descending",
        "the most frequent first",
        lambda row: -row.firing_rate,
    ),
    Order(
        "index-by-maximum.html",
        "at most",
        "descending",
        "the strongest first",
        lambda row: -row.max_activation,
    ),
    Order(
        "index-by-effect.html",
        "change of loss, nats",
        "descending",
        "the largest effect first, unclear ones last",
        _by_effect,
    ),
)


def read_rows(folder: Path) -> tuple[str, str, dict[int, IndexRow]]:
    """What ``pages.json`` keeps of earlier pages: their source, which tokens count, their lines.

    A line whose page has been removed is left out.

    Raises:
        ValueError: the file is not saework's.
    """
    path = folder / LINES
    if not path.exists():
        return "", "", {}
    try:
        kept = read_json(path)
        lines = [_row(line) for line in kept["lines"]]
        source, counted = str(kept["source"]), str(kept["counted"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what saework writes ({error}); give another folder, or move it away: "
            "then the index lists the new pages only"
        ) from error
    return source, counted, {row.feature: row for row in lines if (folder / row.file).exists()}


def _row(line: dict[str, Any]) -> IndexRow:
    """A line of ``pages.json``, its kinds checked: a folder may come from somebody else.

    One of another version may have more parts or fewer; those that it lacks are not known.
    """
    known = {name: line[name] for name in IndexRow.__dataclass_fields__ if name in line}
    row = IndexRow(**UNKNOWN_PARTS | known | {"near": tuple(known.get("near", ()))})
    numbers = (row.firing_rate, row.max_activation, row.loss_change, row.loss_change_error)
    words = (row.fires_on, row.raised, row.best_label, row.note)
    whole = (row.feature, row.n_ablated, *row.near)
    is_right = (
        all(number is None or _is_number(number) for number in numbers)
        and None not in (row.firing_rate, row.max_activation)
        and all(isinstance(word, str) for word in words)
        and all(type(number) is int and 0 <= number < 2**53 for number in whole)
    )
    if not is_right:
        raise TypeError("a line holds something else")
    return row


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(str(value)))


def write_rows(folder: Path, source: str, counted: str, rows: dict[int, IndexRow]) -> None:
    """Write ``pages.json``.

    Raises:
        OSError: it cannot be written.
    """
    lines = [asdict(row) for row in rows.values()]
    kept = {"source": source, "counted": counted, "lines": lines}
    write_whole(folder / LINES, json.dumps(kept, indent=1))
