"""Models against plain tensors and transformers, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import weights_error
from local_hub import (
    LLAMA_TEMPLATE,
    SMALL,
    hf_config,
    model_config,
    model_shapes,
    write_byte_level_tokenizer,
    write_hf_model,
    write_hf_tokenizer,
    write_model,
    write_sae,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from saework.core.errors import NotAvailableError
from saework.core.files import read_json
from saework.engine import forward
from saework.engine.masks import with_and_without_bos
from saework.loading import models
from saework.loading.model_layouts import HUGGINGFACE
from saework.loading.tokenizer_files import read_tokenizer

HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture
def files(tmp_path):
    """A model of Neel Nanda's layout on disk, and the tensors that were written."""
    return SimpleNamespace(
        folder=tmp_path,
        model=write_model(tmp_path),
        config=tmp_path / "config.json",
        weights=tmp_path / "model_final.pth",
    )


def load_model(files, tokenizer=None):
    return models.neel_model(files.config, files.weights, tokenizer)


def plain_model(w: dict, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A one-layer transformer in float64: MLP activations and log-probabilities."""
    w = {name: value.double() for name, value in w.items()}
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.w"], w[f"{name}.b"], eps=1e-5)  # noqa: E731
    n = tokens.shape[1]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:n]
    h = norm(x, "blocks.0.ln1")
    q, k, v = (
        torch.einsum("bpd,hdk->bhpk", h, w[f"blocks.0.attn.W_{c}"])
        + w[f"blocks.0.attn.b_{c}"][:, None]
        for c in "QKV"
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
    x = (
        x
        + torch.einsum("bhpk,hkd->bpd", scores.softmax(-1) @ v, w["blocks.0.attn.W_O"])
        + w["blocks.0.attn.b_O"]
    )
    mlp = F.gelu(norm(x, "blocks.0.ln2") @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"])
    x = norm(x + mlp @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"], "ln_final")
    return mlp, (x @ w["unembed.W_U"] + w["unembed.b_U"]).log_softmax(-1)


# ---- Neel Nanda's layout ----


def test_model_agrees_with_plain_tensors(files):
    tokens = torch.randint(3, SMALL.d_vocab, (3, 17), generator=torch.Generator().manual_seed(2))
    mlp, log_probs = plain_model(files.model, tokens)
    model = load_model(files)
    logits, cache = model.run_with_cache(tokens)
    assert torch.allclose(cache[HOOK].double(), mlp, atol=1e-5)
    assert torch.allclose(logits.double().log_softmax(-1), log_probs, atol=1e-4)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_model_has_the_published_processing(files):
    """Final norm folded in, unembedding and writing weights centred: logits depend on it."""
    model = load_model(files)
    w = {name: value.double() for name, value in files.model.items()}
    w_out = w["blocks.0.mlp.W_out"] - w["blocks.0.mlp.W_out"].mean(-1, keepdim=True)
    w_u = w["ln_final.w"][:, None] * w["unembed.W_U"]
    w_u = w_u - w_u.mean(0, keepdim=True)  # folding the norm centres over d_model
    w_u = w_u - w_u.mean(-1, keepdim=True)
    assert model.cfg.normalization_type == "LNPre"
    assert torch.allclose(model.W_out[0].double(), w_out, atol=1e-5)
    assert torch.allclose(model.W_U.double(), w_u, atol=1e-5)


def test_float16_on_disk_is_used_in_float32(tmp_path):
    state = write_model(tmp_path, dtype=torch.float16)
    model = models.neel_model(tmp_path / "config.json", tmp_path / "model_final.pth", None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(
        model.W_pos,
        state["pos_embed.W_pos"].float() - state["pos_embed.W_pos"].float().mean(-1, keepdim=True),
    )


def test_buffers_of_older_files_are_let_pass(files):
    """The published file also carries the attention's mask, which is not a weight."""
    extra = {
        "blocks.0.attn.mask": torch.ones(4, 4).tril().bool(),
        "blocks.0.attn.IGNORE": torch.tensor(-1e5),
    }
    before = load_model(files).state_dict()
    torch.save(files.model | extra, files.weights)
    after = load_model(files).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---- what bad files get ----


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_file(files, keep):
    whole = files.weights.read_bytes()
    files.weights.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(load_model, files)
    assert (
        str(files.weights) in text
        and "truncated or damaged" in text
        and "download it again" in text
    )


@pytest.mark.parametrize("key", sorted(model_shapes(SMALL)))
def test_each_key_of_the_model_is_needed(files, key):
    torch.save({name: value for name, value in files.model.items() if name != key}, files.weights)
    text = weights_error(load_model, files)
    assert f"missing: ['{key}']" in text and "unknown: none" in text


def test_unknown_key_of_the_model(files):
    torch.save(files.model | {"blocks.1.ln1.w": torch.ones(SMALL.d_model)}, files.weights)
    text = weights_error(load_model, files)
    assert (
        str(files.weights) in text
        and "unknown: ['blocks.1.ln1.w']" in text
        and "missing: none" in text
    )


def test_each_shape_is_checked(files):
    for name, value in files.model.items():
        torch.save(files.model | {name: value[None]}, files.weights)
        text = weights_error(load_model, files)
        assert (
            f"{name} has shape (1, " in text
            and str(tuple(value.shape)) in text
            and "another model" in text
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(files, bad):
    broken = files.model["blocks.0.attn.b_V"].clone()
    broken.view(-1)[-1] = bad
    torch.save(files.model | {"blocks.0.attn.b_V": broken}, files.weights)
    with pytest.raises(ValueError) as caught:
        load_model(files)
    text = str(caught.value)
    assert (
        str(files.weights) in text
        and "blocks.0.attn.b_V" in text
        and "hold 1 NaN or infinite" in text
        and "load the weights again" in text
    )


def test_checkpoint_of_another_model(files):
    write_sae(files.folder, 25)
    shutil.copy(files.folder / "25.pt", files.weights)
    assert "belongs to another model" in weights_error(load_model, files)


@pytest.mark.parametrize(
    "key", sorted(set(model_config(SMALL)) - {"tokenizer_name", "shortformer_pos"})
)
def test_model_config_without_a_key(files, key):
    config = model_config(SMALL)
    del config[key]
    files.config.write_text(json.dumps(config))
    text = weights_error(load_model, files)
    assert key in text and "config.json" in text


@pytest.mark.parametrize("value", ["RMS", "BN", None])
def test_normalization_that_this_layout_does_not_have(files, value):
    files.config.write_text(json.dumps(model_config(SMALL) | {"normalization": value}))
    assert "normalization" in weights_error(load_model, files)


def test_a_word_in_place_of_true_or_false(files):
    files.config.write_text(json.dumps(model_config(SMALL) | {"shortformer_pos": "no"}))
    text = weights_error(load_model, files)
    assert "says shortformer_pos 'no'; it is true or false" in text


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"d_mlp": 3', b"<!doctype html>", b"\xff\xfe\x00"]
)
def test_config_that_is_not_json(files, content):
    files.config.write_bytes(content)
    text = weights_error(load_model, files)
    assert str(files.config) in text and "is not JSON" in text and "download it again" in text


def test_config_that_is_no_object(files):
    files.config.write_text("[1]")
    text = weights_error(load_model, files)
    assert str(files.config) in text and "a list, not an object" in text


# ---- Hugging Face's layout ----

FAMILY = {"gemma2": "gemma", "gemma": "gemma", "llama": "llama", "gpt2": "gpt2"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A folder of each architecture; Gemma 2's weights are in two files with their index."""
    root = tmp_path_factory.mktemp("hf")
    for architecture, family in FAMILY.items():
        write_hf_model(
            root / architecture,
            hf_config(architecture),
            shards=2 if architecture == "gemma2" else 1,
        )
        write_hf_tokenizer(
            root / architecture, family, template=LLAMA_TEMPLATE if family == "llama" else None
        )
    return lambda architecture: root / architecture


def read(folder, **keywords):
    return HUGGINGFACE.read(folder, read_tokenizer(folder), **keywords)


def some_tokens() -> torch.Tensor:
    tokens = torch.randint(3, 4096, (2, 9), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 1
    return tokens


@pytest.mark.parametrize("architecture", FAMILY)
@torch.no_grad()
def test_hooks_hold_what_transformers_computes(folder_of, architecture):
    """The output of layer i is ``hidden_states[i + 1]``, and the input of layer i + 1."""
    from transformers import AutoModelForCausalLM

    model, tokens = read(folder_of(architecture)), some_tokens()
    hf = AutoModelForCausalLM.from_pretrained(folder_of(architecture), attn_implementation="eager")
    found = hf(tokens, output_hidden_states=True)
    for hook, expected in (
        ("blocks.0.hook_resid_pre", found.hidden_states[0]),
        ("blocks.0.hook_resid_post", found.hidden_states[1]),
        ("blocks.1.hook_resid_pre", found.hidden_states[1]),
    ):
        x = forward.activations(model, tokens, hook)
        assert torch.allclose(x, expected, atol=1e-5) and x.std() > 0.05
        assert torch.equal(x, expected) or architecture != "gemma2"
    assert not torch.allclose(found.hidden_states[0], found.hidden_states[1], atol=0.1)
    assert torch.allclose(model(tokens), found.logits, atol=1e-5)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_a_centred_model(folder_of):
    """The mean over d_model is taken out, the loss stays.

    HookedTransformer does it by default, and older SAEs were trained on it.
    """
    plain, centred, tokens = (
        read(folder_of("gpt2")),
        read(folder_of("gpt2"), centred=True),
        some_tokens(),
    )
    for hook in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"):
        x = forward.activations(plain, tokens, hook)
        assert torch.allclose(
            forward.activations(centred, tokens, hook), x - x.mean(-1, keepdim=True), atol=1e-5
        )
        assert x.mean(-1).abs().max() > 0.01
    assert torch.allclose(
        forward.token_losses(centred, tokens), forward.token_losses(plain, tokens), atol=1e-5
    )


def test_dtypes(folder_of):
    assert {p.dtype for p in read(folder_of("llama"), dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }
    assert {p.dtype for p in read(folder_of("llama")).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "not enough memory to load this"),
        (OSError(12, "Cannot allocate memory"), "not enough memory to load this"),
        (RuntimeError("CUDA error: device lost"), "the GPU failed .*restart the session"),
    ],
)
def test_files_are_not_blamed_for_the_machine(folder_of, monkeypatch, error, words):
    from transformers import AutoModelForCausalLM

    def from_pretrained(folder, **options):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(NotAvailableError, match=words):
        read(folder_of("gemma2"))


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
@torch.no_grad()
def test_weights_go_to_a_gpu_shard_by_shard(folder_of, monkeypatch, architecture):
    """A GPU's ``device_map`` is asked for; here host memory stands in for it."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained
    asked, moved = [], []

    def from_pretrained(folder, *, device_map, **options):
        asked.append((device_map, options["dtype"]))
        return plain(folder, device_map={"": "cpu"}, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *to: moved.append(to) or module)
    device = torch.device("cuda:0")
    model = read(folder_of(architecture), dtype=torch.bfloat16, device=device)
    assert asked == [({"": device}, torch.bfloat16)]
    assert not [to for to in moved if device in to], "moved by itself, not whole afterwards"
    monkeypatch.undo()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    model.cfg.device = "cpu"
    expected = read(folder_of(architecture), dtype=torch.bfloat16)
    assert torch.equal(model(some_tokens()), expected(some_tokens()))


def test_another_device_gets_the_model_in_the_end(folder_of):
    model = read(folder_of("llama"), device=torch.device("meta"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


class LiveFloat32(TorchDispatchMode):
    """The most bytes of float32 that existed at one time, of what torch's functions handle."""

    def __init__(self):
        super().__init__()
        self.live, self.most = {}, 0

    def note(self, tensor):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
            return
        storage = tensor.untyped_storage()
        if storage.device.type != "cpu" or storage._cdata in self.live:
            return
        self.live[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.live.values()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        pytree.tree_map_(self.note, (args, result))
        return result


def test_a_bfloat16_load_never_holds_the_model_in_float32(folder_of, monkeypatch):
    """The files are float32; each tensor is converted on its way, alone."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # a mode sees its own thread only
    folder = folder_of("gemma2")
    with LiveFloat32() as counted:
        model = read(folder, dtype=torch.bfloat16)
    values = {p.data_ptr(): p.numel() for p in model.parameters()}
    largest, whole = max(values.values()), sum(values.values())
    assert 4 * largest <= counted.most < 4 * (largest + (whole - largest) / 4)
    with LiveFloat32() as counted:
        read(folder)
    assert counted.most >= 4 * whole


def test_nothing_is_printed(folder_of, capfd):
    """Neither bars nor tables: notebooks would record them."""
    read(folder_of("gemma2"))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def hf_files(folder_of, tmp_path):
    return shutil.copytree(folder_of("gemma2"), tmp_path / "gemma2")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_safetensors(hf_files, keep):
    path = hf_files / "model-00001-of-00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    text = weights_error(read, hf_files)
    assert str(hf_files) in text and "damaged" in text and "download them again" in text


def test_a_shard_that_is_missing(hf_files):
    (hf_files / "model-00002-of-00002.safetensors").unlink()
    assert "download them again" in weights_error(read, hf_files)


def test_weights_that_are_missing_are_not_made_up(hf_files):
    """transformers fills them with random numbers, with a warning at most."""
    from safetensors.torch import load_file, save_file

    path = hf_files / "model-00001-of-00002.safetensors"
    state = load_file(path)
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, path, metadata={"format": "pt"})
    text = weights_error(read, hf_files)
    assert (
        "lack 1 of the model's tensors" in text
        and "layers.0.mlp.up_proj" in text
        and "download them again" in text
    )


def test_weights_of_another_shape(hf_files):
    config = json.loads((hf_files / "config.json").read_text())
    (hf_files / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    text = weights_error(read, hf_files)
    assert (
        str(hf_files) in text
        and "has shape (32, 64), its config says (32, 48); it belongs to another model" in text
    )


def test_config_of_neel_in_place_of_hugging_faces(hf_files):
    (hf_files / "config.json").write_text(json.dumps(model_config(SMALL)))
    assert "names no model_type; it is not of Hugging Face's layout" in weights_error(
        read, hf_files
    )


# ---- models that read images too, code of a repository, and tokenizers without a BOS ----


@pytest.fixture
def gemma3_folder(tmp_path):
    """A Gemma 3 that also reads images, with random weights and keys as published."""
    import transformers

    text = hf_config("gemma2").to_dict()
    same = ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "head_dim")
    same += ("num_attention_heads", "num_key_value_heads", "bos_token_id", "eos_token_id")
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config={key: text[key] for key in same} | {"sliding_window": 16},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=4000,
    )
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    write_hf_tokenizer(tmp_path, "gemma")
    return tmp_path


@pytest.fixture
def programs(monkeypatch):
    """The programs that were asked for; none of them starts."""
    asked = []

    def start(self, args, *more, **options):
        asked.append(args)
        raise PermissionError("a test starts no program")

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    return asked


def installed() -> set[str]:
    return {f"{found.name} {found.version}" for found in metadata.distributions()}


@torch.no_grad()
def test_the_text_part_of_a_model_that_reads_images(gemma3_folder, programs):
    """The logits of the whole model, no program started, and nothing installed."""
    from transformers import Gemma3ForConditionalGeneration

    tokens = torch.randint(3, 3900, (2, 40), generator=torch.Generator().manual_seed(3))
    whole = Gemma3ForConditionalGeneration.from_pretrained(
        gemma3_folder, attn_implementation="eager"
    )
    packages = installed()
    model = read(gemma3_folder)
    assert programs == [] and installed() == packages
    assert torch.equal(model(tokens), whole(tokens).logits)
    assert not any("vision" in name for name, _ in model.named_parameters())
    states = whole(tokens, output_hidden_states=True).hidden_states
    x = forward.activations(model, tokens, "blocks.0.hook_resid_post")
    assert torch.equal(x, states[1]) and x.std() > 0.05


def test_weights_of_the_text_part_that_are_missing(gemma3_folder):
    from safetensors.torch import load_file, save_file

    path = gemma3_folder / "model.safetensors"
    state = load_file(path)
    (name,) = [key for key in state if key.endswith("layers.1.mlp.up_proj.weight")]
    del state[name]
    save_file(state, path, metadata={"format": "pt"})
    assert "lack 1 of the model's tensors" in weights_error(read, gemma3_folder)


def test_no_model_starts_a_program(gemma3_folder, programs, monkeypatch):
    """TransformerLens would install torchvision for a model that it takes for multimodal."""
    monkeypatch.setattr(models, "TEXT_PARTS", {})
    monkeypatch.setitem(sys.modules, "torchvision", None)
    model = read(gemma3_folder)
    assert model.cfg.is_multimodal
    assert programs == []  # refused before it came to the test's own guard


@pytest.mark.parametrize("model_type", ["llama", "no such type"])
def test_python_code_of_a_repository_is_refused(folder_of, tmp_path, monkeypatch, model_type):
    """No question is asked, and nothing of it runs."""
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked"))
    folder = shutil.copytree(folder_of("llama"), tmp_path / "llama")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    config["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(config))
    text = weights_error(models.huggingface_model, folder, None)
    assert "auto_map" in text and "never runs such code" in text and "Workbook" in text
    assert not ran.exists()


@torch.no_grad()
def test_a_model_whose_tokenizer_has_no_bos(tmp_path):
    """Text gets nothing in front; without BOS, the first position is left out."""
    end_id = write_byte_level_tokenizer(tmp_path, "qwen2")
    ids = {"vocab_size": end_id + 1, "bos_token_id": end_id, "eos_token_id": end_id}
    write_hf_model(tmp_path, hf_config("qwen2", pad_token_id=end_id, **ids))
    tokenizer = read_tokenizer(tmp_path)
    model = HUGGINGFACE.read(tmp_path, tokenizer)
    assert tokenizer.bos_token_id is None and model.tokenizer.bos_token_id is None
    expected = tokenizer("import os", add_special_tokens=False)["input_ids"]
    assert forward.as_tokens(model, "import os").tolist() == [expected]
    rows = torch.tensor([[end_id, *expected]])
    _, without_bos = with_and_without_bos(model, rows, None)
    assert without_bos.tolist() == [[False, *[True] * len(expected)]]


@pytest.fixture
def transformer_lens_4(monkeypatch):
    """Its version, and what version 3 lacks; says what the bridge was given."""
    given = SimpleNamespace(calls=[])

    class Bridge(torch.nn.Module):
        def load_state_dict(self, state, strict):
            given.state, given.strict = state, strict

        def enable_compatibility_mode(self):
            given.calls.append("compatibility")

    def boot(cfg, **options):
        given.cfg, given.options = cfg, options
        return Bridge()

    name = "transformer_lens.utilities.tl_checkpoint_conversion"
    convert = SimpleNamespace(convert_tl_checkpoint=lambda state, cfg: {"converted": state})
    monkeypatch.setitem(sys.modules, name, convert)
    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge.boot_native", boot)
    monkeypatch.setattr(models, "version", lambda package: "4.3.0")
    return given


def test_transformer_lens_4_has_a_bridge_for_the_layout(files, transformer_lens_4):
    given = transformer_lens_4
    model = load_model(files)
    assert isinstance(model, torch.nn.Module) and not model.training
    assert given.strict and given.calls == ["compatibility"]
    config = read_json(files.config)
    assert set(given.state["converted"]) == set(models.neel_shapes(config))
    for key in models.NEEL_CONFIG_KEYS:
        assert getattr(given.cfg, key) == config[key]
    assert given.cfg.normalization_type == "LN"
    assert given.cfg.architecture == "TransformerLensNative"


def test_transformer_lens_4_lacks_shortformer(files, transformer_lens_4):
    config = read_json(files.config) | {"shortformer_pos": True}
    files.config.write_text(json.dumps(config))
    words = "shortformer_pos, which TransformerLens 4 does not have; run: pip install"
    assert words in weights_error(load_model, files)


@pytest.mark.parametrize(("installed", "has"), [("3.9.0", True), ("4.3.0", False), ("10.0", False)])
def test_hooked_transformer_went_with_version_4(installed, has, monkeypatch):
    monkeypatch.setattr(models, "version", lambda package: installed)
    assert models.has_hooked_transformer() is has
