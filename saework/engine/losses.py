"""Losses of next-token predictions, one block of the vocabulary at a time.

``[token, d_vocab]`` never exists. A block of 2,048 tokens of the vocabulary is multiplied, its
exponentials are added to each prediction's running sum, and the next block takes its place. Each
sum is relative to the largest logit so far, and is rescaled when a larger one comes: the
log-sum-exp of all logits, computed as FlashAttention computes its softmax. The Kullback-Leibler
divergence takes one more running sum, of ``exp(clean) * (clean - other)``, rescaled in the same
way. Blocks of this size stay in the processor's cache, which makes it twice as fast as whole
logits of 512 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from saework.engine.unembedding import VOCAB_BLOCK, logits_transform, unembedded

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

    LossTable = Float[Tensor, "state row pos"]

TOKEN_BLOCK = 512


def next_token_logits(
    model: HookedModel, hidden: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logits of final states, with the model's own scale and soft cap.

    Args:
        model: whose unembedding is applied.
        hidden: the unembedding's input. Give a few tokens at a time.

    Returns:
        float32.

    Raises:
        ValueError: what the model does after its unembedding is not known.

    Memory: 4 bytes times ``d_vocab`` for each token (0.5 GB for 512 tokens of Gemma).
    """
    return unembedded(
        hidden,
        weights=model.W_U,
        bias=model.b_U,
        transform=logits_transform(model),
    )


