"""What runs a model: activations at a hook, an edit spliced in, losses, the reconstruction score.

A forward pass is stopped by an exception from the hook as soon as it has what is wanted, which
works on every TransformerLens class; and losses are taken from the unembedding's input in chunks
of 512 tokens, so that ``[tokens, d_vocab]`` never exists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from saework._checks import (
    HookError,
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
    return check_finite(capture(model, tokens, hook, []), f"activations at {hook}")


def capture(model, tokens: torch.Tensor, hook: str, fwd_hooks: list[tuple[str, Callable]]) -> torch.Tensor:
    """What a hook holds when it first fires, with other hooks on; the model runs no further.

    Raises: HookError if the hook does not fire.
    """
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
    mask = check_mask(mask, tokens.shape)
    keep = check_mask(keep, (sae.W_dec.shape[0],), what="keep")
    counted = counted_predictions(tokens, mask).cpu()
    sae_input(model, sae, tokens[:1], hook)  # width and finiteness, before the long run
    baseline = 0.0
    if ablation == "mean":
        on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        baseline = mean_activations(model, tokens, hook, on[None], batch_size=batch_size)[0].float()

    losses = torch.empty(3, len(tokens), tokens.shape[1] - 1)
    for part in progress_bar(row_blocks(len(tokens), batch_size), show=progress, desc="recons score"):
        part_mask = None if mask is None else mask[part].to(tokens.device)
        edits = (None, lambda x: reconstruct(sae, x, keep)[1], lambda x: torch.zeros_like(x) + baseline)
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


def counted_predictions(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Which next tokens count, bool ``[batch, pos-1]``: those where neither it nor the token before is masked.

    Raises: ValueError if none is left.
    """
    if tokens.shape[1] < 2:
        raise ValueError("rows have one token, so there is no next token to predict; give rows of two or more")
    counted = torch.ones_like(tokens, dtype=torch.bool)[:, 1:] if mask is None else mask[:, 1:] & mask[:, :-1]
    if not counted.any():
        raise ValueError("the mask leaves no two neighbouring tokens, so no prediction counts; unmask more")
    return counted


@torch.no_grad()
def token_losses(model, tokens, hook: str | None = None, edit: Callable | None = None, mask=None) -> torch.Tensor:
    """Cross-entropy of each next token, nats, float32 ``[batch, pos-1]``; arguments as of ``final_states``."""
    tokens = as_tokens(model, tokens)
    hidden, targets = final_states(model, tokens, hook, edit, mask)[:, :-1], tokens[:, 1:]
    losses = []
    for part, target in zip(hidden.flatten(0, 1).split(LOSS_CHUNK), targets.flatten().split(LOSS_CHUNK)):
        logits = next_token_logits(model, part)
        losses.append(logits.logsumexp(-1) - logits.gather(-1, target[:, None])[:, 0])
    return torch.cat(losses).reshape(targets.shape)


@torch.no_grad()
def final_states(model, tokens, hook: str | None = None, edit: Callable | None = None, mask=None) -> torch.Tensor:
    """The unembedding's input, ``[batch, pos, d_model]``; with ``next_token_logits``, all that a loss needs.

    Args:
        hook, edit: ``edit(activations)`` takes the activations' place at the hook; None leaves the model as it is.
        mask: bool ``[batch, pos]``: where False, the activations stay as they are.

    Raises: HookError if the hook does not fire on the way to the output.
    """
    tokens = as_tokens(model, tokens)
    fired = []

    def replace(value, hook):
        fired.append(True)
        new = edit(value).to(value.dtype)
        return new if mask is None else torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), new, value)

    hidden = capture(model, tokens, UNEMBED_INPUT, [(hook, replace)] if edit else [])
    if edit and not fired:
        raise HookError(f"hook {hook!r} never fired on the way to the output; use its canonical name")
    return hidden


def next_token_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of final states, float32 ``[token, d_vocab]``, capped where the model caps them (Gemma 2).

    Memory: 4 bytes times ``d_vocab`` a token (0.5 GB for 512 tokens of Gemma): give a chunk at a time.
    """
    logits = (hidden.to(model.W_U.dtype) @ model.W_U + model.b_U).float()
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


def reconstruct(sae, x: torch.Tensor, keep: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """``(features [batch, pos, d_sae], reconstruction in x's shape)``; axes after ``pos`` (heads) are read as one."""
    flat = x.flatten(2)
    # an SAE of attention heads puts the two last axes together itself: one head as wide as all of them
    features = sae.encode(flat[:, :, None] if getattr(sae, "hook_z_reshaping_mode", False) else flat)
    return features, sae.decode(features if keep is None else features * keep.to(features.device)).reshape(x.shape)


@torch.no_grad()
def mean_activations(model, tokens, hook: str, masks: torch.Tensor, *, batch_size: int) -> torch.Tensor:
    """Mean activation of the tokens that each mask lets through, float64 ``[mask, width]``; NaN where it lets none.

    Args: ``masks``: bool ``[mask, batch, pos]``. The model runs to the hook once, whatever the number of masks.
    """
    total = 0.0
    for part in row_blocks(len(tokens), batch_size):
        x = activations(model, tokens[part], hook)
        total = total + masks[:, part].flatten(1).to(x.device, torch.float64) @ x.double().flatten(0, 1).flatten(1)
    means = total / masks.sum((1, 2)).to(total.device)[:, None]
    return means.reshape(len(masks), *x.shape[2:])


def row_blocks(n_rows: int, batch_size: int) -> list[slice]:
    """The rows, cut into slices of ``batch_size``."""
    check_positive(batch_size, "batch_size")
    return [slice(start, start + batch_size) for start in range(0, n_rows, batch_size)]


def batches_of(tokens: torch.Tensor, batch_size: int) -> Iterator[tuple[int, torch.Tensor]]:
    """``(first row, rows)`` of each batch."""
    for part in row_blocks(len(tokens), batch_size):
        yield part.start, tokens[part]
