"""Everything that runs a model: activations at a hook, splicing, losses, one feature on one text.

A forward pass is stopped by an exception from the hook as soon as it has what is wanted, which
works on every TransformerLens class; and losses are taken from the unembedding's input in chunks
of 512 tokens, so that ``[tokens, d_vocab]`` never exists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from saework._checks import (
    HookError,
    check_feature,
    check_finite,
    check_mask,
    check_positive,
    check_tokens,
    unknown,
)
from saework.metrics import bootstrap_interval, loss_recovered

UNEMBED_INPUT = "unembed.hook_in"
LOSS_CHUNK = 512
ABLATIONS = ("zero", "mean")


class _Reached(Exception):
    """Raised from a hook to end a forward pass that has gone far enough."""


@dataclass(frozen=True)
class ReconsScore:
    """How much of the model's loss survives when the SAE's reconstruction takes the activations' place."""

    loss: float
    """Of the untouched model, nats per token."""
    recons_loss: float
    """With the reconstruction spliced in, nats per token."""
    ablated_loss: float
    """With the activations ablated, nats per token."""
    score: float
    """``(ablated_loss - recons_loss) / (ablated_loss - loss)``, a fraction; pooled, then divided."""
    interval: tuple[float, float]
    """95% of ``score``, bootstrap over rows; NaN for a single row."""
    token_losses: torch.Tensor
    """float32 ``[3, batch, pos-1]``: clean, spliced and ablated loss of predicting the next token."""
    n_tokens: int
    """Predictions counted."""
    ablation: str
    """``zero`` or ``mean`` (the mean over all tokens given)."""
    hook: str
    """Where the splice was made."""

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"ReconsScore({self.score:.2%}, 95% {low:.2%} to {high:.2%}; nats per token: {self.loss:.4f} clean, "
            f"{self.recons_loss:.4f} spliced, {self.ablated_loss:.4f} {self.ablation}-ablated; "
            f"{self.n_tokens} predictions at {self.hook})"
        )


# ---- where, and on what ----


def hook_of(sae, hook: str | None = None) -> str:
    """The hook to use: the one given, or else the SAE's own.

    Raises: HookError if none is given and the SAE names none.
    """
    own = getattr(getattr(getattr(sae, "cfg", None), "metadata", None), "hook_name", None)
    if hook or own:
        return hook or own
    raise HookError("this SAE does not say which hook it belongs to; give hook=, such as 'blocks.0.mlp.hook_post'")


def as_tokens(model, text_or_tokens) -> torch.Tensor:
    """Text (BOS is put in front) or tokens (taken as they are) to long ``[batch, pos]`` on the model's device."""
    if isinstance(text_or_tokens, str):
        try:
            text_or_tokens.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text holds a lone surrogate at character {error.start}, which no tokenizer takes; remove it") from error
        text_or_tokens = model.to_tokens(text_or_tokens, prepend_bos=True, truncate=False)  # too long is an error below
    tokens = check_tokens(text_or_tokens, d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx)
    return tokens.to(_device(model))


def progress_bar(items: Iterable, *, show: bool, **kwargs) -> Iterable:
    """A tqdm bar that appears after two seconds; off where there is no terminal, or TQDM_DISABLE is set."""
    off = not show or "TQDM_DISABLE" in os.environ
    return tqdm(items, disable=off or None, delay=2, **kwargs)


def _device(model) -> torch.device:
    return next(model.parameters()).device


def _check_hook(model, hook: str) -> None:
    if hook not in model.hook_dict:
        raise unknown("hook", hook, model.hook_dict, see="The model's hooks are listed in model.hook_dict.")


def _run(model, tokens: torch.Tensor, fwd_hooks: list[tuple[str, Callable]]) -> None:
    try:
        with model.hooks(fwd_hooks=fwd_hooks):
            model(tokens, return_type="logits")
    except _Reached:
        pass


@torch.no_grad()
def activations(model, tokens, hook: str) -> torch.Tensor:
    """Activations at a hook, ``[batch, pos, width]``; the model runs only that far.

    Raises: HookError if the model lacks the hook, or it does not fire; ValueError for bad tokens
    or activations that are not finite.
    """
    tokens = as_tokens(model, tokens)
    _check_hook(model, hook)
    return check_finite(_capture(model, tokens, hook, []), f"activations at {hook}")


def _capture(model, tokens: torch.Tensor, hook: str, fwd_hooks: list[tuple[str, Callable]]) -> torch.Tensor:
    captured = []

    def stop(value, hook):
        captured.append(value)
        raise _Reached

    _run(model, tokens, [*fwd_hooks, (hook, stop)])
    if not captured:
        raise HookError(
            f"hook {hook!r} never fired. On a TransformerBridge without compatibility mode, alias names are ignored: "
            "use the canonical name (such as blocks.0.hook_out), or call enable_compatibility_mode(no_processing=True)"
        )
    return captured[0]


