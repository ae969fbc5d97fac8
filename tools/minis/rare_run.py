"""A run of gelu-1l-mini in which more than half of the features are rare.

It is trained by Neel Nanda's published ``AutoEncoder`` and loss (see ``autoencoder``). As in
``language_model``, checkpoints are kept, and a resumed run equals an unbroken one, if it has as
many threads.

Source: https://github.com/neelnanda-io/1L-Sparse-Autoencoder. There rows are given unit norm before
a step and are not of unit norm after it; here after it. Nothing is resampled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.formulas import log10_rate, variance_explained
from saework.engine.activation_batches import activation_batches
from tools.minis.autoencoder import AutoEncoder
from tools.minis.language_model import Checkpoint
from tools.minis.sae import NORM_BATCHES, SaeRecipe

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

RARE_RUN = SaeRecipe(
    "blocks.0.mlp.hook_post",
    d_in=512,
    d_sae=4096,
    l1=1.8,
    steps=12_000,
    batch=4096,
    lr=1e-3,
    seed=3,
)
BETAS = (0.9, 0.99)
WARM_UP_STEPS = 200
DECAY_SHARE = 0.2  # of the steps, at the end
TRAINING_ROWS = 46_000
BUFFER_ROWS = 1024
WINDOW_STEPS = 250  # a checkpoint, and an entry of the curve: a million tokens of the real run
LOG_STEPS = 50


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 200 steps, and linear decay to 0 over the last fifth."""
    warm_up = (step + 1) / WARM_UP_STEPS
    decay = (steps - step) / (DECAY_SHARE * steps)
    return min(1.0, warm_up, decay)


def train(
    model: HookedModel,
    rows: Int[Tensor, "batch pos"],
    recipe: SaeRecipe,
    folder: Path,
    *,
    device: str = "cpu",
    log: Callable[[str], None] = print,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train, or continue; returns weights in the published layout, and the curve.

    The curve has one entry per 250 steps, over all tokens of these steps. The autoencoder is
    trained on the CPU, whatever the model's ``device`` is.
    """
    # The moments of a dead feature fade into denormal numbers, with which a CPU is slow.
    torch.set_flush_denormal(True)
    try:
        return _train(model, rows[:TRAINING_ROWS], recipe, folder, log=log)
    finally:
        torch.set_flush_denormal(False)


def _train(
    model: HookedModel,
    rows: Int[Tensor, "batch pos"],
    recipe: SaeRecipe,
    folder: Path,
    *,
    log: Callable[[str], None],
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    folder.mkdir(parents=True, exist_ok=True)
    buffer_rows = min(BUFFER_ROWS, len(rows))
    order: dict[str, Any] = {"batch": recipe.batch, "seed": recipe.seed, "buffer_rows": buffer_rows}
    autoencoder = AutoEncoder(recipe.d_in, recipe.d_sae, seed=recipe.seed)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=recipe.lr, betas=BETAS, fused=True)
    checkpoint = Checkpoint(folder / "latest.pt", model=autoencoder, optimizer=optimizer)
    curve, first = checkpoint.restore()
    if first == 0:
        batches = activation_batches(model, rows, recipe.hook, **order)
        norms = [next(batches).cpu().norm(dim=1).mean() for _ in range(NORM_BATCHES)]
        autoencoder.scale.copy_(recipe.d_in**0.5 / torch.stack(norms).mean())
    batches = activation_batches(model, rows, recipe.hook, **order, start=NORM_BATCHES + first)
    firings = torch.zeros(recipe.d_sae, dtype=torch.long)
    started = time.monotonic()
    for step in range(first, recipe.steps):
        x = next(batches).cpu() * autoencoder.scale
        optimizer.param_groups[0]["lr"] = recipe.lr * learning_rate_factor(step, recipe.steps)
        output = autoencoder.set_gradients(x, recipe.l1 or 0.0)
        optimizer.step()
        autoencoder.renormalise()
        firings += output["firings"]
        done = step + 1
        if done % LOG_STEPS == 0:
            l0 = float(output["firings"].sum()) / recipe.batch
            minutes = (time.monotonic() - started) / 60
            log(f"step {done}  loss {output['loss']:.3f}  L0 {l0:.1f}  minutes {minutes:.1f}")
        if done % WINDOW_STEPS == 0:
            n_tokens = WINDOW_STEPS * recipe.batch
            entry = _curve_entry(done * recipe.batch, output, x, firings / n_tokens)
            log(f"step {done}  in the last {n_tokens} tokens: {json.dumps(entry)}")
            curve.append(entry)
            firings.zero_()
            checkpoint.save(curve, done)
    return autoencoder.published_layout(), curve


def _curve_entry(
    tokens: int, output: dict[str, Tensor], x: Tensor, rates: Float[Tensor, " d_sae"]
) -> dict[str, Any]:
    """As in ``sae``; with the loss, and the shares of features that fired, and of rare ones."""
    return {
        "tokens": tokens,
        "loss": round(float(output["loss"]), 4),
        "variance_explained": float(variance_explained(x, output["x_hat"])),
        "l0": float(rates.sum()),
        "fired": float((rates > 0).double().mean()),
        "rare": float((rates < 1e-4).double().mean()),
        "log10_rate_histogram": torch.histc(log10_rate(rates), bins=13, min=-6.5, max=0)
        .int()
        .tolist(),
    }
