"""What the ids of each suite mean, against what sae_lens's table says of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from local_hub import GEMMA_SCOPE_ID, QRESEARCH_FILE

from saework.core.errors import UnknownNameError
from saework.loading import sae_ids
from saework.loading.catalogue import SAE_LAYOUTS


def test_a_run_of_gelu_1l_or_a_checkpoint():
    files = {sae_id: sae_ids.gelu_1l_sae(sae_id).files for sae_id in ("run1", "run2", "12")}
    assert files == {
        "run1": ("25_cfg.json", "25.pt"),
        "run2": ("47_cfg.json", "47.pt"),
        "12": ("12_cfg.json", "12.pt"),
    }
    assert sae_ids.gelu_1l_sae("run3") is None


@pytest.mark.parametrize("hidden", [None, "pretrained_saes.yaml"])
def test_the_names_of_releases_are_those_of_sae_lens(hidden, monkeypatch):
    expected = list(sae_ids.registry())
    monkeypatch.delitem(sys.modules, "sae_lens")
    # sae_lens cannot be imported twice in a process
    monkeypatch.setattr(sae_ids, "registry", lambda: dict.fromkeys(expected))
    if hidden:  # a later sae_lens may keep its table elsewhere
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: path.name != hidden and exists(path))
    assert sae_ids.registered_names() == expected and len(expected) > 100


def test_each_sae_of_gemma_scope_is_at_its_layers_output():
    """Hook and width as sae_lens's own loader has them in its table's words."""
    ids = sae_ids.registered_ids("gemma-scope-2b-pt-res")()
    assert len(ids) > 100
    for sae_id in ids:
        sae = sae_ids.gemma_scope_sae(sae_id)
        if sae_id.startswith("embedding"):
            assert (sae.layout.name, sae.hook) == ("registry", "hook_embed")
            continue
        layer, width, l0 = sae_id.split("/")
        assert sae.hook == f"blocks.{layer.removeprefix('layer_')}.hook_resid_post"
        assert sae.l0 == float(l0.removeprefix("average_l0_"))
        label = width.removeprefix("width_")
        thousands = 1024 if label == "1m" else int(label.removesuffix("k"))
        assert sae.d_sae == pytest.approx(thousands * 1024, rel=0.05)
        assert sae.d_sae & (sae.d_sae - 1) == 0  # a power of two
    assert sae_ids.gemma_scope_sae(GEMMA_SCOPE_ID).files == (f"{GEMMA_SCOPE_ID}/params.npz",)
    assert sae_ids.gemma_scope_sae("layer_0/width_17k/average_l0_1") is None


def test_a_path_that_is_not_of_gemma_scope():
    with pytest.raises(ValueError, match="a/b is not a path of Gemma Scope"):
        sae_ids.gemma_scope_file("a", "a/b")


def test_saes_of_gemma_2b_and_their_scales():
    found = {i: sae_ids.gemma_2b_sae(i) for i in sae_ids.registered_ids("gemma-2b-res-jb")()}
    assert all(sae.hook == sae_id for sae_id, sae in found.items())
    assert found["blocks.12.hook_resid_post"].scale == pytest.approx(0.21381938399317255)
    folder = "gemma_2b_blocks.6.hook_resid_post_16384_anthropic"
    names = [file.split("/")[1] for file in found["blocks.6.hook_resid_post"].files]
    assert names == ["sae_weights.safetensors", "cfg.json", "sparsity.safetensors"]
    folders = {file.split("/")[0] for file in found["blocks.6.hook_resid_post"].files}
    assert len(folders) == 1 and folders.pop().startswith(folder.removesuffix("_anthropic"))
    assert sae_ids.gemma_2b_sae("blocks.5.hook_resid_post") is None


def test_the_sae_of_qresearch():
    assert sae_ids.LLAMA_SAE.files == (QRESEARCH_FILE,)


def test_any_sae_of_the_table():
    find = sae_ids.registered_sae("gpt2-small-res-jb")
    sae = find("blocks.8.hook_resid_pre")
    assert (sae.layout.release, sae.layout.sae_id) == ("gpt2-small-res-jb", sae.id)
    assert find("blocks.99.hook_resid_pre") is None


def test_an_sae_of_a_mini():
    sae = sae_ids.mini_sae("llama-mini", SAE_LAYOUTS)("l2")
    entry = sae_ids.card_of("llama-mini")["saes"]["l2"]
    assert sae.files == tuple(entry["files"]) and sae.l0 == entry["mean_l0"]
    assert sae.layout is SAE_LAYOUTS["qresearch"]
    assert sae_ids.card_of("gelu-1l") == {"saes": {}}


def test_a_scan_file_is_in_no_folder():
    assert sae_ids.scan_file("layer_1/width_1k") == "layer_1-width_1k.safetensors"


def test_what_neuronpedia_calls_an_sae():
    named = sae_ids.neuronpedia_id(None, "gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert named == "gpt2-small/8-res-jb"
    assert sae_ids.neuronpedia_id(None, "gelu-1l-mini", "run1") is None
    assert sae_ids.neuronpedia_id(None, "gpt2-small-res-jb", "a/file.safetensors") is None
    assert sae_ids.neuronpedia_id(None) is None
    metadata = SimpleNamespace(neuronpedia_id="own/1")
    own = SimpleNamespace(cfg=SimpleNamespace(metadata=metadata))
    assert sae_ids.neuronpedia_id(own, "gpt2-small-res-jb", "blocks.8.hook_resid_pre") == "own/1"


def test_the_hubs_name_of_a_model():
    assert sae_ids.hub_name("gpt2-small") == "gpt2"
    assert sae_ids.hub_name("owner/any") == "owner/any"
    with pytest.raises(UnknownNameError, match="'no-model', a model that TransformerLens does not"):
        sae_ids.hub_name("no-model")


def test_transformer_lens_4_keeps_its_names_elsewhere(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.loading_from_pretrained", None)
    names = SimpleNamespace(get_official_model_name={"gelu-1l": "NeelNanda/GELU"}.get)
    monkeypatch.setitem(sys.modules, "transformer_lens.supported_models", names)
    assert sae_ids.hub_name("gelu-1l") == "NeelNanda/GELU"
