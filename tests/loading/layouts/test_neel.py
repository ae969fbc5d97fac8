"""Neel Nanda's SAE layout against the published formula, and what bad files get."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import random_sae, weights_error
from local_hub import REAL, SMALL, sae_config, write_sae
from sae_files import HOOK, assert_same_sae, inputs, published_forward, rounded

from saework.loading.layouts.neel import NEEL


@pytest.fixture
def files(tmp_path):
    """An SAE of Neel Nanda's layout on disk, and the tensors that were written."""
    return SimpleNamespace(
        sae_config=tmp_path / "25_cfg.json",
        sae_weights=tmp_path / "25.pt",
        sae=write_sae(tmp_path, 25),
    )


def load_sae(files):
    return NEEL.read([files.sae_config, files.sae_weights], hook=HOOK)


def test_sae_is_bit_equal_to_the_published_forward(files):
    x = 3 * torch.randn(2, 11, SMALL.d_mlp, generator=torch.Generator().manual_seed(1))
    reconstruction, acts = published_forward(files.sae, x)
    sae = load_sae(files)
    assert torch.equal(sae.encode(x), acts)
    assert torch.equal(sae.decode(acts), reconstruction)
    assert torch.equal(sae(x), reconstruction)
    assert 0.2 < (acts > 0).float().mean() < 0.8  # neither side of the ReLU went untested


def test_sae_is_left_as_published(files):
    sae = load_sae(files)
    for name, value in files.sae.items():
        assert torch.equal(getattr(sae, name), value)
    assert sae.W_dec.norm(dim=-1).std() > 0.01  # decoder rows are not brought to unit norm
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (SMALL.d_mlp, SMALL.d_sae)
    assert sae.cfg.metadata.hook_name == HOOK
    assert not sae.training and not any(p.requires_grad for p in sae.parameters())


def test_float16_on_disk_is_used_in_float32(tmp_path):
    state = write_sae(tmp_path, 25, dtype=torch.float16)
    sae = NEEL.read([tmp_path / "25_cfg.json", tmp_path / "25.pt"], hook=HOOK)
    assert {p.dtype for p in sae.parameters()} == {torch.float32}
    assert torch.equal(sae.W_enc, state["W_enc"].float())


def test_files_of_old_torch_are_read(files):
    torch.save(files.sae, files.sae_weights, _use_new_zipfile_serialization=False)
    assert torch.equal(load_sae(files).W_dec, files.sae["W_dec"])


def test_neel_at_its_real_shape(tmp_path):
    state = write_sae(tmp_path, 25, REAL)
    sae, x = NEEL.read([tmp_path / "25_cfg.json", tmp_path / "25.pt"], hook=HOOK), inputs(2048)
    reconstruction, acts = published_forward(state, x)
    assert (
        acts.shape == (3, 16384)
        and torch.equal(sae.encode(x), acts)
        and torch.equal(sae.decode(acts), reconstruction)
    )


def test_file_that_is_not_there(files):
    files.sae_weights.unlink()
    assert str(files.sae_weights) in weights_error(load_sae, files)


@pytest.mark.parametrize("key", ["b_enc", "W_dec"])
def test_sae_keys(files, key):
    torch.save(
        {name: value for name, value in files.sae.items() if name != key}
        | {"threshold": torch.ones(2)},
        files.sae_weights,
    )
    text = weights_error(load_sae, files)
    assert (
        str(files.sae_weights) in text
        and f"missing: ['{key}']" in text
        and "unknown: ['threshold']" in text
    )
    assert "another model" in text


def test_each_shape_is_checked(files):
    for name, value in files.sae.items():
        torch.save(files.sae | {name: value[:-1]}, files.sae_weights)
        text = weights_error(load_sae, files)
        assert (
            f"{name} has shape {tuple(value[:-1].shape)}" in text
            and str(tuple(value.shape)) in text
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(files, bad):
    broken = files.sae["b_enc"].clone()
    broken.view(-1)[-1] = bad
    torch.save(files.sae | {"b_enc": broken}, files.sae_weights)
    with pytest.raises(ValueError) as caught:
        load_sae(files)
    text = str(caught.value)
    assert (
        str(files.sae_weights) in text
        and "b_enc" in text
        and "hold 1 NaN or infinite" in text
        and "load the weights again" in text
    )


def test_checkpoint_of_another_model(files, tmp_path):
    write_sae(tmp_path / "other", 25, SMALL.__class__(d_mlp=64))
    shutil.copy(tmp_path / "other" / "25.pt", files.sae_weights)
    text = weights_error(load_sae, files)
    assert (
        "W_enc has shape (64, 512), its config says (32, 256)" in text
        and "belongs to another model" in text
    )


@pytest.mark.parametrize("key", ["d_mlp", "dict_mult"])
def test_sae_config_without_a_key(files, key):
    config = sae_config(SMALL, 52)
    del config[key]
    files.sae_config.write_text(json.dumps(config))
    text = weights_error(load_sae, files)
    assert (
        str(files.sae_config) in text
        and f"lacks {key}" in text
        and "NeelNanda/sparse_autoencoder" in text
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"d_mlp": 3', b"<!doctype html>", b"\xff\xfe\x00"]
)
def test_config_that_is_not_json(files, content):
    files.sae_config.write_bytes(content)
    text = weights_error(load_sae, files)
    assert str(files.sae_config) in text and "is not JSON" in text and "download it again" in text


def test_config_that_is_no_object(files):
    files.sae_config.write_text("[1]")
    text = weights_error(load_sae, files)
    assert str(files.sae_config) in text and "a list, not an object" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_written_is_read_again(tmp_path, dtype):
    sae = rounded(random_sae(8, 24, HOOK, torch.Generator().manual_seed(0)), dtype)
    files = NEEL.write(sae, tmp_path, "12", dtype=dtype, record={"l1_coeff": 3.0, "d_mlp": 7})
    assert files == NEEL.files("12") == ("12_cfg.json", "12.pt")
    again = NEEL.read([tmp_path / file for file in files], hook=HOOK)
    assert_same_sae(again, sae)
    stored = torch.load(tmp_path / "12.pt", weights_only=True)
    assert {value.dtype for value in stored.values()} == {dtype}
    assert json.loads((tmp_path / "12_cfg.json").read_text()) == {
        "l1_coeff": 3.0,
        "dict_mult": 3,
        "d_mlp": 8,
        "enc_dtype": "fp32",
    }


def test_a_width_that_the_layout_cannot_say(tmp_path):
    sae = random_sae(8, 20, HOOK, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="d_sae is 20 and d_in 8; .* a multiple of d_in"):
        NEEL.write(sae, tmp_path, "12")
