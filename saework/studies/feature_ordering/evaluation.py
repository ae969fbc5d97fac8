"""How good a trained SAE is on held-out activations: the same measures for every variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from saework.core.reconstruction_formulas import reconstruction_sums

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from saework.core.protocols import SparseAutoencoder

TOKENS_AT_ONCE = 4096


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, x: Float[Tensor, "tokens d_in"]) -> dict[str, float]:
    """The metrics of an SAE on held-out activations.

    Args:
        sae: a trained SAE.
        x: activations that it was not trained on.
    Returns: those of ``TrainedRun.metrics`` but ``final_loss``.
    """
    x = x.to(sae.W_dec.device)
    mean = x.double().mean(0)
    row_norms = sae.W_dec.norm(dim=1)
    has_fired = torch.zeros_like(row_norms, dtype=torch.bool)
    totals: dict[str, float] = {}
    for part in x.split(TOKENS_AT_ONCE):
        features = sae.encode(part)
        has_fired |= (features > 0).any(0)
        sums = reconstruction_sums(
            part,
            x_hat=sae.decode(features),
            l0=(features != 0).sum(-1),
            # as if decoder rows had unit norm
            l1=(features * row_norms).double().abs().sum(-1),
            mean=mean,
        )
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + value
    n_tokens = totals["tokens"]
    unexplained = totals["error"] / totals["spread"]
    n_dead = (~has_fired).sum()
    return {
        "mse": totals["error"] / n_tokens,
        "cosine": totals["cosine"] / n_tokens,
        "l0": totals["l0"] / n_tokens,
        "l1": totals["l1"] / n_tokens,
        "variance_explained": 1 - unexplained,
        "dead": int(n_dead),
    }
