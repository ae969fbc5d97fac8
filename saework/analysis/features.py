"""One feature on one text, one token's features, and what a feature adds to the logits directly."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import torch

from saework.core.arguments import (
    accepts_workbook,
    check_feature,
    check_finite,
    check_positive,
    check_tokens,
)
from saework.core.errors import HookError
from saework.core.protocols import hook_of
from saework.engine.encoder import encode_columns
from saework.engine.forward import as_tokens, row_blocks, rows_at_a_time, sae_input

RESIDUAL = re.compile(
    r"(pos_)?embed\.hook_out|hook_(pos_)?embed|blocks\.\d+\.(hook_(resid_(pre|mid|post)|mlp_out|attn_out|in|out)|ln[12]_post\.hook_out)"
)
BRANCH = re.compile(
    r"blocks\.(?P<layer>\d+)\.((?P<hidden>mlp\.(hook_post|out\.hook_in))|mlp\.(out\.)?hook_out|attn\.(o\.)?hook_out)"
)


@accepts_workbook
@torch.no_grad()
def feature_activations(
    model, sae, text_or_tokens, feature: int, *, hook: str | None = None
) -> torch.Tensor:
    """One feature's activation on each token, computed from its own encoder column.

    Returns: ``[pos]`` for text or one row, ``[batch, pos]`` for several.
    An SAE whose features depend on each other (TopK) is encoded whole.
    """
    feature = check_feature(feature, sae.W_dec.shape[0])
    tokens = as_tokens(model, text_or_tokens)
    parts = row_blocks(len(tokens), rows_at_a_time(model, tokens, None))
    values = torch.cat(
        [
            encode_columns(
                sae, sae_input(model, sae, tokens[part], hook, first_row=part.start), feature
            )
            for part in parts
        ]
    )
    check_finite(values, f"activations of feature {feature}", rows=range(len(values)))
    one_row = isinstance(text_or_tokens, str) or torch.as_tensor(text_or_tokens).ndim == 1
    return values[0] if one_row else values


@accepts_workbook
@torch.no_grad()
def active_features(
    model, sae, text_or_tokens, *, pos: int = -1, n: int = 10, hook: str | None = None
) -> pd.DataFrame:
    """The features that fire on one token: columns ``index`` and ``value``, highest first, ties by index.

    Args: ``pos``: the token's position, from the end if negative; ``n``: rows at most.
    """
    x = sae_input(model, sae, text_or_tokens, hook)
    if len(x) != 1:
        raise ValueError(f"{len(x)} rows were given; give text or one row")
    if not -x.shape[1] <= pos < x.shape[1]:
        raise ValueError(
            f"pos is {pos}; this text has {x.shape[1]} tokens, so give {-x.shape[1]}..{x.shape[1] - 1}"
        )
    return firing_at(sae, x, pos, n)


def firing_at(sae, x: torch.Tensor, pos: int, n: int) -> pd.DataFrame:
    """``active_features`` from the activations of one row at the SAE's hook, ``[1, pos, d_in]``."""
    values = (
        check_finite(sae.encode(x[:, pos : pos + 1 or None])[0, 0], "feature activations")
        .float()
        .cpu()
        .numpy()
    )
    active = np.flatnonzero(values)
    order = active[np.argsort(-values[active], kind="stable")][: check_positive(n, "n")]
    return pd.DataFrame({"index": order, "value": values[order]})


@accepts_workbook
def logit_effect(model, sae, feature: int, *, hook: str | None = None) -> torch.Tensor:
    """What one unit of a feature adds to each logit by the direct path, ``[d_vocab]``.

    ``W_dec[feature]`` (through ``W_out`` of its layer for an MLP hook), through the final norm's
    weight, to ``W_U``. Where the block norms a branch's output before adding it (Gemma 2), that
    norm's weight comes in too. Later layers, and the norms' scales (which depend on the token, so
    that the values compare within one feature, not across hooks), are left out; where a norm is a
    LayerNorm, the direction is centred as the norm would.

    Raises: HookError for a hook that does not write to the residual stream; ValueError for a
    feature that does not exist, or weights that are not finite.
    Source: the gelu-1l notebook's ``W_dec[feature] @ W_out @ W_U``, on a model with the norm folded in.
    """
    feature = check_feature(feature, sae.W_dec.shape[0])
    return check_finite(
        logit_effects(model, sae, [feature], hook=hook)[0], f"logit effect of feature {feature}"
    )


@torch.no_grad()
def logit_effects(model, sae, features: list[int], *, hook: str | None = None) -> torch.Tensor:
    """``logit_effect`` of several features in one product, ``[feature, d_vocab]``; not checked for NaN.

    Memory: 4 bytes times ``d_vocab`` a feature (1 MB for Gemma).
    """
    hook = hook_of(sae, hook)
    directions = sae.W_dec[features].to(model.W_U.device, model.W_U.dtype)
    w_out, after = _direct_path(model, hook)
    if w_out is not None:
        directions = directions @ w_out
    if after is not None:
        directions = _weighted(model, after, _centred(model, directions))
    return (
        _weighted(model, getattr(model, "ln_final", None), _centred(model, directions)) @ model.W_U
    )


@torch.no_grad()
def token_effect(model, sae, token: int, *, hook: str | None = None) -> torch.Tensor:
    """What one unit of each feature adds to one token's logit by the direct path, ``[d_sae]``.

    ``logit_effect`` of every feature at one token, for the price of one matrix-vector product: the
    same path, walked from the token back to the features.

    Raises: as ``logit_effect``; ValueError for a token out of the vocabulary.
    """
    token = int(check_tokens([token], d_vocab=model.W_U.shape[1])[0, 0])
    w_out, after = _direct_path(model, hook_of(sae, hook))
    reader = _centred(
        model, _weighted(model, getattr(model, "ln_final", None), model.W_U[:, token])
    )
    if after is not None:
        reader = _centred(model, _weighted(model, after, reader))
    if w_out is not None:
        reader = w_out @ reader
    return check_finite(
        sae.W_dec.to(reader.device, reader.dtype) @ reader, f"effects on token {token}"
    )


def _direct_path(model, hook: str) -> tuple[torch.Tensor | None, object]:
    """What lies between a hook and the residual stream: ``W_out`` of its layer and the norm after the branch, or None."""
    branch = BRANCH.fullmatch(hook)
    if branch is None and not RESIDUAL.fullmatch(hook):
        raise HookError(
            f"{hook} does not write to the residual stream, so it has no direct path to the logits; use an MLP or residual hook"
        )
    if branch is None:
        return None, None
    layer = int(branch["layer"])
    after = getattr(model.blocks[layer], "ln2_post" if ".mlp." in hook else "ln1_post", None)
    return (model.W_out[layer] if branch["hidden"] else None), after


def _centred(model, direction: torch.Tensor) -> torch.Tensor:
    """A direction less its mean, where the model's norms take the mean away."""
    return (
        direction - direction.mean(-1, keepdim=True)
        if str(getattr(model.cfg, "normalization_type", "")).startswith("LN")
        else direction
    )


def _weighted(model, norm, direction: torch.Tensor) -> torch.Tensor:
    """A direction times a norm's weight; the norm's scale, which depends on the token, is left out."""
    weight = getattr(norm, "w", getattr(norm, "weight", None))
    if weight is None:
        return direction
    offset = getattr(
        model.cfg, "rmsnorm_uses_offset", False
    )  # Gemma's norm, on a bridge, stores its weight less one
    return direction * (1 + weight if offset else weight)
