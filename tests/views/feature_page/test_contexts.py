"""What stands around an example, and label counts, against reading the rows one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from page_checks import slow_losses_of_row

from saework import scan
from saework.core.tokens import whole_characters
from saework.views.feature_page import firings
from saework.views.feature_page.contexts import TOKENS_BEFORE, WINDOW, read_contexts
from saework.views.feature_page.examples import choose

FEATURES = np.array([7, 20, 31])


@pytest.fixture(scope="module")
def places(book):
    return choose(scan(book, progress=False), FEATURES.tolist())


def read(book, places, **options):
    parts = (book.model, book.sae, book.tokens, book.hook)
    return read_contexts(*parts, places, features=FEATURES, progress=False, **options)


def test_the_feature_around_each_example(book, places, activations):
    found = read(book, places)
    assert found.activations.dtype == np.float32
    n_pos = book.tokens.shape[1]
    n_outside = 0
    for i in range(len(places)):
        row, pos, feature = places.row[i], places.pos[i], places.feature[i]
        for j in range(WINDOW):
            at = pos - TOKENS_BEFORE + j
            if 0 <= at < n_pos:
                expected = activations[row, at, feature].item()
                assert found.activations[i, j] == pytest.approx(expected, abs=1e-5)
            else:
                n_outside += 1
                assert math.isnan(found.activations[i, j])
    assert n_outside > 0


def test_the_loss_after_each_example(book, places):
    found = read(book, places).loss
    for row, pos, loss in zip(places.row, places.pos, found):
        losses = slow_losses_of_row(book, book.tokens[row : row + 1], [])
        if pos + 1 == book.tokens.shape[1]:
            assert math.isnan(loss)
        else:
            assert loss == pytest.approx(losses[pos].item(), abs=1e-5)


def test_rules_are_counted_in_all_rows(book, places, activations, monkeypatch):
    number = torch.arange(book.tokens.numel()).reshape(book.tokens.shape)
    rules = torch.stack([number % 3 == 0, number < 0, number >= 0])
    fires = activations[..., FEATURES] > 0
    expected = (rules[..., None] & fires).sum((1, 2))
    assert read(book, places, rules=rules).rule_hits.tolist() == expected.tolist()
    monkeypatch.setattr(firings, "TOKENS_PER_BATCH", 40)  # two rows at a time
    in_blocks = read(book, places, rules=rules)
    assert in_blocks.rule_hits.tolist() == expected.tolist()
    whole = read(book, places)
    assert np.allclose(in_blocks.activations, whole.activations, atol=1e-5, equal_nan=True)
    assert np.allclose(in_blocks.loss, whole.loss, atol=1e-5, equal_nan=True)


def test_nothing_to_read(book):
    found = read(book, choose(scan(book, progress=False), [0]))
    assert found.activations.shape == (0, WINDOW) and found.rule_hits.shape == (0, 3)


def test_an_examples_context_on_the_page(book, page, activations):
    in_intervals = [example for interval in page.intervals for example in interval.examples]
    for example in [*page.top, *in_intervals]:
        first = max(0, example.pos - 20)
        last = min(20, example.pos + 9)
        expected = activations[example.row, first:last, page.feature].tolist()
        assert example.values == pytest.approx(expected, abs=1e-5)
        strings = whole_characters(book.tokens[example.row], book.tokenizer)
        assert list(example.strings) == strings[first:last]
        assert example.at == example.pos - first
