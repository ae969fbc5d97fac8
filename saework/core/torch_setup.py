"""What torch needs before its first work in a process; each public name that brings torch in brings this."""

from __future__ import annotations

import torch


def call_once_alone() -> None:
    """Call each elementwise function that models and metrics use once, on one number, before threads do.

    The oneMKL 2024 in torch's wheels picks a function's kernel at its first call. When several threads make that call
    together, one of them may run a kernel of 12 bits, and only that once: in 7 and in 3 of 40 fresh processes (two
    runs) the first large ``sqrt``, a model's first norm, was wrong by 3e-4 in half of its rows; in 0 of 40, twice, after this.
    Source: https://github.com/pytorch/pytorch/issues/188792; ``benchmarks/first_call.py`` counts.
    """
    for dtype in (torch.float32, torch.float64):
        for function in (
            torch.sqrt,
            torch.exp,
            torch.log,
            torch.log10,
            torch.sin,
            torch.cos,
            torch.tanh,
            torch.erf,
        ):
            function(torch.ones(1, dtype=dtype))


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of what one batch has freed for the next one, instead of giving it back to the system.

    How much it keeps follows from the largest mapped block, of at most 32 MB, that was ever freed: twice that. So one of
    32 MB, to which nothing is written, is freed here. Without it the activations of each batch were made of new pages, or
    of old ones, by chance: 20 to 160 thousand page faults in a pass of gelu-1l's shape over 16,384 tokens, and 11 to 24
    thousand with it; medians of ten fresh processes each: 0.75 s and 0.64 s.
    Other allocators take no notice. Source: ``M_MMAP_THRESHOLD`` in mallopt(3).
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8)


call_once_alone()
keep_freed_memory()
