"""Two SAEs against each other: which features did both find?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from saework.core.arguments import check_finite

BLOCK = 1024


def compare(sae_a, sae_b) -> pd.DataFrame:
    """For each feature of either SAE, the nearest one of the other, by cosine of decoder rows.

    Args: two SAEs with ``W_dec [d_sae, d_in]`` of the same ``d_in``.

    Returns: columns ``direction`` ("a to b", then "b to a"), ``feature``, ``nearest`` (ties: the
    lowest), ``cosine``, ``mutual`` (each is the other's nearest).

    Raises: ValueError if the widths differ.
    Memory: 1,024 features against all of the other SAE at a time (64 MB at 16,384 features).
    """
    a, b = (unit_rows(sae.W_dec) for sae in (sae_a, sae_b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"d_in is {a.shape[1]} in the first SAE and {b.shape[1]} in the second; compare SAEs of one hook and model"
        )
    (a_near, a_cosine), (b_near, b_cosine) = _nearest(a, b), _nearest(b, a)
    return pd.concat(
        [_frame("a to b", a_near, a_cosine, b_near), _frame("b to a", b_near, b_cosine, a_near)],
        ignore_index=True,
    )


def unit_rows(weights: torch.Tensor, what: str = "decoder weights") -> torch.Tensor:
    """Rows of length 1, float32 on the CPU; a row of zeros stays one."""
    weights = check_finite(weights.detach().float().cpu(), what)
    return weights / weights.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def nearest_rows(
    rows: torch.Tensor, others: torch.Tensor, n: int, *, own: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``n`` nearest of ``others`` to each row, by cosine, ties by number: ``(index, cosine)``, each ``[row, n]``.

    Args: both from ``unit_rows``; ``own``: which of ``others`` each row itself is, to be left out.
    """
    indices, cosines = [], []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK] @ others.T
        if own is not None:
            block[
                torch.arange(len(block)), torch.as_tensor(own[start : start + BLOCK])
            ] = -torch.inf
        best = block.topk(min(n, len(others) - (own is not None)), dim=1)
        order = torch.from_numpy(np.lexsort((best.indices.numpy(), -best.values.numpy())))
        indices.append(best.indices.gather(1, order)), cosines.append(best.values.gather(1, order))
    return torch.cat(indices), torch.cat(cosines)


def _nearest(rows: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    best = [(block @ others.T).max(dim=1) for block in rows.split(BLOCK)]
    return torch.cat([m.indices for m in best]), torch.cat([m.values for m in best])


def _frame(
    direction: str, nearest: torch.Tensor, cosine: torch.Tensor, back: torch.Tensor
) -> pd.DataFrame:
    features = torch.arange(len(nearest))
    return pd.DataFrame(
        {
            "direction": direction,
            "feature": features.numpy(),
            "nearest": nearest.numpy(),
            "cosine": cosine.numpy(),
            "mutual": (back[nearest] == features).numpy(),
        }
    )
