"""Gemma Scope's SAE layout against plain tensors and sae_lens, and what bad files get."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_sae, weights_error
from local_hub import GEMMA_SCOPE_ID, write_gemma_scope
from sae_files import as_sae, assert_same_sae, inputs, rounded, sae_lens_loaders

from saework.loading.layouts.gemma_scope import GEMMA_SCOPE

RESID = "blocks.0.hook_resid_post"


def read(path):
    return GEMMA_SCOPE.read([path], hook=RESID)


def test_gemma_scope_at_its_real_shape(tmp_path, monkeypatch):
    w = write_gemma_scope(tmp_path, d_in=2304, d_sae=16384)
    sae, x = (
        GEMMA_SCOPE.read([tmp_path / GEMMA_SCOPE_ID / "params.npz"], hook=RESID),
        inputs(2304),
    )
    a = x @ w["W_enc"] + w["b_enc"]
    expected = torch.where(a > w["threshold"], a, torch.zeros(()))
    features = sae.encode(x)
    assert torch.equal(features, expected) and 0.1 < (features > 0).float().mean() < 0.9
    assert ((a > 0) & (a <= w["threshold"])).float().mean() > 0.1, (
        "the threshold must have had something to do"
    )
    assert torch.equal(sae.decode(features), expected @ w["W_dec"] + w["b_dec"])
    loaders = sae_lens_loaders(monkeypatch, tmp_path)
    own = as_sae(
        *loaders.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", GEMMA_SCOPE_ID)[:2]
    )
    assert torch.equal(own.encode(x), features) and torch.equal(
        own.decode(features), sae.decode(features)
    )
    assert own.cfg.metadata.hook_name == sae.cfg.metadata.hook_name


def test_a_threshold_is_passed_strictly(tmp_path):
    """Equal to the threshold does not fire, however small. What does not fire is 0 or -0."""
    w = {
        name: torch.zeros(shape)
        for name, shape in {
            "W_enc": (4, 6),
            "W_dec": (6, 4),
            "b_enc": (6,),
            "b_dec": (4,),
            "threshold": (6,),
        }.items()
    }
    w["W_enc"][0] = 1.0
    w["threshold"] = torch.tensor([1.0, 1.0 - 1e-7, 1.0 + 1e-6, 0.0, 2.0, 0.5])
    w["b_enc"][3] = -1.0
    np.savez(tmp_path / "params.npz", **{name: value.numpy() for name, value in w.items()})
    sae = GEMMA_SCOPE.read([tmp_path / "params.npz"], hook=RESID)
    assert sae.encode(torch.tensor([[1.0, 0, 0, 0]])).tolist() == [[0, 1, 0, 0, 0, 1]]
    below = sae.encode(torch.tensor([[-1.0, 0, 0, 0]]))
    assert (below == 0).all() and int((below > 0).sum()) == 0


@pytest.fixture
def npz(tmp_path):
    w = write_gemma_scope(tmp_path, "layer_5", d_in=8, d_sae=20)
    return SimpleNamespace(
        path=tmp_path / "layer_5" / "params.npz",
        arrays={name: value.numpy() for name, value in w.items()},
    )


def test_params_without_a_threshold(npz):
    np.savez(npz.path, **{name: value for name, value in npz.arrays.items() if name != "threshold"})
    text = weights_error(read, npz.path)
    assert (
        str(npz.path) in text and "missing: ['threshold']" in text and "download it again" in text
    )


def test_params_of_another_kind(npz):
    np.savez(npz.path, weights=npz.arrays["W_enc"])
    text = weights_error(read, npz.path)
    assert (
        str(npz.path) in text
        and "no matrix W_enc (it has ['weights'])" in text
        and "Gemma Scope" in text
    )
    np.savez(npz.path, **npz.arrays | {"threshold": npz.arrays["threshold"][:-1]})
    assert "threshold has shape (19,)" in weights_error(read, npz.path)
    np.savez(npz.path, **npz.arrays | {"b_dec": npz.arrays["b_dec"] * np.nan})
    with pytest.raises(
        ValueError, match="b_dec hold 8 NaN or infinite values out of 8; load the weights again"
    ):
        read(npz.path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_written_is_read_again(tmp_path, dtype):
    sae = random_sae(8, 20, RESID, torch.Generator().manual_seed(0), "jumprelu")
    sae = rounded(sae, dtype)
    files = GEMMA_SCOPE.write(sae, tmp_path, "layer_0/width_20", dtype=dtype)
    assert files == ("layer_0/width_20/params.npz",)
    again = GEMMA_SCOPE.read([tmp_path / files[0]], hook=RESID)
    assert_same_sae(again, sae)
    x = inputs(8, 50)
    assert torch.equal(again(x), sae(x)) and (sae.encode(x) > 0).any()
    with np.load(tmp_path / files[0]) as arrays:
        assert {str(value.dtype) for value in arrays.values()} == {str(dtype).split(".")[1]}


def test_an_sae_of_another_architecture_is_not_written(tmp_path):
    relu = random_sae(8, 20, RESID, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="this SAE is standard.*holds jumprelu SAEs.*save_model"):
        GEMMA_SCOPE.write(relu, tmp_path, "layer_0")
    assert not list(tmp_path.iterdir())
