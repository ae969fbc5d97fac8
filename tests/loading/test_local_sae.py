"""SAEs of this machine, known by what is in their files."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import random_sae, weights_error
from local_hub import write_gemma_scope, write_jbloom, write_qresearch, write_sae
from sae_files import HOOK, inputs

from saework.core.errors import HookError
from saework.loading.layouts.gemma_scope import GEMMA_SCOPE
from saework.loading.local_sae import read_sae


def jumprelu(folder):
    write_gemma_scope(folder, "layer_5/width_16k/average_l0_20", d_in=8, d_sae=20)
    path = folder / "layer_5/width_16k/average_l0_20/params.npz"
    return GEMMA_SCOPE.read([path], hook="blocks.5.hook_resid_post")


def test_read_sae_of_each_layout(tmp_path, monkeypatch):
    scope = jumprelu(tmp_path)
    folder = tmp_path / "layer_5/width_16k/average_l0_20"
    monkeypatch.chdir(folder)
    for path in (folder, folder / "params.npz", str(folder), "params.npz"):
        sae = read_sae(path)
        assert sae.cfg.metadata.hook_name == "blocks.5.hook_resid_post" and torch.equal(
            sae.threshold, scope.threshold
        )
    assert (
        read_sae(folder, hook="blocks.7.hook_resid_post").cfg.metadata.hook_name
        == "blocks.7.hook_resid_post"
    )

    w = write_qresearch(tmp_path, "some-SAE-l13.pt", d_in=8, d_sae=20)
    sae = read_sae(tmp_path / "some-SAE-l13.pt")
    assert sae.cfg.metadata.hook_name == "blocks.13.hook_resid_pre" and torch.equal(
        sae.W_enc, w["W_enc"]
    )
    assert read_sae(tmp_path / "some-SAE-l13.pt", hook="x").cfg.metadata.hook_name == "x"

    w = write_sae(tmp_path, 31)
    sae = read_sae(tmp_path / "31.pt", hook=HOOK)
    assert (
        sae.cfg.apply_b_dec_to_input
        and torch.equal(sae.W_enc, w["W_enc"])
        and sae.cfg.metadata.hook_name == HOOK
    )

    w = write_jbloom(tmp_path / "jb", "blocks.6.hook_resid_post", d_in=8, d_sae=20)
    for path in (
        tmp_path / "jb",
        tmp_path / "jb" / "cfg.json",
        tmp_path / "jb" / "sae_weights.safetensors",
    ):
        assert torch.equal(read_sae(path).W_dec, w["W_dec"])
        assert read_sae(path).cfg.metadata.hook_name == "blocks.6.hook_resid_post"


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_read_sae_of_what_sae_lens_saved(tmp_path, architecture):
    sae = random_sae(8, 20, "blocks.1.hook_mlp_out", torch.Generator().manual_seed(0), architecture)
    sae.save_model(tmp_path)
    found, x = read_sae(tmp_path), inputs(8, 5)
    assert (
        type(found) is type(sae)
        and torch.equal(found(x), sae(x))
        and found.cfg.metadata.hook_name == "blocks.1.hook_mlp_out"
    )
    assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_a_file_that_does_not_say_its_hook(tmp_path):
    scope = jumprelu(tmp_path) and tmp_path / "layer_5/width_16k/average_l0_20/params.npz"
    shutil.copy(scope, tmp_path / "params.npz")
    write_qresearch(tmp_path, "sae.pt", d_in=8, d_sae=20)
    write_sae(tmp_path, 25)
    for name in ("params.npz", "sae.pt", "25.pt"):
        with pytest.raises(HookError) as caught:
            read_sae(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "does not say which hook" in str(
            caught.value
        )
        assert "read_sae(path, hook=...)" in str(caught.value)


def test_a_file_of_no_known_layout(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    text = weights_error(read_sae, tmp_path / "weights.bin")
    for part in (
        str(tmp_path / "weights.bin"),
        "params.npz",
        "sae_weights.safetensors",
        "NAME-lLAYER.pt",
        "NUMBER_cfg.json",
    ):
        assert part in text
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in weights_error(read_sae, tmp_path / "empty")
    assert "nothing.npz does not exist" in weights_error(read_sae, tmp_path / "nothing.npz")


def test_a_link_into_the_hubs_cache(tmp_path):
    """The link's own path says the layer; the file that it leads to has no name."""
    scope = jumprelu(tmp_path / "blobs")
    file = tmp_path / "blobs" / "layer_5/width_16k/average_l0_20/params.npz"
    blob = file.rename(tmp_path / "blobs" / "0a1b2c")
    link = tmp_path / "snapshots" / "layer_2/width_16k/average_l0_20/params.npz"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    for path in (link, link.parent):
        sae = read_sae(path)
        assert sae.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
        assert torch.equal(sae.W_enc, scope.W_enc)
