"""Products in bfloat16: an SAE's encoder by torch and by saework, and a model's layer by torch.

    python benchmarks/half_precision.py 64      # tokens; torch takes up to half a second for each

The shapes are those of gemma-2b and of Joseph Bloom's SAEs on it, with random numbers. Both ways
sum in float32 and round once, so that they may differ by the order of the sums. The layer is
beside the same layer in float32: what a plan in bfloat16 costs, where the processor has none.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from saework.engine.products import product

D_MODEL, D_SAE = 2_048, 16_384
ROUNDS = 3
Ways = dict[str, Callable[[], torch.Tensor]]


def compared(ways: Ways) -> dict[str, torch.Tensor]:
    """Print the medians of two ways that take turns, and their ratio; returns their results."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            results[name] = way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    slow, fast = medians.values()
    words = ", ".join(f"{name} {median:.3g} s" for name, median in medians.items())
    print(f"{words}: ratio {slow / fast:.3g}")
    return results


def main(tokens: int) -> None:
    """Print the ratios, and how far the two encoders are apart."""
    print(f"processor: {torch.backends.cpu.get_cpu_capability()}, {tokens} tokens")
    x = torch.randn(tokens, D_MODEL).bfloat16()
    weights = (torch.randn(D_MODEL, D_SAE) / D_MODEL**0.5).bfloat16()
    encoder: Ways = {
        "encoder in bfloat16: torch": lambda: x @ weights,
        "saework": lambda: product(x, weights),
    }
    theirs, ours = (result.float() for result in compared(encoder).values())
    print(f"largest difference {float((theirs - ours).abs().max()):.2g}", end=", ")
    print(f"largest number {float(theirs.abs().max()):.3g}")
    layer, x_wide, layer_wide = weights.T.contiguous(), x.float(), weights.T.contiguous().float()
    of_a_model: Ways = {
        "a model's layer: bfloat16": lambda: torch.nn.functional.linear(x, layer),
        "float32": lambda: torch.nn.functional.linear(x_wide, layer_wide),
    }
    compared(of_a_model)


if __name__ == "__main__":
    main(int(sys.argv[1]))
