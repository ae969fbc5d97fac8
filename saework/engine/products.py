"""Products with weights in half precision, on processors that multiply in float32 only.

There torch's own product of bfloat16 matrices takes up to a hundred times as long as that of
float32: it multiplies number by number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

COLUMNS = 4096
"""Of the weights, held in float32 at one time."""


def product(
    x: Float[Tensor, "row width"],
    weights: Float[Tensor, "width column"],
    bias: Float[Tensor, " column"] | None = None,
    *,
    out: Float[Tensor, "row column"] | None = None,
) -> Float[Tensor, "row column"]:
    """``x @ weights + bias``, in their dtype.

    Where the processor has no half precision of its own, some columns of the weights at a time
    are multiplied in float32, and the sums are rounded once, as everywhere else.

    Args:
        x: in the dtype of the weights.
        weights: on the device of ``x``.
        bias: likewise; zero by default.
        out: takes the result, if given.
    """
    if weights.device.type != "cpu" or has_fast_products(weights.dtype):
        if bias is None:
            return torch.mm(x, weights, out=out)
        return torch.addmm(bias, x, weights, out=out)
    if out is None:
        out = x.new_empty(len(x), weights.shape[1])
    x_float32 = x.float()
    for first in range(0, weights.shape[1], COLUMNS):
        some = slice(first, first + COLUMNS)
        summed = x_float32 @ weights[:, some].float()
        out[:, some] = summed if bias is None else summed + bias[some]
    return out


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether torch's products in a dtype are fast on this processor.

    In bfloat16 they are with AVX-512, in float32 and float64 always; float16 is taken as slow.
    """
    if dtype == torch.bfloat16:
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return dtype != torch.float16
