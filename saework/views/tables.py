"""Tables as a notebook shows them: three significant digits, the same on every machine."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any

import pandas as pd

from saework.core.arguments import check_positive
from saework.core.errors import in_words
from saework.core.versions import check_versions

RAW_MIME = "application/vnd.saework.numbers+json"
DIGITS = 3  # significant
MAX_DIGITS = 17  # a float64 has no more
GROUPED_FROM = 100_000  # a smaller whole number is often the number of a feature or a token
SHOWN_PACKAGES = (
    "saework",
    "torch",
    "transformer_lens",
    "sae_lens",
    "transformers",
    "numpy",
    "pandas",
    "plotly",
)


def significant(value: float, digits: int = DIGITS) -> str:
    """A number as text with a few significant digits.

    A whole number (an ``int``) is written in full, with commas from 100,000 on. NaN is ``–``.
    """
    if isinstance(value, Integral):
        return f"{value:,}" if abs(value) >= GROUPED_FROM else str(value)
    if value != value:  # NaN
        return "–"
    text = f"{value:.{digits}g}"
    rounded = float(text)
    if "e" in text and 1e3 <= abs(rounded) < 1e6:
        return f"{rounded:,.0f}"
    return text


@dataclass(frozen=True)
class Table:
    """A frame whose numbers are shown with a few significant digits."""

    frame: pd.DataFrame
    """The exact numbers."""
    digits: int = DIGITS
    """Significant digits to show."""

    def _rounded(self) -> pd.DataFrame:
        return self.frame.map(self._cell_text)

    def _cell_text(self, cell: Any) -> str:
        if _is_number(cell):
            return significant(cell, self.digits)
        return str(cell)

    def __repr__(self) -> str:
        return self._rounded().to_string()

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, Any]:
        """The table as text and HTML, and the numbers before rounding, for ``saework record``."""
        numbers = []
        for cell in self.frame.astype(object).to_numpy().ravel():
            is_rounded = _is_number(cell) and not isinstance(cell, Integral)
            if is_rounded and cell == cell:  # not NaN
                numbers.append(float(cell))
        return {
            "text/plain": repr(self),
            "text/html": self._rounded().to_html(),  # escapes every cell
            RAW_MIME: {"digits": self.digits, "numbers": numbers},
        }


def show(
    data: pd.DataFrame | Mapping[str, Any],
    *,
    columns: list[str] | None = None,
    digits: int = DIGITS,
) -> Table:
    """Show numbers as a table, rounded to three significant digits.

    >>> show({"loss": 3.25461, "tokens": 8192})
           value
    loss    3.25
    tokens  8192

    Args:
        data: a frame, or a mapping from a row's name to its number or to a list of numbers.
        columns: the headings of a mapping's columns; by default one column, ``value``.
        digits: significant digits to show. The table's ``frame`` keeps the exact numbers.

    Returns:
        A table that a notebook shows as HTML, and a terminal as text.

    Raises:
        ValueError: for anything else, such as a Workbook; or rows of another length than columns.
    """
    check_positive(digits, "digits")
    if digits > MAX_DIGITS:
        raise ValueError(f"digits is {digits}; give {MAX_DIGITS} at most, which is all there are")
    if isinstance(data, pd.DataFrame):
        return Table(data, digits)
    if not isinstance(data, Mapping):
        raise ValueError(f"data is a {type(data).__name__}; give a frame, or a dict of numbers")
    rows = {name: _as_list(values) for name, values in dict(data).items()}
    headings = ["value"] if columns is None else columns
    if not isinstance(headings, list) or not all(isinstance(name, str) for name in headings):
        raise ValueError(f"columns is {in_words(columns)}; give a list of names")
    for name, cells in rows.items():
        if len(cells) != len(headings):
            raise ValueError(
                f"row {name!r} has {len(cells)} values for {len(headings)} columns; "
                f"give columns=, one name for each value, and as many values in each row"
            )
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=headings, dtype=object)
    return Table(frame, digits)


def versions() -> Table:
    """Which versions are loaded here: compare them first when a number differs.

    >>> versions().frame.index.tolist()[:4]
    ['saework', 'torch', 'transformer_lens', 'sae_lens']

    Returns:
        One row per package.

    Raises:
        RuntimeError: if a package was replaced after the session began, as an install on Colab
            can do.
    """
    check_versions()
    return show({name: version(name) for name in SHOWN_PACKAGES}, columns=["version"])


def near_rounding_edge(number: float, digits: int = DIGITS, *, within: float = 1e-4) -> bool:
    """Whether a relative change of ``within`` could change the digits that are shown."""
    below = number * (1 - within)
    above = number * (1 + within)
    return f"{below:.{digits}g}" != f"{above:.{digits}g}"


def _as_list(values: Any) -> list[Any]:
    """One value or several as a list of plain Python numbers."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    cells = values if isinstance(values, (list, tuple)) else [values]
    return [cell.item() if hasattr(cell, "item") else cell for cell in cells]


def _is_number(cell: Any) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)
