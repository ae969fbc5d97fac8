"""Parts of a model that were not loaded (``depth="hook"``): whatever needs them is refused.

A model that ends behind an SAE's hook has no final norm and no unembedding. Each of them is a
``LeftOut`` there, so that no number can come from what is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

from saework.core.errors import HookError, UnknownNameError, unknown

if TYPE_CHECKING:
    from saework.core.protocols import HookedModel

BEHIND_BLOCKS = ("ln_final", "unembed")
"""What lies behind the last block, by TransformerLens's names."""


class LeftOut(torch.nn.Module):
    """Stands in the place of a part that was not loaded; any use of it raises."""

    def __init__(self, n_blocks_held: int, n_blocks: int) -> None:
        super().__init__()
        self.n_blocks_held = n_blocks_held
        """The blocks that are here: the first ones."""
        self.n_blocks = n_blocks
        """The blocks that the model has."""

    def refuse(self) -> NoReturn:
        """Raises: HookError, which says what was loaded, and how to load all."""
        raise HookError(
            f'this model was loaded with depth="hook": it holds {self.n_blocks_held} of its '
            f"{self.n_blocks} blocks, and neither the final norm nor the unembedding, so it has no "
            'logits; load it with depth="full"'
        )

    def forward(self, *args: Any, **options: Any) -> NoReturn:
        """Raises: HookError, always."""
        self.refuse()

    @property
    def weight(self) -> NoReturn:
        """Raises: HookError, always."""
        self.refuse()

    @property
    def bias(self) -> NoReturn:
        """Raises: HookError, always."""
        self.refuse()


def leave_out(model: Any, *, n_blocks_held: int, n_blocks: int) -> None:
    """Take the final norm and the unembedding out of a ``TransformerBridge``.

    Args:
        model: it is changed; its config's ``n_layers`` stays the number of blocks held.
        n_blocks_held: its blocks.
        n_blocks: those of the whole model.
    """
    for name in BEHIND_BLOCKS:
        part = getattr(model, name)
        missing = LeftOut(n_blocks_held, n_blocks)
        part._parameters.clear()  # where TransformerLens keeps weights that it processed
        part.set_original_component(missing)
        # Before the part's own hooks fire: what reaches it is not what the whole model would give.
        part.register_forward_pre_hook(missing.forward)


def left_out(model: Any) -> LeftOut | None:
    """What stands in the place of the unembedding where a model was loaded only in part."""
    unembedding = getattr(model, "unembed", None)
    if not isinstance(unembedding, torch.nn.Module):
        return None
    for part in unembedding.modules():
        if isinstance(part, LeftOut):
            return part
    return None


def check_has_logits(model: HookedModel) -> None:
    """Refuse, before anything runs, a model that was loaded only as far as an SAE's hook.

    Raises:
        HookError: it names ``depth="full"``.
    """
    part = left_out(model)
    if part is not None:
        part.refuse()


def unknown_hook(model: HookedModel, hook: str) -> UnknownNameError:
    """The error for a hook that a model lacks; of a part of a model it says so."""
    see = "The model's hooks are listed in model.hook_dict."
    part = left_out(model)
    if part is not None:
        see = (
            f'This model was loaded with depth="hook" and holds {part.n_blocks_held} of its '
            f'{part.n_blocks} blocks; load it with depth="full", or load an SAE of that hook.'
        )
    return unknown("hook", hook, model.hook_dict, see=see)
