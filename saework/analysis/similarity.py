"""Two SAEs against each other: which features did both find?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import check_finite
from saework.core.parts import ONLY_WEIGHTS, check_sae

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import SparseAutoencoder

BLOCK = 1024  # rows whose cosines exist at one time


@checked
def compare(sae_a: SparseAutoencoder, sae_b: SparseAutoencoder) -> pd.DataFrame:
    """For each feature of either SAE, the nearest of the other, by decoder cosine.

    Memory: 1,024 features against all of the other SAE at a time (64 MB at 16,384 features).

    Args:
        sae_a: the first SAE; only ``W_dec`` is read.
        sae_b: the second SAE, of the same ``d_in``.

    Returns:
        One row per feature of each SAE, with the columns

        - ``direction``: "a to b" (all rows of the first SAE come first) or "b to a";
        - ``feature``: the feature's number;
        - ``nearest``: the number of the nearest feature in the other SAE (ties: the lowest);
        - ``cosine``: of their decoder rows;
        - ``mutual``: whether each is the other's nearest.

    Raises:
        ValueError: if the SAEs differ in ``d_in``, weights are not finite, or one is no SAE.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> table = compare(book.sae, book.with_sae("run2").sae)
    >>> table.columns.tolist(), len(table)
    (['direction', 'feature', 'nearest', 'cosine', 'mutual'], 8192)
    """
    check_sae(sae_a, needs=ONLY_WEIGHTS)
    check_sae(sae_b, needs=ONLY_WEIGHTS)
    a = unit_rows(sae_a.W_dec)
    b = unit_rows(sae_b.W_dec)
    d_in_a = a.shape[1]
    d_in_b = b.shape[1]
    if d_in_a != d_in_b:
        raise ValueError(
            f"d_in is {d_in_a} in the first SAE and {d_in_b} in the second; "
            "compare SAEs of one hook and model"
        )
    nearest_in_b, cosine_in_b = _nearest(a, b)
    nearest_in_a, cosine_in_a = _nearest(b, a)
    a_to_b = _table("a to b", nearest_in_b, cosine_in_b, back=nearest_in_a)
    b_to_a = _table("b to a", nearest_in_a, cosine_in_a, back=nearest_in_b)
    return pd.concat([a_to_b, b_to_a], ignore_index=True)


def unit_rows(
    weights: Float[Tensor, "row d_in"], what: str = "decoder weights"
) -> Float[Tensor, "row d_in"]:
    """Rows of length 1, float32 on the CPU; a row of zeros stays as it is.

    Raises:
        ValueError: if a value is not finite; ``what`` names the weights in the message.
    """
    weights = weights.detach().float().cpu()
    check_finite(weights, what)
    lengths = weights.norm(dim=-1, keepdim=True)
    return weights / lengths.clamp_min(1e-12)


def nearest_rows(
    rows: Float[Tensor, "row d_in"],
    others: Float[Tensor, "other d_in"],
    n: int,
    *,
    own: Sequence[int] | None = None,
) -> tuple[Int[Tensor, "row n"], Float[Tensor, "row n"]]:
    """The ``n`` nearest of ``others`` to each row, by cosine; ties by number.

    Args:
        rows: as ``unit_rows`` makes them.
        others: likewise.
        n: how many for each row; fewer if there are fewer others.
        own: which of ``others`` each row itself is, to be left out.

    Returns:
        Index among ``others``, and cosine.
    """
    n_others = len(others)
    if own is not None:
        n_others -= 1
    n = min(n, n_others)
    indices = []
    cosines = []
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        cosine = rows[block] @ others.T
        if own is not None:
            itself = torch.as_tensor(own[block])
            cosine.scatter_(1, itself[:, None], -torch.inf)
        values, index = cosine.topk(n, dim=1)
        # topk leaves the order of equal values open. lexsort's last key comes first: cosine, index.
        sort_keys = (index.numpy(), -values.numpy())
        order = torch.from_numpy(np.lexsort(sort_keys))
        indices.append(index.gather(1, order))
        cosines.append(values.gather(1, order))
    return torch.cat(indices), torch.cat(cosines)


def _nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Index and cosine of the nearest of ``others`` to each row."""
    indices = []
    cosines = []
    for block in rows.split(BLOCK):
        every_cosine = block @ others.T
        cosine, index = every_cosine.max(dim=1)
        indices.append(index)
        cosines.append(cosine)
    return torch.cat(indices), torch.cat(cosines)


def _table(direction: str, nearest: Tensor, cosine: Tensor, *, back: Tensor) -> pd.DataFrame:
    """One direction's rows; ``back`` holds the nearest features in the opposite direction."""
    features = torch.arange(len(nearest))
    is_mutual = back[nearest] == features
    columns = {
        "direction": direction,
        "feature": features.numpy(),
        "nearest": nearest.numpy(),
        "cosine": cosine.numpy(),
        "mutual": is_mutual.numpy(),
    }
    return pd.DataFrame(columns)
