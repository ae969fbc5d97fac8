"""What runs a model: activations at a hook, others spliced in, and the losses that follow.

A forward pass is stopped by an exception from the hook as soon as it has what is wanted, which
works on every TransformerLens class; losses are taken from the unembedding's input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

import psutil
import torch
from tqdm.auto import tqdm

from saework.core.arguments import check_finite, check_mask, check_positive, check_tokens
from saework.core.errors import HookError, unknown
from saework.core.protocols import hook_of
from saework.engine.losses import next_token_losses

UNEMBED_INPUT = "unembed.hook_in"
BLOCK_NAME = re.compile(r"blocks\.\d+\.")
STREAM = re.compile(
    r"blocks\.\d+\.hook_(resid_(pre|mid|post)|in|out)"
)  # the residual stream: all that later layers read
TOKENS_AT_A_TIME = 1024


class _Reached(Exception):
    """Raised from a hook to end a forward pass that has gone far enough."""


# ---- where, and on what ----


def as_tokens(model, text_or_tokens) -> torch.Tensor:
    """Text (BOS is put in front) or tokens (taken as they are) to long ``[batch, pos]`` on the model's device."""
    if isinstance(text_or_tokens, str):
        try:
            text_or_tokens.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds a lone surrogate at character {error.start}, which no tokenizer takes; remove it"
            ) from error
        text_or_tokens = model.to_tokens(
            text_or_tokens, prepend_bos=True, truncate=False
        )  # too long is an error below
    tokens = check_tokens(text_or_tokens, d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx)
    return tokens.to(_device(model))


def progress_bar(items: Iterable | None = None, *, show: bool, **kwargs) -> tqdm:
    """A tqdm bar that appears after two seconds; off where there is no terminal, or TQDM_DISABLE is set."""
    off = not show or "TQDM_DISABLE" in os.environ
    return tqdm(items, disable=off or None, delay=2, **kwargs)


def _device(model) -> torch.device:
    return next(model.parameters()).device


def _check_hook(model, hook: str) -> None:
    if hook not in model.hook_dict:
        raise unknown(
            "hook", hook, model.hook_dict, see="The model's hooks are listed in model.hook_dict."
        )


def _run(model, tokens: torch.Tensor, fwd_hooks: list[tuple[str, Callable]]) -> None:
    try:
        with model.hooks(fwd_hooks=fwd_hooks):
            model(tokens, return_type="logits")
    except _Reached:
        pass


@torch.no_grad()
def activations(model, tokens, hook: str, *, first_row: int = 0) -> torch.Tensor:
    """Activations at a hook, ``[batch, pos, width]``; the model runs only that far. ``first_row``: its number in an error.

    Raises: HookError if the model lacks the hook, or it does not fire; ValueError for bad tokens
    or activations that are not finite.
    """
    tokens = as_tokens(model, tokens)
    _check_hook(model, hook)
    return check_finite(
        capture(model, tokens, hook, []),
        f"activations at {hook}",
        rows=range(first_row, first_row + len(tokens)),
    )


def capture(
    model, tokens: torch.Tensor, hook: str, fwd_hooks: list[tuple[str, Callable]]
) -> torch.Tensor:
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


def sae_input(model, sae, tokens, hook: str | None = None, *, first_row: int = 0) -> torch.Tensor:
    """Activations at the SAE's hook, checked against its width: ``[batch, pos, d_in]``."""
    hook = hook_of(sae, hook)
    x = activations(model, tokens, hook, first_row=first_row)
    d_in = sae.W_enc.shape[0]
    if x[0, 0].numel() != d_in:
        raise HookError(
            f"{hook} is {x[0, 0].numel()} wide, but this SAE reads {d_in}; give the hook that the SAE was trained on"
        )
    return x


