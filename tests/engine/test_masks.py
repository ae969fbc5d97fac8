"""Masks of tokens and predictions, token by token."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import draw

from saework.engine.masks import counted_predictions, masked, with_and_without_bos

TOKENS = torch.tensor([[1, 7, 1, 5], [1, 8, 9, 5]])


@pytest.mark.parametrize("width", [(), (3,), (2, 3)])
def test_what_is_masked_stays_as_it_was(width):
    new, old = draw(2, 4, *width), draw(2, 4, *width, seed=1)
    mask = TOKENS != 1
    replaced = masked(new, old, mask)
    for row in range(2):
        for pos in range(4):
            expected = new if mask[row, pos] else old
            assert torch.equal(replaced[row, pos], expected[row, pos])
    assert masked(new, old, None) is new


def test_a_replacement_takes_the_dtype_of_what_it_replaces():
    new, old = draw(2, 4), draw(2, 4).bfloat16()
    assert masked(new, old, None).dtype == masked(new, old, TOKENS != 1).dtype == torch.bfloat16


def test_a_prediction_counts_if_both_tokens_do():
    mask = torch.tensor([[True, True, False, True], [False, True, True, True]])
    assert counted_predictions(TOKENS, mask).tolist() == [[True, False, False], [False, True, True]]
    assert counted_predictions(TOKENS, None).tolist() == [[True] * 3] * 2


def test_no_prediction_is_left():
    with pytest.raises(ValueError, match="no two neighbouring tokens, so no prediction counts"):
        counted_predictions(TOKENS, torch.tensor([[True, False, True, False]] * 2))
    for mask in (None, torch.ones(2, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="rows have one token, .* give rows of two or more"):
            counted_predictions(TOKENS[:, :1], mask)


def model_with(tokenizer):
    return SimpleNamespace(tokenizer=tokenizer)


def test_bos_is_each_token_that_is_the_tokenizers():
    model = model_with(SimpleNamespace(bos_token_id=1))
    every, without = with_and_without_bos(model, TOKENS, None)
    assert every.all() and without.tolist() == (TOKENS != 1).tolist()
    mask = torch.tensor([[True] * 4, [False] * 4])
    given, without = with_and_without_bos(model, TOKENS, mask)
    assert given.tolist() == mask.tolist()
    assert without.tolist() == [[False, True, False, True], [False] * 4]


@pytest.mark.parametrize(
    "model", [model_with(None), model_with(SimpleNamespace(bos_token_id=None)), SimpleNamespace()]
)
def test_without_a_bos_it_is_the_first_column(model):
    _, without = with_and_without_bos(model, TOKENS, None)
    assert without.tolist() == [[False, True, True, True]] * 2
