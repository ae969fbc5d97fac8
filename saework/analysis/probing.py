"""Sparse probing: how well do k features predict a label that is known to be true?

As in SAEBench's ``sparse_probing``. On training text, the k features whose means differ most
between the classes are chosen, and a logistic regression is fitted on those alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from saework.analysis.labelled_tokens import LabelledTokens
from saework.core.argument_kinds import checked
from saework.core.arguments import as_real_numbers, check_positive
from saework.core.arrays import as_array
from saework.core.reconstruction_formulas import times_drawn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from numpy.random import Generator
    from numpy.typing import ArrayLike
    from torch import Tensor

    Array = Tensor | ndarray

K = (1, 2, 5, 10, 20, 50)
RESAMPLINGS = 400  # of the test rows, in each split
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class _Outcome:
    """How one probe did on the test tokens of its split."""

    accuracy: float
    f1: float
    resampled: ndarray
    """Its accuracy on test rows drawn with replacement, ``[draw]``."""


@checked
def sparse_probe(
    features: Float[Array, "*batch d"],
    labels: Bool[Array, "*batch"],
    *,
    k: Iterable[int] = K,
    mask: Bool[Array, "*batch"] | None = None,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of k-sparse probes for one label, with intervals.

    Each draw splits the text anew:

    1. A quarter of the rows of text is set aside for testing. Tokens of one row depend on each
       other, so a row is never on both sides.
    2. As many negative as positive training tokens are drawn, at most 4,000 in all.
    3. The k features with the largest ``|mean of positives - mean of negatives|`` on these tokens
       are chosen (ties: the lowest number).
    4. scikit-learn's logistic regression is fitted on them: its default penalty, features as they
       are.

    Memory: 4 bytes x 4,000 x d, besides the features themselves (131 MB at 8,192 features).

    Args:
        features: ``[batch, pos, d]``: an SAE's features, raw activations, or anything else; or
            ``[batch, d]`` for labels of whole texts.
        labels: ``[batch, pos]`` (or ``[batch]``), such as ``Workbook.labels()["comment"]``.
        k: numbers of features, one probe each.
        mask: like ``labels``; where False, a token is neither trained on nor tested.
        draws: how many splits.
        seed: of the splits.

    Returns:
        One row per k, with the columns

        - ``k``: number of features;
        - ``accuracy``: balanced accuracy on all test tokens (chance 0.5), mean over splits;
        - ``low``, ``high``: its 95% interval, over splits and over test rows drawn with
          replacement;
        - ``f1``: on all test tokens, where a rare label is hard; mean over splits;
        - ``features``: those chosen in the first split, the most different first.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, k exceeds d, or a class is found
            in fewer than four rows.

    Source: SAEBench 0.6.0, ``evals/sparse_probing/probe_training.py``; Gurnee et al. (2023).

    >>> labels = torch.arange(200).reshape(20, 10) % 3 == 0
    >>> features = torch.stack([torch.ones(20, 10), labels.float()], dim=-1)  # the second knows
    >>> sparse_probe(features, labels, k=[1])[["k", "accuracy", "features"]].values.tolist()
    [[1, 1.0, [1]]]
    """
    tokens = LabelledTokens.checked(features, labels, mask)
    sizes = _checked_sizes(k, d=tokens.features.shape[1])
    check_positive(draws, "draws")
    outcomes: dict[int, list[_Outcome]] = {size: [] for size in sizes}
    first_order: list[int] = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        train, test = tokens.split(generator)
        training_features = tokens.features[tokens.place[train]]
        order = most_different(training_features, tokens.label[train])
        first_order = first_order or order.tolist()
        for size, of_splits in outcomes.items():
            columns = order[:size]
            outcome = _probe(tokens, columns, train, test, generator)
            of_splits.append(outcome)
    rows = []
    for size, of_splits in outcomes.items():
        row = {"k": size, **_summary(of_splits), "features": first_order[:size]}
        rows.append(row)
    return pd.DataFrame(rows)


def _summary(of_splits: list[_Outcome]) -> dict[str, float]:
    """Means over splits, and the interval over splits and resampled rows."""
    accuracies = [outcome.accuracy for outcome in of_splits]
    f1s = [outcome.f1 for outcome in of_splits]
    resampled = [outcome.resampled for outcome in of_splits]
    low, high = np.nanquantile(np.concatenate(resampled), INTERVAL)
    return {
        "accuracy": np.mean(accuracies),
        "low": low,
        "high": high,
        "f1": np.mean(f1s),
    }


def most_different(x: ArrayLike, labels: ArrayLike) -> ndarray:
    """Features by how much their means differ between the classes, the largest first.

    Args:
        x: ``[token, d]``.
        labels: bool ``[token]``.

    Returns:
        The features' numbers, sorted by ``|mean over positives - mean over negatives|`` (ties: the
        lowest number).

    >>> most_different([[0, 5], [1, 9], [1, 1]], [True, True, False]).tolist()
    [1, 0]
    """
    x = as_array(x)
    labels = as_array(labels)
    positives = x[labels]
    negatives = x[~labels]
    difference = positives.mean(0, dtype=np.float64) - negatives.mean(0, dtype=np.float64)
    size = np.abs(difference)
    return np.argsort(-size, kind="stable")


