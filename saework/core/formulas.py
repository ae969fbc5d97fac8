"""All formulas, each with its name and source. They take numbers, and know no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from saework.core.arguments import as_real_numbers, as_tensor, check_positive, check_tokens
from saework.core.arrays import as_array
from saework.core.reconstruction_formulas import (
    CONFIDENCE,
    RECONSTRUCTION,
    bootstrap_interval,
    loss_recovered,
    pooled_reconstruction,
    reconstruction_sums,
    times_drawn,
    variance_explained,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = [
    "CONFIDENCE",
    "RECONSTRUCTION",
    "Agreement",
    "bootstrap_interval",
    "chance_cosine",
    "clustered_mean",
    "fisher_exact",
    "kl_divergence",
    "log10_rate",
    "loss_recovered",
    "pooled_reconstruction",
    "precision_and_recall",
    "rate_bound",
    "reconstruction_sums",
    "repetition",
    "rule_agreement",
    "times_drawn",
    "variance_explained",
]


def kl_divergence(
    logits_p: Float[Tensor, "*batch d_vocab"], logits_q: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(p || q) of the distributions of two tables of logits, in nats.

    Returns:
        float64, on the CPU.

    Raises:
        ValueError: they are of different vocabularies.

    Source: sum over the vocabulary of ``p (log p - log q)`` (Kullback and Leibler, 1951).
    """
    logits_p, logits_q = as_tensor(logits_p, "logits_p"), as_tensor(logits_q, "logits_q")
    if logits_p.shape[-1:] != logits_q.shape[-1:] or not logits_p.ndim:
        raise ValueError(
            f"logits_p have shape {tuple(logits_p.shape)} and logits_q {tuple(logits_q.shape)}; "
            "give both over one vocabulary"
        )
    log_p = logits_p.cpu().double().log_softmax(-1)
    log_q = logits_q.cpu().double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def repetition(tokens: Sequence[int] | Tensor) -> float:
    """Share of token trigrams that occurred before: ``1 - distinct / total``.

    Args:
        tokens: integers ``[pos]``.

    Returns:
        A fraction; NaN for fewer than three tokens.

    Source: the "seq-rep-n" of Welleck et al., 2019 (arXiv 1908.04319), with n = 3.
    """
    if not len(tokens):
        return math.nan
    rows = check_tokens(tokens)
    if len(rows) > 1:
        raise ValueError(f"tokens have {len(rows)} rows; give one, such as tokens[0]")
    ids = rows[0].tolist()
    trigrams = list(zip(ids, ids[1:], ids[2:]))
    if not trigrams:
        return math.nan
    return 1 - len(set(trigrams)) / len(trigrams)


def rate_bound(n_tokens: int) -> float:
    """Upper 95% bound of the firing rate of a feature that never fired.

    Args:
        n_tokens: the tokens on which it did not fire.

    Returns:
        ``1 - 0.05 ** (1 / n_tokens)``, about ``3 / n_tokens``.

    Source: "the rule of three" (Hanley and Lippman-Hand, 1983).
    """
    check_positive(n_tokens, "n_tokens")
    # expm1 and log1p keep the digits that 1 - 0.05 ** (1 / n) loses when n is large
    return float(-np.expm1(np.log1p(-CONFIDENCE) / n_tokens))


