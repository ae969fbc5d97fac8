"""Two evaluations side by side, and whether bfloat16 can tell their numbers apart."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

SMALLEST_STEP = 2.0**-133
HALF = 0.5 * (1 + 1e-9)
"""Of a printed digit, with a little more for the rounding of what is compared with it."""
_KEYS = ["group", "metric", "size"]


def bfloat16_step(value: float) -> float:
    """The distance between neighbouring bfloat16 numbers at a value.

    It is ``2 ** (floor(log2(abs(value))) - 7)``, but never less than ``2 ** -133``.

    Args:
        value: any number.
    Returns: the step; NaN for NaN and infinity.
    Source: bfloat16 has 8 bits of precision, one of them implied.

    >>> from saework import saebench
    >>> saebench.bfloat16_step(0.75), saebench.bfloat16_step(1640)
    (0.00390625, 8.0)
    """
    if not math.isfinite(value):
        return math.nan
    if value == 0:
        return SMALLEST_STEP
    # value = mantissa * 2**exponent, with the mantissa in [0.5, 1)
    _, exponent = math.frexp(value)
    step = 2.0 ** (exponent - 8)
    return max(step, SMALLEST_STEP)


def compare(a: Evaluation, b: Evaluation) -> pd.DataFrame:
    """The numbers of two evaluations of one kind, side by side.

    Args:
        a: one evaluation, from ``read``.
        b: another of the same kind.
    Returns: one row per metric, with these columns:

        - ``group``, ``metric``, ``size``: as in ``Evaluation.metrics``
        - ``a``, ``b``: the two values; NaN where one evaluation lacks the metric
        - ``difference``: b - a
        - ``bfloat16_step``: what bfloat16 resolves at that magnitude. NaN if the numbers were not
          in bfloat16: the config says so, or one of them is no bfloat16 number
        - ``neighbours``: whether the two are at most one such step apart. Then a single rounding
          can make the difference
    Raises:
        ValueError: for evaluations of different kinds.

    >>> from saework import saebench
    >>> before, after = (saebench.read(saebench.EXAMPLES / f"run_{i}.json") for i in (7, 8))
    >>> frame = saebench.compare(before["core"], after["core"])
    >>> frame[frame.neighbours & (frame.difference != 0)].metric.tolist()
    ['cossim']
    """
    if a.kind != b.kind:
        raise ValueError(
            f"a is {a.kind!r} and b is {b.kind!r}; compare two evaluations of one kind"
        )
    frame = _side_by_side(a.metrics, b.metrics)
    frame["difference"] = frame.b - frame.a
    frame["bfloat16_step"] = math.nan
    frame["neighbours"] = False
    in_bfloat16 = _in_bfloat16(a) and _in_bfloat16(b)
    if not in_bfloat16:
        return frame
    steps, neighbours = [], []
    pairs = zip(frame.a, frame.b)
    for x, y in pairs:
        distance = steps_apart(x, y)
        steps.append(shared_step(x, y))
        neighbours.append(distance <= 1)
    frame["bfloat16_step"] = steps
    frame["neighbours"] = neighbours
    return frame


def _side_by_side(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The values of both in columns ``a`` and ``b``, in the first one's order."""
    both = pd.concat([a, b])
    keys = both[_KEYS].drop_duplicates()
    values_of_a = a.rename(columns={"value": "a"})
    values_of_b = b.rename(columns={"value": "b"})
    frame = keys.merge(values_of_a, on=_KEYS, how="left")
    frame = frame.merge(values_of_b, on=_KEYS, how="left")
    return frame


def shared_step(a: float, b: float) -> float:
    """The larger of two numbers' bfloat16 steps; NaN if one is no bfloat16 number."""
    if not is_bfloat16(a):
        return math.nan
    if not is_bfloat16(b):
        return math.nan
    step_at_a = bfloat16_step(a)
    step_at_b = bfloat16_step(b)
    return max(step_at_a, step_at_b)


def steps_apart(a: float, b: float) -> float:
    """The bfloat16 steps between two numbers; NaN if one is no bfloat16 number.

    Numbers may be printed with few digits, so each is first taken to the nearest bfloat16 number.
    """
    step = shared_step(a, b)
    if math.isnan(step):
        return math.nan
    nearest_to_a = _nearest(a)
    nearest_to_b = _nearest(b)
    distance = abs(nearest_to_a - nearest_to_b)
    return distance / step


def is_bfloat16(value: float) -> bool:
    """Whether some bfloat16 number prints as this one, to as many decimals."""
    if not math.isfinite(value):
        return False
    nearest = _nearest(value)
    distance = abs(value - nearest)
    rounding = HALF * last_digit(value)
    return distance <= rounding


def last_digit(value: float) -> float:
    """The unit of the last printed decimal: 0.001 for 0.957; NaN for infinity."""
    if not math.isfinite(value):
        return math.nan
    printed = repr(float(value)).removesuffix(".0")
    decimal = Decimal(printed).as_tuple()
    exponent = int(decimal.exponent)
    return 10.0**exponent


def _in_bfloat16(evaluation: Evaluation) -> bool:
    """Whether the language model ran in bfloat16; without a setting, it counts as yes."""
    dtype = evaluation.config.get("llm_dtype", "bfloat16")
    return dtype == "bfloat16"


def _nearest(value: float) -> float:
    step = bfloat16_step(value)
    n_steps = round(value / step)
    return n_steps * step
