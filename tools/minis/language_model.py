"""Training a mini's language model.

The loop keeps checkpoints, and a resumed run sees the batches that an unbroken one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from saework.core.files import partial_file
from saework.engine.activation_batches import endless_order
from saework.loading import models

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

CHUNK_TOKENS = 512
HELD_OUT_ROWS = 256
CURVE_STEPS = 200


@dataclass(frozen=True)
class ModelRecipe:
    """What a mini's language model is made of."""

    architecture: str = "gelu"
    """``gelu`` (Neel Nanda's layout), ``gemma2`` or ``llama`` (Hugging Face's)."""
    d_model: int = 128
    n_layers: int = 1
    d_mlp: int = 512
    n_heads: int = 4
    d_vocab: int = 4096
    n_ctx: int = 128
    rows_per_step: int = 64
    steps: int = 1800
    lr: float = 4e-3
    seed: int = 0


def neel_config(recipe: ModelRecipe) -> dict[str, Any]:
    """``config.json`` in the layout of ``NeelNanda/GELU_1L512W_C4_Code``."""
    return {
        "d_model": recipe.d_model,
        "n_layers": recipe.n_layers,
        "d_mlp": recipe.d_mlp,
        "d_head": recipe.d_model // recipe.n_heads,
        "n_heads": recipe.n_heads,
        "n_ctx": recipe.n_ctx,
        "d_vocab": recipe.d_vocab,
        "act_fn": "gelu",
        "attn_only": False,
        "normalization": "LN",
        "shortformer_pos": False,
        "tokenizer_name": "saework/gelu-1l-mini-tokenizer",
    }


def untrained_model(recipe: ModelRecipe, tokenizer: Any) -> Any:
    """Random weights: a ``HookedTransformer`` for ``gelu``, a Hugging Face model otherwise."""
    torch.manual_seed(recipe.seed)
    if recipe.architecture == "gelu":
        return models.neel_model_shell(neel_config(recipe), processed=False, init_weights=True)
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    d_head = recipe.d_model // recipe.n_heads
    shared: dict[str, Any] = {
        "vocab_size": recipe.d_vocab,
        "hidden_size": recipe.d_model,
        "intermediate_size": recipe.d_mlp,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "num_key_value_heads": recipe.n_heads // 2,
        "head_dim": d_head,
        "max_position_embeddings": recipe.n_ctx,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if recipe.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared))
    gemma2: dict[str, Any] = {
        **shared,
        "query_pre_attn_scalar": d_head,
        "sliding_window": recipe.n_ctx // 2,  # every other layer sees half the context
        "attn_implementation": "eager",
    }
    return Gemma2ForCausalLM(Gemma2Config(**gemma2))


def train_model(
    rows: Int[Tensor, "batch pos"],
    held_out: Int[Tensor, "batch pos"],
    recipe: ModelRecipe,
    tokenizer: Any,
    work: Path,
    *,
    device: str,
) -> tuple[Any, list[tuple[int, float, float]]]:
    """The language model, from scratch, and its loss curve ``[(step, training, held out)]``."""
    model = untrained_model(recipe, tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    factor = _warm_up_then_cosine(recipe.steps, warm_up=100)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    checkpoint = Checkpoint(
        work / "model_training.pt", model=model, optimizer=optimizer, schedule=schedule
    )
    curve, start = checkpoint.restore()
    order = endless_order(len(rows), recipe.seed)
    held_out = held_out[:HELD_OUT_ROWS].long().to(device)
    train_loss = 0.0
    for step in tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc="model"):
        first = step * recipe.rows_per_step % len(order)
        picked = order[first : first + recipe.rows_per_step]
        loss = _step(model, rows[picked].long().to(device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        # A running mean, which starts at the first loss.
        train_loss = loss if step == start else 0.98 * train_loss + 0.02 * loss
        done = step + 1
        if done % CURVE_STEPS == 0 or done == recipe.steps:
            curve.append((done, train_loss, _held_out_loss(model, held_out)))
            checkpoint.save(curve, done)
    return model.eval().requires_grad_(False), curve


def _hidden(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "token d_model"]:
    """What the unembedding reads, of all tokens but each row's last."""
    if hasattr(model, "lm_head"):
        hidden = model.model(tokens, use_cache=False).last_hidden_state
    else:
        hidden = model.ln_final(model(tokens, stop_at_layer=model.cfg.n_layers))
    return hidden[:, :-1].flatten(0, 1)


def _loss_sum(
    model: Any, hidden: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"]
) -> Float[Tensor, ""]:
    if not hasattr(model, "lm_head"):
        logits = hidden @ model.W_U + model.b_U
        return F.cross_entropy(logits, targets, reduction="sum")
    logits = model.lm_head(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return F.cross_entropy(logits, targets, reduction="sum")


def _step(model: Any, tokens: Int[Tensor, "batch pos"]) -> float:
    """One forward and backward pass; the loss in chunks, which is faster on a CPU."""
    hidden, targets = _hidden(model, tokens), tokens[:, 1:].flatten()
    # The chunks' gradients gather in the leaf, and go through the model once.
    leaf = hidden.detach().requires_grad_()
    total = 0.0
    for part, target in zip(leaf.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS)):
        loss = _loss_sum(model, part, target) / len(targets)
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


@torch.no_grad()
def _held_out_loss(model: Any, tokens: Int[Tensor, "batch pos"]) -> float:
    total = 0.0
    for part in tokens.split(32):
        hidden = _hidden(model, part)
        targets = part[:, 1:].flatten()
        loss = _loss_sum(model, hidden, targets)
        total += loss.item()
    return total / tokens[:, 1:].numel()


def _warm_up_then_cosine(steps: int, *, warm_up: int) -> Callable[[int], float]:
    """The learning rate's factor at each step."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, steps - warm_up)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor


class Checkpoint:
    """Everything a training loop needs to continue, in one file that is replaced whole."""

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path = path
        self.parts = parts

    def save(self, curve: list, step: int) -> None:
        """Replace the file by the state after ``step`` steps."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        save_whole({"curve": curve, "step": step, **states}, self.path)

    def restore(self) -> tuple[list, int]:
        """Put the parts back as they were saved; returns the curve and the step.

        ``([], 0)`` if nothing was saved.
        """
        if not self.path.exists():
            return [], 0
        saved = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return saved["curve"], saved["step"]


def save_whole(value: Any, path: Path) -> None:
    """Save tensors so that the file is either whole or not there."""
    with partial_file(path) as partial:
        torch.save(value, partial)
