"""A run of gelu-1l-mini in which more than half of the features are rare.

``python -m tools.minis.rare_run --out FOLDER`` trains it: Neel Nanda's published ``AutoEncoder``
and loss (see ``autoencoder``), on the mini as it is packaged. As in ``language_model``, checkpoints
are kept, and a resumed run equals an unbroken one, if it has as many threads.

Source: https://github.com/neelnanda-io/1L-Sparse-Autoencoder. There rows are given unit norm before
a step and are not of unit norm after it; here after it. Nothing is resampled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.files import DATA, write_whole
from saework.core.formulas import log10_rate, variance_explained
from saework.engine.activation_batches import activation_batches
from saework.loading import corpus
from saework.loading.model_layouts import NEEL
from saework.loading.tokenizer_files import read_tokenizer
from tools.minis import text
from tools.minis.autoencoder import AutoEncoder
from tools.minis.language_model import Checkpoint, save_whole
from tools.minis.sae import NORM_BATCHES, SaeRecipe

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

MINI = DATA / "gelu-1l-mini"
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
    log: Callable[[str], None] = print,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train, or continue; returns weights in the published layout, and the curve.

    The curve has one entry per 250 steps, over all tokens of these steps.
    """
    buffer_rows = min(BUFFER_ROWS, len(rows))
    order: dict[str, Any] = {"batch": recipe.batch, "seed": recipe.seed, "buffer_rows": buffer_rows}
    autoencoder = AutoEncoder(recipe.d_in, recipe.d_sae, seed=recipe.seed)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=recipe.lr, betas=BETAS, fused=True)
    checkpoint = Checkpoint(folder / "latest.pt", model=autoencoder, optimizer=optimizer)
    curve, first = checkpoint.restore()
    if first == 0:
        batches = activation_batches(model, rows, recipe.hook, **order)
        norms = [next(batches).norm(dim=1).mean() for _ in range(NORM_BATCHES)]
        autoencoder.scale.copy_(recipe.d_in**0.5 / torch.stack(norms).mean())
    batches = activation_batches(model, rows, recipe.hook, **order, start=NORM_BATCHES + first)
    firings = torch.zeros(recipe.d_sae, dtype=torch.long)
    started = time.monotonic()
    for step in range(first, recipe.steps):
        x = next(batches) * autoencoder.scale
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


def rows_of_the_mini(work: Path) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Shuffled rows of the training and the held-out documents, int16; tokenized once.

    A training row that is also a held-out one (copied text) is dropped. The tokenizer is the
    packaged one. The documents are those of this machine, so a later machine has a few more or
    fewer than the mini was trained on.
    """
    cached = work / "rows.pt"
    if not cached.exists():
        tokenizer = read_tokenizer(MINI / "tokenizer")
        cut = [corpus.tokenize_rows(texts, tokenizer) for texts in text.training_text()]
        rows, held_out = (corpus.shuffled(part).to(torch.int16) for part in cut)
        seen = set(map(tuple, held_out.tolist()))
        is_new = [tuple(row) not in seen for row in rows.tolist()]
        save_whole((rows[torch.tensor(is_new)], held_out), cached)
    return torch.load(cached, weights_only=True)


def main(argv: list[str] | None = None) -> int:
    """Train the run, or continue it, and store ``weights.pt`` (float32) and ``curve.json``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.minis.rare_run", description="Train a run with many rare features."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, weights")
    parser.add_argument("--threads", type=int, default=2, help="last bits depend on it (2)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(
        True
    )  # the moments of a dead feature fade into denormals, which are slow
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    model = NEEL.read(MINI / "model", read_tokenizer(MINI / "tokenizer"))
    rows, _ = rows_of_the_mini(out)

    def log(line: str) -> None:
        print(line, flush=True)

    weights, curve = train(model, rows[:TRAINING_ROWS], RARE_RUN, out, log=log)
    save_whole(weights, out / "weights.pt")
    write_whole(out / "curve.json", json.dumps(curve))
    log(f"trained: {out / 'weights.pt'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
