"""Labelled tokens: what is in the mask, and that no row of text is on both sides of a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saework.analysis import labelled_tokens
from saework.analysis.labelled_tokens import LabelledTokens, draw_test_rows

SHAPE = (40, 6)


@pytest.fixture
def text():
    """Features that spell row and position, labels that hold in rows 0 to 29, and a mask."""
    rng = np.random.default_rng(0)
    row, pos = np.indices(SHAPE)
    labels = (rng.random(SHAPE) < 0.4) & (row < 30)
    mask = rng.random(SHAPE) < 0.8
    return np.stack([row, pos], axis=-1).astype(np.float32), labels, mask


def test_tokens_are_those_in_the_mask_in_their_order(text):
    features, labels, mask = text
    tokens = LabelledTokens.checked(features, labels, mask)
    every = [(r, p) for r in range(SHAPE[0]) for p in range(SHAPE[1]) if mask[r, p]]
    numbers = np.arange(len(every))
    assert tokens.values(numbers, np.array([0, 1])).tolist() == [
        list(map(float, at)) for at in every
    ]
    assert tokens.label.tolist() == [bool(labels[at]) for at in every]
    assert tokens.row.tolist() == [r for r, _ in every]
    assert tokens.values(np.array([3]), np.array([1])).tolist() == [[every[3][1]]]


def test_labels_of_whole_texts_are_rows_of_one_token():
    labels = np.arange(12) % 2 == 0
    tokens = LabelledTokens.checked(np.zeros((12, 3)), labels, None)
    assert tokens.row.tolist() == tokens.place.tolist() == list(range(12))


def test_features_are_not_copied(text):
    features, labels, mask = text
    tokens = LabelledTokens.checked(features, labels, mask)
    assert np.shares_memory(tokens.features, features)


def test_no_row_is_on_both_sides_and_training_is_balanced(text):
    tokens = LabelledTokens.checked(*text)
    for seed in range(5):
        train, test = tokens.split(np.random.default_rng(seed))
        assert not set(tokens.row[train]) & set(tokens.row[test])
        assert tokens.label[train].mean() == 0.5
        assert (np.diff(train) > 0).all()  # in the order of the text
        assert set(test) == set(np.flatnonzero(np.isin(tokens.row, tokens.row[test])))


def test_training_tokens_are_capped(text, monkeypatch):
    monkeypatch.setattr(labelled_tokens, "MAX_TRAINING", 10)
    tokens = LabelledTokens.checked(*text)
    train, _ = tokens.split(np.random.default_rng(0))
    assert len(train) == 10 and tokens.label[train].sum() == 5


def test_a_quarter_of_each_kind_of_row():
    row = np.repeat(np.arange(20), 3)
    label = row < 12  # twelve rows with a positive, eight without
    drawn = draw_test_rows(row, label, np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == 5
    assert (drawn < 12).sum() == 3
    few = draw_test_rows(row, row < 1, np.random.default_rng(0))
    assert 0 in few, "one row at least"


def test_what_is_outside_the_mask_may_be_anything(text):
    features, labels, mask = text
    features[~mask] = np.nan
    LabelledTokens.checked(features, labels, mask)
    with pytest.raises(ValueError, match=r"features \(leave their tokens out with mask=\) hold"):
        LabelledTokens.checked(features, labels, None)


def test_a_sum_that_overflows_is_no_error():
    """Each value is finite; their sum is not."""
    features = torch.full((12, 2), 3e38)
    tokens = LabelledTokens.checked(features, torch.arange(12) % 2 == 0, None)
    assert len(tokens.row) == 12


@pytest.mark.parametrize("value", [True, False])
def test_a_class_in_three_rows_cannot_be_split(value):
    labels = torch.full((12, 2), not value)
    labels[:3] = value
    with pytest.raises(ValueError, match=rf"the label is {value} in 3 row\(s\) of text"):
        LabelledTokens.checked(torch.zeros(12, 2, 1), labels, None)


def test_bfloat16_features_are_read_as_float32():
    x = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(40).reshape(8, 5) % 2 == 0
    half = LabelledTokens.checked(x, labels, None)
    whole = LabelledTokens.checked(x.float(), labels, None)
    assert half.features.dtype == np.float32
    assert np.array_equal(half.features, whole.features)


def test_what_is_no_table_of_features():
    labels = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="features is an object; give a tensor, an array"):
        LabelledTokens.checked(object(), labels, None)
    with pytest.raises(ValueError, match="labels is 'gelu-1l'; give a tensor, an array"):
        LabelledTokens.checked(torch.ones(3, 2), "gelu-1l", None)
