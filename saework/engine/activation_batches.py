"""Endless batches of activations, for training an SAE."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from saework.core.protocols import HookedModel
from saework.engine.forward import activations

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

BUFFER_ROWS = 256
ROWS_AT_A_TIME = 64
MOST_BOS_PER_ROW = 8  # documents are long, so a row of them has few
SEEDS_APART = 1_000_003  # so that buffers of two seeds are mixed differently


def activation_batches(
    model: HookedModel,
    rows: Int[Tensor, "row pos"],
    hook: str,
    *,
    batch: int,
    seed: int,
    bos: bool = True,
    start: int = 0,
    buffer_rows: int = BUFFER_ROWS,
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Batches of the model's activations, mixed over some hundred rows; endless.

    Args:
        model: runs as far as the hook.
        rows: tokens, BOS first.
        hook: where the activations are read.
        batch: tokens per batch.
        seed: of the order of rows and of the mixing.
        bos: whether BOS tokens are among them.
        start: the number of the first batch, so that a resumed run sees what an unbroken one saw.
        buffer_rows: how many rows are mixed at a time. Memory: three times their activations.
    """
    order = endless_order(len(rows), seed)
    usable = rows.shape[1]
    if not bos:
        usable -= MOST_BOS_PER_ROW
    batches_per_buffer = buffer_rows * usable // batch
    device = next(model.parameters()).device
    for buffer in itertools.count(start // batches_per_buffer):
        first = buffer * buffer_rows % (len(order) - buffer_rows)
        chosen = order[first : first + buffer_rows]
        tokens = rows[chosen].long().to(device)
        parts = tokens.split(ROWS_AT_A_TIME)
        captured = [activations(model, part, hook) for part in parts]
        x = torch.cat([x.flatten(0, 1) for x in captured])
        if not bos:
            bos_id = tokens[0, 0]
            x = x[tokens.flatten() != bos_id]
        generator = torch.Generator().manual_seed(seed * SEEDS_APART + buffer)
        mixed = x[torch.randperm(len(x), generator=generator)]
        batches = mixed.split(batch)
        # what is left after the whole batches is dropped; only the first buffer starts inside
        skipped = start % batches_per_buffer
        yield from batches[skipped:batches_per_buffer]
        start = 0


def endless_order(n_rows: int, seed: int, *, epochs: int = 8) -> Int[Tensor, " row"]:
    """Row numbers of several epochs, each shuffled; a resumed run gets the same as a whole one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n_rows, generator=generator) for _ in range(epochs)])
