"""One published value: what was claimed, and whether a measured value agrees."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from saework.core.argument_kinds import check_text, is_number
from saework.core.errors import in_words

HOLDS = "holds"
DIFFERS = "differs"
NOT_RUN = "not run"
NOT_COMPARABLE = "not comparable"
# Of a value that this project recorded of its own weights: it repeats, and reproduces nothing.
UNCHANGED = "unchanged"
CHANGED = "changed"
RECORDED = "regression value"

Value: TypeAlias = "float | int | str | list"

FLOAT32 = "float32"
STEPS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""By dtype: how far rounding moves a number, as a share of it."""
_WIDEST_LIST = 48  # characters of a list in a table


@dataclass(frozen=True)
class Claim:
    """A number, a list of numbers, or words: published, or recorded here."""

    id: str
    """Short and unique, such as ``reconstruction/loss``."""
    value: Value
    """What was published, or recorded."""
    unit: str
    """Such as ``nats per token``; empty for a pure number."""
    source: str
    """Where it was published; of a recorded value it begins with ``regression value``."""
    tolerance: float
    """The largest difference that still holds, in the claim's unit. Words must be equal."""
    tier: str
    """The release on which it can be measured, such as ``gelu-1l``."""

    def __post_init__(self) -> None:
        for name in ("id", "unit", "source", "tier"):
            check_text(name, getattr(self, name))
        if not self.id:
            raise ValueError("a claim's id is empty; give a short name, such as 'loss'")
        if not is_number(self.tolerance) or not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"the tolerance of claim {self.id!r} is {in_words(self.tolerance)}; "
                "give a finite number of at least 0"
            )
        if not _is_value(self.value):
            raise ValueError(
                f"the value of claim {self.id!r} is {in_words(self.value)}; "
                "give a finite number, words, or a list of them"
            )

    @property
    def is_recorded(self) -> bool:
        """Whether this project recorded the value itself, of its own weights."""
        return self.source.startswith(RECORDED)

    def tolerance_in(self, dtype: str) -> float:
        """The tolerance, or what a run in this dtype can give, if that is larger.

        It is the larger of both for the claim's largest number. Whole numbers (a feature's, for
        example) and words have no rounding.
        """
        return max([self.tolerance, *(STEPS.get(dtype, 0.0) * size for size in sizes(self.value))])

    def verdict(self, measured: Value, dtype: str = FLOAT32) -> str:
        """Whether a measured value agrees.

        Args:
            measured: of the claim's form.
            dtype: of model and SAE. A number may differ by the dtype's rounding, where that is more
                than the tolerance. What this project recorded was recorded in float32.

        Raises:
            ValueError: if it is of another form than the claim's.
        """
        agrees = agree(self.value, measured, self.tolerance, STEPS.get(dtype, 0.0))
        if self.is_recorded and dtype != FLOAT32:
            return NOT_COMPARABLE
        if self.is_recorded:
            return UNCHANGED if agrees else CHANGED
        return HOLDS if agrees else DIFFERS


@dataclass(frozen=True)
class Entry:
    """A claim, and what became of it."""

    claim: Claim
    measured: Value | None
    """None if it was not measured."""
    verdict: str
    """``holds`` or ``differs``; ``unchanged`` or ``changed`` of a recorded value; ``not run``; or
    ``not comparable``."""
    note: str
    """A remark, or the reason why it cannot be compared."""
    dtype: str = FLOAT32
    """In which it was measured."""

    @property
    def tolerance(self) -> float:
        """What it was compared with."""
        return self.claim.tolerance_in(self.dtype)


def as_text(value: Value | None, *, tolerance: float = 0) -> str:
    """A value as text; with a tolerance, to its decimals, since further ones vary by machine."""
    if value is None:
        return ""
    if isinstance(value, list):
        text = ", ".join(as_text(item, tolerance=tolerance) for item in value)
        if len(text) <= _WIDEST_LIST:
            return text
        return text[: _WIDEST_LIST - 1] + "…"
    if not isinstance(value, float):
        return str(value)
    if tolerance <= 0:
        return f"{value:.5g}"
    decimals = max(0, math.ceil(-math.log10(tolerance)))
    return f"{value:.{decimals}f}"


def plain(value: Any) -> Value:
    """A value as JSON can hold it: tensors and numpy numbers become Python's own."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"a measured value of type {type(value).__name__} cannot be entered; "
            "give a number, words, or a list of them"
        )
    return value


def _is_value(value: Any) -> bool:
    """Whether a claim can have it: finite numbers and words, and lists of them."""
    if isinstance(value, list):
        return all(map(_is_value, value))
    return isinstance(value, str) or (is_number(value) and _is_finite(value))


def _is_finite(number: Any) -> bool:
    """Whether it is neither NaN, nor infinite, nor too large for a float."""
    with suppress(OverflowError):
        return math.isfinite(number)
    return False


def without_nan(value: Value) -> Value:
    """The value with NaN and infinity as words, since JSON has neither."""
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, str) or _is_finite(value):
        return value
    return str(value)


def has_words(value: Value) -> bool:
    if isinstance(value, list):
        return any(has_words(item) for item in value)
    return isinstance(value, str)


def sizes(value: Value) -> list[float]:
    """The magnitudes of the fractions in a value."""
    if isinstance(value, list):
        return [size for item in value for size in sizes(item)]
    return [abs(value)] if isinstance(value, float) else []


def agree(published: Value, measured: Value, tolerance: float, step: float = 0.0) -> bool:
    """Whether two values of one form agree: numbers within the tolerance, words exactly.

    Args:
        published: the claim's.
        measured: the other one.
        tolerance: the largest difference that still holds.
        step: the same, as a share of each published fraction; whichever is larger counts.
    """
    if isinstance(published, list) and isinstance(measured, list):
        if len(published) != len(measured):
            return False
        pairs = zip(published, measured)
        return all(agree(one, other, tolerance, step) for one, other in pairs)
    if isinstance(published, str) and isinstance(measured, str):
        return published == measured
    if is_number(published) and is_number(measured):
        largest = max([tolerance, *(step * size for size in sizes(published))])
        return _is_finite(measured) and abs(measured - published) <= largest
    raise ValueError(
        f"the claim is {as_text(published)!r} and the measured value {as_text(measured)!r}; "
        "they must be of one form"
    )
