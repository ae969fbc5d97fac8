"""What a pack keeps comes back equal, and what it does not keep is said; nothing in a file of somebody else's runs."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from saework import show, token_heatmap
from saework.analysis.reconstruction import ReconsScore
from saework.core.ledger import Claim, Ledger
from saework.reproduction import packs
from saework.views import plots

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
    tree, tensors = packs.packed(value)
    return packs.unpacked(*packs.read(packs.write(folder / "x.safetensors", tree, tensors)))


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
    tree, tensors = packs.packed(activations)
    assert sum(tensor.nbytes for tensor in tensors.values()) == 40 * (4 + 4)
    assert torch.equal(packs.unpacked(tree, tensors), activations)


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
    _, tensors = packs.packed({"a": torch.arange(100.0), "b": [torch.arange(100.0)]})
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
    for value in (
        ledger,
        score,
        figure,
        heat,
        show({"a": 1.5, "b": 2}),
        np.float64(2.5),
        np.arange(6.0).reshape(2, 3),
    ):
        back = again(value, tmp_path)
        assert repr(back) == (repr(value) if not isinstance(value, np.generic) else "2.5")
    assert back.dtype == np.float64 and isinstance(again(ledger, tmp_path), Ledger)


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
    ],
)
def test_what_is_no_result_is_not_kept(value):
    with pytest.raises(packs.NotKeptError):
        packs.packed(value)


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
        with pytest.raises(packs.NotKeptError):
            packs.packed(value)


def test_what_is_too_large_is_not_kept():
    packs.packed(torch.ones(packs.LIMIT // 4 - 100))
    with pytest.raises(
        packs.NotKeptError, match="takes 1,000,0.. bytes; a pack keeps at most 1,000,000 of each"
    ):
        packs.packed(torch.ones(packs.LIMIT // 4))
    with pytest.raises(packs.NotKeptError, match="bytes"):
        packs.packed(["word"] * 200_000)
    with pytest.raises(packs.NotKeptError, match="takes 1,200,000 bytes"):
        packs.packed([torch.full((100_000,), float(i + 1)) for i in range(20)])
    with pytest.raises(packs.NotKeptError, match="takes 4,000,000,000 bytes"):
        packs.packed(torch.ones(1).expand(1_000_000_000))


# ---- files of somebody else's ----


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.exec",
        "saework.loading.hub.Path",
        "saework.reproduction.packs.os",
        "saework.nothing.X",
        "saework.reproduction.packs.packed",
    ],
)
def test_no_class_but_saeworks_results_is_made(name, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it ran"))
    with pytest.raises(
        ValueError,
        match=f"the pack names '{name}', which is no result of saework's; it was made by another version, or by hand",
    ):
        packs.unpacked({"class": name, "fields": {"dict": [["command", "ls"]]}}, {})


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_a_damaged_file(keep, tmp_path):
    path = packs.write(tmp_path / "x.safetensors", *packs.packed(torch.ones(1000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(
        ValueError,
        match=r"x\.safetensors is no replay pack, or is damaged .*; give a file that saework reproduce wrote",
    ):
        packs.read(path)


@pytest.mark.parametrize(
    "metadata", [None, {"saework": "{"}, {"saework": "[" * 100_000}, {"other": "1"}]
)
def test_a_foreign_file(metadata, tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="is no replay pack"):
        packs.read(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is no replay pack"):
        packs.read(tmp_path / "nothing.safetensors")


def test_a_tree_is_json_and_nothing_else():
    tree, _ = packs.packed({"a": (1, [torch.ones(2)], {"b": np.ones(1)})})
    assert json.loads(json.dumps(tree)) == tree
