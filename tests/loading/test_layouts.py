"""Published SAE layouts against plain tensors and sae_lens, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_sae, weights_error
from local_hub import (
    GEMMA_SCOPE_ID,
    QRESEARCH_FILE,
    REAL,
    SMALL,
    sae_config,
    write_gemma_scope,
    write_jbloom,
    write_qresearch,
    write_sae,
)

from saework.core.errors import HookError
from saework.core.files import read_json
from saework.loading import layouts

HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture
def files(tmp_path):
    """An SAE of Neel Nanda's layout on disk, and the tensors that were written."""
    return SimpleNamespace(
        sae_config=tmp_path / "25_cfg.json",
        sae_weights=tmp_path / "25.pt",
        sae=write_sae(tmp_path, 25),
    )


def load_sae(files):
    return layouts.neel_sae(files.sae_config, files.sae_weights, hook=HOOK)


# ---- references, in plain tensors ----


def published_forward(w: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``AutoEncoder.forward`` of the gelu-1l notebook: reconstruction and activations."""
    x_cent = x - w["b_dec"]
    acts = F.relu(x_cent @ w["W_enc"] + w["b_enc"])
    return acts @ w["W_dec"] + w["b_dec"], acts


# ---- equality ----


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
    sae = layouts.neel_sae(tmp_path / "25_cfg.json", tmp_path / "25.pt", hook=HOOK)
    assert {p.dtype for p in sae.parameters()} == {torch.float32}
    assert torch.equal(sae.W_enc, state["W_enc"].float())


def test_read_tensors_and_read_json(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    assert torch.equal(layouts.read_tensors(tmp_path / "a.pt")["a"], torch.arange(3))
    (tmp_path / "a.json").write_text('{"é": 1}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": 1}


def test_files_of_old_torch_are_read(files):
    torch.save(files.sae, files.sae_weights, _use_new_zipfile_serialization=False)
    assert torch.equal(load_sae(files).W_dec, files.sae["W_dec"])


# ---- what bad files get ----


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_file(files, keep):
    whole = files.sae_weights.read_bytes()
    files.sae_weights.write_bytes(
        whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    )
    text = weights_error(load_sae, files)
    assert (
        str(files.sae_weights) in text
        and "truncated or damaged" in text
        and "download it again" in text
    )


def test_page_saved_in_place_of_weights(files):
    files.sae_weights.write_bytes(b"<!doctype html><title>502 Bad Gateway</title>")
    text = weights_error(load_sae, files)
    assert str(files.sae_weights) in text and "damaged" in text and "download it again" in text


def test_file_that_is_not_there(files):
    files.sae_weights.unlink()
    assert str(files.sae_weights) in weights_error(load_sae, files)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "bare pickle"])
def test_code_in_a_file_is_not_run(files, tmp_path, legacy):
    witness = tmp_path / "witness"
    harmful = files.sae | {"W_enc": Trap(witness)}
    if legacy:
        files.sae_weights.write_bytes(pickle.dumps(harmful, protocol=2))
    else:
        torch.save(harmful, files.sae_weights)
    text = weights_error(load_sae, files)
    assert not witness.exists()
    assert (
        str(files.sae_weights) in text
        and "more than tensors" in text
        and "published repository" in text
    )
    torch.load(files.sae_weights, weights_only=False) if not legacy else pickle.loads(
        files.sae_weights.read_bytes()
    )
    assert witness.exists()  # the trap was a real one


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], torch.ones(2), {"W_enc": 3.0}, {"state": {"W_enc": torch.ones(2)}}]
)
def test_tensors_without_names(tmp_path, content):
    torch.save(content, tmp_path / "25.pt")
    text = weights_error(layouts.read_tensors, tmp_path / "25.pt")
    assert str(tmp_path / "25.pt") in text and "named tensors" in text


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


# ---- the other layouts, at their real shapes ----


def inputs(d_in: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(1))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    """To 1e-5 of the largest value."""
    assert a.shape == b.shape and float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.fixture
def local_file(monkeypatch):
    """Files of sae_lens's loaders come from this folder, ``local_file(root)``, in place of the Hub."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def from_folder(root):
        monkeypatch.setattr(
            loaders,
            "hf_hub_download",
            lambda repo_id, filename, subfolder="", **kwargs: str(root / subfolder / filename),
        )
        return loaders

    return from_folder


def as_sae(config: dict, state: dict):
    """What ``SAE.from_pretrained`` makes of what a loader returns."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    config = handle_config_defaulting(config)
    sae = SAE.from_dict(config | {"device": "meta"})
    sae.load_state_dict(state, assign=True)
    return sae.requires_grad_(False)


def test_neel_at_its_real_shape(tmp_path):
    state = write_sae(tmp_path, 25, REAL)
    sae, x = layouts.neel_sae(tmp_path / "25_cfg.json", tmp_path / "25.pt", hook=HOOK), inputs(2048)
    reconstruction, acts = published_forward(state, x)
    assert (
        acts.shape == (3, 16384)
        and torch.equal(sae.encode(x), acts)
        and torch.equal(sae.decode(acts), reconstruction)
    )


def test_gemma_scope_at_its_real_shape(tmp_path, local_file):
    w = write_gemma_scope(tmp_path, d_in=2304, d_sae=16384)
    sae, x = (
        layouts.gemma_scope_sae(
            tmp_path / GEMMA_SCOPE_ID / "params.npz", hook="blocks.0.hook_resid_post"
        ),
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
    loaders = local_file(tmp_path)
    own = as_sae(
        *loaders.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", GEMMA_SCOPE_ID)[:2]
    )
    assert torch.equal(own.encode(x), features) and torch.equal(
        own.decode(features), sae.decode(features)
    )
    assert own.cfg.metadata.hook_name == sae.cfg.metadata.hook_name


def test_jbloom_at_its_real_shape(tmp_path):
    w = write_jbloom(tmp_path, "blocks.6.hook_resid_post", d_in=2048, d_sae=16384)
    sae, x = layouts.sae_lens_sae(tmp_path), inputs(2048)
    features = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert_close(sae.encode(x), features)
    assert_close(sae.decode(features), features @ w["W_dec"] + w["b_dec"])
    assert 0.2 < (features > 0).float().mean() < 0.8
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.dataset_path) == (
        "blocks.6.hook_resid_post",
        "HuggingFaceFW/fineweb",
    )
    assert sae.cfg.dtype == "float32" and sae.W_dec.device.type == "cpu"  # the config says CUDA


def test_qresearch_at_its_real_shape(tmp_path, local_file):
    w = write_qresearch(tmp_path, d_in=2048, d_sae=32768)
    sae, x = (
        layouts.qresearch_sae(tmp_path / QRESEARCH_FILE, hook="blocks.9.hook_resid_pre"),
        inputs(2048),
    )
    features = torch.relu(F.linear(x, w["W_enc"].T.contiguous(), w["b_enc"]))
    assert_close(sae.encode(x), features)
    assert_close(sae.decode(features), F.linear(features, w["W_dec"].T.contiguous(), w["b_dec"]))
    assert 0.2 < (features > 0).float().mean() < 0.8
    overrides = {
        "d_in": 2048,
        "d_sae": 32768,
        "dtype": "float32",
        "hook_name": "blocks.9.hook_resid_pre",
    }
    own = as_sae(
        *local_file(tmp_path).deepseek_r1_sae_huggingface_loader(
            "x", QRESEARCH_FILE, cfg_overrides=overrides
        )[:2]
    )
    assert_close(own.encode(x), features)
    assert_close(own.decode(features), sae.decode(features))


# ---- the same, small ----


def test_a_threshold_is_passed_strictly(tmp_path):
    """Equal to the threshold does not fire, however small; and what does not fire is no feature, be it 0 or -0."""
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
    sae = layouts.gemma_scope_sae(tmp_path / "params.npz", hook="blocks.0.hook_resid_post")
    assert sae.encode(torch.tensor([[1.0, 0, 0, 0]])).tolist() == [[0, 1, 0, 0, 0, 1]]
    below = sae.encode(torch.tensor([[-1.0, 0, 0, 0]]))
    assert (below == 0).all() and int((below > 0).sum()) == 0


def test_a_norm_factor_is_folded_in(tmp_path):
    """``relu((s x - b_dec) W_enc + b_enc) W_dec + b_dec``, all over s: what ran in training, on raw activations. Older files say ``true``."""
    scale, hook = 0.2138, "blocks.12.hook_resid_post"
    x = inputs(12, 50)
    for how in ("expected_average_only_in", True):
        w = write_jbloom(tmp_path / str(how), hook, d_in=12, d_sae=40, normalize_activations=how)
        sae = layouts.sae_lens_sae(tmp_path / str(how), scale=scale)
        features = torch.relu((scale * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        assert_close(sae.encode(x), features)
        assert_close(sae.decode(features), (features @ w["W_dec"] + w["b_dec"]) / scale)
        with pytest.warns(
            UserWarning,
            match=r"scaled to norm sqrt\(d_in\), and the factor is not known: features will be off.*name and id",
        ):
            layouts.sae_lens_sae(tmp_path / str(how))
    for unscaled in ({}, {"normalize_activations": "none"}, {"normalize_activations": False}):
        w = write_jbloom(tmp_path / "raw", hook, d_in=12, d_sae=40, **unscaled)
        assert torch.equal(layouts.sae_lens_sae(tmp_path / "raw", scale=scale).W_enc, w["W_enc"])


def test_files_of_float16_are_used_in_float32(tmp_path):
    """As the minis store theirs."""
    w = write_gemma_scope(tmp_path, d_in=8, d_sae=20)
    path = tmp_path / GEMMA_SCOPE_ID / "params.npz"
    np.savez(path, **{name: value.numpy().astype(np.float16) for name, value in w.items()})
    layers = {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
        "decoder.bias": w["b_dec"],
    }
    torch.save({key: value.half() for key, value in layers.items()}, tmp_path / "a-l9.pt")
    for sae in (
        layouts.gemma_scope_sae(path, hook="h"),
        layouts.qresearch_sae(tmp_path / "a-l9.pt", hook="h"),
    ):
        assert {p.dtype for p in sae.parameters()} == {torch.float32} and torch.equal(
            sae.W_dec, w["W_dec"].half().float()
        )


# ---- local files, known by what is in them ----


def jumprelu(folder):
    write_gemma_scope(folder, "layer_5/width_16k/average_l0_20", d_in=8, d_sae=20)
    return layouts.gemma_scope_sae(
        folder / "layer_5/width_16k/average_l0_20/params.npz", hook="blocks.5.hook_resid_post"
    )


def test_read_sae_of_each_layout(tmp_path, monkeypatch):
    scope = jumprelu(tmp_path)
    folder = tmp_path / "layer_5/width_16k/average_l0_20"
    monkeypatch.chdir(folder)
    for path in (folder, folder / "params.npz", str(folder), "params.npz"):
        sae = layouts.read_sae(path)
        assert sae.cfg.metadata.hook_name == "blocks.5.hook_resid_post" and torch.equal(
            sae.threshold, scope.threshold
        )
    assert (
        layouts.read_sae(folder, hook="blocks.7.hook_resid_post").cfg.metadata.hook_name
        == "blocks.7.hook_resid_post"
    )

    w = write_qresearch(tmp_path, "some-SAE-l13.pt", d_in=8, d_sae=20)
    sae = layouts.read_sae(tmp_path / "some-SAE-l13.pt")
    assert sae.cfg.metadata.hook_name == "blocks.13.hook_resid_pre" and torch.equal(
        sae.W_enc, w["W_enc"]
    )
    assert layouts.read_sae(tmp_path / "some-SAE-l13.pt", hook="x").cfg.metadata.hook_name == "x"

    w = write_sae(tmp_path, 31)
    sae = layouts.read_sae(tmp_path / "31.pt", hook=HOOK)
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
        assert torch.equal(layouts.read_sae(path).W_dec, w["W_dec"])
        assert layouts.read_sae(path).cfg.metadata.hook_name == "blocks.6.hook_resid_post"


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_read_sae_of_what_sae_lens_saved(tmp_path, architecture):
    sae = random_sae(8, 20, "blocks.1.hook_mlp_out", torch.Generator().manual_seed(0), architecture)
    sae.save_model(tmp_path)
    found, x = layouts.read_sae(tmp_path), inputs(8, 5)
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
            layouts.read_sae(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "does not say which hook" in str(
            caught.value
        )
        assert "read_sae(path, hook=...)" in str(caught.value)


def test_a_file_of_no_known_layout(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    text = weights_error(layouts.read_sae, tmp_path / "weights.bin")
    for part in (
        str(tmp_path / "weights.bin"),
        "params.npz",
        "sae_weights.safetensors",
        "NAME-lLAYER.pt",
        "NUMBER_cfg.json",
    ):
        assert part in text
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in weights_error(layouts.read_sae, tmp_path / "empty")
    assert "nothing.npz does not exist" in weights_error(layouts.read_sae, tmp_path / "nothing.npz")


# ---- what bad files of the other layouts get ----


@pytest.fixture
def npz(tmp_path):
    w = write_gemma_scope(tmp_path, "layer_5", d_in=8, d_sae=20)
    return SimpleNamespace(
        path=tmp_path / "layer_5" / "params.npz",
        arrays={name: value.numpy() for name, value in w.items()},
    )


def test_params_without_a_threshold(npz):
    np.savez(npz.path, **{name: value for name, value in npz.arrays.items() if name != "threshold"})
    text = weights_error(layouts.read_sae, npz.path)
    assert (
        str(npz.path) in text and "missing: ['threshold']" in text and "download it again" in text
    )


def test_params_of_another_kind(npz):
    np.savez(npz.path, weights=npz.arrays["W_enc"])
    text = weights_error(layouts.read_sae, npz.path)
    assert (
        str(npz.path) in text
        and "no matrix W_enc (it has ['weights'])" in text
        and "Gemma Scope" in text
    )
    np.savez(npz.path, **npz.arrays | {"threshold": npz.arrays["threshold"][:-1]})
    assert "threshold has shape (19,)" in weights_error(layouts.read_sae, npz.path)
    np.savez(npz.path, **npz.arrays | {"b_dec": npz.arrays["b_dec"] * np.nan})
    with pytest.raises(
        ValueError, match="b_dec hold 8 NaN or infinite values out of 8; load the weights again"
    ):
        layouts.read_sae(npz.path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_params(npz, keep):
    whole = npz.path.read_bytes()
    npz.path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(layouts.read_sae, npz.path)
    assert str(npz.path) in text and "truncated or damaged" in text and "download it again" in text


def test_params_with_a_wrong_byte(npz):
    whole = bytearray(npz.path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    npz.path.write_bytes(whole)
    assert "truncated or damaged" in weights_error(layouts.read_sae, npz.path)


@pytest.mark.parametrize("bare", [False, True], ids=["npz", "bare pickle"])
def test_code_in_params_is_not_run(npz, tmp_path, bare):
    witness = tmp_path / "witness"
    if bare:
        npz.path.write_bytes(pickle.dumps(Trap(witness)))
    else:
        np.savez(npz.path, **npz.arrays | {"b_dec": np.array([Trap(witness)], dtype=object)})
    text = weights_error(layouts.read_sae, npz.path)
    assert not witness.exists()
    assert (
        str(npz.path) in text
        and "more than arrays" in text
        and "refused" in text
        and "published repository" in text
    )
    np.load(npz.path, allow_pickle=True)["b_dec"] if not bare else np.load(
        npz.path, allow_pickle=True
    )
    assert witness.exists()  # the trap was a real one


def test_qresearch_files_of_another_kind(tmp_path):
    w = write_qresearch(tmp_path, "a-l9.pt", d_in=8, d_sae=20)
    path = tmp_path / "a-l9.pt"
    state = torch.load(path, weights_only=True)
    torch.save(w, path)
    text = weights_error(layouts.read_sae, path)
    assert str(path) in text and "no matrix encoder.weight" in text and "qresearch" in text
    torch.save(state | {"decoder.bias": state["decoder.bias"][:-1]}, path)
    assert "decoder.bias has shape (7,)" in weights_error(layouts.read_sae, path)
    torch.save({key: value for key, value in state.items() if key != "decoder.weight"}, path)
    assert "missing: ['decoder.weight']" in weights_error(layouts.read_sae, path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated or damaged" in weights_error(layouts.read_sae, path)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_safetensors(tmp_path, keep):
    write_jbloom(tmp_path, "blocks.6.hook_resid_post", d_in=8, d_sae=20)
    path = tmp_path / "sae_weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(layouts.read_sae, tmp_path)
    assert str(tmp_path) in text and "not a whole SAE" in text and "download it again" in text


def test_a_sae_lens_folder_with_parts_missing_or_wrong(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "sae_weights.safetensors"
    write_jbloom(tmp_path, "blocks.6.hook_resid_post", d_in=8, d_sae=20)
    state = load_file(weights)
    for changed, said in (
        ({key: value for key, value in state.items() if key != "b_enc"}, "b_enc"),
        (state | {"W_dec": state["W_dec"][:-1]}, "W_dec"),
        (state | {"threshold": state["b_enc"].clone()}, "threshold"),
        (state | {"scaling_factor": 2 * state["scaling_factor"]}, "caling"),
    ):
        save_file(changed, weights)
        text = weights_error(layouts.read_sae, tmp_path)
        assert said in text and "download it again" in text
    save_file(state | {"b_dec": state["b_dec"] * float("nan")}, weights)
    with pytest.raises(ValueError, match="b_dec hold 8 NaN"):
        layouts.read_sae(tmp_path)
    save_file(state, weights)
    assert layouts.read_sae(tmp_path).cfg.d_sae == 20
    (tmp_path / "cfg.json").write_text('{"d_in": 8')
    assert "is not JSON" in weights_error(layouts.read_sae, tmp_path)
    (tmp_path / "cfg.json").write_text('{"d_in": 8}')
    assert "not a whole SAE" in weights_error(layouts.read_sae, tmp_path)
    (tmp_path / "cfg.json").unlink()
    assert "cfg.json" in weights_error(layouts.read_sae, tmp_path)
