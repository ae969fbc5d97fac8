"""A number for each scanned row, by which rows of other text are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Int, Int64
    from torch import Tensor

MULTIPLIER = 0x9E3779B97F4A7C15  # odd: its powers modulo 2**64 never vanish
ROWS_AT_A_TIME = 65_536


def row_digests(tokens: Int[Tensor, "batch pos"]) -> Int64[Tensor, " batch"]:
    """A number of 64 bits for each row; it depends on each token and on its place.

    The polynomial ``sum((token + 1) * MULTIPLIER ** (pos + 1))``, modulo 2**64.

    >>> row_digests(torch.tensor([[1, 2], [2, 1], [1, 2]])).unique().numel()
    2
    """
    n_rows, n_pos = tokens.shape
    factors = np.full(n_pos, MULTIPLIER, dtype=np.uint64)
    powers = np.multiply.accumulate(factors)  # unsigned numbers of numpy wrap around
    digests = np.empty(n_rows, dtype=np.uint64)
    for start in range(0, n_rows, ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        terms = (tokens[rows].cpu().numpy().astype(np.uint64) + np.uint64(1)) * powers
        digests[rows] = terms.sum(axis=1, dtype=np.uint64)
    return torch.from_numpy(digests.view(np.int64))


def joined(
    parts: Sequence[tuple[Sequence[tuple[int, int]], Int64[Tensor, " rows"]]],
) -> Int64[Tensor, " rows"]:
    """The digests of several scans, in the order of their rows.

    Args:
        parts: of each scan its row ranges and the digests of their rows. None of the ranges
            overlap. Where a scan kept no digests, nothing is kept.
    """
    pieces: list[tuple[int, Tensor]] = []
    for ranges, digests in parts:
        lengths = [end - first for first, end in ranges]
        if len(digests) != sum(lengths):
            return torch.zeros(0, dtype=torch.int64)
        starts = [first for first, _ in ranges]
        pieces += zip(starts, digests.split(lengths))
    ordered = sorted(pieces, key=lambda piece: piece[0])
    return torch.cat([piece for _, piece in ordered])
