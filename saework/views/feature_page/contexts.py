"""Examples read in their rows: activations around each, loss after it, and label counts.

Each row that has an example is read once for all features. With rules (labels), each row is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine import forward
from saework.engine.encoder import encode_columns
from saework.views.feature_page.ablation import losses_after
from saework.views.feature_page.examples import Places
from saework.views.feature_page.firings import row_batches

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray
    from torch import Tensor

TOKENS_BEFORE = 20
TOKENS_AFTER = 8
WINDOW = TOKENS_BEFORE + 1 + TOKENS_AFTER


@dataclass(frozen=True)
class Contexts:
    """What the rows say of the examples, in the order of the places."""

    activations: Float[ndarray, "example window"]
    """float32: the feature around the example; NaN past the ends of the row."""
    loss: Float[ndarray, " example"]
    """float64: nats, of the token after the example; NaN where the row ends."""
    rule_hits: Int[ndarray, "rule feature"]
    """int64: tokens on which the feature fires and the rule holds."""


@torch.no_grad()
def read_contexts(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    places: Places,
    *,
    features: Int[ndarray, " feature"],
    rules: Bool[Tensor, "rule batch pos"] | None = None,
    progress: bool = True,
) -> Contexts:
    """Run the model over the examples' rows, and read what stands around each example.

    Args:
        places: the examples.
        features: those to count against the rules, in ascending order.
        rules: what to count the features' firings against, token by token.
        progress: whether to show a bar.

    Memory: 4,096 tokens times the features with an example there (all, with rules), 4 bytes each.
    """
    n_examples = len(places)
    activations = np.full((n_examples, WINDOW), np.nan, dtype=np.float32)
    loss = np.full(n_examples, np.nan)
    n_rules = 0 if rules is None else len(rules)
    rule_hits = np.zeros((n_rules, len(features)), dtype=np.int64)

    rows = np.unique(places.row)
    if rules is not None:
        rows = np.arange(len(tokens))
    blocks = row_batches(rows, tokens.shape[1])
    for block in forward.progress_bar(blocks, show=progress, desc="examples"):
        in_block = np.flatnonzero(np.isin(places.row, block))
        examples = places.take(in_block)
        # Rows and columns are sorted, so a search gives an example's place among them.
        row = np.searchsorted(block, examples.row)
        pos = examples.pos
        x, block_loss = _read_block(model, tokens[block], hook, row, pos)
        loss[in_block] = block_loss

        columns = features
        if rules is None:
            columns = np.unique(examples.feature)
        encoded = _encoded(sae, x, columns)
        column = np.searchsorted(columns, examples.feature)
        own_feature = encoded[row, :, column]
        activations[in_block] = _windows(own_feature, pos)
        if rules is not None:
            block_rules = rules[:, block]
            rule_hits += _hits(block_rules, encoded != 0)
    return Contexts(activations, loss, rule_hits)


def _encoded(sae: SparseAutoencoder, x: Tensor, columns: ndarray) -> Tensor:
    """Some features of activations, float32 ``[batch, pos, column]`` on the CPU."""
    indices = torch.from_numpy(columns)
    values = encode_columns(sae, x, indices.to(x.device))
    return values.float().cpu()


def _read_block(
    model: HookedModel,
    tokens: Tensor,
    hook: str,
    row: ndarray,
    pos: ndarray,
) -> tuple[Tensor, ndarray]:
    """Activations at the hook, and the loss of the token after each place, from one run.

    Places are given by ``row`` and ``pos``. Without any, the run ends at the hook.
    """
    if not len(row):
        x = forward.activations(model, tokens, hook)
        return x, np.zeros(0)
    tokens = forward.as_tokens(model, tokens)
    at_hook: list[Tensor] = []

    def keep(value: Tensor, hook: object) -> None:
        at_hook.append(value)

    hooks = [(hook, keep)]
    hidden = forward.capture(model, tokens, forward.UNEMBED_INPUT, hooks)
    losses = losses_after(model, hidden, tokens, row, pos)
    return at_hook[0], losses


def _windows(values: Tensor, pos: ndarray) -> ndarray:
    """Each row of ``values [example, pos]`` around its position; NaN where it does not reach."""
    padded = np.pad(
        values.numpy(),
        [(0, 0), (TOKENS_BEFORE, TOKENS_AFTER)],
        constant_values=np.nan,
    )
    # After the padding, the window of a position starts at the same number.
    positions = pos[:, None] + np.arange(WINDOW)
    return np.take_along_axis(padded, positions, axis=1)


def _hits(rules: Tensor, fires: Tensor) -> ndarray:
    """Tokens on which a rule holds and a feature fires, int64 ``[rule, feature]``.

    Args:
        rules: bool ``[rule, batch, pos]``.
        fires: bool ``[batch, pos, feature]``.
    """
    # float32 counts whole numbers exactly up to 2**24, far above the tokens of a block.
    holds = rules.flatten(1).float().cpu()
    fires_flat = fires.flatten(0, 1).float()
    hits = holds @ fires_flat
    return hits.long().numpy()
