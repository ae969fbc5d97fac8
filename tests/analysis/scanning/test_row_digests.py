"""The numbers by which rows of tokens are told apart."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.analysis.scanning import row_digests as module
from saework.analysis.scanning.row_digests import MULTIPLIER, joined, row_digests


def slow(row):
    total = sum((token + 1) * MULTIPLIER ** (pos + 1) for pos, token in enumerate(row)) % 2**64
    return total - 2**64 if total >= 2**63 else total


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.lists(st.integers(0, 256_000), min_size=5, max_size=5), min_size=1, max_size=9))
def test_the_polynomial_in_whole_numbers(rows):
    tokens = torch.tensor(rows)
    assert row_digests(tokens).tolist() == [slow(row) for row in rows]
    assert row_digests(tokens.int()).tolist() == row_digests(tokens).tolist()


def test_blocks_of_rows_make_no_difference(monkeypatch):
    tokens = torch.randint(50_000, (10, 7), generator=torch.Generator().manual_seed(0))
    whole = row_digests(tokens)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 3)
    assert torch.equal(row_digests(tokens), whole)
    assert whole.unique().numel() == 10


def test_another_token_place_or_length_gives_another_number():
    rows = torch.randint(4096, (1000, 128), generator=torch.Generator().manual_seed(1))
    others = rows.clone()
    others[:, 77] = (others[:, 77] + 1) % 4096
    swapped = rows.flip(1)
    digests = [row_digests(tokens) for tokens in (rows, others, swapped, rows[:, :-1])]
    assert torch.cat(digests).unique().numel() == 4000


def test_digests_of_several_scans_in_the_order_of_their_rows():
    one = (((0, 2), (5, 6)), torch.tensor([10, 11, 15]))
    two = (((2, 4),), torch.tensor([12, 13]))
    for parts in ([one, two], [two, one]):
        assert joined(parts).tolist() == [10, 11, 12, 13, 15]
    bare = (((6, 8),), torch.zeros(0, dtype=torch.int64))
    assert joined([one, bare]).tolist() == []
