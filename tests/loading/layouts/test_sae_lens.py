"""sae_lens's own layout, Joseph Bloom's SAEs among it, and what bad files get."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import random_sae, weights_error
from local_hub import write_jbloom
from sae_files import assert_close, assert_same_sae, inputs, rounded
from safetensors.torch import save_file

from saework.loading.layouts.sae_lens import SAE_LENS, Registered

RESID = "blocks.6.hook_resid_post"


def read(folder, scale=None):
    return SAE_LENS.read(SAE_LENS.find(folder), scale=scale)


def test_jbloom_at_its_real_shape(tmp_path):
    w = write_jbloom(tmp_path, RESID, d_in=2048, d_sae=16384)
    sae, x = read(tmp_path), inputs(2048)
    features = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert_close(sae.encode(x), features)
    assert_close(sae.decode(features), features @ w["W_dec"] + w["b_dec"])
    assert 0.2 < (features > 0).float().mean() < 0.8
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.dataset_path) == (
        RESID,
        "HuggingFaceFW/fineweb",
    )
    assert sae.cfg.dtype == "float32" and sae.W_dec.device.type == "cpu"  # the config says CUDA


def test_a_norm_factor_is_folded_in(tmp_path):
    """``relu((s x - b_dec) W_enc + b_enc) W_dec + b_dec``, all over s, on raw activations.

    That is what ran in training. Older files say ``true``.
    """
    scale, hook = 0.2138, "blocks.12.hook_resid_post"
    x = inputs(12, 50)
    for how in ("expected_average_only_in", True):
        w = write_jbloom(tmp_path / str(how), hook, d_in=12, d_sae=40, normalize_activations=how)
        sae = read(tmp_path / str(how), scale=scale)
        features = torch.relu((scale * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
        assert_close(sae.encode(x), features)
        assert_close(sae.decode(features), (features @ w["W_dec"] + w["b_dec"]) / scale)
        with pytest.warns(
            UserWarning,
            match=r"scaled to norm sqrt\(d_in\), and the factor is not known: "
            "features will be off.*name and id",
        ):
            read(tmp_path / str(how))
    for unscaled in ({}, {"normalize_activations": "none"}, {"normalize_activations": False}):
        w = write_jbloom(tmp_path / "raw", hook, d_in=12, d_sae=40, **unscaled)
        assert torch.equal(read(tmp_path / "raw", scale=scale).W_enc, w["W_enc"])


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_safetensors(tmp_path, keep):
    write_jbloom(tmp_path, RESID, d_in=8, d_sae=20)
    path = tmp_path / "sae_weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(read, tmp_path)
    assert str(tmp_path) in text and "not a whole SAE" in text and "download it again" in text


def test_a_sae_lens_folder_with_parts_missing_or_wrong(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "sae_weights.safetensors"
    write_jbloom(tmp_path, RESID, d_in=8, d_sae=20)
    state = load_file(weights)
    for changed, said in (
        ({key: value for key, value in state.items() if key != "b_enc"}, "b_enc"),
        (state | {"W_dec": state["W_dec"][:-1]}, "W_dec"),
        (state | {"threshold": state["b_enc"].clone()}, "threshold"),
        (state | {"scaling_factor": 2 * state["scaling_factor"]}, "caling"),
    ):
        save_file(changed, weights)
        text = weights_error(read, tmp_path)
        assert said in text and "download it again" in text
    save_file(state | {"b_dec": state["b_dec"] * float("nan")}, weights)
    with pytest.raises(ValueError, match="b_dec hold 8 NaN"):
        read(tmp_path)
    save_file(state, weights)
    assert read(tmp_path).cfg.d_sae == 20
    (tmp_path / "cfg.json").write_text('{"d_in": 8')
    assert "is not JSON" in weights_error(read, tmp_path)
    (tmp_path / "cfg.json").write_text('{"d_in": 8}')
    assert "not a whole SAE" in weights_error(read, tmp_path)
    (tmp_path / "cfg.json").unlink()
    assert "cfg.json" in weights_error(read, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_written_is_read_again(tmp_path, dtype):
    from safetensors.torch import load_file

    sae = rounded(random_sae(8, 20, RESID, torch.Generator().manual_seed(0)), dtype)
    rates = torch.linspace(0, 1, 20, dtype=torch.float64)
    files = SAE_LENS.write(
        sae, tmp_path, "a", dtype=dtype, record={"model_name": "mine"}, firing_rate=rates
    )
    assert files == SAE_LENS.files("a")
    again = SAE_LENS.read([tmp_path / file for file in files])
    assert_same_sae(again, sae)
    assert again.cfg.metadata.model_name == "mine" and again.cfg.apply_b_dec_to_input
    sparsity = load_file(tmp_path / files[-1])["sparsity"]
    assert sparsity.tolist() == pytest.approx([-10, *rates[1:].log10().tolist()], abs=1e-5)
    without = SAE_LENS.write(sae, tmp_path, "b")
    assert without == SAE_LENS.files("b")[:2]
    assert_same_sae(read(tmp_path / "b"), sae)


def test_an_sae_of_another_architecture_is_not_written(tmp_path):
    sae = random_sae(8, 20, RESID, torch.Generator().manual_seed(0), "jumprelu")
    with pytest.raises(ValueError, match="this SAE is jumprelu.*holds standard SAEs.*save_model"):
        SAE_LENS.write(sae, tmp_path, "a")


@pytest.fixture
def published_config(monkeypatch, tmp_path):
    """The ``cfg.json`` of every repository, and what was asked for."""
    write_jbloom(tmp_path, RESID, d_in=8, d_sae=20)
    asked = []

    def hf_hub_download(*names):
        asked.append(names)
        return str(tmp_path / "cfg.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    return SimpleNamespace(folder=tmp_path, asked=asked)


def test_an_old_config_of_the_table_is_checked(published_config):
    """Before sae_lens drops what it does not know."""
    changes = {"activation_fn_str": "tanh-relu"}
    write_jbloom(published_config.folder, RESID, d_in=8, d_sae=20, **changes)
    id_ = "blocks.8.hook_resid_pre"
    text = weights_error(Registered("gpt2-small-res-jb", id_).read)
    assert "'tanh-relu'" in text
    assert published_config.asked == [("jbloom/GPT2-Small-SAEs-Reformatted", f"{id_}/cfg.json")]


def test_an_sae_of_the_table_comes_from_sae_lens_own_loader(monkeypatch, published_config):
    from sae_lens import SAE

    from saework.core.errors import NotAvailableError

    sae = random_sae(8, 20, RESID, torch.Generator().manual_seed(0)).train()
    monkeypatch.setattr(
        SAE, "from_pretrained", lambda release, sae_id: {("r", "i"): sae}[release, sae_id]
    )
    found = Registered("r", "i").read([], hook="", scale=None)
    assert found is sae and not sae.training
    assert not any(weight.requires_grad for weight in sae.parameters())

    def fail(release, sae_id):
        raise ConnectionError("no route")

    monkeypatch.setattr(SAE, "from_pretrained", fail)
    with pytest.raises(NotAvailableError, match="the SAE i of r is not in the cache"):
        Registered("r", "i").read()


@pytest.mark.parametrize("key", ["activation_fn_str", "activation_fn"])
@pytest.mark.parametrize("name", ["tanh-relu", "gelu"])
def test_an_activation_that_sae_lens_would_take_for_relu(tmp_path, key, name):
    write_jbloom(tmp_path, "blocks.6.hook_resid_post", d_in=8, d_sae=20, **{key: name})
    text = weights_error(read, tmp_path)
    assert f"activation function is {name!r}" in text and "download" not in text


def test_topk_of_an_old_config(tmp_path):
    hook = "blocks.6.hook_resid_post"
    write_jbloom(tmp_path, hook, d_in=8, d_sae=20, activation_fn_str="topk")
    text = weights_error(read, tmp_path)
    assert "'topk'" in text and '"activation_fn_kwargs": {"k": ...}' in text
    kept = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    write_jbloom(tmp_path, hook, d_in=8, d_sae=20, **kept)
    features = read(tmp_path).encode(inputs(8, 5))
    assert ((features != 0).sum(-1) <= 3).all() and (features != 0).any()


def test_a_scaling_factor_of_finetuning_is_refused_by_name(tmp_path):
    """Downloading again would not help."""
    changes = {"finetuning_scaling_factor": True}
    write_jbloom(tmp_path, "blocks.6.hook_resid_post", d_in=8, d_sae=20, **changes)
    text = weights_error(read, tmp_path)
    assert "finetuning_scaling_factor" in text and "W_dec" in text and "download" not in text


def test_a_word_in_place_of_true_or_false(tmp_path):
    """Any word would be taken for true: ``b_dec`` would be subtracted though it says "no"."""
    for word in ("no", "false"):
        write_jbloom(tmp_path, RESID, d_in=8, d_sae=20, apply_b_dec_to_input=word)
        text = weights_error(read, tmp_path)
        assert f"apply_b_dec_to_input {word!r}" in text and "set it to true or false" in text


def test_quantised_weights_are_no_weights(tmp_path):
    """Integers would be read as they stand, without the scale that they were divided by."""
    weights = write_jbloom(tmp_path, RESID, d_in=8, d_sae=20)
    weights = {name: value.clone() for name, value in weights.items()}
    weights["W_dec"] = (100 * weights["W_dec"]).to(torch.int8)
    save_file(weights, tmp_path / "sae_weights.safetensors")
    text = weights_error(read, tmp_path)
    assert "W_dec is stored as I8" in text and "save them as float32" in text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floats_of_any_width_are_weights(tmp_path, dtype):
    weights = write_jbloom(tmp_path, RESID, d_in=8, d_sae=20)
    stored = {name: value.to(dtype) for name, value in weights.items()}
    save_file(stored, tmp_path / "sae_weights.safetensors")
    assert torch.equal(read(tmp_path).W_dec, stored["W_dec"].float())
