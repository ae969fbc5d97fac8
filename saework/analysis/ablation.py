"""What the model ends in when a direction is taken out where an SAE writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from saework.core.arguments import accepts_workbook, check_mask
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine.direct_path import BRANCH, direct_path
from saework.engine.forward import as_tokens, final_states
from saework.engine.site import site_of

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
    nothing = torch.zeros_like(directions[:1])
    states = []
    for row in marked.any(1).nonzero()[:, 0].tolist():
        end = int(marked[row].nonzero().max()) + 1  # later tokens change nothing before them
        of_row = marked[row, :end].to(amount.device)
        amounts = torch.where(of_row, amount[row, :end], 0)
        parts = []
        for some in torch.cat([nothing, directions]).split(max(1, TOKENS_AT_A_TIME // end)):
            taken_out = some[:, None] * amounts[:, None]

            def edit(value: Tensor, taken_out: Tensor = taken_out) -> Tensor:
                return value - taken_out.reshape(*taken_out.shape[:2], *value.shape[2:])

            parts.append(final_states(model, rows[row : row + 1, :end], place, edit))
        states.append(torch.cat(parts)[:, of_row])
    return torch.cat(states, 1)


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
