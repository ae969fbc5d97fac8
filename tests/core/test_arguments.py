"""What a good argument is, and that a bad one is told what was given, what is allowed, and what to do."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.core import arguments as checks
from saework.core.errors import HookError, UnknownNameError, WeightsError, unknown
from saework.core.versions import check_versions, replaced_versions


def test_unknown_names_the_nearest():
    error = unknown(
        "release",
        "gelu-1l-mimi",
        ["gelu-1l-mini", "gelu-1l", "llama"],
        see="releases() lists them.",
    )
    assert isinstance(error, ValueError)
    assert (
        str(error)
        == "there is no release 'gelu-1l-mimi'. Did you mean 'gelu-1l-mini' or 'gelu-1l'? releases() lists them."
    )


def test_unknown_without_a_near_name_only_says_where_to_look():
    assert (
        str(unknown("hook", 12345, ["abc"], see="Look there."))
        == "there is no hook 12345. Look there."
    )


@pytest.mark.parametrize("error", [UnknownNameError, WeightsError, HookError])
def test_a_users_input_is_a_value_error(error):
    assert issubclass(error, ValueError)


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
        (
            [1, -2],
            r"token -2 is out of the vocabulary \(0\.\.9\); tokenize with this model's own tokenizer",
        ),
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
    message = "decoder weights hold 2 NaN or infinite values out of 4; load the weights again, or use float32"
    with pytest.raises(ValueError, match=message):
        checks.check_finite(torch.tensor([[bad, 1.0], [2.0, bad]]), "decoder weights")


def test_packages_that_were_replaced_under_a_session_stop_it_before_anything_else(monkeypatch):
    from saework.loading.requirements import check_resources
    from saework.views.tables import versions

    assert replaced_versions() == []
    installed = np.__version__
    monkeypatch.setattr(np, "__version__", "2.0.2")
    message = f"numpy 2.0.2 is loaded but {installed} is installed: an install replaced it after this session had begun; restart the session"
    for call in (
        check_versions,
        versions,
        lambda: check_resources(None, None),
    ):  # no release is even looked at
        with pytest.raises(RuntimeError, match=re.escape(message)):
            call()


def test_builds_of_one_version_are_no_other_version(monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.__version__.partition("+")[0] + "+cu126")
    assert replaced_versions() == []
    monkeypatch.setitem(checks.sys.modules, "tokenizers", None)  # not loaded: nothing to compare
    assert replaced_versions() == []
