"""Endless batches of activations, for training an SAE."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from saework.engine.forward import activations

BUFFER_ROWS = 256


def activation_batches(
    model,
    rows: torch.Tensor,
    hook: str,
    *,
    batch: int,
    seed: int,
    bos: bool = True,
    start: int = 0,
) -> Iterator[torch.Tensor]:
    """Batches ``[batch, d_in]`` of the model's activations, mixed over 256 rows; endless.

    Args:
        rows: long ``[row, pos]``, BOS first.
        batch: tokens per batch.
        seed: of the order of rows and of the mixing.
        bos: whether BOS tokens are among them.
        start: the number of the first batch, so that a resumed run sees what an unbroken one saw.
    """
    order = endless_order(len(rows), seed)
    # documents are long, so a row holds few BOS: eight places are more than enough
    usable = rows.shape[1] if bos else rows.shape[1] - 8
    per_buffer = BUFFER_ROWS * usable // batch
    device = next(model.parameters()).device
    for buffer in itertools.count(start // per_buffer):
        first = buffer * BUFFER_ROWS % (len(order) - BUFFER_ROWS)
        tokens = rows[order[first : first + BUFFER_ROWS]].long().to(device)
        x = torch.cat([activations(model, part, hook).flatten(0, 1) for part in tokens.split(64)])
        if not bos:
            x = x[tokens.flatten() != tokens[0, 0]]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + buffer)
        x = x[torch.randperm(len(x), generator=generator)]
        yield from x.split(batch)[start % per_buffer : per_buffer]
        start = 0


def endless_order(n_rows: int, seed: int, *, epochs: int = 8) -> torch.Tensor:
    """Row numbers of several epochs, each shuffled: the same for a resumed run as for a whole one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n_rows, generator=generator) for _ in range(epochs)])
