"""Good arguments pass; an error says what was given, what is allowed, and what to do next."""

from __future__ import annotations

import inspect
import re
from dataclasses import astuple, is_dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import RESID

import saework
from saework import Workbook
from saework.core import arguments as checks
from saework.core.arguments import accepts_workbook


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2],
        [[1, 2]],
        np.array([1, 2]),
        torch.tensor([[1, 2]], dtype=torch.uint8),
        np.array([1, 2], dtype=np.uint16),
    ],
)
def test_tokens_become_long_rows(tokens):
    checked = checks.check_tokens(tokens)
    assert checked.dtype == torch.long
    assert checked.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1.0, 2.0], "tokens are torch.float32; give integers"),
        ([True, False], "tokens are torch.bool; give integers"),
        (torch.zeros(2, 2, 2).long(), r"shape \(2, 2, 2\); give \[batch, pos\]"),
        (torch.tensor(5), r"shape \(\); give \[batch, pos\]"),
        ([], r"empty \(shape \(0,\)\); give at least one row"),
        (torch.zeros(3, 0), r"empty \(shape \(3, 0\)\); give at least one row"),
        ([[1, 2], [3]], r"not a table of integers .*; give ids in rows of one length"),
        ("the text", r"not a table of integers .*; give ids"),
        (None, r"not a table of integers .*; give ids"),
        ([1, -2], r"token -2 is out of the vocabulary \(0\.\.9\); tokenize with this model's own"),
        ([1, 10], r"token 10 is out of the vocabulary \(0\.\.9\); tokenize"),
        ([[1] * 6], "6 tokens long, but the model's context is 5; cut the rows to 5 tokens"),
    ],
)
def test_bad_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        checks.check_tokens(tokens, d_vocab=10, n_ctx=5)


def test_negative_tokens_without_a_known_vocabulary():
    with pytest.raises(ValueError, match=r"token -1 is out of the vocabulary \(0 and up\)"):
        checks.check_tokens([-1])


def test_tokens_at_the_limits_pass():
    assert checks.check_tokens([0, 9, 0, 0, 9], d_vocab=10, n_ctx=5).tolist() == [[0, 9, 0, 0, 9]]


@pytest.mark.parametrize("feature", [0, 47, 7.0, np.int64(7), torch.tensor(7)])
def test_a_feature_becomes_an_int(feature):
    checked = checks.check_feature(feature, 48)
    assert type(checked) is int and checked == feature


@pytest.mark.parametrize("feature", [-1, 48, 10**9])
def test_a_feature_that_does_not_exist(feature):
    with pytest.raises(
        ValueError, match=rf"feature {feature} does not exist; this SAE has features 0\.\.47"
    ):
        checks.check_feature(feature, 48)


@pytest.mark.parametrize("feature", [7.5, "7", "seven", None, float("nan"), float("inf"), True])
def test_a_feature_that_is_no_number(feature):
    with pytest.raises(
        ValueError, match=re.escape(f"feature is {feature!r}; give a whole number in 0..47")
    ):
        checks.check_feature(feature, 48)


@settings(deadline=None)
@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()))
def test_check_positive_passes_whole_numbers_and_teaches_about_the_rest(value):
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    if is_whole and value >= 3:
        assert checks.check_positive(value, "n", minimum=3) == value
    else:
        with pytest.raises(
            ValueError, match=re.escape(f"n is {value!r}; give a whole number of at least 3")
        ):
            checks.check_positive(value, "n", minimum=3)


def test_a_mask_passes_as_bool():
    assert checks.check_mask(None, (1, 2)) is None
    assert checks.check_mask([[True, False]], (1, 2)).tolist() == [[True, False]]


@pytest.mark.parametrize(
    "mask, message",
    [
        ([[1, 0]], r"keep is torch.int64; give bool, such as tokens != tokenizer.bos_token_id"),
        ([True, False], r"keep has shape \(2,\); it must have \(1, 2\)"),
        (
            [[False, False]],
            "keep is False everywhere, which leaves nothing; set at least one place to True",
        ),
    ],
)
def test_a_bad_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        checks.check_mask(mask, (1, 2), what="keep")


