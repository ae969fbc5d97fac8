"""The table of sizes, against transformers' own count of each model's numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from saework.loading import needs
from saework.loading.catalogue import NOTEBOOKS, release_named
from saework.loading.needs import FULL, HOOK, MODELS, TEXT, need_of_load, need_of_notebook

# Published configs, by hand: what transformers makes the model of.
CONFIGS = {
    needs.GEMMA_2_2B: ("Gemma2Config", {"head_dim": 256, "intermediate_size": 9216}),
    needs.GEMMA_2B: (
        "GemmaConfig",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "intermediate_size": 16384,
        },
    ),
    needs.GEMMA_3_270M: (
        "Gemma3TextConfig",
        {
            "vocab_size": 262144,
            "hidden_size": 640,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "intermediate_size": 2048,
        },
    ),
    needs.GPT2: ("GPT2Config", {}),
    needs.LLAMA_1B: (
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_numbers_are_those_that_transformers_counts(name):
    import transformers

    config_class, settings = CONFIGS[name]
    config = getattr(transformers, config_class)(**settings)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    size = MODELS[name]
    sizes = {key: value.numel() for key, value in model.named_parameters()}
    assert size.n_values() == sum(sizes.values())
    assert size.n_blocks == config.num_hidden_layers
    in_block = sum(n for key, n in sizes.items() if ".layers.1." in key or ".h.1." in key)
    assert size.block == in_block
    embedding = sum(
        n for key, n in sizes.items() if "embed" in key or ".wte" in key or "wpe" in key
    )
    assert size.embedding == embedding
    assert size.n_values(1) == embedding + in_block
    assert size.n_values(10**6) == size.n_values() - size.behind


def test_gelu_1l_is_as_large_as_its_published_file():
    from saework.loading.models import NEEL_CONFIG_KEYS, neel_shapes

    values = (512, 1, 2048, 64, 8, 1024, 48262, "gelu", False)
    shapes = neel_shapes(dict(zip(NEEL_CONFIG_KEYS, values)))
    assert MODELS[needs.GELU_1L].n_values() == sum(map(math.prod, shapes.values()))


def test_what_a_load_needs():
    """By hand: gemma-2-2b has 2,614,341,888 numbers, and the SAE 2 * 2304 * 16384."""
    release = release_named("gemma-scope-2b-pt-res")
    need = need_of_load(release, None)
    assert need.memory_gb(4) == pytest.approx(1.0 + 4 * (2.614341888 + 0.075497472))
    assert need.memory_gb(2) == pytest.approx(1.0 + 2 * (2.614341888 + 0.075497472))
    assert need.download_mb == pytest.approx(10457.4, abs=0.1)
    blocks = need_of_load(release, None, TEXT)
    assert blocks.model_values == 77_865_984, "one block"
    assert blocks.download_mb == pytest.approx(311.5, abs=0.1)
    part = need_of_load(release, None, HOOK)
    assert part.depth == HOOK and part.download_mb == pytest.approx(2670.8, abs=0.1)
    assert need_of_load(release, "layer_12/width_16k/average_l0_82", HOOK).model_values == (
        589_824_000 + 13 * 77_865_984
    )


def test_what_is_not_known_beforehand():
    registered = release_named("gpt2-small-mlp-tm")
    assert math.isnan(need_of_load(registered, None).memory_gb(4))  # its SAEs' widths
    unknown = release_named("pythia-70m-deduped-mlp-sm")
    assert math.isnan(need_of_load(unknown, None).download_mb)
    here = need_of_load(release_named("gemma-scope-2b-pt-res"), "a/path")
    assert here.memory_gb(4) == pytest.approx(1.0 + 4 * 2.614341888)  # the SAE is not counted
    depth = need_of_load(release_named("gemma-scope-2b-pt-res"), "a/path", HOOK)
    assert math.isnan(depth.memory_gb(4))


def test_the_notebooks_that_need_least_and_most():
    release = release_named("gemma-scope-2b-pt-res")
    validation, frontier = [need_of_notebook(release, name) for name in release.notebooks]
    assert (validation.depth, frontier.depth) == (HOOK, FULL)
    assert validation.memory_gb(4) < 4.0 and validation.download_mb < 2_700
    assert frontier.memory_gb(4) == needs.memory_gb(release)
    assert frontier.memory_gb(2) < 12.7  # a free Colab


def test_the_table_names_releases_and_notebooks_that_exist():
    for name, notebooks in needs.WORK.items():
        assert set(notebooks) <= set(NOTEBOOKS[name])


def test_a_mini_needs_no_download():
    mini = release_named("gemma-mini")
    need = need_of_load(mini, None)
    assert need.download_mb == 0 and 1.0 <= need.memory_gb(4) < 1.1
    assert needs.memory_gb(mini) == need.memory_gb(4)


def full_release(card: str) -> str:
    """The first release of the column "full" of a notebook's card."""
    (row,) = re.findall(r"^\| release \|.*\|(.*)\|$", card, flags=re.M)
    return re.findall(r"`([^`]+)`", row)[0]


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05", "06", "07", "08"])
def test_a_notebooks_card_has_the_memory_of_the_table(number):
    (path,) = (Path(__file__).parents[2] / "notebooks").glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    (card,) = [cell.source for cell in cells if "| offline sibling | full |" in cell.source]
    (memory,) = re.findall(r"^\| memory \|.*\|(.*)\|$", card, flags=re.M)
    said = float(re.search(r"([\d.]+) GB", memory)[1])
    need = need_of_notebook(release_named(full_release(card)), path.stem).memory_gb(4)
    assert said == pytest.approx(need, rel=0.05)
