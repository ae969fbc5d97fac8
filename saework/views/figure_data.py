"""The numbers of a figure, checked and put in form; no figure is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saework.core.arrays import as_array
from saework.core.errors import in_words

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

WIDE_DECADES = 3


def points(group: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of one group: a pair, or an array ``[2, n]``.

    Raises: ValueError if they are not as many.
    """
    is_table = hasattr(group, "dtype") and group.ndim == 2
    if not (is_table or isinstance(group, (tuple, list))) or len(group) != 2:
        raise ValueError(f"group {name!r} is {in_words(group)}; give (x values, y values)")
    xs, ys = map(as_array, group)
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise ValueError(
            f"group {name!r} has x of shape {xs.shape} and y of {ys.shape}; give one y for each x"
        )
    return xs, ys


def by_step(rates: ArrayLike, steps: Sequence[int] | np.ndarray, what: str) -> np.ndarray:
    """Rates ``[step, feature]``. Raises: ValueError if they are not a row for each step."""
    table = as_array(rates, dtype=float)
    if table.ndim != 2 or len(table) != len(steps) or not table.size:
        raise ValueError(
            f"{what} has shape {table.shape} for {len(steps)} steps; give [step, feature]"
        )
    return table


def checked_limits(limits: Any) -> tuple[float, float] | None:
    """Raises: ValueError for limits that are no two finite numbers in order."""
    if limits is None:
        return None
    is_pair = isinstance(limits, (tuple, list)) and len(limits) == 2
    if not is_pair or not all(map(np.isfinite, limits)) or not limits[0] < limits[1]:
        raise ValueError(f"limits is {in_words(limits)}; give two numbers, the lower one first")
    return limits[0], limits[1]


def log_ticks(values: Sequence[ArrayLike]) -> list[float]:
    """Powers of ten around the positive values; 2 and 5 times those below three decades."""
    numbers = np.concatenate([[], *(as_array(group, dtype=float) for group in values)])
    positive = numbers[(numbers > 0) & np.isfinite(numbers)]
    if not len(positive):
        raise ValueError("log_x needs an x above 0, and there is none; give log_x=False")
    exponents = np.log10(positive)
    low, high = int(np.floor(exponents.min())), int(np.ceil(exponents.max()))
    steps = [1] if high - low > WIDE_DECADES else [1, 2, 5]
    return [step * 10.0**exponent for exponent in range(low, high + 1) for step in steps]


def finite(values: ArrayLike) -> np.ndarray:
    """The values that are neither NaN nor infinite, in one row."""
    flat = as_array(values, dtype=float).ravel()
    return flat[np.isfinite(flat)]


def centres(edges: np.ndarray) -> np.ndarray:
    """The middle of each bar."""
    return (edges[1:] + edges[:-1]) / 2
