"""What the model ends in when a direction is taken out where an SAE writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from saework.core.arguments import accepts_workbook, check_mask
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine.direct_path import BRANCH, direct_path
from saework.engine.forward import activations, as_tokens, capture, never_fired, row_blocks
from saework.engine.losses import next_token_logits
from saework.engine.row_memory import rows_at_a_time
from saework.engine.site import carrier_of, edit_hooks, site_of
from saework.engine.unembedding import UNEMBED_INPUT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

TOKENS_AT_A_TIME = 8192
"""Of all copies of a row together."""


@accepts_workbook
@torch.no_grad()
def states_without(
    model: HookedModel,
    sae: SparseAutoencoder,
    rows: Int[Tensor, "row pos"],
    directions: Float[Tensor, "direction width"],
    amount: Float[Tensor, "row pos"],
    where: Bool[Tensor, "row pos"],
    *,
    hook: str | None = None,
) -> Float[Tensor, "state token d_model"]:
    """The unembedding's input at marked tokens, with a direction taken out at them.

    ``amount * direction`` is subtracted from what the SAE replaces, at all marked tokens of a row
    at once: later layers carry an earlier edit to the marked tokens behind it. What lies before
    the hook runs once for each row, and what lies behind it once for each direction.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: says where the directions are written.
        rows: tokens, BOS included.
        directions: such as decoder rows, in the units of what is at the hook.
        amount: how much of a direction is taken out at each token.
        where: the marked tokens.
        hook: the SAE's own by default.

    Returns:
        The marked tokens' states, row by row: first with nothing taken out, then one for each
        direction.

    Raises:
        ValueError: for tensors of other shapes, or no marked token.
        HookError: if the hook does not fit the model or the SAE.

    Memory: 4 bytes times ``d_model`` for each state and marked token.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=256, check=False)
    >>> amount = torch.ones(book.tokens.shape)
    >>> states = states_without(book, book.tokens, book.sae.W_dec[:3], amount, amount > 0)
    >>> states.shape
    torch.Size([4, 256, 128])
    """
    rows = as_tokens(model, rows, sae)
    site = site_of(model, sae, hook)
    marked = check_mask(where, rows.shape, what="where")
    if marked is None:
        raise ValueError("where is None; mark the tokens at which a direction is taken out")
    directions, amount = _checked(directions, amount, rows, sae)
    place, directions = _in_stream(model, site.writes, directions)
    directions = torch.cat([torch.zeros_like(directions[:1]), directions])
    amount = torch.where(marked.to(amount.device), amount, 0)
    chosen = marked.any(1)
    rows = rows[chosen.to(rows.device)]
    amount = amount[chosen.to(amount.device)]
    marked = marked[chosen]
    if place == f"blocks.{model.cfg.n_layers - 1}.hook_resid_post":
        return _behind_last_block(model, rows, place, directions, amount, marked)
    states = [
        _of_one_row(model, *row, place, directions)
        for row in zip(rows, amount, marked, strict=True)
    ]
    return torch.cat(states, 1)


@torch.no_grad()
def next_token_log_probs(
    model: HookedModel, states: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Log-probabilities after states of ``states_without``, nats, with the model's own cap.

    Raises:
        ValueError: what the model does after its unembedding is not known.

    Memory: 4 bytes times ``d_vocab`` for each state. Give some hundreds at a time.
    """
    return next_token_logits(model, states).log_softmax(-1)


def _of_one_row(
    model: HookedModel, row: Tensor, amount: Tensor, marked: Tensor, place: str, directions: Tensor
) -> Tensor:
    """``[state, marked token, d_model]``; behind the hook, the row's copies run as one batch."""
    end = int(marked.nonzero().max()) + 1  # later tokens change nothing before them
    carrier, bypass = carrier_of(model, place)
    parts = []
    for some in directions.split(max(1, TOKENS_AT_A_TIME // end)):
        taken_out = some[:, None] * amount[:end, None]

        def edit(_: Tensor, written: Tensor, taken_out: Tensor = taken_out) -> Tensor:
            """One row comes, and a copy of it for each direction goes on."""
            return written - taken_out.reshape(*taken_out.shape[:2], *written.shape[2:])

        hooks = edit_hooks(carrier, edit, bypass=bypass)
        parts.append(capture(model, row[None, :end], UNEMBED_INPUT, hooks))
    states = torch.cat(parts)
    if len(states) != len(directions):
        raise never_fired(place)
    return states[:, marked[:end].to(states.device)]


def _behind_last_block(
    model: HookedModel,
    rows: Tensor,
    place: str,
    directions: Tensor,
    amount: Tensor,
    marked: Tensor,
) -> Tensor:
    """The same where only the final norm follows, which reads each token alone."""
    parts = []
    for part in row_blocks(len(rows), rows_at_a_time(model, rows, None)):
        stream = activations(model, rows[part], place)
        parts.append(stream[marked[part].to(stream.device)])
    stream = torch.cat(parts)
    amounts = amount[marked.to(amount.device)]
    edited = stream - directions[:, None] * amounts[:, None]
    final_norm: Any = getattr(model, "ln_final", None)
    return edited if final_norm is None else final_norm(edited)


def _in_stream(model: HookedModel, hook: str, directions: Tensor) -> tuple[str, Tensor]:
    """Where to take directions out, and what they are there.

    What an MLP's neurons write is the same change of the block's output, and narrower there.
    """
    branch = BRANCH.fullmatch(hook)
    if branch is None or not branch["hidden"]:
        return hook, directions
    w_out, norms = direct_path(model, hook)
    output = f"blocks.{branch['layer']}.hook_resid_post"
    n_norms_of_model = int(getattr(model, "ln_final", None) is not None)
    if w_out is None or len(norms) > n_norms_of_model or output not in model.hook_dict:
        return hook, directions  # a norm or a factor lies between
    return output, directions @ w_out


def _checked(
    directions: Tensor, amount: Tensor, rows: Tensor, sae: SparseAutoencoder
) -> tuple[Tensor, Tensor]:
    """Directions and amounts where the SAE is.

    Raises:
        ValueError: for other shapes.
    """
    width = sae.W_dec.shape[1]
    if directions.ndim != 2 or directions.shape[1] != width:
        raise ValueError(
            f"directions have shape {tuple(directions.shape)}; give [direction, {width}], such as "
            "sae.W_dec[[feature]]"
        )
    if amount.shape != rows.shape:
        raise ValueError(
            f"amount has shape {tuple(amount.shape)}; give one number for each token, "
            f"{tuple(rows.shape)}"
        )
    return directions.to(sae.W_dec), amount.to(sae.W_dec)
