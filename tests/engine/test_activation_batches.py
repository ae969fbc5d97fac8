"""Batches of activations: every row once per epoch, and a resumed run as an unbroken one."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from stand_ins import POST

from saework.engine import activation_batches as module
from saework.engine.activation_batches import activation_batches, endless_order
from saework.engine.forward import activations


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 1)
    monkeypatch.setattr(module, "MOST_BOS_PER_ROW", 4)


def first_batches(tiny, n, **options):
    options = {"batch": 10, "seed": 3, "buffer_rows": 2, **options}
    return list(islice(activation_batches(tiny.model, tiny.tokens, POST, **options), n))


def as_rows(x) -> list[tuple[float, ...]]:
    return sorted(tuple(row) for row in x.double().round(decimals=4).tolist())


def test_a_buffer_has_its_rows_activations_in_another_order(tiny, small_buffers):
    batches = first_batches(tiny, 4)  # 2 rows of 20 tokens
    chosen = endless_order(6, 3)[:2]
    expected = activations(tiny.model, tiny.tokens[chosen], POST).flatten(0, 1)
    assert [batch.shape for batch in batches] == [(10, 24)] * 4
    assert as_rows(torch.cat(batches)) == as_rows(expected)
    assert not torch.equal(torch.cat(batches), expected)


def test_without_bos(tiny, small_buffers):
    (batch, *_) = first_batches(tiny, 3, bos=False)
    bos = activations(tiny.model, tiny.tokens[:1, :1], POST)[0, 0]
    three_buffers = torch.cat(first_batches(tiny, 9, bos=False))
    assert not torch.isclose(three_buffers, bos, atol=1e-5).all(1).any()
    assert torch.isclose(torch.cat(first_batches(tiny, 12)), bos, atol=1e-5).all(1).sum() == 6
    assert batch.shape == (10, 24)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_resumed_run_sees_what_an_unbroken_one_saw(tiny, small_buffers, start, bos):
    whole = first_batches(tiny, 10, bos=bos)
    rest = first_batches(tiny, 10 - start, bos=bos, start=start)
    for expected, batch in zip(whole[start:], rest, strict=True):
        assert torch.equal(batch, expected)


def test_seeds_give_other_batches(tiny, small_buffers):
    (one,), (other,) = first_batches(tiny, 1), first_batches(tiny, 1, seed=4)
    assert not torch.equal(one, other)


def test_each_epoch_has_every_row_once():
    order = endless_order(5, seed=1, epochs=3)
    epochs = order.split(5)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(5))] * 3
    assert epochs[0].tolist() != epochs[1].tolist()
    assert torch.equal(order, endless_order(5, seed=1, epochs=4)[:15])
