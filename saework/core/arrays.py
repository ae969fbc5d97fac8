"""Numbers as numpy arrays, wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.errors import in_words

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


def as_array(values: ArrayLike | Tensor, dtype: Any = None) -> np.ndarray:
    """A tensor on any device, an array, or plain numbers, as one array.

    Args:
        values: bfloat16 becomes float32, since numpy has no bfloat16.
        dtype: numpy's; by default the values' own.

    Raises:
        ValueError: they are no table, or not of this dtype.
    """
    if isinstance(values, torch.Tensor):
        if values.is_meta or values.layout is not torch.strided:
            where = "on device meta" if values.is_meta else f"{values.layout}"
            raise ValueError(f"values are {where}; give a dense tensor that holds numbers")
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:
            values = values.float()
        values = values.numpy()
    try:
        return np.asarray(values, dtype=dtype)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"values are {in_words(values)}; give numbers, in rows of one length ({error})"
        ) from error
