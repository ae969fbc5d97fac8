"""Fields of published configs that sae_lens's loaders pass over."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from conftest import random_sae, weights_error

from saework.loading.layouts.published_config import CHECKS, FILES, R1_MODEL, PublishedConfig
from saework.loading.sae_ids import registry

SCOPE = {
    "d_model": 4096,
    "hook_point_in": "blocks.24.hook_resid_post",
    "hook_point_out": "blocks.24.hook_resid_post",
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 29.125, "out": 29.125},
    "use_glu_encoder": False,
    "apply_decoder_bias_to_pre_encoder": False,
}
SCOPE_SCALE = 2.1974248927038627  # what sae_lens lists for l24r_32x


def config(loader: str, **fields) -> PublishedConfig:
    return PublishedConfig(loader, f"place/{FILES[loader]}", fields)


def jumprelu_sae():
    generator = torch.Generator().manual_seed(0)
    return random_sae(8, 20, "blocks.0.hook_resid_post", generator, "jumprelu")


@pytest.mark.parametrize(
    "loader,fields,named",
    [
        ("sparsify", {"transcode": True}, "transcode True"),
        ("sparsify", {"skip_connection": True}, "skip_connection True"),
        ("sparsify", {"signed": True}, "signed True"),
        ("sparsify", {"activation": "groupmax"}, "activation 'groupmax'"),
        ("dictionary_learning_1", {"trainer": {"dict_class": "AutoEncoderNew"}}, "AutoEncoderNew"),
        ("dictionary_learning_1", {}, "dict_class None"),
        ("llama_scope", {**SCOPE, "hook_point_out": "blocks.0.hook_mlp_out"}, "hook_point_out"),
        ("llama_scope", {**SCOPE, "use_glu_encoder": True}, "use_glu_encoder True"),
        ("llama_scope", {**SCOPE, "norm_activation": "token-wise"}, "'token-wise'"),
        ("llama_scope_r1_distill", {"apply_decoder_bias_to_pre_encoder": True}, "pre_encoder True"),
        ("sae_lens", {"activation_fn": "tanh-relu"}, "'tanh-relu'"),
        ("sae_lens", {"activation_fn_str": "topk"}, "not how many are kept"),
        ("sae_lens", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ("sae_lens", {"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input 'no'"),
        ("sae_lens", {"rescale_acts_by_decoder_norm": "no"}, "rescale_acts_by_decoder_norm 'no'"),
    ],
)
def test_what_would_change_the_numbers_is_refused(loader, fields, named):
    text = weights_error(config(loader, **fields).check)
    assert named in text and FILES[loader] in text
    remedies = ("encode and decode", "set finetuning", "set it to true or false", "add ")
    assert any(remedy in text for remedy in remedies)


@pytest.mark.parametrize(
    "loader,fields",
    [
        ("sparsify", {"signed": False, "activation": "topk", "k": 5}),
        ("dictionary_learning_1", {"trainer": {"dict_class": "GatedAutoEncoder"}}),
        ("llama_scope", SCOPE),
        ("llama_scope_r1_distill", {"hook_point_in": "a"}),
        ("sae_lens", {"activation_fn": "topk", "k": 5}),
    ],
)
def test_what_is_read_as_it_is_passes(loader, fields):
    config(loader, **fields).check(SCOPE_SCALE)


def test_a_table_that_contradicts_the_published_norm():
    config("llama_scope", **SCOPE).check(SCOPE_SCALE)
    text = weights_error(config("llama_scope", **SCOPE).check, 2.5)
    assert "29.125" in text and "2.197" in text and "2.5" in text and "norm_scaling_factor" in text


@pytest.mark.parametrize("scale", [None, 3.0])
def test_thresholds_on_activations_times_the_norm_of_their_row(scale):
    """``lm-saes`` compares ``f * norm(W_dec)`` with the threshold; the features are the same."""
    sae = jumprelu_sae()
    sae.W_dec.data[3] = 0
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    before = x @ sae.W_enc + sae.b_enc
    published_norm = sae.W_dec.norm(dim=1) * (scale or 1)
    expected = before.relu() * (before * published_norm > sae.threshold)
    plain = sae.encode(x)
    config("llama_scope", sparsity_include_decoder_norm=True).mend(sae, scale)
    assert torch.allclose(sae.encode(x), expected, atol=1e-6)
    assert ((expected != 0) != (plain != 0)).any()
    assert not expected[:, 3].any() and torch.isfinite(sae.threshold).all()


def test_without_the_field_nothing_changes():
    sae = jumprelu_sae()
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    config("llama_scope", **SCOPE).mend(sae, 2.0)
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def test_the_model_of_llama_scope_r1():
    sae = jumprelu_sae()
    config("llama_scope_r1_distill").mend(sae)
    assert sae.cfg.metadata.model_name == R1_MODEL


def test_every_check_has_its_file():
    assert CHECKS.keys() == FILES.keys()


def test_a_table_that_replaces_the_saes_own_place(tmp_path, monkeypatch):
    """sae_lens's overrides are applied, as it does, and said."""
    import huggingface_hub

    release, sae_id = "gpt2-small-res-jb", "blocks.8.hook_resid_pre"
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps({"model_name": "gpt2", "context_size": 64, "prepend_bos": None}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *where: str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert PublishedConfig.of(release, sae_id).fields["context_size"] == 64
    overrides = {"context_size": 128, "prepend_bos": False, "dataset_path": "other"}
    monkeypatch.setattr(registry()[release], "config_overrides", overrides)
    with pytest.warns(UserWarning) as caught:
        assert PublishedConfig.of(release, sae_id).fields["context_size"] == 128
    assert "context_size 64 by 128" in str(caught[0].message)
    assert "prepend_bos" not in str(caught[0].message)
