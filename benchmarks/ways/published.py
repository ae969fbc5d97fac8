"""The gelu-1l notebook's way, written anew from its description: the whole autoencoder each time.

Rates and losses take its ``cfg["model_batch_size"]`` of 64 rows at once; one feature takes all 128 rows of its
``batch_size`` at once (it prints ``hidden_acts.shape torch.Size([16384, 16384])``).
"""

from __future__ import annotations

import torch

ROWS = 64


def autoencoder(sae, x):
    """Loss, reconstruction, features and both parts of the loss, all of them each time."""
    features = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    reconstruction = features @ sae.W_dec + sae.b_dec
    error = (reconstruction.float() - x.float()).pow(2).sum(-1).mean(0)
    sparsity = 3e-4 * features.float().abs().sum()
    return error + sparsity, reconstruction, features, error, sparsity


def activations(s, rows):
    layer = int(s.hook.split(".")[1])
    _, cache = s.model.run_with_cache(rows, stop_at_layer=layer + 1, names_filter=s.hook)
    return cache[s.hook].reshape(-1, s.sae.W_enc.shape[0])


def rates(s):
    counts = torch.zeros(len(s.sae.b_enc))
    for rows in s.tokens.split(ROWS):
        counts += (autoencoder(s.sae, activations(s, rows))[2] > 0).sum(0)
    return {"count": counts}


def recons(s):
    losses = []
    for rows in s.tokens.split(ROWS):
        loss = s.model(rows, return_type="loss")
        spliced = s.model.run_with_hooks(
            rows, return_type="loss", fwd_hooks=[(s.hook, lambda x, hook: autoencoder(s.sae, x)[1])]
        )
        zeroed = s.model.run_with_hooks(
            rows, return_type="loss", fwd_hooks=[(s.hook, lambda x, hook: x.zero_())]
        )
        losses.append(torch.stack([loss, spliced, zeroed]))
    return dict(zip(("clean", "spliced", "ablated"), torch.stack(losses).mean(0)))


def feature(s):
    return {"activations": autoencoder(s.sae, activations(s, s.tokens))[2][:, s.feature]}


def near_threshold(s):
    """Not measured: how many pre-activations of each feature are so close to zero that rounding may decide."""
    near = torch.zeros(len(s.sae.b_enc), dtype=torch.int64)
    for x in activations(s, s.tokens).split(1024):
        near += (((x - s.sae.b_dec) @ s.sae.W_enc + s.sae.b_enc).abs() < 1e-5).sum(0)
    return {"near": near}
