"""Two SAEs against each other: which features did both find?"""

from __future__ import annotations

import pandas as pd
import torch

from saework._checks import check_finite

BLOCK = 1024


def compare(sae_a, sae_b) -> pd.DataFrame:
    """For each feature of either SAE, the nearest one of the other, by cosine of decoder rows.

    Args: two SAEs with ``W_dec [d_sae, d_in]`` of the same ``d_in``.

    Returns: columns ``direction`` ("a to b", then "b to a"), ``feature``, ``nearest`` (ties: the
    lowest), ``cosine``, ``mutual`` (each is the other's nearest).

    Raises: ValueError if the widths differ.
    Memory: 1,024 features against all of the other SAE at a time (64 MB at 16,384 features).
    """
    a, b = (_unit_rows(sae.W_dec) for sae in (sae_a, sae_b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"d_in is {a.shape[1]} in the first SAE and {b.shape[1]} in the second; compare SAEs of one hook and model")
    (a_near, a_cosine), (b_near, b_cosine) = _nearest(a, b), _nearest(b, a)
    return pd.concat(
        [_frame("a to b", a_near, a_cosine, b_near), _frame("b to a", b_near, b_cosine, a_near)], ignore_index=True
    )


def _unit_rows(w_dec: torch.Tensor) -> torch.Tensor:
    w_dec = check_finite(w_dec.detach().float().cpu(), "decoder weights")
    return w_dec / w_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _nearest(rows: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    best = [(block @ others.T).max(dim=1) for block in rows.split(BLOCK)]
    return torch.cat([m.indices for m in best]), torch.cat([m.values for m in best])


def _frame(direction: str, nearest: torch.Tensor, cosine: torch.Tensor, back: torch.Tensor) -> pd.DataFrame:
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
