"""What torch needs before its first work in a process; importing this module does it.

Each public module that imports torch imports this one.
"""

from __future__ import annotations

import torch

ELEMENTWISE = (
    torch.sqrt,
    torch.exp,
    torch.log,
    torch.log10,
    torch.sin,
    torch.cos,
    torch.tanh,
    torch.erf,
)
LARGEST_MAPPED_BLOCK = 32 * 2**20  # bytes: glibc never raises its threshold above this
BLOCK_HEADER = 16 * 2**10  # bytes: room for the allocator's own bookkeeping


def call_once_alone() -> None:
    """Call each elementwise function once, on one number, before several threads call it.

    The oneMKL 2024 in torch's wheels picks a function's kernel at its first call. When several
    threads make that call together, one of them may run a kernel of 12 bits, that once. The first
    large ``sqrt``, a model's first norm, was then wrong by 3e-4 in half of its rows: in 10 of 80
    fresh processes without these calls, and in 0 of 80 with them.

    Source: https://github.com/pytorch/pytorch/issues/188792; ``benchmarks/first_call.py`` counts.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for function in ELEMENTWISE:
            function(one)


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of freed memory for the next batch.

    By default it gives large blocks back to the system, and the next batch waits for new pages.
    How much it keeps is twice the largest mapped block, of at most 32 MB, that was ever freed. So
    one of 32 MB, to which nothing is written, is freed here. In a pass of gelu-1l's shape over
    16,384 tokens, page faults went from 20,000 to 160,000 down to 11,000 to 24,000, and the
    median time of ten fresh processes from 0.75 s to 0.64 s. Other allocators ignore it.

    Source: ``M_MMAP_THRESHOLD`` in mallopt(3).
    """
    torch.empty(LARGEST_MAPPED_BLOCK - BLOCK_HEADER, dtype=torch.uint8)


call_once_alone()
keep_freed_memory()
