"""Tokens with a label: checked, and split by rows of text into training and test tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saework.core.arguments import as_tensor, check_finite, check_mask

if TYPE_CHECKING:
    from numpy import ndarray
    from numpy.random import Generator
    from torch import Tensor

MAX_TRAINING = 4000
"""Training tokens at most, half of them positive: SAEBench's ``probe_train_set_size``."""
TEST_SHARE = 0.25
LEAST_ROWS = 4
"""Rows of text that each class needs, so that a quarter of them can be set aside."""


@dataclass(frozen=True)
class LabelledTokens:
    """The tokens in the mask, in the order of the text."""

    features: ndarray
    """``[any token, d]``: those outside the mask too, because a copy could be large."""
    place: ndarray
    """Which row of ``features`` each token is."""
    label: ndarray
    """Bool."""
    row: ndarray
    """Which row of text each token is in."""

    @classmethod
    def checked(cls, features: Any, labels: Any, mask: Any) -> LabelledTokens:
        """From ``[batch, pos, d]`` and ``[batch, pos]``, or ``[batch, d]`` and ``[batch]``.

        Raises:
            ValueError: if shapes do not fit, a value is not finite, or a class is found in fewer
                than four rows.
        """
        features = as_tensor(features, "features")
        if features.is_complex() or features.is_meta or features.layout is not torch.strided:
            raise ValueError(
                f"features are {features.dtype}, {features.layout}, on {features.device}; "
                "give real numbers in a dense tensor"
            )
        labels = as_tensor(labels, "labels")
        if labels.dtype != torch.bool:
            raise ValueError(f"labels are {labels.dtype}; give bool, True where the label holds")
        batch = features.shape[:-1]
        if labels.ndim not in (1, 2) or labels.shape != batch:
            raise ValueError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
                "give [batch, pos, d] and [batch, pos], or [batch, d] and [batch]"
            )
        on = check_mask(mask, labels.shape)
        if on is None:
            on = torch.ones_like(labels)
        (place,) = on.cpu().flatten().nonzero(as_tuple=True)
        if features.dtype == torch.bfloat16:  # numpy has none
            features = features.float()
        x = features.detach().cpu().flatten(0, -2)
        _check_finite_tokens(x, place)
        label = labels.cpu().flatten()[place]
        tokens_per_row = labels.numel() // len(labels)
        row = place // tokens_per_row
        tokens = cls(
            features=x.numpy(),
            place=place.numpy(),
            label=label.numpy(),
            row=row.numpy(),
        )
        tokens._check_both_classes()
        return tokens

    def _check_both_classes(self) -> None:
        for value in (True, False):
            has_value = self.label == value
            n_rows = len(np.unique(self.row[has_value]))
            if n_rows < LEAST_ROWS:
                raise ValueError(
                    f"the label is {value} in {n_rows} row(s) of text, and four are the least that "
                    "can be split; give more text, or shorter rows"
                )

    def values(self, tokens: ndarray, columns: ndarray) -> ndarray:
        """Some features of some tokens, ``[token, column]``."""
        places = self.place[tokens]
        return self.features[np.ix_(places, columns)]

    def split(self, generator: Generator) -> tuple[ndarray, ndarray]:
        """Training tokens, as many positive as negative, and test tokens, all of other rows."""
        test_rows = draw_test_rows(self.row, self.label, generator)
        is_test = np.isin(self.row, test_rows)
        train = np.flatnonzero(~is_test)
        test = np.flatnonzero(is_test)
        return self._balanced(train, generator), test

    def _balanced(self, tokens: ndarray, generator: Generator) -> ndarray:
        """As many positives as negatives, drawn at random, in the order of the text."""
        is_positive = self.label[tokens]
        positives = tokens[is_positive]
        negatives = tokens[~is_positive]
        n = min(MAX_TRAINING // 2, len(positives), len(negatives))
        drawn = [
            generator.choice(positives, n, replace=False),
            generator.choice(negatives, n, replace=False),
        ]
        return np.sort(np.concatenate(drawn))


def draw_test_rows(row: ndarray, label: ndarray, generator: Generator) -> ndarray:
    """A quarter of the rows with a positive, and a quarter of those without one.

    Both kinds are drawn apart, so that neither side lacks a class.

    Args:
        row: each token's row of text.
        label: bool, each token's.
        generator: of the draw.
    """
    with_positive = np.unique(row[label])
    without_positive = np.setdiff1d(row, with_positive)
    drawn = []
    for rows in (with_positive, without_positive):
        n_rows = len(rows)
        if n_rows:
            n_test = max(1, round(TEST_SHARE * n_rows))
            shuffled = generator.permutation(rows)
            drawn.append(shuffled[:n_test])
    return np.concatenate(drawn)


def _check_finite_tokens(x: Tensor, place: Tensor) -> None:
    """Raises ValueError if a token in the mask has a feature that is not finite."""
    # A token's sum is finite if its features are, so only the others are looked at.
    sums = x.sum(-1)[place]
    suspicious = place[~sums.isfinite()]
    if len(suspicious):
        check_finite(x[suspicious], "features (leave their tokens out with mask=)")
