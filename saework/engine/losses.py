"""Losses of next-token predictions without logits: the vocabulary goes by in blocks, with running sums.

``[token, d_vocab]`` never exists. A block of 2,048 tokens of the vocabulary is multiplied, its exponentials are added to
each prediction's running sum (rescaled whenever a larger logit turns up), and it makes room for the next: the
log-sum-exp of all logits, computed as FlashAttention computes its softmax. The Kullback-Leibler divergence takes one more
running sum, of ``exp(clean) * (clean - other)``, rescaled in the same way. Blocks of this size stay in the processor's
cache, which makes it twice as fast as 512 tokens' whole logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

VOCAB_BLOCK = 2048
TOKEN_BLOCK = 512


def next_token_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of final states, float32 ``[..., d_vocab]``, capped where the model caps them (Gemma 2).

    Memory: 4 bytes times ``d_vocab`` a token (0.5 GB for 512 tokens of Gemma): give a few tokens at a time.
    """
    return _logits(model, hidden, model.W_U, model.b_U)


def _logits(model, hidden: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    logits = (
        torch.addmm(bias, hidden.flatten(0, -2).to(weights.dtype), weights)
        .float()
        .reshape(*hidden.shape[:-1], -1)
    )
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    return logits.div_(cap).tanh_().mul_(cap) if cap is not None and cap > 0 else logits


@dataclass
class _Running:
    """One state's sums so far, each ``[row, pos]`` (or ``[1, pos]``, if all rows are alike)."""

    state: torch.Tensor
    top: torch.Tensor
    """The largest logit."""
    total: torch.Tensor
    """Sum of ``exp(logit - top)``."""
    apart: torch.Tensor
    """Sum of ``exp(clean logit - clean top) * (clean logit - logit)``."""
    hit: torch.Tensor
    """The target's logit."""

    @classmethod
    def of(cls, state: torch.Tensor, targets: torch.Tensor) -> _Running:
        """Before the first block."""
        zeros = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        return cls(
            state.contiguous(),
            torch.full(state.shape[:2], -torch.inf, device=state.device),
            zeros[: len(state)].clone(),
            zeros,
            zeros.clone(),
        )

    def log_sum(self) -> torch.Tensor:
        """Log of the sum of all exponentials so far."""
        return self.top.double() + self.total.log()


@torch.no_grad()
def next_token_losses(
    model, states: list[torch.Tensor], targets: torch.Tensor, *, kl: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each state's predictions, and their KL divergence from the first state's.

    Args:
        states: the unembedding's input, ``[row, pos, d_model]`` each; or ``[1, pos, d_model]``, if all rows are alike.
        targets: the tokens to predict, long ``[row, pos]``.
        kl: without it, the divergences are zeros.

    Returns: nats, float64 ``[state, row, pos]`` twice.
    Memory: a few blocks of ``[512, 2048]`` logits, 4 MB each, and 28 bytes a state and token.
    """
    running = [_Running.of(state, targets) for state in states]
    rows = max(1, TOKEN_BLOCK // targets.shape[1])
    for first in range(0, model.W_U.shape[1], VOCAB_BLOCK):
        vocab = slice(first, first + VOCAB_BLOCK)
        weights, bias = model.W_U[:, vocab].contiguous(), model.b_U[vocab]
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            _add_block(
                running,
                targets[part] - first,
                part,
                lambda state: _logits(model, state, weights, bias),
                kl,
            )
    log_sums = [each.log_sum() for each in running]
    ce = torch.stack([log_sum - each.hit for each, log_sum in zip(running, log_sums)])
    apart = torch.stack(
        [
            each.apart / running[0].total - log_sums[0] + log_sum
            for each, log_sum in zip(running, log_sums)
        ]
    )
    return ce, apart if kl else torch.zeros_like(ce)


def _add_block(
    running: list[_Running], target: torch.Tensor, rows: slice, logits_of: Callable, kl: bool
) -> None:
    """One block of the vocabulary, and some rows; ``target`` counts from the block's first token."""
    clean = clean_exp = clean_scale = None
    for each in running:
        alike = len(each.state) == 1
        own = slice(0, 1) if alike else rows
        logits = logits_of(each.state[own])
        row, pos = ((target >= 0) & (target < logits.shape[-1])).nonzero(as_tuple=True)
        each.hit[rows][row, pos] = logits[0 if alike else row, pos, target[row, pos]].double()
        if kl and clean is not None:
            each.apart[rows] = each.apart[rows] * clean_scale + (clean - logits).mul_(
                clean_exp
            ).sum(-1)
        if alike and rows.start > 0:
            continue  # its sums are complete
        top = torch.maximum(each.top[own], logits.amax(-1))
        scale = (each.top[own] - top).exp()
        if kl and clean is None:
            clean, clean_scale, logits = logits, scale, logits.clone()
        summed = logits.sub_(top[..., None]).exp_()
        clean_exp = summed if clean_exp is None else clean_exp
        each.total[own] = each.total[own] * scale + summed.sum(-1)
        each.top[own] = top
