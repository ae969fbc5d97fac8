"""Toys in place of the minis: tiny models and SAEs, trained for a few steps on one sentence."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from tools.minis import recipes
from tools.minis.language_model import ModelRecipe
from tools.minis.sae import SaeRecipe

SENTENCE = """\
def area(width, height):
    # Multiply the sides, and return it.
    return width * height
"""
DOCUMENTS = [f"{SENTENCE * 30}\n# document {i}\n" for i in range(40)]
POST, RESID, INPUT = (
    "blocks.0.mlp.hook_post",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_resid_pre",
)
SMALL = {"steps": 32, "batch": 256}
RELU = SaeRecipe(POST, 32, 64, l1=2.0, **SMALL)
JUMPRELU = SaeRecipe(RESID, 16, 64, target_l0=4, subtract_b_dec=False, bos=False, **SMALL)


def toy_model(architecture: str) -> ModelRecipe:
    return ModelRecipe(
        architecture=architecture,
        n_layers=1 if architecture == "gelu" else 2,
        d_model=16,
        d_mlp=32,
        n_heads=2,
        d_vocab=300,
        n_ctx=128,
        rows_per_step=4,
        steps=6,
    )


TOYS = {
    "gelu-1l-mini": recipes.Recipe(
        toy_model("gelu"),
        (recipes.gelu_run("run1", RELU), recipes.gelu_run("run2", replace(RELU, seed=2))),
        ("run1", 0),
    ),
    "gemma-mini": recipes.Recipe(
        toy_model("gemma2"),
        (
            recipes.gemma_scope("layer_1/width_64", JUMPRELU),
            recipes.bloom(SaeRecipe(RESID, 16, 64, l1=2.0, **SMALL)),
        ),
    ),
    "llama-mini": recipes.Recipe(
        toy_model("llama"),
        (recipes.qresearch("l1", SaeRecipe(INPUT, 16, 64, l1=2.0, subtract_b_dec=False, **SMALL)),),
    ),
}


def published_loss(x, w_enc, b_enc, w_dec, b_dec, l1) -> torch.Tensor:
    """The rare run's loss, written apart from the trainer."""
    features = F.relu((x - b_dec) @ w_enc + b_enc)
    x_hat = features @ w_dec + b_dec
    return (x_hat - x).pow(2).sum(-1).mean(0) + l1 * features.sum() / len(x)
