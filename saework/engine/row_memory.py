"""How many rows a model runs at a time, by the memory that their activations take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from saework.core.arguments import check_positive

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

TOKENS_AT_A_TIME = 1024
TOKENS_AT_A_TIME_ON_GPU = 16 * TOKENS_AT_A_TIME


def device_of(model: HookedModel) -> torch.device:
    """Where the model's first weights are."""
    return next(model.parameters()).device


def rows_at_a_time(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], batch_size: int | None
) -> int:
    """Rows of a batch: as asked, or about 1,024 tokens' worth (16,384 on a GPU).

    A GPU whose free memory is too small for that gets fewer: half of it stays free.

    Raises:
        ValueError: the activations of so many rows do not fit in the free memory; it says how many
            rows would.
    """
    device = device_of(model)
    n_rows, n_pos = tokens.shape
    bytes_per_row = _bytes_of_one_layer(model, n_pos)
    if batch_size is None:
        n_tokens = TOKENS_AT_A_TIME if device.type == "cpu" else TOKENS_AT_A_TIME_ON_GPU
        n_rows = n_tokens // n_pos
        if device.type == "cuda":
            n_rows = min(n_rows, _free_memory(device) // (2 * bytes_per_row))
        return max(1, n_rows)
    batch_size = check_positive(batch_size, "batch_size")
    free = _free_memory(device)
    if min(batch_size, n_rows) * bytes_per_row > free:
        needed = batch_size * bytes_per_row
        fitting = max(1, free // (2 * bytes_per_row))
        raise ValueError(
            f"batch_size {batch_size} needs about {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB "
            f"is free; batch_size={fitting} would fit"
        )
    return batch_size


def _bytes_of_one_layer(model: HookedModel, n_pos: int) -> int:
    """Memory that one layer's activations take at once, for one row."""
    cfg = model.cfg
    stream = 8 * cfg.d_model
    mlp = 3 * (cfg.d_mlp or 0)
    attention_pattern = 3 * cfg.n_heads * n_pos
    return 4 * n_pos * (stream + mlp + attention_pattern)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved, in_use = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        return free + reserved - in_use  # torch keeps what it has freed, for the next tensors
    return psutil.virtual_memory().available