@checked
def random_features(
    x: Float[Tensor, "*batch d_in"],
    features: Float[Tensor, "*batch d_sae"],
    *,
    seed: int = 0,
) -> Float[Tensor, "*batch d_sae"]:
    """The baseline dictionary: as many random directions, each as active as its twin.

    A random feature is ``relu(x @ direction - threshold)``. Directions are uniform, of length 1.
    Each threshold is set so that the feature is active on as many of these tokens as the feature
    of the same number (tokens that tie with the threshold stay silent). What a probe finds in
    these features was not learned: it is there in any set of so many directions.

    Memory: twice that of ``features``.

    Args:
        x: activations.
        features: an SAE's features of the same tokens.
        seed: of the directions.

    Returns:
        float32.

    Raises:
        ValueError: if activations and features are not of the same tokens.

    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> random_features(x, x.relu()).count_nonzero() == x.relu().count_nonzero()
    tensor(True)
    """
    x = as_real_numbers(x, "x")
    features = as_real_numbers(features, "features")
    if x.ndim == 0 or features.ndim == 0:
        raise ValueError("x and features are single numbers; give [..., d_in] and [..., d_sae]")
    *x_tokens, d_in = x.shape
    *feature_tokens, d_sae = features.shape
    if x_tokens != feature_tokens:
        raise ValueError(
            f"activations have shape {tuple(x.shape)} and features {tuple(features.shape)}; "
            "give both on the same tokens"
        )
    flat = x.reshape(-1, d_in).float().cpu()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_in, d_sae, generator=generator)
    unit_directions = directions / directions.norm(dim=0)
    projected = unit_directions.T @ flat.T  # [d_sae, token]
    is_silent = features.reshape(-1, d_sae) == 0
    n_silent = is_silent.sum(0).tolist()
    # Thresholds are subtracted in place: the array shares its memory with the tensor.
    for values, n in zip(projected.numpy(), n_silent):
        values -= _threshold(values, n)
    activations = projected.clamp_min_(0).T
    return activations.contiguous().reshape(features.shape)


def _threshold(values: ndarray, n_silent: int) -> float:
    """The ``n_silent``-th lowest value, which stays silent itself; below all if none is silent."""
    if not n_silent:
        return values.min() - 1
    last_silent = n_silent - 1
    return np.partition(values, last_silent)[last_silent]


def _checked_sizes(k: Iterable[int], d: int) -> list[int]:
    sizes = [check_positive(size, "k") for size in k]
    if not sizes or max(sizes) > d or len(set(sizes)) < len(sizes):
        raise ValueError(f"k is {sizes}; give numbers of features in 1..{d}, each once")
    return sizes


def _probe(
    tokens: LabelledTokens,
    columns: ndarray,
    train: ndarray,
    test: ndarray,
    generator: Generator,
) -> _Outcome:
    """Fit a probe on some features of the training tokens, and test it."""
    train_features = tokens.values(train, columns)
    test_features = tokens.values(test, columns)
    probe = _fitted(train_features, tokens.label[train])
    with np.errstate(invalid="ignore"):
        predicted = probe.predict(test_features)
    label = tokens.label[test]
    is_right = predicted == label
    counts = _row_counts(is_right, label, tokens.row[test])
    total = counts.sum(0)
    weights = times_drawn(len(counts), RESAMPLINGS, generator)
    return _Outcome(
        accuracy=_accuracy(total),
        f1=_f1(total),
        resampled=_accuracy(weights @ counts),
    )


def _fitted(x: ndarray, label: ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    with np.errstate(invalid="ignore"):  # products warn without cause on some processors
        return LogisticRegression(max_iter=1000).fit(x, label)


def _row_counts(is_right: ndarray, label: ndarray, row: ndarray) -> ndarray:
    """``[row, 4]``: positives, positives found, negatives, negatives left alone."""
    _, index = np.unique(row, return_inverse=True)
    kinds = [
        label,
        label & is_right,
        ~label,
        ~label & is_right,
    ]
    counts = [np.bincount(index, weights=kind) for kind in kinds]
    return np.stack(counts, axis=1)


def _accuracy(counts: ndarray) -> Any:
    """Balanced accuracy of counts ``[..., 4]``; NaN where a class is missing."""
    positives, found, negatives, left_alone = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        recall = found / positives
        specificity = left_alone / negatives
        return (recall + specificity) / 2


def _f1(counts: ndarray) -> float:
    """F1 of counts ``[4]``."""
    positives, found, negatives, left_alone = counts
    false_alarms = negatives - left_alone
    fires = found + false_alarms
    return float(2 * found / (positives + fires))
