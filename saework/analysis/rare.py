"""Rare features: their mean direction, how close each feature is to it, and what chance would give."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pandas as pd
import torch

from saework.core.arguments import check_finite

NULL_SETS = 20


@dataclass(frozen=True)
class RareFeatures:
    """Which features are rare, and how alike they are."""

    threshold: float
    """Features with a firing rate below this are rare (fraction of tokens)."""
    firing_rate: torch.Tensor
    """``[d_sae]``, fraction of tokens."""
    is_rare: torch.Tensor
    """bool ``[d_sae]``: dead features are among them."""
    direction: torch.Tensor
    """``[d_in]``: mean encoder column of the rare features; NaN if none is rare."""
    cosine: torch.Tensor
    """``[d_sae]``: each encoder column against ``direction``. For a rare feature this mean contains
    the feature itself, which lifts the cosine a little: see ``rare_cosine``."""
    decoder_cosine: torch.Tensor
    """``[d_sae]``: each decoder row against the mean decoder row of the rare features."""
    rare_cosine: torch.Tensor
    """``[n_rare]``: each rare encoder column against the mean of the other rare ones (leave one out)."""
    null_cosine: torch.Tensor
    """``[sets * size]``: the same leave-one-out cosine in random sets of features that are not rare,
    as large as the rare set (or as all that are not rare, if those are fewer)."""

    @property
    def is_dead(self) -> torch.Tensor:
        """bool ``[d_sae]``: did not fire at all in the tokens that the rates rest on."""
        return self.firing_rate == 0

    def summary(self) -> pd.DataFrame:
        """One row a group: how many, and the median cosines."""
        dead, firing = self.is_rare & self.is_dead, self.is_rare & ~self.is_dead
        groups = {"rare: dead": dead, "rare: firing": firing, "not rare": ~self.is_rare}
        rows = {
            name: (int(mask.sum()), _median(self.cosine[mask]), _median(self.decoder_cosine[mask]))
            for name, mask in groups.items()
        }
        rows["rare, leave one out"] = (
            len(self.rare_cosine),
            _median(self.rare_cosine),
            float("nan"),
        )
        rows["null: random, not rare"] = (
            len(self.null_cosine),
            _median(self.null_cosine),
            float("nan"),
        )
        columns = ["n", "median encoder cosine", "median decoder cosine"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def __repr__(self) -> str:
        return (
            f"RareFeatures({int(self.is_rare.sum())} of {len(self.is_rare)} below {self.threshold:.3g}, "
            f"{int((self.is_rare & self.is_dead).sum())} of them dead)\n{self.summary().round(3).to_string()}"
        )

    def _repr_html_(self) -> str:
        return self.summary().to_html(float_format="{:.3f}".format)


def rare_features(sae, firing_rate, *, threshold: float = 1e-4, seed: int = 0) -> RareFeatures:
    """Features that fire on less than ``threshold`` of the tokens, and their common direction.

    Args:
        sae: anything with ``W_enc [d_in, d_sae]`` and ``W_dec [d_sae, d_in]``.
        firing_rate: ``[d_sae]``, fraction of tokens; a rate of 1e-4 wants some 10^6 tokens.
        threshold: fraction of tokens.
        seed: for the random sets of the null.

    Raises: ValueError for rates of another length than the SAE, or outside 0..1, or a threshold
    outside 0..1. Warns, and gives NaN cosines, if no feature is rare.

    Source: "Rare features are all the same" in the gelu-1l notebook; the leave-one-out cosine and
    the null are ours, since a mean that contains the feature itself lifts its cosine.
    """
    w_enc, w_dec = sae.W_enc.detach().float().cpu(), sae.W_dec.detach().float().cpu()
    check_finite(w_enc, "encoder weights"), check_finite(w_dec, "decoder weights")
    rate = torch.as_tensor(firing_rate).detach().cpu().double()
    if rate.shape != (w_dec.shape[0],):
        raise ValueError(
            f"firing_rate has shape {tuple(rate.shape)}; this SAE has {w_dec.shape[0]} features, give one rate each"
        )
    check_finite(rate, "firing rates")
    if rate.min() < 0 or rate.max() > 1:
        raise ValueError(
            f"firing rates run from {rate.min():.3g} to {rate.max():.3g}; give fractions of tokens, 0..1"
        )
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold is {threshold}; give a fraction of tokens above 0 and up to 1, such as 1e-4"
        )
    is_rare = rate < threshold
    columns = w_enc.T
    if not is_rare.any():
        warnings.warn(
            f"no feature fires on less than {threshold:.3g} of the tokens, so the rare direction is NaN",
            stacklevel=2,
        )
    return RareFeatures(
        threshold=threshold,
        firing_rate=rate,
        is_rare=is_rare,
        direction=columns[is_rare].mean(0),
        cosine=_cosine(columns, columns[is_rare].mean(0)),
        decoder_cosine=_cosine(w_dec, w_dec[is_rare].mean(0)),
        rare_cosine=_leave_one_out(columns[is_rare]),
        null_cosine=_null(columns[~is_rare], int(is_rare.sum()), seed),
    )


def _cosine(rows: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return rows @ direction / (rows.norm(dim=-1) * direction.norm())


def _leave_one_out(rows: torch.Tensor) -> torch.Tensor:
    """Cosine of each row with the mean of the others; NaN where there is no other."""
    others = (
        (rows.sum(0) - rows) / (len(rows) - 1)
        if len(rows) > 1
        else torch.full_like(rows, float("nan"))
    )
    return (rows * others).sum(-1) / (rows.norm(dim=-1) * others.norm(dim=-1))


def _null(rows: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    size = min(size, len(rows))
    n_sets = NULL_SETS if 0 < size < len(rows) else min(size, 1)
    generator = torch.Generator().manual_seed(seed)
    cosines = [
        _leave_one_out(rows[torch.randperm(len(rows), generator=generator)[:size]])
        for _ in range(n_sets)
    ]
    return torch.cat(cosines) if cosines else torch.full((1,), float("nan"))


def _median(values: torch.Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")
