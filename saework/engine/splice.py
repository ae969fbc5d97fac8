"""Several replacements of the activations at a hook, in as few runs of the model as possible."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from saework.core.protocols import Hook, HookedModel
from saework.engine.forward import UNEMBED_INPUT, capture, final_states, never_fired
from saework.engine.site import carrier_of, edit_hooks

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

BLOCK_NAME = re.compile(r"blocks\.\d+\.")
# The residual stream: later layers read nothing else.
STREAM = re.compile(r"blocks\.\d+\.hook_(resid_(pre|mid|post)|in|out)")
AFTER_ATTENTION = re.compile(r"(mlp|ln2|hook_mlp)")


@torch.no_grad()
def spliced_states(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    splice: Callable[[Tensor, Tensor], Sequence[Tensor]],
    n: int,
    *,
    reads: str | None = None,
) -> list[Float[Tensor, "batch pos d_model"]]:
    """The unembedding's input of the clean model, and with each of ``n`` replacements at a hook.

    What lies before the hook runs once; what lies after it runs once, on a batch in which the
    clean rows and all replacements stand one below another (the wide batch). Where the batch
    cannot be made wide, the model runs once more for each replacement.

    Args:
        model: runs to its unembedding.
        tokens: the rows.
        hook: where activations are replaced.
        splice: activations ``[batch, pos, ...]`` at the reading and at the writing hook to ``n``
            replacements of the latter. It is called once, and may keep what it computes for its
            caller.
        n: the number of replacements.
        reads: the hook that the splice reads, if it is another one (a transcoder's input).

    Returns:
        ``1 + n`` states, the clean one first. ``[1, pos, d_model]`` stands for rows that are all
        alike.

    Raises:
        HookError: the hook does not fire on the way to the output.
    """
    hook, bypass = carrier_of(model, hook)
    if bypass is not None or reads not in (None, hook):
        return _in_runs_apart(model, tokens, hook, splice, reads)
    n_rows = len(tokens)
    wide_from = _widest_from(model, hook, n_rows)
    replacements: list[Tensor] = []

    def at_hook(value: Tensor, hook: Any) -> Tensor | None:
        clean = value[:n_rows]  # rows below are copies
        # a norm fires three times if the model splits its output for queries, keys and values
        if not replacements:
            for new in splice(clean, clean):
                distinct = _without_repeats(new, hook.name)
                replacements.append(distinct)
        if wide_from is None:
            return None
        return torch.cat([clean, *replacements])

    widening = _widening(model, hook, wide_from, n_rows, copies=1 + n)
    states = capture(model, tokens, UNEMBED_INPUT, [*widening, (hook, at_hook)])
    if not replacements:
        raise never_fired(hook)
    if wide_from:
        heights = [n_rows, *map(len, replacements)]
        return list(states.split(heights))
    return [states, *_one_by_one(model, tokens, hook, replacements)]


def _in_runs_apart(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    splice: Callable[[Tensor, Tensor], Sequence[Tensor]],
    reads: str | None,
) -> list[Float[Tensor, "batch pos d_model"]]:
    """``spliced_states`` where two hooks take part: one run for the clean states, one for each."""
    replacements: list[Tensor] = []

    def look(read: Tensor, written: Tensor) -> Tensor:
        replacements.extend(splice(read, written))
        return written

    hooks = edit_hooks(hook, look, reads=reads)
    clean = capture(model, tokens, UNEMBED_INPUT, hooks)
    if not replacements:
        raise never_fired(hook)
    return [clean, *_one_by_one(model, tokens, hook, replacements)]


def _widest_from(model: HookedModel, hook: str, n_rows: int) -> str | None:
    """Where to widen the batch: the hook, or the last point of the stream before it.

    From the hook on, a replaced branch (an MLP, a head) is added to the residual stream of its
    own row, so the stream must be wide already.

    Returns:
        None if the batch cannot be widened, since something as high as the batch reaches every
        block beside the stream: a TransformerBridge's mask, Shortformer's positions, the mask of
        a tokenizer that pads on the left. Of a batch of one row, it is broadcast.
    """
    if n_rows == 1:
        return hook
    # By name: TransformerLens 4 no longer has the class.
    if "HookedTransformer" not in [cls.__name__ for cls in type(model).__mro__]:
        return None
    if model.cfg.positional_embedding_type == "shortformer" or _pads_left(model):
        return None
    if STREAM.fullmatch(hook):
        return hook
    block = BLOCK_NAME.match(hook)
    if block is None:
        return None
    candidates = [f"{block[0]}hook_resid_pre"]
    if AFTER_ATTENTION.match(hook, block.end()):
        candidates.insert(0, f"{block[0]}hook_resid_mid")
    return next((name for name in candidates if name in model.hook_dict), None)


def _pads_left(model: HookedModel) -> bool:
    return getattr(model.tokenizer, "padding_side", "right") == "left"


def _widening(
    model: HookedModel, hook: str, wide_from: str | None, n_rows: int, copies: int
) -> list[Hook]:
    """What to run before the splice, so that the batch is wide where it is made."""
    if wide_from is None or wide_from == hook:
        return []

    def widen(value: Tensor, hook: object) -> Tensor:
        other_axes = [1] * (value.ndim - 1)
        return value.repeat(copies, *other_axes)

    def narrow(value: Tensor, hook: object) -> Tensor:
        return value[:n_rows]

    hooks: list[Hook] = [(wide_from, widen)]
    # Copies of the same rows go through the MLP as far as its hook; they need not: cut the branch
    # back to the clean rows where it leaves the stream.
    mlp_input = hook.replace("mlp.hook_post", "ln2.hook_normalized")
    if mlp_input != hook and mlp_input in model.hook_dict:
        hooks.append((mlp_input, narrow))
    return hooks


def _without_repeats(new: Tensor, hook: str) -> Tensor:
    """One row, if all rows are alike and nothing later can tell them apart (zero ablation).

    Later layers depend only on the residual stream, so this holds at a hook of the stream.
    """
    first = new[:1]
    if STREAM.fullmatch(hook) and (new == first).all():
        return first
    return new


def _one_by_one(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], hook: str, replacements: list[Tensor]
) -> list[Tensor]:
    """The state of each replacement, by a run of its own."""
    states = []
    for new in replacements:

        def replace(value: Tensor, new: Tensor = new) -> Tensor:
            return new

        rows = tokens[: len(new)]  # one, if all are alike
        states.append(final_states(model, rows, hook, replace))
    return states
