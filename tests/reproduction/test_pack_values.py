"""What a pack can hold comes back equal, the rest is refused, and no value runs code."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saework
from saework import Claim, Ledger, RareFeatures, ReconsScore, plots, show, token_heatmap
from saework.core.unit_directions import UnitDirections
from saework.reproduction import pack, pack_values
from saework.reproduction.pack_values import NotKeptError, packed, result_class, unpacked

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
)


def again(value, folder):
    """The value, written to a file and read from it."""
    path = pack.write(folder / "x.safetensors", *packed(value))
    return unpacked(*pack.read(path))


@given(value=NESTED)
def test_plain_values_come_back_equal_with_their_types(value, tmp_path_factory):
    back = again(value, tmp_path_factory.mktemp("pack"))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (40, 500)])
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_tensors_come_back_bit_for_bit(dtype, shape, share, tmp_path):
    draw = torch.Generator().manual_seed(0)
    value = (
        torch.randn(shape, generator=draw) * 9 * (torch.rand(shape, generator=draw) < share)
    ).to(dtype)
    back = again({"x": value}, tmp_path)["x"]
    assert back.dtype == dtype and back.shape == value.shape and torch.equal(back, value)


def test_sparse_activations_take_little_room(tmp_path):
    activations = torch.zeros(1, 40, 16_384)  # 2.6 MB if every zero is stored
    activations[0, torch.arange(40), 7 * torch.arange(40)] = 1.5
    tree, tensors = packed(activations)
    assert sum(tensor.nbytes for tensor in tensors.values()) == 40 * (4 + 4)
    assert torch.equal(unpacked(tree, tensors), activations)


def test_views_and_expanded_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    for value in (
        base.T,
        base[:, 1],
        torch.ones(1, 1).expand(5, 1),
        torch.ones(()).expand(1),
        base.requires_grad_(),
    ):
        assert torch.equal(again(value, tmp_path), value)


def test_a_value_kept_twice_is_stored_once():
    _, tensors = packed({"a": torch.arange(100.0), "b": [torch.arange(100.0)]})
    assert len(tensors) == 1


def test_frames_and_series(tmp_path):
    frame = pd.DataFrame(
        {"n": [1, 2], "x": [0.5, np.nan], "words": ["<b>", None], 3: [True, False]},
        index=["a", "b"],
    ).rename_axis("id")
    pd.testing.assert_frame_equal(again(frame, tmp_path), frame)
    pd.testing.assert_series_equal(again(frame["x"], tmp_path), frame["x"])
    assert again(frame[["words"]], tmp_path)["words"].dtype == frame["words"].dtype
    twice = pd.DataFrame([[1, 2.5]], columns=["same", "same"])
    pd.testing.assert_frame_equal(again(twice, tmp_path), twice)


def test_results_of_saework_come_back_as_they_were(tmp_path):
    ledger = Ledger([Claim("x", 1.0, "nats", "a paper", 0.1, "tier")], tier="tier")
    ledger.record("x", 1.05, "a note")
    score = ReconsScore(
        1.0, 2.0, 3.0, 0.5, (0.4, 0.6), torch.rand(3, 2, 4), 8, "zero", "blocks.0.hook"
    )
    figure = plots.histogram({"a": [1.0, 2.0]}, title="t", x="x")
    heat = token_heatmap(["<b>", "c"], [1.0, -2.0])
    table = show({"a": 1.5, "b": 2})
    rates = torch.rand(4)
    encoder, decoder = (UnitDirections(*torch.rand(6, 4)) for _ in range(2))
    rare = RareFeatures(0.5, rates, rates < 0.5, *torch.rand(7, 4), encoder, decoder)
    for value in (ledger, score, figure, heat, table, rare, ledger.entries[0].claim):
        back = again(value, tmp_path)
        assert type(back) is type(value) and repr(back) == repr(value)


def test_numpy_numbers_become_plain_and_arrays_stay(tmp_path):
    assert repr(again(np.float64(2.5), tmp_path)) == "2.5"
    array = np.arange(6.0).reshape(2, 3)
    back = again(array, tmp_path)
    assert back.dtype == np.float64 and np.array_equal(back, array)


Point = namedtuple("Point", "x y")


@dataclass
class Table:
    """Of the same name as one of saework's results, and another class."""

    x: int = 0


@pytest.mark.parametrize(
    "value",
    [
        torch.nn.Linear(1, 1),
        len,
        np,
        object(),
        {1: [lambda: 0]},
        np.array(["words"]),
        1j,
        torch.topk(torch.ones(3), 2),
        Point(1, 2),
        Table(),
        Ledger,
        Ledger([Claim("x", 1, "", "", 0, "t")], tier="t").entries[0],  # not public
    ],
)
def test_what_is_no_result_is_not_kept(value):
    with pytest.raises(NotKeptError):
        packed(value)


def test_what_cannot_be_packed_is_not_kept_and_breaks_nothing():
    itself = []
    itself.append(itself)
    for value in (
        itself,
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        pd.DataFrame({"x": pd.to_datetime(["2026-01-01"])}),
        {(1, object()): 2},
    ):
        with pytest.raises(NotKeptError):
            packed(value)


def test_what_is_too_large_is_not_kept():
    packed(torch.ones(pack_values.LIMIT // 4 - 100))
    with pytest.raises(
        NotKeptError, match="takes 1,000,0.. bytes; a pack keeps at most 1,000,000 of each"
    ):
        packed(torch.ones(pack_values.LIMIT // 4))
    with pytest.raises(NotKeptError, match="bytes"):
        packed(["word"] * 200_000)
    with pytest.raises(NotKeptError, match="takes 1,200,000 bytes"):
        packed([torch.full((100_000,), float(i + 1)) for i in range(20)])
    with pytest.raises(NotKeptError, match="takes 4,000,000,000 bytes"):
        packed(torch.ones(1).expand(1_000_000_000))


def test_results_are_named_by_their_public_names():
    claim = Claim("x", 1, "", "a paper", 0, "tier")
    assert packed(claim)[0]["class"] == "Claim"
    assert packed(show({"a": 1.5}))[0]["class"] == "Table"
    public = {name for name in saework.__all__ if name[0].isupper() and "Error" not in name}
    for name in public | {"Table"}:
        assert result_class(name).__name__ == name


@pytest.mark.parametrize(
    "name",
    [
        "load",  # public, and no class
        "HookError",  # public, and no result
        "plots",
        "__version__",
        "os.system",
        "builtins.exec",
        "saework.core.ledger.Ledger",  # as version 1 wrote it
        "saework.loading.hub.Path",
        "saework.reproduction.pack_values.packed",
        "Entry",
        "stranger.Result",
        "",
        None,
        ["Ledger"],
    ],
)
def test_no_class_but_saeworks_results_is_made(name, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it ran"))
    (tmp_path / "stranger.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match="which is no result of saework's; it was made by an"
    ) as at:
        unpacked({"class": name, "fields": {"dict": [["command", "ls"]]}}, {})
    assert f"the pack names {name!r}, " in str(at.value)


def test_a_kind_of_value_that_no_pack_holds():
    with pytest.raises(ValueError, match="a value of the kind 'call', which is none that saework"):
        unpacked({"call": "os.system"}, {})


def test_a_tree_is_json_and_nothing_else():
    tree, _ = packed({"a": (1, [torch.ones(2)], {"b": np.ones(1)})})
    assert json.loads(json.dumps(tree)) == tree
