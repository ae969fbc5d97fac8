"""Losses from blocks of the vocabulary, against whole logits in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.engine import losses
from saework.engine.losses import next_token_losses


def readout(d_vocab=50, d_model=6, cap=None, dtype=torch.float32):
    weights, bias = 3 * draw(d_model, d_vocab, seed=1), draw(d_vocab, seed=2)
    return SimpleNamespace(
        W_U=weights.to(dtype), b_U=bias.to(dtype), cfg=SimpleNamespace(output_logits_soft_cap=cap)
    )


def slow(model, states, targets):
    """Whole log-probabilities, token by token."""
    tables = []
    for state in states:
        logits = (state.double() @ model.W_U.double() + model.b_U.double()).expand(
            len(targets), -1, -1
        )
        cap = model.cfg.output_logits_soft_cap
        tables.append((cap * torch.tanh(logits / cap) if cap else logits).log_softmax(-1))
    ce = torch.stack([-table.gather(-1, targets[..., None])[..., 0] for table in tables])
    return ce, torch.stack([(tables[0].exp() * (tables[0] - table)).sum(-1) for table in tables])


@settings(max_examples=60, deadline=None, database=None)
@given(
    vocab=st.integers(1, 60),
    tokens=st.integers(1, 30),
    alike=st.sampled_from([None, 0, 1]),
    cap=st.sampled_from([None, 2.0]),
    d_vocab=st.integers(1, 50),
)
def test_any_blocks_give_the_losses_of_whole_logits(vocab, tokens, alike, cap, d_vocab):
    model = readout(d_vocab, cap=cap)
    states = [draw(4, 5, 6, seed=i) for i in range(3)]
    if alike is not None:
        states[alike] = states[alike][:1]
    targets = torch.randint(d_vocab, (4, 5), generator=torch.Generator().manual_seed(9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "VOCAB_BLOCK", vocab)
        patch.setattr(losses, "TOKEN_BLOCK", tokens)
        ce, kl = next_token_losses(model, states, targets, kl=True)
        without, zeros = next_token_losses(model, states, targets)
    for ours, expected in zip((ce, kl), slow(model, states, targets)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(without, ce, rtol=1e-6, atol=1e-6)
    assert not zeros.any() and not kl[0].any()


def test_logits_beyond_what_an_exponential_holds():
    """exp(1000) is infinite, and so is a sum that is not rescaled."""
    model = readout(4, 1)
    model.W_U, model.b_U = torch.tensor([[1000.0, 0.0, -1000.0, 999.0]]), torch.zeros(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "VOCAB_BLOCK", 1)
        ce, kl = next_token_losses(
            model, [torch.ones(1, 1, 1), torch.zeros(1, 1, 1)], torch.tensor([[3]]), kl=True
        )
    assert ce[:, 0, 0].tolist() == pytest.approx(
        [1 + math.log1p(math.exp(-1)), math.log(4)], rel=1e-6
    )
    p = 1 / (1 + math.exp(-1))  # of the first token; the fourth has the rest
    assert float(kl[1]) == pytest.approx(
        math.log(4) + p * math.log(p) + (1 - p) * math.log(1 - p), rel=1e-5
    )


def test_half_precision_weights_are_summed_in_more():
    model = readout(50, dtype=torch.bfloat16)
    states, targets = [draw(2, 5, 6)], torch.zeros(2, 5, dtype=torch.int64)
    ce, _ = next_token_losses(model, states, targets)
    logits = (states[0].bfloat16().flatten(0, 1) @ model.W_U + model.b_U).double()
    assert ce.dtype == torch.float64
    torch.testing.assert_close(
        ce[0].flatten(), logits.logsumexp(-1) - logits[:, 0], rtol=0.02, atol=0.02
    )
