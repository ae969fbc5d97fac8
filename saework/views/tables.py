"""Tables as a notebook shows them: three significant digits, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import pandas as pd

RAW_MIME = "application/vnd.saework.numbers+json"
DIGITS = 3


def significant(value: float, digits: int = DIGITS) -> str:
    """A number with so many significant digits; whole numbers in full, thousands set apart from 100,000 on.

    (Below that a whole number is often a feature's or a token's.)
    """
    if isinstance(value, Integral):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if value != value:
        return "–"
    text = f"{value:.{digits}g}"
    rounded = float(text)
    return f"{rounded:,.0f}" if "e" in text and 1e3 <= abs(rounded) < 1e6 else text


@dataclass(frozen=True)
class Table:
    """A frame whose numbers are shown with a few significant digits."""

    frame: pd.DataFrame
    digits: int = DIGITS

    def _rounded(self) -> pd.DataFrame:
        return self.frame.map(
            lambda cell: significant(cell, self.digits) if _is_number(cell) else str(cell)
        )

    def __repr__(self) -> str:
        return self._rounded().to_string()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        raw = [
            float(cell)
            for cell in self.frame.astype(object).to_numpy().ravel()
            if _is_number(cell) and not isinstance(cell, Integral)
        ]
        return {
            "text/plain": repr(self),
            "text/html": self._rounded().to_html(),  # escapes every cell
            RAW_MIME: {
                "digits": self.digits,
                "numbers": [number for number in raw if number == number],
            },
        }


def show(data, *, columns: list[str] | None = None, digits: int = DIGITS) -> Table:
    """A frame, or a mapping of names to a number or a list of numbers, as a table of rounded numbers.

    Args: ``columns``: headings for a mapping to lists.
    """
    if not isinstance(data, pd.DataFrame):
        rows = {name: _as_list(values) for name, values in dict(data).items()}
        data = pd.DataFrame.from_dict(
            rows, orient="index", columns=columns or ["value"], dtype=object
        )
    return Table(data, digits)


def versions() -> Table:
    """Which versions are loaded here: the first thing to compare when a number differs.

    Raises: RuntimeError if a package was replaced under this session, as an install on Colab can do.
    """
    from importlib.metadata import version

    from saework.core.versions import check_versions

    check_versions()
    names = (
        "saework",
        "torch",
        "transformer_lens",
        "sae_lens",
        "transformers",
        "numpy",
        "pandas",
        "plotly",
    )
    return show({name: version(name) for name in names}, columns=["version"])


def near_rounding_edge(number: float, digits: int = DIGITS, *, within: float = 1e-4) -> bool:
    """Whether a relative change of ``within`` could change what is printed of a number."""
    return f"{number * (1 - within):.{digits}g}" != f"{number * (1 + within):.{digits}g}"


def _as_list(values) -> list:
    values = values if isinstance(values, (list, tuple)) else [values]
    return [value.item() if hasattr(value, "item") else value for value in values]


def _is_number(cell) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)