@torch.no_grad()
def next_token_losses(
    model: HookedModel,
    states: list[Float[Tensor, "row pos d_model"]],
    targets: Int[Tensor, "row pos"],
    *,
    kl: bool = False,
) -> tuple[LossTable, LossTable]:
    """Cross-entropy of each state's predictions, and their KL divergence from the first state's.

    Args:
        model: whose unembedding is applied.
        states: the unembedding's input, for each way of running the model; the first is the clean
            one. ``[1, pos, d_model]`` stands for rows that are all alike.
        targets: the tokens to predict.
        kl: whether the divergences are wanted; if not, they are zeros.

    Returns:
        Cross-entropy and divergence, nats, float64 ``[state, row, pos]``.

    Raises:
        ValueError: what the model does after its unembedding is not known.

    Memory: a few blocks of ``[512, 2048]`` logits, 4 MB each, and 28 bytes per state and token.
    """
    n_rows, n_pos = targets.shape
    d_vocab = model.W_U.shape[1]
    transform = logits_transform(model)
    clean_state, *other_states = states
    if kl:
        # every row is compared with a clean row of its own
        clean_state = clean_state.expand(n_rows, -1, -1)
    clean = _RunningSums.before_first_block(clean_state, targets)
    others = [_RunningSums.before_first_block(state, targets) for state in other_states]
    rows_at_a_time = max(1, TOKEN_BLOCK // n_pos)
    for first in range(0, d_vocab, VOCAB_BLOCK):
        vocab = slice(first, first + VOCAB_BLOCK)
        logits_of = partial(
            unembedded,
            weights=model.W_U[:, vocab].contiguous(),
            bias=model.b_U[vocab],
            transform=transform,
        )
        for start in range(0, n_rows, rows_at_a_time):
            rows = slice(start, start + rows_at_a_time)
            targets_in_block = targets[rows] - first
            _add_block(clean, others, logits_of, targets_in_block, rows, kl)
    sums = [clean, *others]
    ce = torch.stack([state.cross_entropy() for state in sums])
    if not kl:
        return ce, torch.zeros_like(ce)
    divergences = [state.divergence_from(clean) for state in sums]
    return ce, torch.stack(divergences)


def _add_block(
    clean: _RunningSums,
    others: list[_RunningSums],
    logits_of: Callable[[Tensor], Tensor],
    targets: Tensor,
    rows: slice,
    kl: bool,
) -> None:
    """Add one block of the vocabulary to some rows' sums.

    Args:
        clean: sums of the clean state, changed in place.
        others: sums of the other states, changed in place.
        logits_of: states to logits of this block.
        targets: of these rows, counted from the block's first token: outside it, if negative or
            beyond its size.
        rows: which of all rows these are.
        kl: whether divergences are wanted.
    """
    clean_logits = logits_of(clean.state_of(rows))
    clean.take_target_logits(clean_logits, targets, rows)
    # adding turns logits into exponentials in place; the divergence needs both
    summed_logits = clean_logits.clone() if kl else clean_logits
    scale, clean_exp = clean.add(summed_logits, rows)
    for other in others:
        logits = logits_of(other.state_of(rows))
        other.take_target_logits(logits, targets, rows)
        if kl:
            gap = (clean_logits - logits).mul_(clean_exp).sum(-1)
            rescaled = other.weighted_gap[rows] * scale
            other.weighted_gap[rows] = rescaled + gap
        other.add(logits, rows)


@dataclass
class _RunningSums:
    """One state's sums over the vocabulary so far.

    If all rows are alike, ``state``, ``top`` and ``total`` have one row that stands for all.
    """

    state: Tensor
    """``[row, pos, d_model]``."""
    top: Tensor
    """The largest logit, ``[row, pos]``."""
    total: Tensor
    """Sum of ``exp(logit - top)``, float64 ``[row, pos]``."""
    weighted_gap: Tensor
    """Sum of ``exp(clean logit - clean top) * (clean logit - logit)``, float64 ``[row, pos]``."""
    target_logit: Tensor
    """The logit of the token to predict, float64 ``[row, pos]``."""

    @classmethod
    def before_first_block(cls, state: Tensor, targets: Tensor) -> _RunningSums:
        """Sums of nothing."""
        zeros = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        return cls(
            state=state.contiguous(),
            top=torch.full(state.shape[:2], -torch.inf, device=state.device),
            total=zeros[: len(state)].clone(),
            weighted_gap=zeros,
            target_logit=zeros.clone(),
        )

    @property
    def rows_are_alike(self) -> bool:
        return len(self.state) == 1

    def _own(self, rows: slice) -> slice:
        """Where ``state``, ``top`` and ``total`` hold these rows."""
        return slice(0, 1) if self.rows_are_alike else rows

    def state_of(self, rows: slice) -> Tensor:
        """The state of these rows; one row, if all are alike."""
        return self.state[self._own(rows)]

    def take_target_logits(
        self,
        logits: Tensor,
        targets: Tensor,
        rows: slice,
    ) -> None:
        """Keep the logits of those targets that lie in this block of the vocabulary."""
        in_block = (targets >= 0) & (targets < logits.shape[-1])
        row, pos = in_block.nonzero(as_tuple=True)
        logits_row = torch.zeros_like(row) if self.rows_are_alike else row
        target = targets[row, pos]
        self.target_logit[rows][row, pos] = logits[logits_row, pos, target].double()

    def add(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Add a block's exponentials, which take the place of the logits.

        Returns:
            By what earlier sums were rescaled, and the exponentials.
        """
        if self.rows_are_alike and rows.start > 0:
            # the first rows' sums stand for all
            return torch.ones_like(self.top), logits
        own = self._own(rows)
        earlier_top = self.top[own]
        block_top = logits.amax(-1)
        top = torch.maximum(earlier_top, block_top)
        scale = (earlier_top - top).exp()
        exponentials = logits.sub_(top[..., None]).exp_()
        block_total = exponentials.sum(-1)
        rescaled = self.total[own] * scale
        self.total[own] = rescaled + block_total
        self.top[own] = top
        return scale, exponentials

    def log_sum(self) -> Tensor:
        """Log of the sum of all exponentials so far."""
        top = self.top.double()
        return top + self.total.log()

    def cross_entropy(self) -> Tensor:
        """Nats of each target, float64 ``[row, pos]``."""
        return self.log_sum() - self.target_logit

    def divergence_from(self, clean: _RunningSums) -> Tensor:
        """KL(clean || this), nats, float64 ``[row, pos]``."""
        # sum of p (clean logit - logit), then the difference of the two log-sums
        mean_gap = self.weighted_gap / clean.total
        relative_to_clean = mean_gap - clean.log_sum()
        return relative_to_clean + self.log_sum()
