"""One feature on one text, the features of one token, and what a feature adds to the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine.architectures import code_of, decoder_rows, encode, row_scale
from saework.engine.direct_path import Norm, direct_path
from saework.engine.encoder import encode_columns
from saework.engine.forward import as_tokens, row_blocks, sae_input
from saework.engine.row_memory import rows_at_a_time
from saework.engine.site import site_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor


@accepts_workbook
@torch.no_grad()
def feature_activations(
    model: HookedModel,
    sae: SparseAutoencoder,
    text_or_tokens: str | Sequence[int] | Int[Tensor, "*batch pos"],
    feature: int,
    *,
    hook: str | None = None,
) -> Float[Tensor, "*batch pos"]:
    """One feature's activation on each token, computed from its own encoder column.

    An SAE whose features depend on each other (TopK) is encoded whole.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        text_or_tokens: text (BOS is put in front), or tokens ``[pos]`` or ``[batch, pos]``.
        feature: the feature's number.
        hook: the SAE's own by default.

    Returns:
        ``[pos]`` for text or one row, ``[batch, pos]`` for several rows.

    Raises:
        ValueError: for a feature that does not exist, bad tokens, or values that are not finite.
        HookError: if the hook does not fit the model or the SAE.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> values = feature_activations(book, "import os", 985)
    >>> [round(value, 1) for value in values.tolist()]  # on BOS, "import" and " os"
    [0.0, 9.2, 0.0]
    """
    feature = check_feature(feature, sae.W_dec.shape[0])
    tokens = as_tokens(model, text_or_tokens, sae)
    blocks = []
    for part in row_blocks(len(tokens), rows_at_a_time(model, tokens, None)):
        x = sae_input(model, sae, tokens[part], hook, first_row=part.start)
        blocks.append(encode_columns(sae, x, feature))
    values = torch.cat(blocks)
    check_finite(values, f"activations of feature {feature}", rows=range(len(values)))
    one_row = isinstance(text_or_tokens, str) or torch.as_tensor(text_or_tokens).ndim == 1
    return values[0] if one_row else values


@accepts_workbook
@torch.no_grad()
def active_features(
    model: HookedModel,
    sae: SparseAutoencoder,
    text_or_tokens: str | Sequence[int] | Int[Tensor, " pos"],
    *,
    pos: int = -1,
    n: int = 10,
    hook: str | None = None,
) -> pd.DataFrame:
    """The features that are active on one token, the largest first.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        text_or_tokens: text (BOS is put in front), or one row of tokens.
        pos: the token's position; negative positions count from the end.
        n: rows at most.
        hook: the SAE's own by default.

    Returns:
        Columns ``index`` (the feature's number) and ``value`` (its activation). Largest first;
        below zero (AbsTopK), by size. Equal sizes are in the order of their index.

    Raises:
        ValueError: for several rows, or a position that the text does not have.
        HookError: if the hook does not fit the model or the SAE.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> active_features(book, "def f(x):", n=3)["index"].tolist()
    [245, 3771, 183]
    """
    x = sae_input(model, sae, text_or_tokens, hook)
    if len(x) != 1:
        raise ValueError(f"{len(x)} rows were given; give text or one row")
    n_pos = x.shape[1]
    if not -n_pos <= pos < n_pos:
        raise ValueError(
            f"pos is {pos}; this text has {n_pos} tokens, so give {-n_pos}..{n_pos - 1}"
        )
    return firing_at(sae, x, pos, n)


def firing_at(
    sae: SparseAutoencoder, x: Float[Tensor, "1 pos d_in"], pos: int, n: int
) -> pd.DataFrame:
    """``active_features`` from the activations of one row at the SAE's hook."""
    if code_of(sae) == "over positions":
        features = encode(sae, x)[0, pos]
    else:
        one_token = x[:, pos : pos + 1 or None]  # "or None": the slice -1:0 would be empty
        features = encode(sae, one_token)[0, 0]
    check_finite(features, "feature activations")
    values = features.float().cpu().numpy()
    active = np.flatnonzero(values)
    largest_first = np.argsort(-np.abs(values[active]), kind="stable")
    index = active[largest_first][: check_positive(n, "n")]
    return pd.DataFrame({"index": index, "value": values[index]})


@accepts_workbook
def logit_effect(
    model: HookedModel,
    sae: SparseAutoencoder,
    feature: int | Sequence[int],
    *,
    hook: str | None = None,
) -> Float[Tensor, "*feature d_vocab"]:
    """What one unit of a feature adds to each logit by the direct path.

    The path starts at ``W_dec[feature]``. At an MLP hook it goes through ``W_out`` of the layer.
    It ends with the final norm's weight and ``W_U``. Some blocks normalise a branch's output
    before adding it (Gemma 2, OLMo 2); that norm's weight is applied too. Others multiply it by
    a constant (Granite). A LayerNorm also subtracts the mean of the direction. What each part
    does is found by trying it.

    Later layers are left out. So are the norms' scales, because they depend on the token: compare
    the values within one feature, not across hooks.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        feature: the feature's number, or several.
        hook: the SAE's own by default.

    Returns:
        Logits per unit of activation, up to the final norm's scale; a row for each of several
        features.

    Raises:
        HookError: for a hook that does not write to the residual stream, or in a way that is
            not known.
        ValueError: for a feature that does not exist, or weights that are not finite.

    Source: ``W_dec[feature] @ W_out @ W_U`` of the gelu-1l notebook, where the norm is folded in.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> book.tokenizer.decode(logit_effect(book, 985).argmax())
    ' unittest'
    """
    d_sae = sae.W_dec.shape[0]
    is_one = np.ndim(feature) == 0
    several: Any = [feature] if is_one else feature
    features = [check_feature(one, d_sae) for one in several]
    effects = logit_effects(model, sae, features, hook=hook)
    check_finite(effects, f"logit effect of feature {feature}" if is_one else "logit effects")
    return effects[0] if is_one else effects


@torch.no_grad()
def logit_effects(
    model: HookedModel,
    sae: SparseAutoencoder,
    features: list[int],
    *,
    hook: str | None = None,
) -> Float[Tensor, "feature d_vocab"]:
    """``logit_effect`` of several features in one product; not checked for NaN.

    Memory: 4 bytes times ``d_vocab`` for each feature (1 MB for Gemma).
    """
    w_out, norms = _path_of(model, sae, hook)
    directions = decoder_rows(sae, features).to(model.W_U.device, model.W_U.dtype)
    if w_out is not None:
        directions = directions @ w_out
    for norm in norms:
        directions = norm.of_direction(directions)
    return directions @ model.W_U


def _path_of(
    model: HookedModel, sae: SparseAutoencoder, hook: str | None
) -> tuple[Float[Tensor, "width d_model"] | None, list[Norm]]:
    """``direct_path`` from where the SAE writes. Raises: HookError for another width there."""
    site = site_of(model, sae, hook)
    w_out, norms = direct_path(model, site.writes)
    width = model.W_U.shape[0] if w_out is None else w_out.shape[0]
    if width != site.d_out:
        raise HookError(
            f"{site.writes} is {width} wide, but this SAE writes {site.d_out}; "
            "give the hook that the SAE was trained on"
        )
    return w_out, norms


@torch.no_grad()
def token_effect(
    model: HookedModel, sae: SparseAutoencoder, token: int, *, hook: str | None = None
) -> Float[Tensor, " d_sae"]:
    """What one unit of each feature adds to one token's logit by the direct path.

    The same as ``logit_effect`` of every feature at one token. It walks the path backwards, from
    the token to the features, and so takes one matrix-vector product.

    Raises:
        HookError: for a hook that does not write to the residual stream.
        ValueError: for a token out of the vocabulary, or weights that are not finite.
    """
    token = int(check_tokens([token], d_vocab=model.W_U.shape[1])[0, 0])
    w_out, norms = _path_of(model, sae, hook)
    reader = model.W_U[:, token]
    for norm in reversed(norms):
        reader = norm.of_reader(reader)
    if w_out is not None:
        reader = w_out @ reader
    effects = sae.W_dec.to(reader.device, reader.dtype) @ reader
    scale = row_scale(sae)
    if scale is not None:
        effects = effects * scale.to(effects)
    return check_finite(effects, f"effects on token {token}")
