"""Greedy generation under hooks, with a count of the positions that each hook saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import HookError
from saework.engine.left_out import check_has_logits
from saework.engine.one_thread import hooked

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import Hook, HookedModel

WITHOUT_CACHE = "TransformerLensNative"
"""The architecture of Neel Nanda's models in TransformerLens 4."""


@torch.no_grad()
def generate(
    model: HookedModel,
    tokens: Int[Tensor, "1 pos"],
    fwd_hooks: list[Hook],
    *,
    max_new_tokens: int,
    cache: bool = True,
) -> Int[Tensor, " all_pos"]:
    """The prompt and its greedy continuation under hooks, on the CPU.

    Args:
        model: the model; its tokenizer says which token ends a text.
        tokens: the prompt.
        fwd_hooks: an empty list leaves the model as it is.
        max_new_tokens: the continuation's length at most.
        cache: with the key-value cache, each step runs (and edits) the new token only; without
            it, all tokens again. TransformerLens 4's own models have none.

    Raises:
        HookError: if a hook did not see each position as often as the model ran it.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> prompt = book.model.to_tokens("def f(self")
    >>> book.tokenizer.decode(generate(book.model, prompt, [], max_new_tokens=1)[-1])
    '):'
    """
    check_has_logits(model)
    cache = cache and getattr(model.cfg, "architecture", None) != WITHOUT_CACHE
    n_seen: Counter[int] = Counter()

    def counting(i: int, function: Callable, value: Any, hook: Any) -> Any:
        n_seen[i] += value.shape[1]
        return function(value, hook=hook)

    counted: list[Hook] = []
    for i, (name, function) in enumerate(fwd_hooks):
        counted.append((name, partial(counting, i, function)))
    eos = model.tokenizer.eos_token_id
    with hooked(model, counted):
        out = model.generate(
            tokens,
            max_new_tokens=max_new_tokens,
            stop_at_eos=eos is not None,
            eos_token_id=eos,  # a bridge would otherwise take the model config's
            do_sample=False,
            use_past_kv_cache=cache,
            return_type="tokens",
            verbose=False,
        )
    n_run = _positions_run(tokens.shape[1], out.shape[1], cache)
    for i, (name, _) in enumerate(fwd_hooks):
        if n_seen[i] != n_run:
            raise HookError(
                f"hook {name!r} saw {n_seen[i]} positions where generation ran {n_run}, so the "
                "edit is not on all of them; use a residual-stream or MLP hook such as "
                "blocks.0.hook_resid_pre"
            )
    return out[0].cpu().clone()  # HookedTransformer returns an inference tensor


def _positions_run(n_prompt: int, n_all: int, cache: bool) -> int:
    """Positions that the model runs in a generation; it does not read the last token."""
    if cache:
        return n_all - 1
    return sum(range(n_prompt, n_all))
