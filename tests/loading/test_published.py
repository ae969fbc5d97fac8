"""Each of sae_lens's loaders through ``load(name, id)``, on files in its publisher's layout."""

from __future__ import annotations

import json

import pytest
from local_hub import (
    LocalHub,
    hf_config,
    run_client,
    write_byte_level_tokenizer,
    write_hf_model,
    write_hf_tokenizer,
)
from published_saes import D_MODEL, PUBLISHED

from saework.loading.sae_ids import hub_name, registry

MODELS = {
    "gemma2": ["google/gemma-2-2b"],
    "gemma3": ["google/gemma-3-270m"],
    "gpt2": ["gpt2"],
    "llama": [
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ],
    "qwen3": ["Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-0.6B"],
}
LAYERS = {"gemma2": 13, "gemma3": 2, "gpt2": 9, "llama": 20, "qwen3": 2}
CLOSE = 2e-5  # of the largest value, in float32


def write_models(root) -> None:
    """One narrow model of each family, with a tokenizer in the family's files."""
    for family, layers in LAYERS.items():
        folder, changes = root / family, {}
        if family in ("gpt2", "qwen3"):
            kind = "gpt2" if family == "gpt2" else "qwen2"
            end_id = write_byte_level_tokenizer(folder, kind)
            changes = {"vocab_size": end_id + 1, "bos_token_id": end_id, "eos_token_id": end_id}
            if family == "qwen3":
                changes["pad_token_id"] = end_id
        else:
            write_hf_tokenizer(folder, "llama" if family == "llama" else "gemma")
        if family == "gemma3":
            changes["layer_types"] = ["full_attention"] * layers
        config = hf_config(family, d_model=D_MODEL, n_layers=layers, **changes)
        write_hf_model(folder, config)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process finds, which loads all of them."""
    root = tmp_path_factory.mktemp("published")
    write_models(root)
    with LocalHub() as hub:
        for family, names in MODELS.items():
            for name in names:
                hub.add(name, root / family)
        for published in PUBLISHED:
            folder = root / published.repository
            folder.mkdir(parents=True, exist_ok=True)
            published.write(folder, published.weights())
            hub.add(published.repository, folder)
        done = run_client(
            "import os, pathlib, published_loads\n"
            "published_loads.main(pathlib.Path(os.environ['ROOT']))",
            cache=tmp_path_factory.mktemp("cache"),
            endpoint=hub.url,
            ROOT=str(root),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_loader_of_sae_lens_has_an_sae_here():
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    assert {published.loader for published in PUBLISHED} == set(NAMED_PRETRAINED_SAE_LOADERS)
    used = {listed.conversion_func or "sae_lens" for listed in registry().values()}
    assert used <= set(NAMED_PRETRAINED_SAE_LOADERS)


def test_no_load_starts_a_program_or_changes_the_environment(answers):
    assert answers["programs"] == [] and not answers["packages changed"]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_it_is_read_by_its_publishers_formula(answers, published):
    found = answers[published.name]
    assert "error" not in found, found["error"]
    assert found["reads"] == published.hook
    assert found["input"] < CLOSE and found["features"] < CLOSE and found["one feature"] < CLOSE
    assert 0.01 < found["firing"] < 0.9
    # the formula tells the right reading from those that a loader has had
    assert all(size > 0.005 for size in found["mistakes"].values()), found["mistakes"]
    if published.release in registry():
        assert found["model"] == hub_name(registry()[published.release].model)
    assert found["strongest"][0] == found["strongest"][1]


@pytest.mark.parametrize(
    "published",
    [published for published in PUBLISHED if not published.refused],
    ids=lambda published: published.name,
)
def test_its_output_takes_the_place_of_what_the_publisher_says(answers, published):
    found = answers[published.name]
    assert found["output"] < CLOSE and found["counts"] == 0
    assert found["losses"] == pytest.approx(found["plain losses"], rel=1e-5)
    clean, spliced, _ = found["losses"]
    assert abs(clean - spliced) > 1e-3  # the splice changes something


@pytest.mark.parametrize(
    "published",
    [published for published in PUBLISHED if published.refused],
    ids=lambda published: published.name,
)
def test_what_cannot_be_spliced_is_refused_by_name(answers, published):
    for words in answers[published.name]["refusals"]:
        assert all(part in words for part in published.refused), words
