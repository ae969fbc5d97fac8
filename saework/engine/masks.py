"""Which tokens and predictions count, and where a replacement applies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from saework.core.protocols import HookedModel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def masked(
    new: Float[Tensor, "*batch_pos_width"],
    old: Float[Tensor, "batch pos *width"],
    mask: Bool[Tensor, "batch pos"] | None,
) -> Float[Tensor, "batch pos *width"]:
    """``new`` where the mask is True, or everywhere without a mask; ``old`` elsewhere.

    Returns:
        In the dtype of ``old``.
    """
    new = new.to(old.dtype)
    if mask is None:
        return new
    n_width_axes = old.ndim - mask.ndim
    ones = [1] * n_width_axes
    mask = mask.reshape(*mask.shape, *ones).to(old.device)
    return torch.where(mask, new, old)


def counted_predictions(
    tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
) -> Bool[Tensor, "batch pos-1"]:
    """Which next tokens count: those where neither it nor the token before is masked.

    Raises:
        ValueError: none is left.
    """
    if tokens.shape[1] < 2:
        raise ValueError(
            "rows have one token, so there is no next token to predict; give rows of two or more"
        )
    if mask is None:
        return torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    counted = mask[:, 1:] & mask[:, :-1]
    if not counted.any():
        raise ValueError(
            "the mask leaves no two neighbouring tokens, so no prediction counts; unmask more"
        )
    return counted


def with_and_without_bos(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"] | None,
) -> Bool[Tensor, "2 batch pos"]:
    """Two masks: the given one (all tokens without one), and the same without BOS.

    BOS is every token that is the tokenizer's; the first column, if the model has no tokenizer
    or the tokenizer no BOS.
    """
    if mask is None:
        counted = torch.ones_like(tokens, dtype=torch.bool)
    else:
        counted = mask.to(tokens.device)
    bos = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    if bos is None:
        is_bos = torch.zeros_like(tokens, dtype=torch.bool)
        is_bos[:, 0] = True
    else:
        is_bos = tokens == bos
    return torch.stack([counted, counted & ~is_bos])
