"""As many rows at a time as fit in the memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saework.engine import row_memory

FIVE_ROWS = torch.zeros(5, 12, dtype=torch.long)


def test_rows_at_a_time(tiny, monkeypatch):
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, None) == 1024 // 12
    assert row_memory.rows_at_a_time(tiny.model, torch.zeros(3, 5000), None) == 1
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, 7) == 7
    monkeypatch.setattr(
        row_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=60_000)
    )
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, 3) == 3
    with pytest.raises(
        ValueError,
        match=r"batch_size 5 needs about \S+ GB, and 6e-05 GB is free; batch_size=2 would fit",
    ):
        row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, 5)


def test_rows_at_a_time_on_a_gpu(tiny, monkeypatch):
    """16,384 tokens, or as many rows as take half of what is free; what torch keeps counts."""
    monkeypatch.setattr(row_memory, "device_of", lambda model: torch.device("cuda"))
    bytes_per_row = row_memory._bytes_of_one_layer(tiny.model, 12)
    memory = SimpleNamespace(
        mem_get_info=lambda device: (10**12, 10**12),
        memory_reserved=lambda device: 5 * bytes_per_row,
        memory_allocated=lambda device: bytes_per_row,
    )
    monkeypatch.setattr(torch, "cuda", memory)
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, None) == 16 * 1024 // 12
    memory.mem_get_info = lambda device: (6 * bytes_per_row, 10**12)
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, None) == 5
    memory.mem_get_info = lambda device: (0, 10**12)
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, None) == 2
    memory.memory_reserved = memory.memory_allocated
    assert row_memory.rows_at_a_time(tiny.model, FIVE_ROWS, None) == 1
