"""The direction that some features share, from vectors of length one, and what chance gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

NULL_SETS = 20


@dataclass(frozen=True)
class UnitDirections:
    """How alike the rare features' encoder columns, or decoder rows, are at length one.

    At length one, because the mean of vectors of different lengths is the mean of the longest.
    """

    direction: Float[Tensor, " d"]
    """Mean of the rare features' unit vectors."""
    shared: Float[Tensor, " d"]
    """The same mean over the features that are not rare: what all of the dictionary shares."""
    cosine: Float[Tensor, " n_rare"]
    """Cosine of each rare vector with the mean of the other rare ones (leave one out)."""
    null: Float[Tensor, " null"]
    """The same in 20 random sets of features that are not rare, one set after the other. Each is as
    large as the rare set, or half of the features that are not rare, if that is fewer."""
    projected_cosine: Float[Tensor, " n_rare"]
    """``cosine``, after ``shared`` was projected out of each vector."""
    projected_null: Float[Tensor, " null"]
    """``null``, after the mean of the features that are neither rare nor in the set was projected
    out of each vector."""

    @property
    def own(self) -> Float[Tensor, " d"]:
        """``direction`` without its part along ``shared``."""
        return without(self.direction, self.shared)


def unit_directions(
    vectors: Float[Tensor, "d_sae d"], is_rare: Bool[Tensor, " d_sae"], *, seed: int = 0
) -> UnitDirections:
    """The rare features' common direction at length one, with and without the shared one.

    Args:
        vectors: encoder columns or decoder rows, one per feature, of any length. A vector of zeros
            has no cosine (NaN).
        is_rare: which features are rare.
        seed: for the random sets of the null.

    Source: ours. The gelu-1l notebook averages encoder columns as they are.
    """
    unit = normalize(vectors, dim=-1)
    rare, others = unit[is_rare], unit[~is_rare]
    shared = others.mean(0)
    null, projected_null = _null(others, len(rare), seed)
    return UnitDirections(
        direction=rare.mean(0),
        shared=shared,
        cosine=leave_one_out(rare),
        null=null,
        projected_cosine=leave_one_out(normalize(without(rare, shared), dim=-1)),
        projected_null=projected_null,
    )


def leave_one_out(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Cosine of each row with the mean of the others; NaN if there is only one row."""
    n_others = len(rows) - 1
    if n_others > 0:
        others = (rows.sum(0) - rows) / n_others
    else:
        others = torch.full_like(rows, math.nan)
    dot = (rows * others).sum(-1)
    lengths = rows.norm(dim=-1) * others.norm(dim=-1)
    return dot / lengths


def without(vectors: Float[Tensor, "... d"], direction: Float[Tensor, " d"]) -> Tensor:
    """The vectors without their part along a direction."""
    unit = normalize(direction, dim=0)
    along = (vectors @ unit)[..., None]
    return vectors - along * unit


def _null(others: Tensor, n_rare: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leave-one-out cosines of random sets of unit vectors, as they are and projected."""
    size = min(n_rare, len(others) // 2)
    if size == 0:
        nothing = torch.full((1,), math.nan)
        return nothing, nothing
    total = others.sum(0)
    generator = torch.Generator().manual_seed(seed)
    cosines, projected = [], []
    for _ in range(NULL_SETS):
        chosen = others[torch.randperm(len(others), generator=generator)[:size]]
        shared = total - chosen.sum(0)
        cosines.append(leave_one_out(chosen))
        projected.append(leave_one_out(normalize(without(chosen, shared), dim=-1)))
    return torch.cat(cosines), torch.cat(projected)
