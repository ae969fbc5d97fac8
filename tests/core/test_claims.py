"""When a measured value agrees with a published one, and how values are shown and stored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.core.claims import (
    DIFFERS,
    HOLDS,
    Claim,
    Value,
    agree,
    as_text,
    has_words,
    plain,
    without_nan,
)

numbers = st.floats(-1e6, 1e6)


def verdict(value: Value, measured, tolerance: float = 0.0) -> str:
    return HOLDS if agree(value, plain(measured), tolerance) else DIFFERS


@pytest.mark.parametrize(
    "value, measured, tolerance, expected",
    [
        (3.25, 3.25, 0, HOLDS),
        (3.25, 3.5, 0.25, HOLDS),
        (3.25, 3.0, 0.25, HOLDS),
        (3.25, 3.51, 0.25, DIFFERS),
        (3.25, 2.99, 0.25, DIFFERS),
        (5, 5.0, 0, HOLDS),
        (3.25, math.nan, 1e9, DIFFERS),
        (3.25, math.inf, 1e9, DIFFERS),
        ("·the", "·the", 0, HOLDS),
        ("·the", "the", 100, DIFFERS),
        ([1.0, 2.0], [1.1, 1.9], 0.2, HOLDS),
        ([1.0, 2.0], [1.1, 2.5], 0.2, DIFFERS),
        ([1.0, 2.0], [1.0], 0.2, DIFFERS),
        (["'ll", 1.875], ["'ll", 1.876], 0.01, HOLDS),
        (["'ll", 1.875], ["ll", 1.875], 0.01, DIFFERS),
        ([[1, 2], [3]], [[1, 2], [4]], 0, DIFFERS),
        (3.25, torch.tensor(3.25), 0, HOLDS),
        ([1, 2], torch.tensor([1, 2]), 0, HOLDS),
        (3.25, np.float32(3.25), 0, HOLDS),
        ([1, 2], (1, 2), 0, HOLDS),
    ],
)
def test_verdicts(value, measured, tolerance, expected):
    assert verdict(value, measured, tolerance) == expected


@settings(deadline=None)
@given(numbers, numbers, st.floats(0, 1e6))
def test_a_number_holds_within_its_tolerance_and_not_beyond(value, measured, tolerance):
    expected = HOLDS if abs(value - measured) <= tolerance else DIFFERS
    assert verdict(value, measured, tolerance) == expected
    assert verdict(value, measured, tolerance) == verdict(measured, value, tolerance)
    assert verdict(value, value, tolerance) == HOLDS


@settings(deadline=None)
@given(st.lists(numbers, max_size=4), st.lists(numbers, max_size=4), st.floats(0, 1e6))
def test_a_list_holds_if_each_of_its_numbers_does(value, measured, tolerance):
    verdicts = [verdict(v, m, tolerance) for v, m in zip(value, measured)]
    holds = len(value) == len(measured) and DIFFERS not in verdicts
    assert verdict(value, measured, tolerance) == (HOLDS if holds else DIFFERS)


@pytest.mark.parametrize(
    "value, measured", [(1.0, "1.0"), ("1.0", 1.0), (1.0, [1.0]), ([1.0], 1.0), ([1.0], ["1.0"])]
)
def test_a_value_of_another_form(value, measured):
    words = "the claim is '.*1.* and the measured value '1.*'; they must be of one form"
    with pytest.raises(ValueError, match=words):
        verdict(value, measured)


@pytest.mark.parametrize(
    "measured, kind", [(None, "NoneType"), ({"a": 1}, "dict"), ([1.0, None], "NoneType")]
)
def test_a_value_that_json_cannot_hold(measured, kind):
    words = f"of type {kind} cannot be entered; give a number, words, or a list"
    with pytest.raises(ValueError, match=words):
        verdict(1.0, measured)


@pytest.mark.parametrize(
    ("value", "tolerance", "text"),
    [
        (None, 0, ""),
        (3.254612345, 0, "3.2546"),
        (3.254612345, 1e-2, "3.25"),
        (3.254612345, 0.05, "3.25"),
        (3.254612345, 5, "3"),
        (2048, 0.1, "2048"),
        ("·the", 0.1, "·the"),
        (["'ll", 1.5], 0, "'ll, 1.5"),
        (["'ll", 1.5], 0.01, "'ll, 1.50"),
        ([[1, 2], [3]], 0, "1, 2, 3"),
    ],
)
def test_values_as_text(value, tolerance, text):
    assert as_text(value, tolerance=tolerance) == text


def test_a_long_list_is_cut():
    text = as_text(list(range(100)))
    assert len(text) == 48 and text.startswith("0, 1, 2") and text.endswith("…")


def test_what_json_lacks_becomes_words():
    value = without_nan([1.5, math.nan, [math.inf, "words"]])
    assert value == [1.5, "nan", ["inf", "words"]]
    json.dumps(value, allow_nan=False)


def test_tensors_and_arrays_become_plain():
    assert plain(torch.tensor([[1, 2]])) == [[1, 2]]
    assert type(plain(np.float32(1.5))) is float
    assert plain((1, np.array([2.0]))) == [1, [2.0]]


def test_words_are_seen_at_any_depth():
    assert has_words("a") and has_words([1, [2, "a"]])
    assert not has_words(1.0) and not has_words([1, [2]])


GOOD = {"id": "x", "value": 1.0, "unit": "", "source": "a paper", "tolerance": 0.1, "tier": "mini"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "a claim's id is empty"),
        ({"id": 5}, "id is 5; give text"),
        ({"source": None}, "source is None; give text"),
        ({"unit": None}, "unit is None; give text"),
        ({"tier": None}, "tier is None; give text"),
        ({"tolerance": -1}, "the tolerance of claim 'x' is -1; give a finite number of at least 0"),
        ({"tolerance": math.nan}, "the tolerance of claim 'x' is nan"),
        ({"tolerance": math.inf}, "the tolerance of claim 'x' is inf"),
        ({"tolerance": "0.1"}, "the tolerance of claim 'x' is '0.1'"),
        ({"value": math.nan}, "the value of claim 'x' is nan; give a finite number, words, or a"),
        ({"value": True}, "the value of claim 'x' is True"),
        ({"value": [1.0, None]}, r"the value of claim 'x' is \[1.0, None\]"),
    ],
)
def test_a_claim_that_cannot_be_judged(change, words):
    assert Claim(**GOOD).verdict(1.05) == HOLDS
    with pytest.raises(ValueError, match=words):
        Claim(**{**GOOD, **change})


@pytest.mark.parametrize("measured", [math.nan, math.inf, -math.inf, 10**400])
def test_what_is_no_float_differs(measured):
    assert verdict(1.0, measured, tolerance=0.1) == DIFFERS


def test_true_is_no_number():
    with pytest.raises(ValueError, match="they must be of one form"):
        agree(1.0, True, 0.1)


def test_a_number_in_words_is_no_number():
    with pytest.raises(ValueError, match="they must be of one form"):
        agree(1.0, "1.0", 0.1)
    assert not agree("1.0", "1", 0.1), "words must be equal"
