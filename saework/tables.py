"""Tables as a notebook shows them: three significant digits, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import pandas as pd

RAW_MIME = "application/vnd.saework.numbers+json"
DIGITS = 3


def significant(value: float, digits: int = DIGITS) -> str:
    """A number with so many significant digits; whole numbers in full, with thousands set apart."""
    if isinstance(value, Integral):
        return f"{value:,}"
    if value != value:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text and 1e3 <= abs(value) < 1e6 else text


@dataclass(frozen=True)
class Table:
    """A frame whose numbers are shown with a few significant digits."""

    frame: pd.DataFrame
    digits: int = DIGITS

    def _rounded(self) -> pd.DataFrame:
        return self.frame.map(lambda cell: significant(cell, self.digits) if _is_number(cell) else str(cell))

    def __repr__(self) -> str:
        return self._rounded().to_string()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        raw = [float(cell) for cell in self.frame.to_numpy().ravel() if _is_number(cell) and not isinstance(cell, Integral)]
        return {
            "text/plain": repr(self),
            "text/html": self._rounded().to_html(),  # escapes every cell
            RAW_MIME: {"digits": self.digits, "numbers": [number for number in raw if number == number]},
        }


def show(data, *, digits: int = DIGITS) -> Table:
    """A frame, a series, or a mapping of names to numbers, as a table of rounded numbers."""
    if isinstance(data, pd.DataFrame):
        return Table(data, digits)
    series = data if isinstance(data, pd.Series) else pd.Series(data, dtype=object)
    return Table(series.astype(object).to_frame(series.name or "value"), digits)


def near_rounding_edge(number: float, digits: int = DIGITS, *, within: float = 1e-4) -> bool:
    """Whether a relative change of ``within`` could change what is printed of a number."""
    return f"{number * (1 - within):.{digits}g}" != f"{number * (1 + within):.{digits}g}"


def _is_number(cell) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)
