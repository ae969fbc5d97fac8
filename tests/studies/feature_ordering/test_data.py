"""Batches that can start anywhere, and the activations that they are made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saework.engine.forward import activations
from saework.loading import workbook
from saework.studies.feature_ordering.data import study_data, tensor_batches
from saework.studies.feature_ordering.variants import Setting


def test_batches_cover_an_epoch_and_can_start_anywhere():
    x = torch.arange(70.0)[:, None]
    batches = tensor_batches(x, 16)
    stream = batches(3, 0)
    first = [next(stream) for _ in range(11)]
    assert len(torch.cat(first[:4]).unique()) == 64, "no value twice in an epoch"
    for start in (1, 4, 9):
        assert torch.equal(next(batches(3, start)), first[start])
    assert not torch.equal(first[0], next(batches(4, 0)))
    with pytest.raises(
        ValueError,
        match="70 activations do not fill one batch of 71; give more of them, or a smaller batch",
    ):
        tensor_batches(x, 71)


@pytest.mark.parametrize("n_tokens", [None, 6000])
def test_activations_leave_bos_and_the_held_out_rows_out(tiny, monkeypatch, n_tokens):
    tokens = torch.randint(3, 4096, (300, 20), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tiny.tokenizer.bos_token_id
    monkeypatch.setattr(
        workbook,
        "load",
        lambda *_, **__: SimpleNamespace(model=tiny.model, tokens=tokens, tokenizer=tiny.tokenizer),
    )
    setting = Setting(
        "toy",
        tiny.hook,
        24,
        32,
        40,
        64,
        1e-3,
        0.1,
        scale_to=None if n_tokens else 5.0,
        n_tokens=n_tokens,
        held_out_rows=8,
    )
    batches, held_out = study_data(setting)
    x = activations(tiny.model, tokens[-8:], tiny.hook)[:, 1:].flatten(0, 1)
    assert held_out.shape == x.shape == (8 * 19, 24)
    assert torch.allclose(held_out / held_out.norm() * x.norm(), x, atol=1e-4)
    stream = batches(0, 0)
    first = [next(stream) for _ in range(5)]
    assert first[0].shape == (64, 24) and torch.equal(first[3], next(batches(0, 3)))
    if n_tokens is None:
        everything = torch.cat([next(batches(1, i)) for i in range(292 * 19 // 64)])
        assert float(everything.norm(dim=-1).mean()) == pytest.approx(5, rel=1e-2)
    assert torch.cdist(torch.cat(first), held_out).min() > 1e-4
