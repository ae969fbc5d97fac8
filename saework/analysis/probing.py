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

from saework.core.arguments import check_finite, check_mask, check_positive
from saework.core.formulas import times_drawn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy.typing import ArrayLike
    from torch import Tensor

K = (1, 2, 5, 10, 20, 50)
MAX_TRAINING = 4000
"""Training tokens at most, half of them positive: SAEBench's ``probe_train_set_size``."""
TEST_SHARE = 0.25
LEAST_ROWS = 4
"""Rows of text in which each class must occur, so that a quarter of them can be set aside."""
RESAMPLINGS = 400  # of the test rows, in each split
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class _Tokens:
    """The tokens in the mask, in the order of the text."""

    features: np.ndarray
    """``[token of all, d]``, those outside the mask too: no copy is made, it may be large."""
    place: np.ndarray
    """Which row of ``features`` each token is."""
    label: np.ndarray
    """Bool."""
    row: np.ndarray
    """Which row of text each token is in."""

    def values(self, tokens: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Some features of some tokens, ``[token, column]``."""
        return self.features[np.ix_(self.place[tokens], columns)]


@dataclass(frozen=True)
class _Outcome:
    """How one probe did on the test tokens of its split."""

    accuracy: float
    f1: float
    resampled: np.ndarray
    """Its accuracy on test rows drawn with replacement, ``[draw]``."""


def sparse_probe(
    features: Float[Tensor, "*batch d"],
    labels: Bool[Tensor, "*batch"],
    *,
    k: Iterable[int] = K,
    mask: Bool[Tensor, "*batch"] | None = None,
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
    tokens = _checked_tokens(features, labels, mask)
    sizes = _checked_sizes(k, tokens.features.shape[1])
    check_positive(draws, "draws")
    outcomes: dict[int, list[_Outcome]] = {size: [] for size in sizes}
    chosen = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        train, test = _split(tokens, generator)
        order = most_different(tokens.features[tokens.place[train]], tokens.label[train])
        chosen.append(order)
        for size in outcomes:
            outcome = _probe(tokens, order[:size], train, test, generator)
            outcomes[size].append(outcome)
    rows = []
    for size, of_splits in outcomes.items():
        accuracy = np.mean([outcome.accuracy for outcome in of_splits])
        f1 = np.mean([outcome.f1 for outcome in of_splits])
        resampled = np.concatenate([outcome.resampled for outcome in of_splits])
        low, high = np.nanquantile(resampled, INTERVAL)
        rows.append((size, accuracy, low, high, f1, chosen[0][:size].tolist()))
    return pd.DataFrame(rows, columns=["k", "accuracy", "low", "high", "f1", "features"])


def most_different(x: ArrayLike, labels: ArrayLike) -> np.ndarray:
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
    x, labels = np.asarray(x), np.asarray(labels)
    of_positives = x[labels].mean(0, dtype=np.float64)
    of_negatives = x[~labels].mean(0, dtype=np.float64)
    difference = np.abs(of_positives - of_negatives)
    return np.argsort(-difference, kind="stable")


def random_features(
    x: Float[Tensor, "*batch d_in"], features: Float[Tensor, "*batch d_sae"], *, seed: int = 0
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
    if x.shape[:-1] != features.shape[:-1]:
        raise ValueError(
            f"activations have shape {tuple(x.shape)} and features {tuple(features.shape)}; "
            "give both on the same tokens"
        )
    d_in, d_sae = x.shape[-1], features.shape[-1]
    flat = x.reshape(-1, d_in).float().cpu()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_in, d_sae, generator=generator)
    unit_directions = directions / directions.norm(dim=0)
    projected = unit_directions.T @ flat.T  # [d_sae, token]
    is_active = features.reshape(-1, d_sae) != 0
    n_active = is_active.sum(0).tolist()
    for row, n in zip(projected.numpy(), n_active):  # in place: the array shares its memory
        row -= _threshold(row, n_silent=len(row) - n)
    return projected.clamp_min_(0).T.contiguous().reshape(features.shape)


def _threshold(values: np.ndarray, n_silent: int) -> float:
    """The ``n_silent``-th lowest value, which stays silent itself; below all if none is silent."""
    if not n_silent:
        return values.min() - 1
    return np.partition(values, n_silent - 1)[n_silent - 1]


def _checked_tokens(features: Any, labels: Any, mask: Any) -> _Tokens:
    """The arguments' tokens, without those outside the mask."""
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    if labels.dtype != torch.bool:
        raise ValueError(f"labels are {labels.dtype}; give bool, True where the label holds")
    if labels.ndim not in (1, 2) or features.shape[:-1] != labels.shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
            "give [batch, pos, d] and [batch, pos], or [batch, d] and [batch]"
        )
    mask = check_mask(mask, labels.shape)
    on = torch.ones_like(labels) if mask is None else mask
    place = on.cpu().flatten().nonzero()[:, 0]
    x = features.detach().cpu().reshape(-1, features.shape[-1])
    # The sum of a token's features is finite if all are: only tokens that fail are looked at again.
    suspicious = place[~x.sum(-1)[place].isfinite()]
    if len(suspicious):
        check_finite(x[suspicious], "features (leave their tokens out with mask=)")
    tokens_per_row = labels.numel() // len(labels)
    label = labels.cpu().flatten()[place].numpy()
    row = (place // tokens_per_row).numpy()
    for value in (True, False):
        n_rows = len(np.unique(row[label == value]))
        if n_rows < LEAST_ROWS:
            raise ValueError(
                f"the label is {value} in {n_rows} row(s) of text, and four are the least that "
                "can be split; give more text, or shorter rows"
            )
    return _Tokens(x.numpy(), place.numpy(), label, row)


def _checked_sizes(k: Iterable[int], d: int) -> list[int]:
    sizes = [check_positive(size, "k") for size in k]
    if not sizes or max(sizes) > d:
        raise ValueError(f"k is {sizes}; give numbers of features in 1..{d}")
    return sizes


def _split(tokens: _Tokens, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training and test tokens."""
    is_test = np.isin(tokens.row, _test_rows(tokens.row, tokens.label, generator))
    train = _balanced(np.flatnonzero(~is_test), tokens.label, generator)
    return train, np.flatnonzero(is_test)


def _test_rows(row: np.ndarray, label: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A quarter of the rows with a positive and of those without, so neither side lacks a class."""
    with_positive = np.unique(row[label])
    without_positive = np.setdiff1d(np.unique(row), with_positive)
    chosen = []
    for rows in (with_positive, without_positive):
        if len(rows):
            n_test = max(1, round(TEST_SHARE * len(rows)))
            chosen.append(generator.permutation(rows)[:n_test])
    return np.concatenate(chosen)


def _balanced(
    tokens: np.ndarray, label: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """As many positives as negatives, drawn at random, in the order of the text."""
    positives = tokens[label[tokens]]
    negatives = tokens[~label[tokens]]
    n = min(MAX_TRAINING // 2, len(positives), len(negatives))
    drawn = [generator.choice(tokens, n, replace=False) for tokens in (positives, negatives)]
    return np.sort(np.concatenate(drawn))


def _probe(
    tokens: _Tokens,
    columns: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    generator: np.random.Generator,
) -> _Outcome:
    """Fit a probe on some features of the training tokens, and test it."""
    probe = _fitted(tokens.values(train, columns), tokens.label[train])
    label = tokens.label[test]
    is_right = probe.predict(tokens.values(test, columns)) == label
    counts = _row_counts(is_right, label, tokens.row[test])
    weights = times_drawn(len(counts), RESAMPLINGS, generator)
    total = counts.sum(0)
    return _Outcome(_accuracy(total), _f1(total), resampled=_accuracy(weights @ counts))


def _fitted(x: np.ndarray, label: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(x, label)


def _row_counts(is_right: np.ndarray, label: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``[row, 4]``: positives, positives found, negatives, negatives left alone."""
    _, index = np.unique(row, return_inverse=True)
    kinds = (label, label & is_right, ~label, ~label & is_right)
    return np.stack([np.bincount(index, weights=kind) for kind in kinds], axis=1)


def _accuracy(counts: np.ndarray) -> Any:
    """Balanced accuracy of counts ``[..., 4]``; NaN where a class is missing."""
    positives, found, negatives, left_alone = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        return (found / positives + left_alone / negatives) / 2


def _f1(counts: np.ndarray) -> float:
    """F1 of counts ``[4]``."""
    positives, found, negatives, left_alone = counts
    false_alarms = negatives - left_alone
    return float(2 * found / (positives + found + false_alarms))
