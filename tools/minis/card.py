"""A mini's model card, as Markdown, from the numbers that its builder measured."""

from __future__ import annotations

import math
from typing import Any

BLOCKS = " ▁▂▃▄▅▆▇█"
STANDS_FOR = {
    "gelu": "`NeelNanda/GELU_1L512W_C4_Code` and `NeelNanda/sparse_autoencoder`",
    "gemma2": "a Gemma 2 model, Gemma Scope (`params.npz`) and "
    "`jbloom/Gemma-2b-Residual-Stream-SAEs`",
    "llama": "a Llama model and `qresearch/Llama-3.2-1B-Instruct-SAE-l9`",
}
ARCHITECTURE = {
    "gelu": "exact GELU, LayerNorm",
    "gemma2": "Gemma 2 (RMSNorm before and after each part, gated tanh GELU, "
    "soft-capped logits, every other layer local)",
    "llama": "Llama (RMSNorm, gated SiLU, rotary positions)",
}
PUBLISHED_LOOP = """
  Where the table says *published loop*: Neel Nanda's published `AutoEncoder` and loss in plain \
torch, nothing resampled."""
CARD = """\
# {name}

A small language model and {saes}, trained from scratch by this project so that its notebooks run \
offline.
They stand in the layout of {stands_for}.

- **Model:** {layers}, {architecture}, d_model {d_model}, d_mlp {d_mlp},
  context {n_ctx}; byte-level BPE of {d_vocab:,} with single digits. AdamW, learning rate {lr}, \
{trained:,} tokens.
- **SAEs:** trained by sae_lens on activations scaled to mean norm sqrt(d_in); decoder rows of \
unit norm as stored. ReLU with an L1
  penalty, or JumpReLU with sae_lens's quadratic penalty around a target L0 (Gemma Scope 2's; the \
first Gemma Scope had a linear one).{other_trainer}
- **Data:** the sources of one machine's Python standard library, and the descriptions and \
docstrings of its packages
  ({training:,} tokens; one document in 25 held out: {held_out:,} tokens). None of it is bundled. \
The bundled text
  ({bundled:,} tokens) was written for this project and never trained on.
- **Weights** are stored in float16 and used in float32; everything below was measured on the \
files as stored.

## What came out

| SAE | hook | features | trained on | score, held out | score, bundled | variance explained | \
mean L0 | dead | rare | over tokens |
|---|---|---|---|---|---|---|---|---|---|---|
{sae_rows}

Score: CE loss recovered against zero ablation, BOS included. Variance explained: conventional, \
held out, without BOS.
Mean L0, dead and rare (a rate below 1e-4, dead ones among them) are over as many tokens of \
held-out and training text as the
last column says. A feature that did not fire in n tokens may still fire on fewer than 3 / n of \
them (95%).

| SAE | text | clean | spliced | zeroed (nats per token) |
|---|---|---|---|---|
{loss_rows}

## The language model's loss (nats per token; held out: the first 256 rows)

| step | training | held out |
|---|---|---|
{model_curve}

## The SAEs in training

| SAE | tokens | variance explained | L0 | firing rates |
|---|---|---|---|---|
{sae_curves}

Each bar is half a decade of log10 firing rate, from -6.5 (did not fire in the window) on the left \
to 0 on the right, by number of
features; the window is a sixteenth of the training.

## Good for, and not

Good for learning the methods, for teaching, and for testing code: the analyses run as they do on \
the published weights. Not good for
claims about language models: the model is tiny, its text narrow, its training minutes long. Its \
numbers are regression values and
reproduce nothing.

Made by `python -m tools.minis.build build {name}`{added}. Licence: MIT.
"""


def model_card(name: str, card: dict[str, Any]) -> str:
    """The card's text.

    Args:
        name: of the mini.
        card: what ``build`` writes as ``card.json``.
    """
    recipe, saes = card["model"]["recipe"], card["saes"]
    loss_rows = [
        _losses(sae_id, text, sae[text])
        for sae_id, sae in saes.items()
        for text in ("held_out", "bundled")
    ]
    sae_curves = [line for sae_id, sae in saes.items() for line in _curve(sae_id, sae["curve"])]
    model_curve = [
        f"| {step:,} | {train:.3f} | {held_out:.3f} |"
        for step, train, held_out in card["model"]["curve"]
    ]
    added = [sae_id for sae_id, sae in saes.items() if "trainer" in sae]
    commands = [f", `python -m tools.minis.build add {name} {sae_id}`" for sae_id in added]
    return CARD.format(
        name=name,
        other_trainer=PUBLISHED_LOOP if added else "",
        added="".join(commands),
        saes=_counted(len(saes), "sparse autoencoder"),
        stands_for=STANDS_FOR[recipe["architecture"]],
        layers=_counted(recipe["n_layers"], "layer"),
        **recipe | {"architecture": ARCHITECTURE[recipe["architecture"]]},
        trained=recipe["steps"] * recipe["rows_per_step"] * recipe["n_ctx"],
        **card["tokens"],
        sae_rows="\n".join(_row(sae_id, sae) for sae_id, sae in saes.items()),
        loss_rows="\n".join(loss_rows),
        model_curve="\n".join(model_curve),
        sae_curves="\n".join(sae_curves),
    )


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _row(sae_id: str, sae: dict[str, Any]) -> str:
    recipe = sae["recipe"]
    if recipe["l1"] is None:
        penalty = f"target L0 {recipe['target_l0']:g}"
    else:
        penalty = f"L1 {recipe['l1']:g}"
    n_tokens = recipe["steps"] * recipe["batch"]
    without_bos = "" if recipe["bos"] else " but BOS"
    cells = [
        f"`{sae_id}`",
        f"`{recipe['hook']}`",
        f"{recipe['d_in']} to {recipe['d_sae']:,}",
        f"{n_tokens:,} tokens{without_bos}, seed {recipe['seed']}, {penalty}, "
        f"learning rate {recipe['lr']:g}" + (f", {sae['trainer']}" if "trainer" in sae else ""),
        f"{sae['held_out']['score']:.2%}",
        f"{sae['bundled']['score']:.2%}",
        f"{sae['variance_explained']:.3f}",
        f"{sae['mean_l0']:.1f}",
        f"{sae['dead_fraction']:.1%}",
        f"{sae['rare_fraction']:.1%}",
        f"{sae['scan_tokens']:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def _losses(sae_id: str, text: str, score: dict[str, float]) -> str:
    losses = " | ".join(f"{score[key]:.3f}" for key in ("loss", "recons_loss", "ablated_loss"))
    return f"| `{sae_id}` | {text.replace('_', ' ')} | {losses} |"


def _curve(sae_id: str, curve: list[dict[str, Any]]) -> list[str]:
    """Four of the checkpoints, evenly spread, the last among them."""
    step = max(1, len(curve) // 4)
    backwards = curve[::-1][::step]
    return [
        f"| `{sae_id}` | {entry['tokens']:,} | {entry['variance_explained']:.3f} "
        f"| {entry['l0']:.1f} | `{_sparkline(entry['log10_rate_histogram'])}` |"
        for entry in backwards[::-1]
    ]


def _sparkline(counts: list[int]) -> str:
    """One block per count, rounded up, so that one feature alone is seen."""
    top = max(counts) or 1
    highest = len(BLOCKS) - 1
    heights = [math.ceil(count * highest / top) for count in counts]
    return "".join(BLOCKS[height] for height in heights)
