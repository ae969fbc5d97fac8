"""An SAE's encoder product in bfloat16: torch's own beside saework's.

    python benchmarks/half_precision.py 64      # tokens; torch takes up to half a second for each

The shape is that of Joseph Bloom's gemma-2b SAEs, with random numbers. Both sum in float32 and
round once, so that they may differ by the order of the sums.
"""

from __future__ import annotations

import sys
import time

import torch

from saework.engine.products import product

D_IN, D_SAE = 2_048, 16_384
ROUNDS = 3


def main(tokens: int) -> None:
    """Print the medians' ratio, and how far the results are apart."""
    x = torch.randn(tokens, D_IN).bfloat16()
    weights = (torch.randn(D_IN, D_SAE) / D_IN**0.5).bfloat16()
    ways = {"torch": torch.mm, "saework": product}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(ROUNDS):
        for name, multiply in ways.items():
            start = time.perf_counter()
            results[name] = multiply(x, weights)
            seconds[name].append(time.perf_counter() - start)
    theirs, ours = (sorted(seconds[name])[ROUNDS // 2] for name in ways)
    apart = (results["torch"].float() - results["saework"].float()).abs().max()
    largest = results["torch"].float().abs().max()
    print(f"processor: {torch.backends.cpu.get_cpu_capability()}, {tokens} tokens, bfloat16")
    print(f"torch {theirs:.3g} s, saework {ours:.3g} s: ratio {theirs / ours:.3g}")
    print(f"largest difference {float(apart):.2g}, largest number {float(largest):.3g}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
