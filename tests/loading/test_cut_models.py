"""A model's first blocks alone, against the whole model, for each kind that can be cut."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from local_hub import TOKENIZER, hf_config, write_hf_model
from safetensors.torch import load_file, save_file

from saework.core.errors import HookError, NotAvailableError, WeightsError
from saework.engine import forward
from saework.loading.cut_models import BEHIND_BLOCKS, blocks_needed, first_blocks
from saework.loading.models import huggingface_model
from saework.loading.tokenizer_files import read_tokenizer

TOKENS = torch.randint(0, 100, (2, 40), generator=torch.Generator().manual_seed(0))
N_BLOCKS = 3
SMALL = {"vocab_size": 100, "tie_word_embeddings": False}
ARCHITECTURES = {model_type: model_type.removesuffix("_text") for model_type in BEHIND_BLOCKS}


def config_of(model_type: str, **changes):
    """Three blocks; where blocks differ in kind (sliding attention), the second is another one."""
    from transformers import GPTNeoXConfig, MistralConfig

    widths = {
        "hidden_size": 32,
        "num_hidden_layers": N_BLOCKS,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    if model_type == "gpt_neox":
        return GPTNeoXConfig(**widths | SMALL | changes)
    if model_type == "mistral":
        return MistralConfig(**widths | {"num_key_value_heads": 1} | SMALL | changes)
    if model_type in ("gemma2", "gemma3_text"):
        changes = {"sliding_window": 8} | changes
        changes |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    if model_type == "gpt2":
        changes = {"scale_attn_by_inverse_layer_idx": True} | changes
    architecture = ARCHITECTURES[model_type]
    return hf_config(architecture, n_layers=N_BLOCKS, **SMALL | changes)


@pytest.fixture(scope="module")
def whole_models(tmp_path_factory):
    """Each kind's folder and all that the whole model's hooks give, made when first asked for."""
    made = {}

    def of(model_type: str):
        if model_type not in made:
            folder = tmp_path_factory.mktemp(model_type)
            write_hf_model(folder, config_of(model_type))
            _, cache = huggingface_model(folder, read_tokenizer(TOKENIZER)).run_with_cache(TOKENS)
            made[model_type] = folder, dict(cache)
        return made[model_type]

    return of


@pytest.mark.parametrize("model_type", BEHIND_BLOCKS)
def test_each_kind_gives_the_same_activations_alone(whole_models, model_type):
    folder, expected = whole_models(model_type)
    tokenizer = read_tokenizer(TOKENIZER)
    for n_blocks in range(1, N_BLOCKS + 1):
        blocks = first_blocks(folder, n_blocks)
        model = huggingface_model(folder, tokenizer, blocks=blocks)
        seen = {}

        def keep(value, hook, seen=seen):
            seen[hook.name] = value

        with pytest.raises(HookError, match=f"{n_blocks} of its 3 blocks"):
            model.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: True, keep)])
        assert f"blocks.{n_blocks - 1}.hook_out" in seen
        assert f"blocks.{n_blocks}.hook_out" not in seen
        assert not [name for name in seen if name.startswith(("ln_final", "unembed"))]
        # It fires for each kind of attention, in the order of a set, which differs by process.
        seen = {name: value for name, value in seen.items() if not name.startswith("rotary_emb")}
        differing = [
            name
            for name, value in seen.items()
            if isinstance(value, torch.Tensor) and not torch.equal(value, expected[name])
        ]
        assert differing == []


@pytest.mark.parametrize("model_type", BEHIND_BLOCKS)
def test_the_tensors_are_those_of_the_file(whole_models, model_type):
    """Names and shapes come from the config alone; the file says the same."""
    folder, _ = whole_models(model_type)
    stored = load_file(folder / "model.safetensors")
    blocks = first_blocks(folder, 2)
    published = blocks.published_names(stored)
    assert {name: tuple(stored[published[name]].shape) for name in published} == blocks.shapes
    assert blocks.n_values == sum(stored[name].numel() for name in published.values())
    left = {name for name in stored if name not in published.values()}
    assert any(name.startswith(BEHIND_BLOCKS[model_type][0]) for name in left)


@pytest.mark.parametrize(
    ("reads", "writes", "n_blocks"),
    [
        ("blocks.0.hook_resid_post", None, 1),
        ("blocks.9.hook_resid_pre", None, 10),
        ("blocks.3.attn.hook_z", None, 4),
        ("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out", 3),
        ("blocks.2.hook_mlp_in", "blocks.11.hook_mlp_out", 12),
        ("hook_embed", None, 1),
        ("embed.hook_out", None, 1),
    ],
)
def test_blocks_that_an_sae_needs(reads, writes, n_blocks):
    metadata = SimpleNamespace(hook_name=reads, hook_name_out=writes)
    sae = SimpleNamespace(cfg=SimpleNamespace(metadata=metadata))
    assert blocks_needed(sae) == n_blocks


@pytest.mark.parametrize("hook", ["ln_final.hook_normalized", "unembed.hook_in"])
def test_an_sae_behind_the_last_block(hook):
    sae = SimpleNamespace(cfg=SimpleNamespace(metadata=SimpleNamespace(hook_name=hook)))
    with pytest.raises(HookError, match=f'{hook} is in no block .* depth="full"'):
        blocks_needed(sae)


def test_a_model_with_fewer_blocks(whole_models):
    folder, _ = whole_models("gemma")
    with pytest.raises(HookError, match="needs block 3, and the model has 3 blocks, from 0"):
        first_blocks(folder, 4)


def test_a_kind_that_is_not_known(tmp_path):
    from transformers import GPTNeoConfig

    GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]]).save_pretrained(tmp_path)
    with pytest.raises(NotAvailableError, match="'gpt_neo' cannot .* depth=\"full\".*takes gemma,"):
        first_blocks(tmp_path, 1)


def test_blocks_that_depend_on_their_number(whole_models, monkeypatch):
    """A setting that is another one in the smaller model would give other activations."""
    from transformers.models.gemma import modeling_gemma

    folder, _ = whole_models("gemma")
    plain = modeling_gemma.GemmaDecoderLayer.__init__

    def scaled(self, config, layer_idx):
        plain(self, config, layer_idx)
        self.residual_scale = config.num_hidden_layers**-0.5

    monkeypatch.setattr(modeling_gemma.GemmaDecoderLayer, "__init__", scaled)
    with pytest.raises(NotAvailableError, match="model.layers.0's residual_scale is 1.0 without"):
        first_blocks(folder, 1)


@pytest.mark.parametrize("content", ["{", '{"model_type": "gemma", "hidden_size": "wide"}'])
def test_a_damaged_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="config.json"):
        first_blocks(tmp_path, 1)


def test_code_of_the_repository_is_refused(tmp_path):
    config = {"model_type": "gemma", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="Python code of its own"):
        first_blocks(tmp_path, 1)


def test_published_names(whole_models):
    """GPT-2's file lacks the base model's prefix, and holds masks, which are no weights."""
    folder, _ = whole_models("gpt2")
    blocks = first_blocks(folder, 1)
    bare = [name.removeprefix("transformer.") for name in blocks.shapes]
    found = blocks.published_names([*bare, "h.0.attn.bias", "h.1.ln_1.weight", "ln_f.weight"])
    assert found == dict(zip(blocks.shapes, bare))
    with pytest.raises(WeightsError, match=r"lack 1 tensors .* \(transformer.wpe.weight, for"):
        blocks.published_names([name for name in bare if name != "wpe.weight"])
    with pytest.raises(WeightsError, match="hold transformer.wte.weight twice, as wte.weight and"):
        blocks.published_names([*bare, "transformer.wte.weight"])


def test_a_model_that_also_reads_images(tmp_path):
    """Only its text part's first blocks are taken, under the text model's names."""
    from transformers import Gemma3Config

    text = config_of("gemma3_text", tie_word_embeddings=True)
    write_hf_model(tmp_path / "text", text)
    stored = load_file(tmp_path / "text" / "model.safetensors")
    both = {f"language_model.{name}": value for name, value in stored.items()}
    both["vision_tower.vision_model.encoder.layers.0.layer_norm1.weight"] = torch.ones(8)
    (tmp_path / "both").mkdir()
    save_file(both, tmp_path / "both" / "model.safetensors", metadata={"format": "pt"})
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision)
    config.architectures = ["Gemma3ForConditionalGeneration"]
    config.save_pretrained(tmp_path / "both")

    blocks = first_blocks(tmp_path / "both", 2)
    assert blocks.n_blocks_of_whole == N_BLOCKS
    published = blocks.published_names(both)
    assert published["model.layers.1.mlp.up_proj.weight"].startswith("language_model.model.")
    tokenizer = read_tokenizer(TOKENIZER)
    part = huggingface_model(tmp_path / "both", tokenizer, blocks=blocks)
    whole = huggingface_model(tmp_path / "text", tokenizer)
    hook = "blocks.1.hook_out"
    _, expected = whole.run_with_cache(TOKENS, names_filter=hook)
    assert torch.equal(forward.activations(part, TOKENS, hook), expected[hook])
