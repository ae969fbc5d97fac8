"""Whether an edit inside a norm reaches what follows as it should."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import HookError
from saework.engine.one_thread import hooked
from saework.engine.unembedding import agree

if TYPE_CHECKING:
    from torch import Tensor

    from saework.core.protocols import HookedModel

INSIDE = ".hook_normalized"
"""Behind a norm's division by its scale, before its weight."""


@torch.no_grad()
def check_norm_edit(model: HookedModel | None, hook: str) -> None:
    """Try an edit that changes nothing, at a hook inside a norm; at other hooks do nothing.

    TransformerLens rebuilds a norm behind an edit. It takes some models' weights for others: those
    of Qwen 3.5 are stored less one.

    Raises:
        HookError: the norm then gives something else.
    """
    if not hook.endswith(INSIDE) or not isinstance(model, torch.nn.Module):
        return
    if hook not in model.hook_dict:
        return
    norm: Any = model
    for part in hook.removesuffix(INSIDE).split("."):
        norm = norm[int(part)] if part.isdigit() else getattr(norm, part)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, model.cfg.d_model, generator=generator).to(next(model.parameters()))
    clean = norm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the norm is rebuilt
        with hooked(model, [(hook, _copied)]):
            edited = norm(x)
    if not agree(edited, clean, clean.dtype):
        raise HookError(
            f"an edit at {hook} of this {type(model).__name__} does not reach what follows as it "
            "should: TransformerLens rebuilds this norm with other weights than the model's; "
            f"give a hook behind it, such as {hook.split('.ln')[0]}.mlp.hook_in"
        )


def _copied(value: Tensor, hook: Any) -> Tensor:
    return value.clone()