def test_finite_values_pass_as_they_are():
    values = torch.tensor([1e38, -0.0])
    assert checks.check_finite(values, "weights") is values


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted(bad):
    words = "decoder weights hold 2 NaN or infinite values out of 4; load the weights again, or use"
    with pytest.raises(ValueError, match=words):
        checks.check_finite(torch.tensor([[bad, 1.0], [2.0, bad]]), "decoder weights")


def test_a_sum_that_overflows_is_not_an_error():
    values = torch.tensor([3e38, 3e38])
    assert checks.check_finite(values, "weights") is values


def test_rows_that_are_not_finite_are_named_once():
    values = torch.zeros(6, 2)
    values[[1, 2, 5], 0] = torch.nan
    with pytest.raises(ValueError, match="x hold 3 NaN .* out of 12, in rows 7, 9; load"):
        checks.check_finite(values, "x", rows=np.array([6, 7, 7, 8, 8, 9]))
    with pytest.raises(ValueError, match="in rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and more; load"):
        checks.check_finite(torch.full((12,), torch.inf), "x", rows=range(12))


@accepts_workbook
def three_parts(model, sae, tokens, *, hook=None, mask=None):
    """What it was given."""
    return model, sae, tokens, hook, mask


@accepts_workbook
def two_parts(model, sae, prompt, feature, *, hook=None, strength=1.0):
    return model, sae, prompt, feature, hook, strength


@accepts_workbook
def no_hook(model, sae, tokens, *, mask=None):
    return model, sae, tokens, mask


def test_a_workbook_alone_stands_for_its_parts(book):
    parts = (book.model, book.sae, book.tokens)
    assert three_parts(book) == (*parts, book.hook, None)
    assert three_parts(book, mask=5) == (*parts, book.hook, 5)
    assert no_hook(book, mask=5) == (*parts, 5)
    model_and_sae = parts[:2]
    assert two_parts(book, "text", 7) == (*model_and_sae, "text", 7, book.hook, 1.0)
    assert two_parts(book, prompt="text", feature=7, strength=2.0)[2:] == (
        "text",
        7,
        book.hook,
        2.0,
    )


def test_a_hook_that_is_given_comes_before_the_workbooks(book):
    assert three_parts(book, hook="hook_embed")[3] == "hook_embed"


def test_the_parts_are_taken_as_ever(tiny):
    parts = model, sae = (tiny.model, tiny.sae)
    assert three_parts(*parts, 3) == (*parts, 3, None, None)
    assert three_parts(tokens=3, model=model, sae=sae, hook="h") == (*parts, 3, "h", None)
    assert two_parts(*parts, "text", feature=7) == (*parts, "text", 7, None, 1.0)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'tokens'"):
        three_parts(*parts)


@pytest.mark.parametrize("by_name", [True, False])
def test_parts_are_checked_by_place_and_by_name(tiny, by_name):
    for name, parts in (("model", (None, tiny.sae)), ("sae", (tiny.model, None))):
        with pytest.raises(ValueError, match=f"{name} is None; give "):
            if by_name:
                three_parts(model=parts[0], sae=parts[1], tokens=3)
            else:
                three_parts(*parts, 3)


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (lambda book: three_parts(book, sae=book.sae), "sae"),
        (lambda book: three_parts(book, tokens=book.tokens, model=book.model), "model, tokens"),
        (lambda book: three_parts(book, book.sae), "an SAE"),
        (lambda book: three_parts(book, book.tokens), "another positional argument"),
        (lambda book: three_parts(book, book.sae, book.tokens), "an SAE"),
        (lambda book: two_parts(book, book.sae, "text", 7), "an SAE"),
        (lambda book: two_parts(book, book.sae, "text", feature=7), "an SAE"),
        (lambda book: two_parts(book, "text", 7, 2.0), "another positional argument"),
        (lambda book: two_parts(book, "text", 7, model=book.model), "model"),
    ],
)
def test_a_workbook_together_with_what_it_brings(book, call, given):
    words = (
        rf"^(three|two)_parts was given a Workbook and {given} as well, but a Workbook brings "
        r"(?P<brings>model, sae(, tokens)?); call \1_parts\(workbook, \.\.\.\) with nothing in "
        r"their place, or \1_parts\((?P=brings), \.\.\.\) without a Workbook$"
    )
    with pytest.raises(ValueError, match=words):
        call(book)


