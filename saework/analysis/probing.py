"""Sparse probing: how well do k features tell a label that is known to be true?

SAEBench's way (its ``sparse_probing``): the k features whose means differ most between the classes,
on training text, and logistic regression on those alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from saework.core.arguments import check_finite, check_mask, check_positive

K = (1, 2, 5, 10, 20, 50)
MAX_TRAINING = 4000
"""Training tokens at most, half of them positive: SAEBench's ``probe_train_set_size``."""
TEST_SHARE = 0.25
BOOTSTRAP_DRAWS = 400


def sparse_probe(
    features, labels, *, k: Iterable[int] = K, mask=None, draws: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Accuracy of k-sparse probes for one label, with intervals.

    Each draw puts a quarter of the rows of text aside for testing (tokens of one row depend on each
    other, so they are never on both sides), and takes as many negative as positive training tokens,
    4,000 in all at most. The k features are those of largest ``|mean of positives - mean of
    negatives|`` there (ties: the lowest number); scikit-learn's logistic regression (its default
    penalty, features as they are) is fitted on them.

    Args:
        features: ``[batch, pos, d]``: an SAE's features, raw activations, or anything else. For labels
            of whole texts: ``[batch, d]``.
        labels: bool ``[batch, pos]`` (or ``[batch]``), such as ``Workbook.labels()["comment"]``.
        k: how many features.
        mask: bool like ``labels``; where False, nothing is trained on and nothing tested.
        draws: splits, of which each is also a draw of negatives.

    Returns: a row for each k: ``k``; ``accuracy``, the mean of the shares of positives and of negatives
    that are right on all test tokens (0.5 by chance: what SAEBench's accuracy on as many of each
    estimates); ``low`` and ``high``, its 95% interval over splits and over test rows drawn with
    replacement; ``f1`` on all test tokens, where a rare label is hard; ``features``: those of the
    first draw, the most different first.
    Raises: ValueError if shapes do not fit, a value is not finite, k exceeds d, or a class lies in
    fewer than four rows.
    Memory: 4 bytes x 4,000 x d, besides the features themselves.
    Source: SAEBench 0.6.0, ``evals/sparse_probing/probe_training.py``; Gurnee et al. (2023).
    """
    x, y, row, on, sizes = _checked(features, labels, mask, k)
    check_positive(draws, "draws")
    told = {size: ([], [], []) for size in sizes}
    chosen = None
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        is_test = np.isin(row, _test_rows(row, y, generator))
        test, train = np.flatnonzero(is_test), _balanced(np.flatnonzero(~is_test), y, generator)
        order = most_different(x[on[train]], y[train])
        chosen = order if chosen is None else chosen
        for size, (accuracies, spread, f1) in told.items():
            columns = order[:size]
            right = (
                _fitted(x[np.ix_(on[train], columns)], y[train]).predict(
                    x[np.ix_(on[test], columns)]
                )
                == y[test]
            )
            counts = _row_counts(right, y[test], row[test])
            accuracies.append(_accuracy(counts.sum(0)))
            f1.append(_f1(counts.sum(0)))
            weights = generator.multinomial(
                len(counts), np.full(len(counts), 1 / len(counts)), size=BOOTSTRAP_DRAWS
            )
            spread.append(_accuracy(weights @ counts))
    rows = []
    for size, (accuracies, spread, f1) in told.items():
        low, high = np.nanquantile(np.concatenate(spread), [0.025, 0.975])
        rows.append((size, np.mean(accuracies), low, high, np.mean(f1), chosen[:size].tolist()))
    return pd.DataFrame(rows, columns=["k", "accuracy", "low", "high", "f1", "features"])


def most_different(x, labels) -> np.ndarray:
    """Features by ``|mean over positives - mean over negatives|``, the largest first; ties: the lowest number.

    Args: ``x``: ``[token, d]``; ``labels``: bool ``[token]``.
    """
    x, labels = np.asarray(x), np.asarray(labels)
    difference = x[labels].mean(0, dtype=np.float64) - x[~labels].mean(0, dtype=np.float64)
    return np.argsort(-np.abs(difference), kind="stable")


def random_features(x, features, *, seed: int = 0) -> torch.Tensor:
    """The baseline dictionary: as many random directions, each firing on as many of these tokens as its twin.

    A feature is ``relu(x @ direction - threshold)``; directions are uniform, of length 1, and the
    threshold lies where the twin's count asks for (tokens that tie with it stay silent). Whatever a probe reads off
    these was not learned, but was there to be found among so many directions.

    Args: ``x``: activations ``[..., d_in]``; ``features``: ``[..., d_sae]`` on the same tokens.
    Returns: float32 of the shape of ``features``. Memory: twice theirs.
    """
    if x.shape[:-1] != features.shape[:-1]:
        raise ValueError(
            f"activations have shape {tuple(x.shape)} and features {tuple(features.shape)}; give both on the same tokens"
        )
    flat, generator = x.reshape(-1, x.shape[-1]).float().cpu(), torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[-1], features.shape[-1], generator=generator)
    projected = (directions / directions.norm(dim=0)).T @ flat.T  # [d_sae, token]
    counts = (features.reshape(len(flat), -1) != 0).sum(0).tolist()
    for row, count in zip(projected.numpy(), counts):
        silent = len(row) - count
        row -= (
            np.partition(row, silent - 1)[silent - 1] if silent else row.min() - 1
        )  # the highest that stays silent
    return projected.clamp_min_(0).T.contiguous().reshape(features.shape)


def _checked(
    features, labels, mask, k
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Features ``[all tokens, d]``; labels, row numbers and places in ``features`` of the tokens in the mask; the sizes."""
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    if labels.dtype != torch.bool:
        raise ValueError(f"labels are {labels.dtype}; give bool, True where the label holds")
    if labels.ndim not in (1, 2) or features.shape[:-1] != labels.shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; give [batch, pos, d] and [batch, pos], or [batch, d] and [batch]"
        )
    mask = torch.ones_like(labels) if mask is None else check_mask(mask, labels.shape)
    x = features.detach().cpu().reshape(-1, features.shape[-1])  # no copy: it may be large
    on = mask.cpu().flatten().nonzero()[:, 0]
    unsound = on[~x.sum(-1)[on].isfinite()]
    if len(unsound):
        check_finite(x[unsound], "features (leave their tokens out with mask=)")
    sizes = [check_positive(size, "k") for size in k]
    if not sizes or max(sizes) > x.shape[1]:
        raise ValueError(f"k is {sizes}; give numbers of features in 1..{x.shape[1]}")
    y, row = labels.cpu().flatten()[on].numpy(), (on // (labels.numel() // len(labels))).numpy()
    for value in (True, False):
        n_rows = len(np.unique(row[y == value]))
        if n_rows < 4:
            raise ValueError(
                f"the label is {value} in {n_rows} row(s) of text, and four are the least that can be split; give more text, or shorter rows"
            )
    return x.numpy(), y, row, on.numpy(), sizes


def _test_rows(row: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A quarter of the rows; rows with a positive and rows without are drawn apart, so that neither side lacks a class."""
    with_positive = np.unique(row[y])
    parts = (with_positive, np.setdiff1d(np.unique(row), with_positive))
    return np.concatenate(
        [
            generator.permutation(part)[: max(1, round(TEST_SHARE * len(part)))]
            for part in parts
            if len(part)
        ]
    )


def _balanced(tokens: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many positives as negatives, drawn at random, in the order of the text."""
    classes = [tokens[y[tokens]], tokens[~y[tokens]]]
    n = min(MAX_TRAINING // 2, *map(len, classes))
    return np.sort(np.concatenate([generator.choice(part, n, replace=False) for part in classes]))


def _fitted(x: np.ndarray, y: np.ndarray):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(x, y)


def _row_counts(right: np.ndarray, y: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``[row, 4]``: positives, those found, negatives, those left alone."""
    _, inverse = np.unique(row, return_inverse=True)
    parts = (y, y & right, ~y, ~y & right)
    return np.stack([np.bincount(inverse, weights=part) for part in parts], axis=1)


def _accuracy(counts: np.ndarray) -> np.ndarray:
    """Of counts ``[..., 4]``; NaN where a class is missing."""
    with np.errstate(invalid="ignore"):
        return (counts[..., 1] / counts[..., 0] + counts[..., 3] / counts[..., 2]) / 2


def _f1(counts: np.ndarray) -> float:
    positives, found, negatives, left = counts
    return float(2 * found / (positives + found + negatives - left))