def log10_rate(firing_rate: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    """``log10(rate + 10**-6.5)``, which puts features that never fired at -6.5.

    Source: the gelu-1l notebook's histogram.
    """
    rates = as_real_numbers(firing_rate, "firing_rate").double()
    if rates.lt(0).any():
        raise ValueError(f"firing_rate goes down to {float(rates.min()):.3g}; no rate is below 0")
    return (rates + 10**-6.5).log10()


class ClusteredMean(NamedTuple):
    """A mean of values that come in clusters, such as the tokens of a text."""

    mean: float
    """NaN without values."""
    standard_error: float
    """NaN with fewer than two clusters: one cluster does not say how clusters differ."""


def clustered_mean(
    values: Float[np.ndarray, " value"], cluster: Int[np.ndarray, " value"]
) -> ClusteredMean:
    """The mean of values, and its standard error if those of one cluster go together.

    With ``e`` the sum over a cluster of ``value - mean``, the squared error is
    ``sum(e**2) / n**2`` times ``clusters / (clusters - 1)``. Where each cluster has one value, it
    is the usual ``variance / n``.

    Args:
        values: finite numbers.
        cluster: the number of each value's cluster.

    Source: the ratio estimator over clusters of unequal size (Cochran, Sampling Techniques, 1977).

    >>> clustered_mean(np.array([1.0, 3.0, 5.0]), np.array([0, 1, 2]))
    ClusteredMean(mean=3.0, standard_error=1.1547005383792515)
    """
    n = len(values)
    if len(cluster) != n:
        raise ValueError(f"{n} values and {len(cluster)} clusters are given; give one for each")
    if n == 0:
        return ClusteredMean(math.nan, math.nan)
    mean = float(values.mean())
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.bincount(number, weights=values - mean)
    n_clusters = len(sums)
    if n_clusters < 2:
        return ClusteredMean(mean, math.nan)
    squares = float((sums**2).sum()) * n_clusters / (n_clusters - 1)
    return ClusteredMean(mean, math.sqrt(squares) / n)


def fisher_exact(
    n_both: ArrayLike, n_fires: ArrayLike, n_rule: ArrayLike, n_tokens: int
) -> np.ndarray:
    """The chance of as many tokens with both, or more, if firing has nothing to do with the rule.

    Args:
        n_both: tokens where the feature fires and the rule holds; a number or an array.
        n_fires: tokens where the feature fires.
        n_rule: tokens where the rule holds.
        n_tokens: all tokens.

    Source: Fisher's exact test, one-sided (The Design of Experiments, 1935).

    >>> round(float(fisher_exact(n_both=2, n_fires=2, n_rule=2, n_tokens=4)), 4)
    0.1667
    """
    from scipy.stats import hypergeom

    n_both, n_fires, n_rule = _checked_counts(n_both, n_fires, n_rule)
    if (np.maximum(n_fires, n_rule) > n_tokens).any():
        raise ValueError(f"there are {n_tokens} tokens, and more of them in a count; count again")
    return hypergeom.sf(np.asarray(n_both) - 1, n_tokens, n_rule, n_fires)


class Agreement(NamedTuple):
    """How well "the feature fires" says "the rule holds"; fractions, NaN for a share of nothing."""

    precision: np.ndarray
    """Of the tokens where the feature fires, the share where the rule holds."""
    recall: np.ndarray
    """Of the tokens where the rule holds, the share where the feature fires."""
    f1: np.ndarray
    """Harmonic mean of precision and recall."""


def precision_and_recall(n_both: ArrayLike, n_fires: ArrayLike, n_rule: ArrayLike) -> Agreement:
    """Precision, recall and F1 from counts of tokens, for one feature or many.

    Args:
        n_both: tokens where the feature fires and the rule holds; a number or an array.
        n_fires: tokens where the feature fires.
        n_rule: tokens where the rule holds.

    Returns:
        Arrays of the counts' common shape.

    >>> precision_and_recall(n_both=[1, 0], n_fires=[2, 0], n_rule=4).precision
    array([0.5, nan])
    """
    n_both, n_fires, n_rule = _checked_counts(n_both, n_fires, n_rule)
    return Agreement(
        precision=_shares(n_both, n_fires),
        recall=_shares(n_both, n_rule),
        f1=_shares(2 * n_both, n_fires + n_rule),
    )


def _checked_counts(*counts: ArrayLike) -> list[np.ndarray]:
    """Counts of both, and of each. Raises: ValueError for counts that cannot be."""
    n_both, n_fires, n_rule = map(as_array, counts)
    if (n_both < 0).any() or (n_both > np.minimum(n_fires, n_rule)).any():
        raise ValueError(
            "n_both is below 0, or above n_fires or n_rule, of which it is a part; count again"
        )
    return [n_both, n_fires, n_rule]


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole == 0, math.nan, part / whole)


def rule_agreement(fires: ArrayLike, rule: ArrayLike) -> pd.Series:
    """How well "this feature fires" says "this rule holds", token by token.

    Args:
        fires: bool, any shape: whether the feature fires on a token.
        rule: bool, the same shape: whether the rule holds there.

    Returns:
        - ``precision``: of the tokens where the feature fires, the share where the rule holds.
          Bricken et al. (2023) call it specificity.
        - ``recall``: of the tokens where the rule holds, the share where the feature fires.
        - ``base_rate``: the share of tokens where the rule holds, which is the precision of a
          feature that fires at random.
        - ``fires``, ``rule``: counts of tokens.

        A share of nothing is NaN.

    Raises:
        ValueError: the shapes differ, or a value is neither True nor False (1 and 0 will do).

    >>> agreement = rule_agreement(fires=[1, 1, 0, 0], rule=[1, 0, 0, 0])
    >>> agreement.to_dict()
    {'precision': 0.5, 'recall': 1.0, 'base_rate': 0.25, 'fires': 2, 'rule': 1}
    """
    fires, rule = _as_bools(fires, "fires"), _as_bools(rule, "rule")
    if fires.ndim > 1 and rule.ndim > 1 and fires.shape != rule.shape:
        raise ValueError(
            f"fires has shape {fires.shape} and rule {rule.shape}; give both in one shape"
        )
    fires, rule = fires.ravel(), rule.ravel()
    if fires.shape != rule.shape:
        raise ValueError(
            f"fires has {fires.size} values and rule {rule.size}; give one value of each per token"
        )
    n_fires, n_rule = int(fires.sum()), int(rule.sum())
    agreement = precision_and_recall(int((fires & rule).sum()), n_fires, n_rule)
    return pd.Series(
        {
            "precision": float(agreement.precision),
            "recall": float(agreement.recall),
            "base_rate": n_rule / rule.size if rule.size else math.nan,
            "fires": n_fires,
            "rule": n_rule,
        },
        dtype=object,  # counts stay whole numbers
    )


def _as_bools(values: Any, name: str) -> np.ndarray:
    """Raises: ValueError for anything but True, False, 1 and 0."""
    array = as_array(values)
    if array.dtype != bool and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise ValueError(
            f"{name} has values other than True and False ({array.dtype}); "
            "give bool, such as activations > 0"
        )
    return array.astype(bool)


def chance_cosine(d_in: int, n_rows: int) -> float:
    """Median cosine of a direction with the nearest of ``n_rows`` random ones.

    The cosine of two isotropic directions is ``2 B - 1``, with ``B ~ Beta(a, a)`` and
    ``a = (d_in - 1) / 2``. The highest of ``n_rows`` of them has its median where the
    distribution function is ``0.5 ** (1 / n_rows)``.

    Args:
        d_in: the directions' dimension.
        n_rows: how many random directions there are.
    """
    from scipy.stats import beta

    check_positive(d_in, "d_in", minimum=2)
    check_positive(n_rows, "n_rows")
    a = (d_in - 1) / 2
    # 1 - 0.5 ** (1 / n_rows), without losing its digits
    upper_tail = -np.expm1(np.log(0.5) / n_rows)
    return float(2 * beta.isf(upper_tail, a, a) - 1)
