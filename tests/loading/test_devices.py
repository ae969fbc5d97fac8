"""Devices and dtypes as they are asked for."""

from __future__ import annotations

import argparse

import pytest
import torch

from saework.loading.devices import (
    add_plan_options,
    as_device,
    as_dtype,
    device_word,
    dtype_word,
    plan_options,
)


@pytest.mark.parametrize("word", ["cpu", "cuda", "cuda:1"])
def test_devices(word):
    assert device_word(word) == word
    assert str(as_device(word)) == word


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda0", "CPU", ""])
def test_a_device_mistyped(word):
    with pytest.raises(ValueError, match="give 'cpu', 'cuda' or 'cuda:1'"):
        device_word(word)
    with pytest.raises(ValueError, match="give 'cpu', 'cuda' or 'cuda:1'"):
        as_device(word)


@pytest.mark.parametrize("check", [device_word, as_device])
def test_a_device_without_float64(check):
    with pytest.raises(ValueError, match="'mps', and Apple's GPUs have no float64, .* give 'cpu'"):
        check("mps")


def test_a_gpu_is_taken_by_default_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert as_device(None).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert as_device(None).type == "cuda"


def test_dtypes():
    assert as_dtype(None) == torch.float32
    assert as_dtype("bfloat16") == as_dtype(torch.bfloat16) == torch.bfloat16
    assert dtype_word("float16") == "float16"


def test_a_dtype_mistyped():
    with pytest.raises(ValueError, match="dtype is 'bf16'; give float32, bfloat16 or float16"):
        dtype_word("bf16")
    with pytest.raises(ValueError, match="dtype is 'bf16'; give a dtype of floats"):
        as_dtype("bf16")


def test_what_is_typed_of_a_plan():
    parser = argparse.ArgumentParser()
    add_plan_options(parser)
    nothing = plan_options(parser.parse_args([]))
    assert nothing == {"device": None, "dtype": None, "force": False}
    words = ["--device", "cuda:1", "--dtype", "bfloat16", "--force"]
    given = plan_options(parser.parse_args(words))
    assert given == {"device": "cuda:1", "dtype": "bfloat16", "force": True}
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        plan_options(parser.parse_args(["--dtype", "int8"]))
