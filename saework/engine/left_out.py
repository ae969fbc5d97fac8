"""Parts of a model that were not loaded (``depth="hook"``): whatever needs them is refused.

A model that ends behind an SAE's hook has no final norm and no unembedding. Each of them is a
``LeftOut`` there, so that no number can come from what is not there. With ``depth="text"`` the
embedding is a ``HeldRows`` besides: it has the rows of some tokens, and refuses all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from saework.core.errors import HookError, UnknownNameError, unknown

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel, Tokenizer

BEHIND_BLOCKS = ("ln_final", "unembed")
"""What lies behind the last block, by TransformerLens's names."""


class LeftOut(torch.nn.Module):
    """Stands in the place of a part that was not loaded; any use of it raises."""

    def __init__(self, n_blocks_held: int, n_blocks: int, depth: str) -> None:
        super().__init__()
        self.depth = depth
        """As the model was loaded."""
        self.n_blocks_held = n_blocks_held
        """The blocks that are here: the first ones."""
        self.n_blocks = n_blocks
        """The blocks that the model has."""

    def refuse(self) -> NoReturn:
        """Raises: HookError, which says what was loaded, and how to load all."""
        raise HookError(
            f'this model was loaded with depth="{self.depth}": it holds {self.n_blocks_held} of '
            f"its {self.n_blocks} blocks, and neither the final norm nor the unembedding, so it "
            'has no logits; load it with depth="full"'
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


class HeldRows(torch.nn.Module):
    """An embedding of some tokens only; any other token raises."""

    row_of: Tensor
    """By a token's number: its row in ``table``; -1 where it has none."""

    def __init__(
        self,
        table: torch.nn.Module,
        token_ids: Sequence[int],
        d_vocab: int,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Args: as ``hold_rows``, with the embedding itself."""
        super().__init__()
        self.table = table
        self._tokenizer = tokenizer
        device = next(table.parameters()).device
        row_of = torch.full((d_vocab,), -1, device=device)
        row_of[list(token_ids)] = torch.arange(len(token_ids), device=device)
        self.register_buffer("row_of", row_of, persistent=False)

    def forward(self, input_ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The rows of tokens.

        Raises:
            HookError: a token has no row here; the message names it.
        """
        rows = self.row_of[input_ids]
        missing = input_ids[rows < 0].tolist()
        if missing:
            word = f" ({self._tokenizer.decode(missing[:1])!r})" if self._tokenizer else ""
            self._refuse(f"token {missing[0]}{word} is not in the text")
        return self.table(rows)

    @property
    def weight(self) -> NoReturn:
        """Raises: HookError, always: rows of the table have other numbers than their tokens."""
        self._refuse("the embedding's matrix is not in the model, but only the part for the text")

    def _refuse(self, what: str) -> NoReturn:
        n_held = int((self.row_of >= 0).sum())
        raise HookError(
            f'{what} that this model was loaded for (depth="text": it holds {n_held} rows of the '
            'embedding); load it with the text that you need (text=...), or with depth="hook"'
        )


def hold_rows(
    model: Any, token_ids: Sequence[int], d_vocab: int, tokenizer: Tokenizer | None
) -> None:
    """Let a ``TransformerBridge`` find the rows of its embedding by the tokens that they are of.

    Args:
        model: it is changed; its embedding has one row for each of these tokens.
        token_ids: in the order of the rows.
        d_vocab: of the whole model.
        tokenizer: for the error of another token.
    """
    part = model.embed
    table = part.original_component
    part._parameters.clear()  # where TransformerLens keeps weights that it processed
    part.set_original_component(HeldRows(table, token_ids, d_vocab, tokenizer))
    model.cfg.d_vocab = d_vocab


def leave_out(model: Any, *, n_blocks_held: int, n_blocks: int, depth: str) -> None:
    """Take the final norm and the unembedding out of a ``TransformerBridge``.

    Args:
        model: it is changed; its config's ``n_layers`` stays the number of blocks held.
        n_blocks_held: its blocks.
        n_blocks: those of the whole model.
        depth: as it was loaded.
    """
    for name in BEHIND_BLOCKS:
        part = getattr(model, name)
        missing = LeftOut(n_blocks_held, n_blocks, depth)
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
            f'This model was loaded with depth="{part.depth}" and holds {part.n_blocks_held} of '
            f'its {part.n_blocks} blocks; load it with depth="full", or load an SAE of that hook.'
        )
    return unknown("hook", hook, model.hook_dict, see=see)
