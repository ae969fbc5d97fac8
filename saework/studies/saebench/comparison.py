"""Two evaluations side by side: one formula or two, above the noise or within it."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd

from saework.studies.saebench.conversion import tokens_of_rows
from saework.studies.saebench.definitions import NOT_COMPUTED, NOT_KNOWN, definitions
from saework.studies.saebench.noise import smallest_shown
from saework.studies.saebench.results import check_evaluation

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

LOWER_IS_BETTER = ("final_loss", "mse", "l0", "l1", "kl_div_with_sae", "ce_loss_with_sae")
HIGHER_IS_BETTER = (
    "kl_div_score",
    "ce_loss_score",
    "explained_variance",
    "explained_variance_legacy",
    "cossim",
    "unlearning_score",
)
_LOWER_PATTERN = re.compile(r"absorption")
_HIGHER_PATTERN = re.compile(r"_test_(accuracy|auc|f1)$|^(scr|tpp)_metric_")
SMALLEST_STEP = 2.0**-133
HALF = 0.5 * (1 + 1e-9)
"""Of a printed digit, with a little more for the rounding of what is compared with it."""
SHOWN, NOT_SHOWN, NOT_COMPARABLE = "shown", "not shown", "not comparable"
NO_PARTS = "the details have no five parts, the same in both, of which it is the mean"
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
    """The numbers of two evaluations of one kind, side by side, where that has a meaning.

    Args:
        a: one evaluation, from ``read`` (or ``convert``).
        b: another of the same kind.
    Returns: one row per metric, with these columns:

        - ``group``, ``metric``, ``size``: as in ``Evaluation.metrics``
        - ``a``, ``b``: the two values; NaN where one evaluation lacks the metric
        - ``difference``: b - a; NaN where the two are not comparable
        - ``formula``: of both, or ``not known``
        - ``bfloat16_step``: what bfloat16 resolves at that magnitude. NaN if the numbers were not
          in bfloat16: the config says so, or one of them is no bfloat16 number
        - ``neighbours``: whether the two are at most one such step apart. Then a single rounding
          can make the difference
        - ``smallest_shown``: the smallest difference that one run of each can support, by a paired
          bootstrap over the parts in the details; NaN where the details do not have them
        - ``verdict``: ``shown``, ``not shown`` (smaller than that), ``not known`` (no parts), or
          ``not comparable``
        - ``reason``: why it is not comparable, or why nothing is known
    Raises:
        ValueError: for evaluations of different kinds.

    >>> from saework import saebench
    >>> before, after = (saebench.read(saebench.EXAMPLES / f"run_{i}.json") for i in (7, 8))
    >>> frame = saebench.compare(before["core"], after["core"])
    >>> frame[frame.neighbours & (frame.difference != 0)].metric.tolist()
    ['cossim']
    """
    check_evaluation("a", a)
    check_evaluation("b", b)
    if a.kind != b.kind:
        raise ValueError(
            f"a is {a.kind!r} and b is {b.kind!r}; compare two evaluations of one kind"
        )
    frame = _side_by_side(a, b)
    judged = [_judged(row, a, b) for row in frame.itertuples()]
    return pd.concat([frame[[*_KEYS, "a", "b"]], pd.DataFrame(judged, columns=_JUDGED)], axis=1)


_JUDGED = (
    "difference",
    "formula",
    "bfloat16_step",
    "neighbours",
    "smallest_shown",
    "verdict",
    "reason",
)


def _judged(row: Any, a: Evaluation, b: Evaluation) -> tuple:
    """What is said of one metric, in the order of ``_JUDGED``."""
    objection = _objection(row, a, b)
    if objection:
        return math.nan, NOT_KNOWN, math.nan, False, math.nan, NOT_COMPARABLE, objection
    difference = row.b - row.a
    step, neighbours = math.nan, False
    if _in_bfloat16(a) and _in_bfloat16(b):
        step = shared_step(row.a, row.b)
        neighbours = steps_apart(row.a, row.b) <= 1
    formula = row.formula_a if isinstance(row.formula_a, str) else row.formula_b
    smallest, verdict, reason = math.nan, NOT_KNOWN, NO_PARTS
    if math.isnan(difference):
        reason = "one of the two has no value"
    else:
        smallest = smallest_shown(a, b, row.metric)
    if not math.isnan(smallest):
        verdict = SHOWN if abs(difference) > smallest else NOT_SHOWN
        reason = ""
    return difference, formula, step, neighbours, smallest, verdict, reason


def _objection(row: Any, a: Evaluation, b: Evaluation) -> str:
    """Why the two values of a metric cannot be compared; empty if they can."""
    if not isinstance(row.formula_a, str) or not isinstance(row.formula_b, str):
        return ""  # one of the two lacks the metric
    if NOT_COMPUTED in (row.formula_a, row.formula_b):
        return "-1 stands for what was not computed, and is no value"
    if row.formula_a != row.formula_b:
        return (
            f"a's formula is {_in_words(row.formula_a, row.releases_a)}, "
            f"and b's is {_in_words(row.formula_b, row.releases_b)}{_way_out(a)}"
        )
    if row.formula_a == "mse_saebench":
        tokens = tokens_of_rows(a), tokens_of_rows(b)
        if tokens[0] != tokens[1]:
            return (
                f"it is divided by the tokens of a batch, {_tokens(tokens[0])} in a and "
                f"{_tokens(tokens[1])} in b; compare convert(a) and convert(b)"
            )
    return ""


def _in_words(formula: str, releases: str) -> str:
    return f"{formula} (SAEBench {releases})" if releases else formula


def _way_out(a: Evaluation) -> str:
    """In a core evaluation one formula may have two names, and convert gives it one."""
    return "; see convert(a) and convert(b), which name formulas" if a.kind == "core" else ""


def _tokens(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _side_by_side(a: Evaluation, b: Evaluation) -> pd.DataFrame:
    """Values, formulas and releases of both, in the first one's order."""
    values_of_a = _with_formulas(a, "a")
    values_of_b = _with_formulas(b, "b")
    keys = pd.concat([values_of_a[_KEYS], values_of_b[_KEYS]]).drop_duplicates()
    frame = keys.merge(values_of_a, on=_KEYS, how="left")
    return frame.merge(values_of_b, on=_KEYS, how="left")


def _with_formulas(evaluation: Evaluation, name: str) -> pd.DataFrame:
    """The metrics, their values in a column of this name, and what they mean."""
    table = definitions(evaluation)
    frame = evaluation.metrics.rename(columns={"value": name}).reset_index(drop=True)
    frame[f"formula_{name}"] = table.formula
    frame[f"releases_{name}"] = table.releases
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


def better_direction(metric: str) -> str:
    """Whether ``higher`` or ``lower`` is better for a metric of this name."""
    if metric in LOWER_IS_BETTER or _LOWER_PATTERN.search(metric):
        return "lower"
    if metric in HIGHER_IS_BETTER or _HIGHER_PATTERN.search(metric):
        return "higher"
    raise ValueError(
        f"whether higher or lower is better for {metric!r} is not known here; "
        "add better='higher' or better='lower' to the statement"
    )
