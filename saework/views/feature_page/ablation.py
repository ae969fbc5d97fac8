"""Loss of the next token when one feature is taken out of the activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine import forward
from saework.engine.architectures import decoder_rows
from saework.engine.encoder import encode_columns, token_scale
from saework.engine.losses import next_token_losses
from saework.engine.site import site_of
from saework.views.feature_page.examples import Places

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray
    from torch import Tensor

TOKENS_PER_BATCH = 4096


@torch.no_grad()
def ablated_losses(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    places: Places,
    counted: Bool[Tensor, "batch pos"],
    *,
    progress: bool = True,
) -> Float[ndarray, " example"]:
    """Loss of the token after each example, with the example's feature taken out of its row.

    ``x - f * W_dec[feature]`` takes the place of ``x`` at each counted token. What the SAE does not
    explain stays.

    Args:
        places: the examples.
        counted: False on tokens that are left as they are.
        progress: whether to show a bar.

    Returns:
        Nats, float64; NaN where the row ends after the example.

    Memory: one forward pass of 4,096 tokens.
    """
    site = site_of(model, sae, hook)
    losses = np.full(len(places), np.nan)
    runs = _Runs.of(places, tokens)
    batches = list(runs.batches())
    for batch in forward.progress_bar(batches, show=progress, desc="ablation"):
        row = runs.row[batch]
        length = runs.length(batch)
        batch_tokens = tokens[row, :length]
        row_tokens = forward.as_tokens(model, batch_tokens)
        device = row_tokens.device
        mask = counted[row, :length].to(device)
        features = torch.from_numpy(runs.feature[batch])
        edit = partial(_without_features, sae=sae, features=features.to(device))
        hidden = forward.spliced_state(model, row_tokens, site, edit, mask)
        in_batch, local_row = runs.examples_in(batch)
        pos = places.pos[in_batch]
        batch_losses = losses_after(model, hidden, row_tokens, local_row, pos)
        losses[in_batch] = batch_losses
    return losses


@dataclass(frozen=True)
class _Runs:
    """What to run: one row for each pair of a feature and a row that holds examples of it.

    Runs have numbers; a batch is an array of them.
    """

    feature: ndarray
    """int64 ``[run]``."""
    row: ndarray
    """int64 ``[run]``."""
    last_pos: ndarray
    """int64 ``[run]``: position of the last example."""
    by_run: ndarray
    """int64 ``[example]``: the examples, those of one run together."""
    ends: ndarray
    """int64 ``[run + 1]``: run ``i`` has ``by_run[ends[i] : ends[i + 1]]``."""
    n_pos: int
    """Tokens of a whole row."""

    @classmethod
    def of(cls, places: Places, tokens: Tensor) -> _Runs:
        """The runs that serve these examples."""
        n_rows, n_pos = tokens.shape
        feature = places.feature.astype(np.int64)
        pair = feature * n_rows + places.row
        _, first_example, of_example = np.unique(pair, return_index=True, return_inverse=True)
        n_runs = len(first_example)
        last_pos = np.zeros(n_runs, dtype=np.int64)
        # Unlike plain indexing, this takes the maximum over all examples of a run.
        np.maximum.at(last_pos, of_example, places.pos)
        examples = places.take(first_example)
        by_run = np.argsort(of_example, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(of_example, minlength=n_runs))])
        return cls(examples.feature, examples.row, last_pos, by_run, ends, n_pos)

    def length(self, batch: ndarray) -> int:
        """Tokens to run: up to the one after the last example. A causal model looks back only."""
        last_pos = self.last_pos[batch].max()
        return min(int(last_pos) + 2, self.n_pos)

    def batches(self) -> Iterator[ndarray]:
        """Runs of similar length together, longest first, ``TOKENS_PER_BATCH`` tokens at most."""
        longest_first = np.argsort(-self.last_pos, kind="stable")
        start = 0
        while start < len(longest_first):
            longest = longest_first[[start]]
            length = self.length(longest)
            size = max(1, TOKENS_PER_BATCH // length)
            yield longest_first[start : start + size]
            start += size

    def examples_in(self, batch: ndarray) -> tuple[ndarray, ndarray]:
        """The examples that a batch serves, and the row of each in the batch."""
        first, past = self.ends[batch], self.ends[batch + 1]
        n_examples = past - first
        row_in_batch = np.repeat(np.arange(len(batch)), n_examples)
        # From each run's first example on: 0, 1, 2, ...
        rank = np.arange(len(row_in_batch)) - np.repeat(
            np.cumsum(n_examples) - n_examples, n_examples
        )
        return self.by_run[first[row_in_batch] + rank], row_in_batch


def losses_after(
    model: HookedModel,
    hidden: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    row: Int[ndarray, " place"],
    pos: Int[ndarray, " place"],
) -> Float[ndarray, " place"]:
    """Loss of the token after each place, nats, float64; NaN at the end of a row.

    Args:
        hidden: the unembedding's input for ``tokens``.
        row: of each place, in ``tokens``.
        pos: of each place.
    """
    losses = np.full(len(row), np.nan)
    n_pos = tokens.shape[1]
    next_pos = pos + 1
    has_next = np.flatnonzero(next_pos < n_pos)
    if len(has_next):
        row = row[has_next]
        # Each place becomes a row of one token.
        states = hidden[row, pos[has_next]]
        targets = tokens[row, next_pos[has_next]]
        cross_entropy, _ = next_token_losses(
            model,
            [states.unsqueeze(1)],
            targets.unsqueeze(1),
        )
        losses[has_next] = cross_entropy.flatten().cpu().numpy()
    return losses


def contribution(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch pos ..."],
    features: Int[Tensor, " batch"],
) -> Float[Tensor, "batch pos ..."]:
    """What one feature of each row adds to the SAE's output: ``f * W_dec[feature]``.

    Args:
        x: activations at the SAE's hook.
        features: one for each row.

    Returns:
        Heads together, in the scale of what the SAE writes.
    """
    columns, column_of_row = features.unique(return_inverse=True)
    encoded = encode_columns(sae, x, columns)
    rows = torch.arange(len(x), device=x.device)
    activation = encoded[rows, :, column_of_row]
    decoder_row = decoder_rows(sae, features).unsqueeze(1)
    added = activation.unsqueeze(-1) * decoder_row
    scale = token_scale(sae, x)
    return added if scale is None else added * scale


def _without_features(
    x: Tensor, written: Tensor, *, sae: SparseAutoencoder, features: Tensor
) -> Tensor:
    return written - contribution(sae, x, features).reshape(written.shape)
