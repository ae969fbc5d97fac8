"""What the steering notebook holds in memory where it judges many directions at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from saework import load

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "08_llama_steering.ipynb"


@pytest.fixture(scope="module")
def book():
    return load("llama-mini", dtype="bfloat16", check=False)


def largest_allocation(model, tokens, hook) -> int:
    """Bytes of the largest tensor that a run makes."""
    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=[hook]),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen,
    ):
        model(tokens)
    return max(event.cpu_memory_usage for event in seen.events())


def test_no_row_has_a_copy_of_the_unembedding(book):
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (line,) = re.findall(
        r"^last_token_only = .*$", "\n".join(c.source for c in cells), re.MULTILINE
    )
    variables: dict[str, Any] = {}
    exec(line, variables)
    unembedding = book.model.W_U.numel() * 2
    tokens = book.tokens[:16, :12]
    assert largest_allocation(book.model, tokens, variables["last_token_only"]) < unembedding
