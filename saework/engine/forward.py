"""Runs of a model: activations at a hook, and what follows when others take their place.

A forward pass is stopped by an exception from the hook as soon as it has what is needed. This
works on every TransformerLens class. Losses are taken from the unembedding's input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from saework.core.arguments import (
    accepts_workbook,
    check_finite,
    check_mask,
    check_positive,
    check_tokens,
)
from saework.core.errors import HookError, in_words
from saework.core.parts import check_model
from saework.core.protocols import Hook, HookedModel, SparseAutoencoder, sae_metadata
from saework.engine.left_out import check_has_logits, unknown_hook
from saework.engine.losses import next_token_losses
from saework.engine.masks import masked
from saework.engine.model_input import check_not_random, check_padding, text_tokens
from saework.engine.one_thread import hooked
from saework.engine.row_memory import device_of, rows_at_a_time
from saework.engine.site import Site, carrier_of, edit_hooks, site_of
from saework.engine.unembedding import UNEMBED_INPUT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    Edit = Callable[[Tensor], Tensor]
    Tokens = Int[Tensor, "batch pos"] | Sequence | str


class _Reached(Exception):
    """Raised from a hook to end a forward pass that has gone far enough."""


def as_tokens(
    model: HookedModel, text_or_tokens: Tokens, sae: SparseAutoencoder | None = None
) -> Int[Tensor, "batch pos"]:
    """Text or tokens to long ``[batch, pos]`` on the model's device.

    Args:
        model: whose vocabulary, context and device count.
        text_or_tokens: text; or tokens, taken as they are. BOS is put before text where the
            tokenizer has one and the SAE's rows began with it; never a second one, before text
            that begins with it (a chat template's, for example).
        sae: whose config may say ``prepend_bos``. Otherwise TransformerLens's
            ``default_prepend_bos`` of the model decides.

    Raises:
        ValueError: bad tokens, text too long for the model, a lone surrogate in it, padding
            before a token of the text, or a model whose dropout is on.
    """
    check_model(model)
    check_not_random(model)
    if isinstance(text_or_tokens, str):
        prepend_bos = None if sae is None else sae_metadata(sae, "prepend_bos")
        text_or_tokens = text_tokens(model, text_or_tokens, prepend_bos=prepend_bos)
    tokens = check_tokens(text_or_tokens, d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx)
    check_padding(tokens, getattr(model, "tokenizer", None))
    return tokens.to(device_of(model))


@accepts_workbook
@torch.no_grad()
def activations(
    model: HookedModel, tokens: Tokens, hook: str, *, first_row: int = 0
) -> Float[Tensor, "batch pos *width"]:
    """Activations at a hook; the model runs only that far.

    Memory: the activations, and what the model holds for about 1,024 tokens (16,384 on a GPU), so
    many as run at a time.

    Args:
        model: the model, or a Workbook alone in place of model, tokens and hook.
        tokens: text, or integers ``[batch, pos]``.
        hook: such as ``blocks.0.mlp.hook_post``.
        first_row: the number of the first row in an error.

    Raises:
        HookError: the model lacks the hook, or it does not fire.
        ValueError: bad tokens, or activations that are not finite.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> activations(book.model, book.tokens[:2, :5], "blocks.0.hook_resid_pre").shape
    torch.Size([2, 5, 128])
    """
    tokens = as_tokens(model, tokens)
    if hook not in model.hook_dict:
        raise unknown_hook(model, hook)
    x = _in_blocks(model, tokens, hook)
    rows = range(first_row, first_row + len(tokens))
    return check_finite(x, f"activations at {hook}", rows=rows)


def _in_blocks(model: HookedModel, tokens: Int[Tensor, "batch pos"], hook: str) -> Tensor:
    """The value at a hook, some rows at a time."""
    n_rows = rows_at_a_time(model, tokens, None)
    first = capture(model, tokens[:n_rows], hook, [])
    if len(tokens) <= n_rows:
        return first
    if len(first) != n_rows:  # one row that stands for all, such as positions
        return capture(model, tokens, hook, [])
    x = first.new_empty(len(tokens), *first.shape[1:])
    x[:n_rows] = first
    for rows in row_blocks(len(tokens), n_rows)[1:]:
        x[rows] = capture(model, tokens[rows], hook, [])
    return x


def capture(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], hook: str, fwd_hooks: Sequence[Hook]
) -> Tensor:
    """The value at a hook when it first fires, with other hooks on; the model runs no further.

    Raises:
        HookError: the hook does not fire, or it is the unembedding's input of a model that was
            loaded only in part.
    """
    if hook == UNEMBED_INPUT:
        check_has_logits(model)
    captured = []

    def stop(value: Tensor, hook: object) -> None:
        captured.append(value)
        raise _Reached

    try:
        with hooked(model, [*fwd_hooks, (hook, stop)]):
            model(tokens, return_type="logits")
    except _Reached:
        pass
    if not captured:
        raise HookError(
            f"hook {hook!r} never fired. On a TransformerBridge without compatibility mode, "
            "alias names are ignored: use the canonical name (such as blocks.0.hook_out), "
            "or call enable_compatibility_mode(no_processing=True)"
        )
    return captured[0]


def sae_input(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Tokens,
    hook: str | None = None,
    *,
    first_row: int = 0,
) -> Float[Tensor, "batch pos *width"]:
    """Activations at the SAE's hook, checked against the SAE's width.

    Raises:
        HookError: the width is not the SAE's, or as ``activations``.
        ValueError: as ``activations``.
    """
    site = site_of(model, sae, hook)
    if isinstance(tokens, str):  # what begins it depends on the SAE
        tokens = as_tokens(model, tokens, sae)
    x = activations(model, tokens, site.reads, first_row=first_row)
    site.check_width(site.reads, x)
    return x


def check_site(model: HookedModel, site: Site, tokens: Int[Tensor, "batch pos"]) -> None:
    """Run one row, so that a hook that does not fit is reported before a long run.

    Raises:
        HookError: an SAE of other widths than the model's hooks.
        ValueError: activations that are not finite.
    """
    for hook in dict.fromkeys([site.reads, site.writes]):
        site.check_width(hook, activations(model, tokens[:1], hook))


@partial(accepts_workbook, brings_hook=False)
@torch.no_grad()
def token_losses(
    model: HookedModel,
    tokens: Tokens,
    hook: str | None = None,
    edit: Edit | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos-1"]:
    """Cross-entropy of each next token, nats, float32.

    Args:
        model: the model, or a Workbook alone in place of model and tokens.
        tokens: text, or integers ``[batch, pos]``.
        hook: where the activations are edited.
        edit: activations to what takes their place; None leaves the model as it is.
        mask: where False, the activations stay as they are.

    Raises:
        HookError: the hook does not fire on the way to the output.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> token_losses(book.model, book.tokens[:2, :5]).shape
    torch.Size([2, 4])
    """
    tokens = as_tokens(model, tokens)
    hidden = final_states(model, tokens, hook, edit, mask)
    ce, _ = next_token_losses(model, [hidden[:, :-1]], tokens[:, 1:])
    return ce[0].float()


@torch.no_grad()
def final_states(
    model: HookedModel,
    tokens: Tokens,
    hook: str | None = None,
    edit: Edit | None = None,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The unembedding's input; with ``next_token_logits``, all that a loss needs.

    Arguments as of ``token_losses``.

    Raises:
        HookError: the hook does not fire on the way to the output.
        ValueError: the edit gives something that cannot take the activations' place.
    """
    tokens = as_tokens(model, tokens)
    mask = check_mask(mask, tokens.shape)
    if edit is None:
        return capture(model, tokens, UNEMBED_INPUT, [])
    if hook is None:
        raise ValueError("an edit is given, but no hook; say where it is made: hook=")
    if hook not in model.hook_dict:
        raise unknown_hook(model, hook)
    if not callable(edit):
        raise ValueError(f"edit is {in_words(edit)}; give a function of the activations")
    carrier, bypass = carrier_of(model, hook)

    def edit_written(_: Tensor, written: Tensor) -> Tensor:
        return edit(written.clone())  # an edit may work in place

    return _edited_states(model, tokens, carrier, edit_written, mask, bypass=bypass)


@torch.no_grad()
def spliced_state(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    site: Site,
    edit: Callable[[Tensor, Tensor], Tensor],
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """``final_states`` with ``edit(read, written)`` in the place of what an SAE writes.

    Raises:
        HookError: a hook does not fire on the way to the output.
    """
    hooks = {"reads": site.reads, "bypass": site.bypass}
    return _edited_states(model, tokens, site.writes, edit, mask, **hooks)


def _edited_states(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    writes: str,
    edit: Callable[[Tensor, Tensor], Tensor],
    mask: Bool[Tensor, "batch pos"] | None,
    **hooks: str | None,
) -> Float[Tensor, "batch pos d_model"]:
    has_fired = is_editing = False

    def replace(read: Tensor, written: Tensor) -> Tensor:
        nonlocal has_fired, is_editing
        if is_editing:
            raise ValueError(
                f"the edit at {writes} runs the model, whose hook then calls the edit again; "
                "compute what it needs before, outside of the edit"
            )
        has_fired = is_editing = True
        edited = _checked_edit(edit(read, written), written, writes)
        is_editing = False
        return masked(edited, written, mask)

    hidden = capture(model, tokens, UNEMBED_INPUT, edit_hooks(writes, replace, **hooks))
    if not has_fired:
        raise never_fired(writes)
    return hidden


def _checked_edit(edited: Any, written: Tensor, hook: str) -> Tensor:
    """What an edit gave. Raises: ValueError if it cannot take the activations' place."""
    if not isinstance(edited, torch.Tensor) or edited.shape != written.shape:
        raise ValueError(
            f"the edit at {hook} gave {in_words(edited)}; it must give a tensor of shape "
            f"{tuple(written.shape)}, as the activations are"
        )
    return edited


def never_fired(hook: str) -> HookError:
    """The error for a hook that does not fire before the unembedding."""
    return HookError(f"hook {hook!r} never fired on the way to the output; use its canonical name")


@torch.no_grad()
def mean_activations(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    masks: Bool[Tensor, "mask batch pos"],
    *,
    batch_size: int,
) -> Float[Tensor, "mask ..."]:
    """Mean activation of the tokens that each mask lets through, float64; NaN where it lets none.

    The model runs to the hook once, whatever the number of masks.
    """
    total: Tensor | float = 0.0
    for part in row_blocks(len(tokens), batch_size):
        x = activations(model, tokens[part], hook)
        flat = x.double().flatten(0, 1).flatten(1)
        counted = masks[:, part].flatten(1).to(x.device, torch.float64)
        total = total + counted @ flat
    n_counted = masks.sum((1, 2)).to(x.device)
    means = total / n_counted[:, None]
    return means.reshape(len(masks), *x.shape[2:])


def prepared(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Tokens,
    hook: str | None,
    mask: Any,
    batch_size: int | None,
) -> tuple[Int[Tensor, "batch pos"], Site, Bool[Tensor, "batch pos"] | None, int]:
    """The arguments of a pass over many tokens, checked: tokens, site, mask and rows at a time."""
    site = site_of(model, sae, hook)
    tokens = as_tokens(model, tokens, sae)
    mask = check_mask(mask, tokens.shape)
    return tokens, site, mask, rows_at_a_time(model, tokens, batch_size)


def row_blocks(n_rows: int, batch_size: int) -> list[slice]:
    """The rows, cut into slices of ``batch_size``.

    >>> row_blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    check_positive(batch_size, "batch_size")
    return [slice(start, start + batch_size) for start in range(0, n_rows, batch_size)]


def progress_bar(items: Iterable | None = None, *, show: bool, **options: Any) -> tqdm:
    """A tqdm bar that appears after two seconds; off without a terminal, or by TQDM_DISABLE."""
    off = not show or "TQDM_DISABLE" in os.environ
    # None: tqdm itself looks for a terminal
    return tqdm(items, disable=True if off else None, delay=2, **options)