def counted_predictions(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Which next tokens count, bool ``[batch, pos-1]``: those where neither it nor the token before is masked.

    Raises: ValueError if none is left.
    """
    if tokens.shape[1] < 2:
        raise ValueError(
            "rows have one token, so there is no next token to predict; give rows of two or more"
        )
    counted = (
        torch.ones_like(tokens, dtype=torch.bool)[:, 1:]
        if mask is None
        else mask[:, 1:] & mask[:, :-1]
    )
    if not counted.any():
        raise ValueError(
            "the mask leaves no two neighbouring tokens, so no prediction counts; unmask more"
        )
    return counted


# ---- to the output, with other activations at a hook ----


@torch.no_grad()
def token_losses(
    model, tokens, hook: str | None = None, edit: Callable | None = None, mask=None
) -> torch.Tensor:
    """Cross-entropy of each next token, nats, float32 ``[batch, pos-1]``; arguments as of ``final_states``."""
    tokens = as_tokens(model, tokens)
    hidden = final_states(model, tokens, hook, edit, mask)
    return next_token_losses(model, [hidden[:, :-1]], tokens[:, 1:])[0][0].float()


@torch.no_grad()
def final_states(
    model, tokens, hook: str | None = None, edit: Callable | None = None, mask=None
) -> torch.Tensor:
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
        return masked(edit(value), value, mask)

    hidden = capture(model, tokens, UNEMBED_INPUT, [(hook, replace)] if edit else [])
    return hidden if fired or not edit else _never_fired(hook)


@torch.no_grad()
def spliced_states(
    model, tokens: torch.Tensor, hook: str, splice: Callable, n: int
) -> list[torch.Tensor]:
    """The unembedding's input ``[batch, pos, d_model]``: of the model as it is, and with each of ``n`` replacements at a hook.

    ``splice(activations)`` gives the replacements. What lies before the hook runs once: there, or at the last point
    of the residual stream before it, the batch is multiplied, and the rest runs on all of them together. What follows
    the residual stream hangs on nothing else, so a replacement whose rows are all alike there (a zeroed one) runs as
    one row, and its state comes back as ``[1, pos, d_model]``. A TransformerBridge keeps a mask of the batch's own size
    and cannot be widened unless the batch is one row; it runs once more for each replacement.

    Raises: HookError if the hook does not fire on the way to the output.
    """
    wide = _widened_at(model, hook, len(tokens))
    spliced = []

    def at_hook(value, hook):
        x = value[: len(tokens)]
        for new in splice(x):
            alike = STREAM.fullmatch(hook.name) and bool((new == new[:1]).all())
            spliced.append(new[:1] if alike else new)
        return torch.cat([x, *spliced]) if wide else None

    widen = (
        [(wide, lambda value, hook: value.repeat(1 + n, *[1] * (value.ndim - 1)))]
        if wide not in (None, hook)
        else []
    )
    branch = hook.replace(
        "mlp.hook_post", "ln2.hook_normalized"
    )  # the way into the MLP, which need not run for copies of the same rows
    if widen and branch != hook and branch in model.hook_dict:
        widen.append((branch, lambda value, hook: value[: len(tokens)]))
    states = capture(model, tokens, UNEMBED_INPUT, [*widen, (hook, at_hook)])
    if not spliced:
        _never_fired(hook)
    if wide:
        return list(states.split([len(tokens), *map(len, spliced)]))
    return [
        states,
        *(final_states(model, tokens[: len(new)], hook, lambda x, new=new: new) for new in spliced),
    ]


def _widened_at(model, hook: str, n_rows: int) -> str | None:
    """Where the batch can be multiplied for a splice at the hook, if anywhere."""
    from transformer_lens import (
        HookedTransformer,  # makes modules when it is imported, and without a model there need be none
    )

    if n_rows == 1 or not isinstance(model, HookedTransformer):
        return hook if n_rows == 1 else None
    if STREAM.fullmatch(hook):
        return hook
    block = BLOCK_NAME.match(hook)
    after_attention = block and re.match(r"(mlp|ln2|hook_mlp)", hook[block.end() :])
    names = (
        [f"{block[0]}hook_resid_{'mid' if after_attention else 'pre'}", f"{block[0]}hook_resid_pre"]
        if block
        else []
    )
    return next((name for name in names if name in model.hook_dict), None)


def masked(new: torch.Tensor, old: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``new`` where the mask, bool ``[batch, pos]``, is True (everywhere, if there is none), and ``old`` elsewhere."""
    new = new.to(old.dtype)
    return (
        new
        if mask is None
        else torch.where(mask.reshape(*mask.shape, *[1] * (old.ndim - 2)), new, old)
    )


def _never_fired(hook: str):
    raise HookError(f"hook {hook!r} never fired on the way to the output; use its canonical name")


@torch.no_grad()
def mean_activations(
    model, tokens, hook: str, masks: torch.Tensor, *, batch_size: int
) -> torch.Tensor:
    """Mean activation of the tokens that each mask lets through, float64 ``[mask, width]``; NaN where it lets none.

    Args: ``masks``: bool ``[mask, batch, pos]``. The model runs to the hook once, whatever the number of masks.
    """
    total = 0.0
    for part in row_blocks(len(tokens), batch_size):
        x = activations(model, tokens[part], hook)
        total = total + masks[:, part].flatten(1).to(x.device, torch.float64) @ x.double().flatten(
            0, 1
        ).flatten(1)
    means = total / masks.sum((1, 2)).to(total.device)[:, None]
    return means.reshape(len(masks), *x.shape[2:])


def prepared(
    model, sae, tokens, hook: str | None, mask, batch_size: int | None
) -> tuple[torch.Tensor, str, torch.Tensor | None, int]:
    """What each pass over many tokens starts with, checked: tokens, hook, mask and rows at a time."""
    hook = hook_of(sae, hook)
    tokens = as_tokens(model, tokens)
    return tokens, hook, check_mask(mask, tokens.shape), rows_at_a_time(model, tokens, batch_size)


def rows_at_a_time(model, tokens: torch.Tensor, batch_size: int | None) -> int:
    """Rows of a batch: as asked, or about 1,024 tokens' worth (16,384 on a GPU).

    Raises: ValueError if that many rows' activations do not fit in the free memory; says how many would.
    """
    device, cfg, n_pos = _device(model), model.cfg, tokens.shape[1]
    if batch_size is None:
        return max(
            1, (TOKENS_AT_A_TIME if device.type == "cpu" else 16 * TOKENS_AT_A_TIME) // n_pos
        )
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )
    row = (
        4 * n_pos * (8 * cfg.d_model + 3 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * n_pos)
    )  # bytes that one layer holds at once
    if min(check_positive(batch_size, "batch_size"), len(tokens)) * row > free:
        raise ValueError(
            f"batch_size {batch_size} needs about {batch_size * row / 1e9:.3g} GB, and {free / 1e9:.3g} GB is free; batch_size={max(1, free // (2 * row))} would fit"
        )
    return batch_size


def row_blocks(n_rows: int, batch_size: int) -> list[slice]:
    """The rows, cut into slices of ``batch_size``."""
    check_positive(batch_size, "batch_size")
    return [slice(start, start + batch_size) for start in range(0, n_rows, batch_size)]


def with_and_without_bos(model, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Two masks, bool ``[2, batch, pos]``."""
    on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(tokens.device)
    bos = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    is_bos = (
        (torch.arange(tokens.shape[1], device=tokens.device) == 0).expand(tokens.shape)
        if bos is None
        else tokens == bos
    )
    return torch.stack([on, on & ~is_bos])
