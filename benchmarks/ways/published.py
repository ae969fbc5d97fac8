"""The gelu-1l notebook's way, rewritten from its description: the whole autoencoder each time.

Rates and losses take its ``cfg["model_batch_size"]`` of 64 rows at once. One feature takes all 128
rows of its ``batch_size`` at once (it prints ``hidden_acts.shape torch.Size([16384, 16384])``).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

ROWS = 64
AT_THRESHOLD = 1e-5


def pre_activations(sae, x: torch.Tensor) -> torch.Tensor:
    """Features before the ReLU."""
    return (x - sae.b_dec) @ sae.W_enc + sae.b_enc


def autoencoder(sae, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Loss, reconstruction, features and both parts of the loss, all of them each time."""
    features = pre_activations(sae, x).relu()
    reconstruction = features @ sae.W_dec + sae.b_dec
    difference = reconstruction.float() - x.float()
    error = difference.pow(2).sum(-1).mean(0)
    sparsity = 3e-4 * features.float().abs().sum()
    loss = error + sparsity
    return loss, reconstruction, features, error, sparsity


def activations(s: SimpleNamespace, rows: torch.Tensor) -> torch.Tensor:
    """``[token, d_in]`` at the hook."""
    _, layer, _ = s.hook.split(".", 2)
    _, cache = s.model.run_with_cache(
        rows,
        stop_at_layer=int(layer) + 1,
        names_filter=s.hook,
    )
    d_in = s.sae.W_enc.shape[0]
    return cache[s.hook].reshape(-1, d_in)


def features_of(s: SimpleNamespace, rows: torch.Tensor) -> torch.Tensor:
    """``[token, d_sae]``."""
    _, _, features, _, _ = autoencoder(s.sae, activations(s, rows))
    return features


def rates(s: SimpleNamespace) -> dict:
    """Counts of all features."""
    counts = torch.zeros(len(s.sae.b_enc))
    for rows in s.tokens.split(ROWS):
        fires = features_of(s, rows) > 0
        counts += fires.sum(0)
    return {"count": counts}


def recons(s: SimpleNamespace) -> dict:
    """The three losses of the recons score, means over blocks of rows."""

    def splice(x, hook):
        _, reconstruction, *_ = autoencoder(s.sae, x)
        return reconstruction

    def zero(x, hook):
        return x.zero_()

    def loss_with(rows, edit):
        return s.model.run_with_hooks(
            rows,
            return_type="loss",
            fwd_hooks=[(s.hook, edit)],
        )

    clean, spliced, ablated = [], [], []
    for rows in s.tokens.split(ROWS):
        clean.append(s.model(rows, return_type="loss"))
        spliced.append(loss_with(rows, splice))
        ablated.append(loss_with(rows, zero))
    return {
        "clean": torch.stack(clean).mean(),
        "spliced": torch.stack(spliced).mean(),
        "ablated": torch.stack(ablated).mean(),
    }


def feature(s: SimpleNamespace) -> dict:
    """One feature on all tokens."""
    values = features_of(s, s.tokens)[:, s.feature]
    return {"activations": values}


def near_threshold(s: SimpleNamespace) -> dict:
    """Not measured: how many pre-activations of each feature rounding may decide."""
    near = torch.zeros(len(s.sae.b_enc), dtype=torch.int64)
    for x in activations(s, s.tokens).split(1024):
        size = pre_activations(s.sae, x).abs()
        near += (size < AT_THRESHOLD).sum(0)
    return {"near": near}
