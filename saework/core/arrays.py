"""Numbers as numpy arrays, wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


def as_array(values: ArrayLike | Tensor, dtype: Any = None) -> np.ndarray:
    """A tensor on any device, an array, or plain numbers, as one array.

    Args:
        values: bfloat16 becomes float32, since numpy has no bfloat16.
        dtype: numpy's; by default the values' own.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:
            values = values.float()
        values = values.numpy()
    return np.asarray(values, dtype=dtype)