def sae_input(model, sae, tokens, hook: str | None = None) -> torch.Tensor:
    """Activations at the SAE's hook, checked against its width: ``[batch, pos, d_in]``."""
    hook = hook_of(sae, hook)
    x = activations(model, tokens, hook)
    d_in = sae.W_enc.shape[0]
    if x[0, 0].numel() != d_in:
        raise HookError(f"{hook} is {x[0, 0].numel()} wide, but this SAE reads {d_in}; give the hook that the SAE was trained on")
    return x


# ---- the reconstruction score ----


@torch.no_grad()
def recons_score(
    model,
    sae,
    tokens,
    *,
    hook: str | None = None,
    ablation: str = "zero",
    mask=None,
    keep=None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> ReconsScore:
    """Splice the SAE's reconstruction into the model, and say how much of the loss it recovers.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        ablation: ``"zero"``, or ``"mean"``: the mean activation over all (unmasked) tokens given,
            so that it does not depend on how they are cut into batches.
        mask: bool ``[batch, pos]``; where False (BOS, padding), nothing is spliced or ablated, and
            no prediction from or of that token is counted. By default all tokens count, BOS too, as published.
        keep: bool ``[d_sae]``, the features that stay on; by default all.
        batch_size: rows run at a time. It changes no result beyond float32's rounding.
        seed: for the bootstrap interval.

    Raises: ValueError if ablation changes nothing, a row has one token only, or an argument does
    not fit; HookError if the hook does not fit the model or the SAE.
    Memory: only ``token_losses`` grows with the tokens: 12 bytes each, and for a moment 24 more when they are summed.
    Source: ``get_recons_loss`` of the gelu-1l notebook.
    """
    hook = hook_of(sae, hook)
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation is {ablation!r}; give one of {', '.join(map(repr, ABLATIONS))}")
    tokens = as_tokens(model, tokens)
    if tokens.shape[1] < 2:
        raise ValueError("rows have one token, so there is no next token to predict; give rows of two or more")
    mask = check_mask(mask, tokens.shape)
    keep = check_mask(keep, (sae.W_dec.shape[0],), what="keep")
    counted = torch.ones_like(tokens, dtype=torch.bool)[:, 1:] if mask is None else mask[:, 1:] & mask[:, :-1]
    counted = counted.cpu()
    if not counted.any():
        raise ValueError("the mask leaves no two neighbouring tokens, so no prediction counts; unmask more")
    sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    baseline = 0.0
    if ablation == "mean":
        baseline = _mean_activation(model, tokens, hook, mask, batch_size)

    losses = torch.empty(3, len(tokens), tokens.shape[1] - 1)
    for part in progress_bar(_blocks(len(tokens), batch_size), show=progress, desc="recons score"):
        part_mask = None if mask is None else mask[part].to(tokens.device)
        edits = (None, lambda x: _reconstruct(sae, x, keep), lambda x: torch.zeros_like(x) + baseline)
        for i, edit in enumerate(edits):
            losses[i, part] = token_losses(model, tokens[part], hook, edit, part_mask).cpu()

    check_finite(losses, "losses")
    row_sums = (losses.double() * counted).sum(-1).numpy()
    row_counts = counted.sum(-1).numpy()
    clean, spliced, ablated = (row_sums.sum(-1) / row_counts.sum()).tolist()
    return ReconsScore(
        loss=clean,
        recons_loss=spliced,
        ablated_loss=ablated,
        score=loss_recovered(clean, spliced, ablated),
        interval=bootstrap_interval(row_sums, row_counts, seed=seed),
        token_losses=losses,
        n_tokens=int(row_counts.sum()),
        ablation=ablation,
        hook=hook,
    )


@torch.no_grad()
def token_losses(model, tokens, hook: str | None = None, edit: Callable | None = None, mask=None) -> torch.Tensor:
    """Cross-entropy of each next token, nats, float32 ``[batch, pos-1]``.

    Args:
        hook, edit: ``edit(activations)`` takes the activations' place at the hook; None leaves the model as it is.
        mask: bool ``[batch, pos]``: where False, the activations stay as they are.
    """
    tokens = as_tokens(model, tokens)
    fired = []

    def replace(value, hook):
        fired.append(True)
        new = edit(value).to(value.dtype)
        return new if mask is None else torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), new, value)

    hidden = _capture(model, tokens, UNEMBED_INPUT, [(hook, replace)] if edit else [])
    if edit and not fired:
        raise HookError(f"hook {hook!r} never fired on the way to the output; use its canonical name")
    return _cross_entropy(model, hidden[:, :-1], tokens[:, 1:])


