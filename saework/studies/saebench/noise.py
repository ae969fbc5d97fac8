"""The smallest difference between two evaluations that their own parts can support."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from saework.core.argument_kinds import checked
from saework.core.errors import unknown
from saework.core.reconstruction_formulas import BOOTSTRAP_DRAWS, CONFIDENCE, times_drawn
from saework.studies.saebench.results import check_evaluation

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

FEWEST_PARTS = 5
"""With fewer, their spread says too little of what other parts would have shown."""
PART_NAMES = ("dataset_name", "first_letter", "class_name", "fold", "seed", "random_seed")
"""Columns of the details that say which part a row is, the largest first."""
_COLUMNS = {  # of the details, by the metric that is their mean
    "mean_absorption_score": "absorption_rate",
    "mean_absorption_fraction_score": "mean_absorption_fraction",
    "mean_full_absorption_score": "full_absorption_rate",
    "mean_num_split_features": "num_split_features",
}
AGREES = 1e-6
"""Relative: how closely a metric must be the mean of its parts."""


@checked
def smallest_shown(a: Evaluation, b: Evaluation, metric: str, *, seed: int = 0) -> float:
    """The smallest difference of a metric that one run of each can support.

    Both evaluations were made on the same parts (data sets, letters, folds, seeds). So the parts'
    differences b - a are drawn with replacement, 2,000 times. Their mean stays within this distance
    of its own centre in 95% of the draws. The distance is widened, because few parts are drawn from
    few parts: by ``sqrt(n / (n - 1))``, and by Student's t over the normal quantile.

    Two equal SAEs pass it in 5 to 6 cases of 100 if the differences are normal; in 8 to 12 if they
    have one long tail. It says what other parts of the same kind would have shown. Another seed on
    the same parts may add to it, unless the parts are seeds.

    Args:
        a: one evaluation, from ``read``.
        b: another of the same kind.
        metric: its name; the details must have its parts, and the metric must be their mean.
        seed: of the draws.
    Returns: NaN if there are fewer than five parts, or if they are not the same in both.
    Raises:
        UnknownNameError: for a metric that one of them lacks.
        ValueError: for what is no evaluation.
    Source: Efron, "Bootstrap methods" (1979). The widening is that of the expanded percentile
    interval: Hesterberg, "What teachers should know about the bootstrap" (2015).
    """
    check_evaluation("a", a)
    check_evaluation("b", b)
    for evaluation in (a, b):
        if metric not in set(evaluation.metrics.metric):
            known = evaluation.metrics.metric
            raise unknown("metric", metric, known, see="See .metrics of both evaluations.")
    parts_of_a, parts_of_b = parts(a, metric), parts(b, metric)
    if parts_of_a is None or parts_of_b is None:
        return math.nan
    if len(parts_of_a) < FEWEST_PARTS or set(parts_of_a.index) != set(parts_of_b.index):
        return math.nan
    differences = (parts_of_b - parts_of_a).to_numpy()
    return _half_width(differences, seed)


def _half_width(differences: np.ndarray, seed: int) -> float:
    """The widened distance that the means of the draws keep from their centre in 95% of them."""
    n = len(differences)
    generator = np.random.default_rng(seed)
    drawn = times_drawn(n, BOOTSTRAP_DRAWS, generator)
    means = drawn @ differences / n
    distances = np.abs(means - differences.mean())
    distance = float(np.quantile(distances, CONFIDENCE))
    upper_tail = (1 + CONFIDENCE) / 2
    student = float(stats.t.ppf(upper_tail, n - 1))
    normal = float(stats.norm.ppf(upper_tail))
    small_sample = math.sqrt(n / (n - 1))
    return distance * small_sample * student / normal


def parts(evaluation: Evaluation, metric: str) -> pd.Series | None:
    """The values of which a metric is the mean, by part; None if the details do not have them.

    Several rows of a part (folds or seeds of one data set) are averaged first, since they are not
    independent.

    Args:
        evaluation: from ``read``.
        metric: its name.
    """
    details = evaluation.details
    column = _COLUMNS.get(metric, metric)
    names = [name for name in PART_NAMES if name in details]
    is_metric = evaluation.metrics.metric == metric
    values = evaluation.metrics.value[is_metric].tolist()
    if not names or column not in details or len(values) != 1:
        return None
    part = details[names[0]]
    numbers = pd.to_numeric(details[column], errors="coerce").astype(float)
    if numbers.isna().any() or part.isna().any():
        return None
    by_part = numbers.groupby(part.map(str)).mean()
    (value,) = values
    mean = float(by_part.mean())
    is_mean = math.isclose(mean, value, rel_tol=AGREES, abs_tol=1e-12)
    return by_part if is_mean else None