def test_name_docstring_and_signature_are_the_functions_own():
    assert (three_parts.__name__, three_parts.__doc__) == ("three_parts", "What it was given.")
    assert list(inspect.signature(three_parts).parameters)[:3] == ["model", "sae", "tokens"]


# What each public function needs beside model, SAE and tokens, or a Workbook.
ARGUMENTS = {
    "active_features": (("a sum of two",), {}),
    "feature_activations": (("a sum of two", 7), {}),
    "find_site": ((), {}),
    "logit_effect": ((7,), {}),
    "recons_score": ((), {}),
    "reconstruction_metrics": ((), {}),
    "scan": ((), {"top_k": 3}),
    "steer": (("a sum of", 7), {"strength": 2.0, "max_new_tokens": 3}),
    "validate": ((), {}),
    "write_reference": (("a sum of two",), {}),
}


def takes_model_sae(function) -> bool:
    names = list(inspect.signature(function).parameters)
    return inspect.isfunction(function) and names[:2] == ["model", "sae"]


def test_each_public_function_of_model_and_sae_is_among_them():
    public = {name: getattr(saework, name) for name in saework.__all__}
    functions = {
        name
        for name, value in public.items()
        if inspect.isfunction(value) and takes_model_sae(value)
    }
    assert functions == set(ARGUMENTS)


def assert_equal(one, other):
    if is_dataclass(one):
        one, other = astuple(one), astuple(other)
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    elif isinstance(one, dict):
        assert_equal(list(one.items()), list(other.items()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for part, other_part in zip(one, other):
            assert_equal(part, other_part)
    else:
        assert one == other or (one != one and other != other)


@pytest.fixture
def moved_book(tiny):
    """A Workbook whose hook is not the one that its SAE names."""
    sae = random_sae(16, 24, "blocks.0.hook_resid_pre", torch.Generator().manual_seed(2))
    return Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, RESID)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_workbook_gives_the_result_of_its_parts(name, tmp_path, moved_book):
    function = getattr(saework, name)
    arguments, options = ARGUMENTS[name]
    if name == "write_reference":
        arguments = (*arguments, tmp_path / "reference.json")
    if name == "validate":
        path = tmp_path / "reference.json"
        saework.write_reference(
            moved_book.model, moved_book.sae, "a sum of two", path, hook=moved_book.hook
        )
        arguments = (saework.read_reference(path),)
    parameters = inspect.signature(function).parameters
    parts = [getattr(moved_book, part) for part in ("model", "sae", "tokens") if part in parameters]
    by_hook = {"hook": moved_book.hook} if "hook" in parameters else {}
    expected = function(*parts, *arguments, **options, **by_hook)
    assert_equal(function(moved_book, *arguments, **options), expected)


@pytest.mark.parametrize(
    "tokens",
    [
        np.array([[4, 3], [2, 1]])[::-1, ::-1],
        np.array([[1, 2], [3, 4]], dtype=">i4"),
        pd.DataFrame([[1, 2], [3, 4]]),
    ],
)
def test_arrays_as_they_come(tokens):
    assert checks.check_tokens(tokens).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "tokens, words",
    [
        (torch.ones(2, 2, device="meta").long(), "tokens are on device meta; give a dense tensor"),
        (torch.ones(2, 2).long().to_sparse(), "tokens are torch.sparse_coo; give a dense tensor"),
    ],
)
def test_tokens_that_hold_no_numbers(tokens, words):
    with pytest.raises(ValueError, match=words):
        checks.check_tokens(tokens)


@pytest.mark.parametrize("mask", ["words", [[True], [True, False]], object()])
def test_a_mask_that_is_no_table(mask):
    with pytest.raises(ValueError, match="mask is .*; give a tensor, an array, or lists of one"):
        checks.check_mask(mask, (1, 2))


@pytest.mark.parametrize("values", [[True], [1j], torch.ones(1, device="meta")])
def test_what_are_no_real_numbers(values):
    with pytest.raises(ValueError, match="rates is .*; give real numbers in a dense tensor"):
        checks.as_real_numbers(values, "rates")