def _cross_entropy(model, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    w_u, b_u, cap = model.W_U, model.b_U, getattr(model.cfg, "output_logits_soft_cap", None)
    losses = []
    for part, target in zip(hidden.flatten(0, 1).split(LOSS_CHUNK), targets.flatten().split(LOSS_CHUNK)):
        logits = (part.to(w_u.dtype) @ w_u + b_u).float()
        if cap is not None and cap > 0:
            logits = cap * torch.tanh(logits / cap)
        losses.append(logits.logsumexp(-1) - logits.gather(-1, target[:, None])[:, 0])
    return torch.cat(losses).reshape(targets.shape)


def _reconstruct(sae, x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    features = sae.encode(x)
    return sae.decode(features if keep is None else features * keep.to(features.device))


def _mean_activation(model, tokens, hook, mask, batch_size) -> torch.Tensor:
    total, n = 0.0, 0
    for part in _blocks(len(tokens), batch_size):
        x = activations(model, tokens[part], hook)
        chosen = x.flatten(0, 1) if mask is None else x[mask[part].to(x.device)]
        total, n = total + chosen.double().sum(0), n + len(chosen)
    return (total / n).float()


def _blocks(n_rows: int, batch_size: int) -> list[slice]:
    check_positive(batch_size, "batch_size")
    return [slice(start, start + batch_size) for start in range(0, n_rows, batch_size)]


def batches_of(tokens: torch.Tensor, batch_size: int) -> Iterator[tuple[int, torch.Tensor]]:
    """``(first row, rows)`` of each batch."""
    for part in _blocks(len(tokens), batch_size):
        yield part.start, tokens[part]


# ---- features ----


@torch.no_grad()
def feature_activations(model, sae, text_or_tokens, feature: int, *, hook: str | None = None) -> torch.Tensor:
    """One feature's activation on each token, computed from its own encoder column.

    Returns: ``[pos]`` for text or one row, ``[batch, pos]`` for several.
    An SAE whose features depend on each other (TopK) is encoded whole.
    """
    feature = check_feature(feature, sae.W_dec.shape[0])
    x = sae_input(model, sae, text_or_tokens, hook)
    values = check_finite(_encode_one(sae, x, feature), f"activations of feature {feature}")
    one_row = isinstance(text_or_tokens, str) or torch.as_tensor(text_or_tokens).ndim == 1
    return values[0] if one_row else values


def _encode_one(sae, x: torch.Tensor, feature: int) -> torch.Tensor:
    architecture = sae.cfg.architecture() if hasattr(getattr(sae, "cfg", None), "architecture") else None
    if architecture not in ("standard", "jumprelu"):
        return sae.encode(x)[..., feature]
    before = sae.process_sae_in(x) @ sae.W_enc[:, feature] + sae.b_enc[feature]
    after = torch.relu(before)
    return after * (before > sae.threshold[feature]) if architecture == "jumprelu" else after


@torch.no_grad()
def active_features(model, sae, text_or_tokens, *, pos: int = -1, n: int = 10, hook: str | None = None) -> pd.DataFrame:
    """The features that fire on one token: columns ``index`` and ``value``, highest first, ties by index.

    Args: ``pos``: the token's position, from the end if negative; ``n``: rows at most.
    """
    x = sae_input(model, sae, text_or_tokens, hook)
    if len(x) != 1:
        raise ValueError(f"{len(x)} rows were given; give text or one row")
    if not -x.shape[1] <= pos < x.shape[1]:
        raise ValueError(f"pos is {pos}; this text has {x.shape[1]} tokens, so give {-x.shape[1]}..{x.shape[1] - 1}")
    values = check_finite(sae.encode(x[:, pos : pos + 1 or None])[0, 0], "feature activations").float().cpu().numpy()
    active = np.flatnonzero(values)
    order = active[np.argsort(-values[active], kind="stable")][: check_positive(n, "n")]
    return pd.DataFrame({"index": order, "value": values[order]})


@torch.no_grad()
def logit_effect(model, sae, feature: int, *, hook: str | None = None) -> torch.Tensor:
    """What one unit of a feature adds to each logit by the direct path, ``[d_vocab]``.

    ``W_dec[feature]`` (through ``W_out`` of its layer for an MLP hook), through the final norm's
    weight, to ``W_U``. Later layers, and the norm's scale (which depends on the token), are left out;
    where the final norm is a LayerNorm, the direction is centred as the norm would.

    Raises: HookError for a hook that does not write to the residual stream.
    Source: the gelu-1l notebook's ``W_dec[feature] @ W_out @ W_U``, on a model with the norm folded in.
    """
    feature = check_feature(feature, sae.W_dec.shape[0])
    hook = hook_of(sae, hook)
    direction = sae.W_dec[feature].to(model.W_U.device, model.W_U.dtype)
    parts = hook.split(".")
    if hook.endswith("mlp.hook_post"):
        direction = direction @ model.W_out[int(parts[1])]
    elif not any(name in parts[-1] for name in ("resid", "mlp_out", "attn_out", "hook_out")):
        raise HookError(f"{hook} does not write to the residual stream, so it has no direct path to the logits; use an MLP or residual hook")
    norm = getattr(model, "ln_final", None)
    if str(getattr(model.cfg, "normalization_type", "")).startswith("LN"):
        direction = direction - direction.mean()
    weight = getattr(norm, "w", getattr(norm, "weight", None))
    if weight is not None:
        offset = getattr(model.cfg, "rmsnorm_uses_offset", False)  # Gemma's norm, on a bridge, stores its weight less one
        direction = direction * (1 + weight if offset else weight)
    return check_finite(direction @ model.W_U, f"logit effect of feature {feature}")
