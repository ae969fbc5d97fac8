"""Rare features: their mean direction, how close each feature is to it, and what chance gives."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from saework.core.argument_kinds import checked, is_number
from saework.core.arguments import as_real_numbers, check_finite
from saework.core.errors import in_words
from saework.core.parts import ONLY_WEIGHTS, check_sae
from saework.core.unit_directions import (
    NULL_SETS,
    UnitDirections,
    leave_one_out,
    unit_directions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from saework.core.protocols import SparseAutoencoder
from saework.engine.architectures import encoder_columns


@dataclass(frozen=True)
class RareFeatures:
    """Which features are rare, and how alike they are."""

    threshold: float
    """Features with a firing rate below this are rare (fraction of tokens)."""
    firing_rate: Float[Tensor, " d_sae"]
    """Fraction of tokens."""
    is_rare: Bool[Tensor, " d_sae"]
    """Dead features are among the rare ones."""
    direction: Float[Tensor, " d_in"]
    """Mean encoder column of the rare features; NaN if none is rare."""
    cosine: Float[Tensor, " d_sae"]
    """Cosine of each encoder column with ``direction``. For a rare feature that mean contains the
    feature itself, which raises its cosine a little: see ``rare_cosine``."""
    decoder_cosine: Float[Tensor, " d_sae"]
    """Cosine of each decoder row with the mean decoder row of the rare features."""
    rare_cosine: Float[Tensor, " n_rare"]
    """Cosine of each rare encoder column with the mean of the other rare ones (leave one out)."""
    null_cosine: Float[Tensor, " null"]
    """The same leave-one-out cosine in 20 random sets of features that are not rare, one set after
    the other. Each set is as large as the rare set. If fewer features are not rare, there is one
    set of all of these."""
    encoder_norm: Float[Tensor, " d_sae"]
    """Length of each encoder column. Look at it before you average columns."""
    own_cosine: Float[Tensor, " d_sae"]
    """Cosine of each encoder column with its own decoder row; NaN for an SAE that writes in another
    space than it reads (a transcoder of another width)."""
    encoder: UnitDirections
    """The encoder columns at length one, and without what all columns share."""
    decoder: UnitDirections
    """The decoder rows in the same way."""

    @property
    def is_dead(self) -> Bool[Tensor, " d_sae"]:
        """Features that never fired in the tokens that the rates were counted on."""
        return self.firing_rate == 0

    def summary(self) -> pd.DataFrame:
        """One row per group: how many features, and their median cosines.

        A feature whose weights are all zero counts, but has no cosine.
        """
        groups = {
            "rare: dead": self.is_rare & self.is_dead,
            "rare: firing": self.is_rare & ~self.is_dead,
            "not rare": ~self.is_rare,
        }
        rows = {}
        for name, group in groups.items():
            encoder_median = _median(self.cosine[group])
            decoder_median = _median(self.decoder_cosine[group])
            rows[name] = (int(group.sum()), encoder_median, decoder_median)
        leave_one_out = {
            "rare, leave one out": self.rare_cosine,
            "null: random, not rare": self.null_cosine,
        }
        for name, cosine in leave_one_out.items():
            rows[name] = (len(cosine), _median(cosine), math.nan)
        columns = ["n", "median encoder cosine", "median decoder cosine"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def normalised(self) -> pd.DataFrame:
        """Leave-one-out cosines at length one: encoder and decoder, each beside its null.

        Columns: ``rare`` (median of the rare features), ``null`` (median of random sets of
        features that are not rare), ``null 5%`` and ``null 95%``.
        """
        rows = {}
        for side, found in (("encoder", self.encoder), ("decoder", self.decoder)):
            projected = (found.projected_cosine, found.projected_null)
            for name, (cosine, null) in {
                side: (found.cosine, found.null),
                f"{side}, shared direction projected out": projected,
            }.items():
                low, high = null.nanquantile(torch.tensor([0.05, 0.95])).tolist()
                rows[name] = (_median(cosine), _median(null), low, high)
        columns = ["rare", "null", "null 5%", "null 95%"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def __repr__(self) -> str:
        n_rare = int(self.is_rare.sum())
        n_dead = int((self.is_rare & self.is_dead).sum())
        counts = (
            f"{n_rare} of {len(self.is_rare)} below {self.threshold:.3g}, {n_dead} of them dead"
        )
        return f"RareFeatures({counts})\n{self.summary().round(3).to_string()}"

    def _repr_html_(self) -> str:
        return self.summary().to_html(float_format="{:.3f}".format)


@checked
def rare_features(
    sae: SparseAutoencoder,
    firing_rate: Sequence[float] | Float[Tensor, " d_sae"],
    *,
    threshold: float = 1e-4,
    seed: int = 0,
) -> RareFeatures:
    """Features that fire on less than ``threshold`` of the tokens, and their common direction.

    Warns, and gives NaN cosines, if no feature is rare.

    Args:
        sae: the SAE; only ``W_enc`` (``W_dec`` where they are tied) and ``W_dec`` are read.
        firing_rate: fraction of tokens. A rate of 1e-4 needs about a million tokens.
        threshold: fraction of tokens.
        seed: for the random sets of the null.

    Raises:
        ValueError: for another number of rates than the SAE has features, rates outside 0..1, a
            threshold outside 0..1, values that are not finite, or what is no SAE.

    Source: "Rare features are all the same" in the gelu-1l notebook: ``direction`` and ``cosine``.
    The rest is ours. A mean that contains the feature itself raises its cosine, and a mean of
    columns of different lengths follows the longest: see ``encoder``, ``decoder``.

    >>> from saework import load, scan
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> rates = scan(book, top_k=1, progress=False).firing_rate
    >>> rare_features(book.sae, rates, threshold=1e-3)
    RareFeatures(13... of 4096 below 0.001, 6... of them dead)
    ...
    """
    check_sae(sae, needs=ONLY_WEIGHTS)
    w_enc = encoder_columns(sae).detach().float().cpu()
    w_dec = sae.W_dec.detach().float().cpu()
    check_finite(w_enc, "encoder weights")
    check_finite(w_dec, "decoder weights")
    rate = _checked_rate(firing_rate, d_sae=w_dec.shape[0])
    if not is_number(threshold) or not 0 < threshold <= 1:
        raise ValueError(
            f"threshold is {in_words(threshold)}; "
            "give a fraction of tokens above 0 and up to 1, such as 1e-4"
        )
    is_rare = rate < threshold
    if not is_rare.any():
        warnings.warn(
            f"no feature fires on less than {threshold:.3g} of the tokens, so the rare direction "
            "is NaN",
            stacklevel=2,
        )
    columns = w_enc.T
    rare_columns = columns[is_rare]
    direction = rare_columns.mean(0)
    return RareFeatures(
        threshold=threshold,
        firing_rate=rate,
        is_rare=is_rare,
        direction=direction,
        cosine=_cosine(columns, direction),
        decoder_cosine=_cosine(w_dec, w_dec[is_rare].mean(0)),
        rare_cosine=leave_one_out(rare_columns),
        null_cosine=_null(columns[~is_rare], len(rare_columns), seed),
        encoder_norm=columns.norm(dim=-1),
        own_cosine=_own_cosine(columns, w_dec),
        encoder=unit_directions(columns, is_rare, seed=seed),
        decoder=unit_directions(w_dec, is_rare, seed=seed),
    )


def _checked_rate(firing_rate: Sequence[float] | Tensor, d_sae: int) -> Tensor:
    """Firing rates as float64 ``[d_sae]`` on the CPU."""
    rate = as_real_numbers(firing_rate, "firing_rate").detach().cpu().double()
    if rate.shape != (d_sae,):
        raise ValueError(
            f"firing_rate has shape {tuple(rate.shape)}; "
            f"this SAE has {d_sae} features, give one rate each"
        )
    check_finite(rate, "firing rates")
    low, high = rate.min(), rate.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"firing rates run from {low:.3g} to {high:.3g}; give fractions of tokens, 0..1"
        )
    return rate


def _cosine(rows: Tensor, direction: Tensor) -> Tensor:
    """Cosine of each row with one direction."""
    dot = rows @ direction
    lengths = rows.norm(dim=-1) * direction.norm()
    return dot / lengths


def _own_cosine(columns: Tensor, w_dec: Tensor) -> Tensor:
    """Cosine of each encoder column with its decoder row; NaN if their widths differ."""
    if columns.shape != w_dec.shape:
        return torch.full((len(columns),), math.nan)
    dot = (columns * w_dec).sum(-1)
    lengths = columns.norm(dim=-1) * w_dec.norm(dim=-1)
    return dot / lengths


def _null(rows: Tensor, size: int, seed: int) -> Tensor:
    """Leave-one-out cosines in random sets of ``size`` rows; one NaN if there is no row."""
    size = min(size, len(rows))
    # A set of all rows is the same set each time, so it is taken once.
    n_sets = NULL_SETS if 0 < size < len(rows) else min(size, 1)
    generator = torch.Generator().manual_seed(seed)
    cosines = []
    for _ in range(n_sets):
        chosen = torch.randperm(len(rows), generator=generator)[:size]
        cosines.append(leave_one_out(rows[chosen]))
    if not cosines:
        return torch.full((1,), math.nan)
    return torch.cat(cosines)


def _median(values: Tensor) -> float:
    """The median of the rows that have a direction; a row of zeros has none (NaN)."""
    return float(values.nanmedian()) if len(values) else math.nan
