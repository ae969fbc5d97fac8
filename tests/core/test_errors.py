"""Errors for names that do not exist, and what a caller may catch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import saework
from saework.core.errors import (
    HookError,
    NotAvailableError,
    UnknownNameError,
    WeightsError,
    in_words,
    unknown,
)


def test_unknown_names_the_nearest():
    known = ["gelu-1l-mini", "gelu-1l", "llama"]
    error = unknown("release", "gelu-1l-mimi", known, see="releases() lists them.")
    assert isinstance(error, UnknownNameError)
    assert str(error) == (
        "there is no release 'gelu-1l-mimi'. "
        "Did you mean 'gelu-1l-mini' or 'gelu-1l'? releases() lists them."
    )


def test_unknown_without_a_near_name_only_says_where_to_look():
    error = unknown("hook", 12345, ["abc"], see="Look there.")
    assert str(error) == "there is no hook 12345. Look there."


def test_at_most_three_names_are_suggested():
    error = unknown("id", "run", (f"run{i}" for i in range(9)), see="")
    assert str(error).count("run") == 1 + 3


@pytest.mark.parametrize("error", [UnknownNameError, WeightsError, HookError])
def test_a_users_input_is_a_value_error(error):
    assert issubclass(error, ValueError)


def test_a_missing_file_is_an_os_error():
    assert issubclass(NotAvailableError, OSError)
    assert not issubclass(NotAvailableError, ValueError)


def test_each_can_be_caught_by_its_public_name():
    classes = (HookError, NotAvailableError, UnknownNameError, WeightsError)
    assert [getattr(saework, cls.__name__) for cls in classes] == list(classes)


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "None"),
        ("x", "'x'"),
        ("y" * 100, "'" + "y" * 58 + "…"),
        ([1, 2], "[1, 2]"),
        ([0] * 100, "a list"),
        pytest.param(10**5000, "an int", id="a huge number"),
        (ValueError, "the class ValueError"),
        (torch.ones(2, 3), "a Tensor of shape (2, 3)"),
        (np.ones(3), "an ndarray of shape (3,)"),
        (object(), "an object"),
    ],
)
def test_a_wrong_value_in_words(value, words):
    assert in_words(value) == words
