"""Published layouts against plain tensors, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from local_hub import SMALL, TOKENIZER, model_config, model_shapes, sae_config, write_model, write_sae

from saework import formats
from saework._checks import WeightsError

HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture
def files(tmp_path):
    """A model and an SAE on disk, and the tensors that were written."""
    model, sae = write_model(tmp_path), write_sae(tmp_path, 25)
    return SimpleNamespace(
        folder=tmp_path,
        config=tmp_path / "config.json",
        weights=tmp_path / "model_final.pth",
        sae_config=tmp_path / "25_cfg.json",
        sae_weights=tmp_path / "25.pt",
        model=model,
        sae=sae,
    )


def load_model(files, tokenizer=None):
    return formats.neel_model(files.config, files.weights, tokenizer)


def load_sae(files):
    return formats.neel_sae(files.sae_config, files.sae_weights, hook=HOOK)


# ---- references, in plain tensors ----


def published_forward(w: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``AutoEncoder.forward`` of the gelu-1l notebook: reconstruction and activations."""
    x_cent = x - w["b_dec"]
    acts = F.relu(x_cent @ w["W_enc"] + w["b_enc"])
    return acts @ w["W_dec"] + w["b_dec"], acts


def plain_model(w: dict, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A one-layer transformer in float64: MLP activations and log-probabilities."""
    w = {name: value.double() for name, value in w.items()}
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.w"], w[f"{name}.b"], eps=1e-5)  # noqa: E731
    n = tokens.shape[1]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:n]
    h = norm(x, "blocks.0.ln1")
    q, k, v = (torch.einsum("bpd,hdk->bhpk", h, w[f"blocks.0.attn.W_{c}"]) + w[f"blocks.0.attn.b_{c}"][:, None] for c in "QKV")
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
    x = x + torch.einsum("bhpk,hkd->bpd", scores.softmax(-1) @ v, w["blocks.0.attn.W_O"]) + w["blocks.0.attn.b_O"]
    mlp = F.gelu(norm(x, "blocks.0.ln2") @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"])
    x = norm(x + mlp @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"], "ln_final")
    return mlp, (x @ w["unembed.W_U"] + w["unembed.b_U"]).log_softmax(-1)


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


def test_model_agrees_with_plain_tensors(files):
    tokens = torch.randint(3, SMALL.d_vocab, (3, 17), generator=torch.Generator().manual_seed(2))
    mlp, log_probs = plain_model(files.model, tokens)
    model = load_model(files)
    logits, cache = model.run_with_cache(tokens)
    assert torch.allclose(cache[HOOK].double(), mlp, atol=1e-5)
    assert torch.allclose(logits.double().log_softmax(-1), log_probs, atol=1e-4)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_model_has_the_published_processing(files):
    """Final norm folded in, unembedding and writing weights centred: the logit table depends on it."""
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
    model, sae = write_model(tmp_path, dtype=torch.float16), write_sae(tmp_path, 25, dtype=torch.float16)
    files = SimpleNamespace(
        config=tmp_path / "config.json",
        weights=tmp_path / "model_final.pth",
        sae_config=tmp_path / "25_cfg.json",
        sae_weights=tmp_path / "25.pt",
    )
    loaded_model, loaded_sae = load_model(files), load_sae(files)
    assert {p.dtype for p in [*loaded_model.parameters(), *loaded_sae.parameters()]} == {torch.float32}
    assert torch.equal(loaded_sae.W_enc, sae["W_enc"].float())
    assert torch.equal(loaded_model.W_pos, (model["pos_embed.W_pos"].float() - model["pos_embed.W_pos"].float().mean(-1, keepdim=True)))


def test_buffers_of_older_files_are_let_pass(files):
    """The published file also carries the attention's mask, which is not a weight."""
    extra = {"blocks.0.attn.mask": torch.ones(4, 4).tril().bool(), "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
    before = load_model(files).state_dict()
    torch.save(files.model | extra, files.weights)
    after = load_model(files).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tokenizer():
    tokenizer = formats.tokenizer(TOKENIZER)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|BOS|>", "<|EOS|>", "<|PAD|>")
    assert tokenizer.bos_token_id == 1
    text = "def f(x):\n\treturn  x ."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text  # nothing cleaned up


def test_read_tensors_and_read_json(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "a.pt")
    assert torch.equal(formats.read_tensors(tmp_path / "a.pt")["a"], torch.arange(3))
    (tmp_path / "a.json").write_text('{"é": 1}', encoding="utf-8")
    assert formats.read_json(tmp_path / "a.json") == {"é": 1}


def test_files_of_old_torch_are_read(files):
    torch.save(files.sae, files.sae_weights, _use_new_zipfile_serialization=False)
    assert torch.equal(load_sae(files).W_dec, files.sae["W_dec"])


# ---- what bad files get ----


def message(call, *arguments) -> str:
    with pytest.raises(WeightsError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_file(files, keep):
    for path, call in ((files.weights, load_model), (files.sae_weights, load_sae)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
        text = message(call, files)
        assert str(path) in text and "truncated or damaged" in text and "download it again" in text


def test_page_saved_in_place_of_weights(files):
    files.sae_weights.write_bytes(b"<!doctype html><title>502 Bad Gateway</title>")
    text = message(load_sae, files)
    assert str(files.sae_weights) in text and "damaged" in text and "download it again" in text


def test_file_that_is_not_there(files):
    files.sae_weights.unlink()
    assert str(files.sae_weights) in message(load_sae, files)


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
    text = message(load_sae, files)
    assert not witness.exists()
    assert str(files.sae_weights) in text and "more than tensors" in text and "published repository" in text
    torch.load(files.sae_weights, weights_only=False) if not legacy else pickle.loads(files.sae_weights.read_bytes())
    assert witness.exists()  # the trap was a real one


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {"W_enc": 3.0}, {"state": {"W_enc": torch.ones(2)}}])
def test_tensors_without_names(tmp_path, content):
    torch.save(content, tmp_path / "25.pt")
    text = message(formats.read_tensors, tmp_path / "25.pt")
    assert str(tmp_path / "25.pt") in text and "named tensors" in text


@pytest.mark.parametrize("key", ["b_enc", "W_dec"])
def test_sae_keys(files, key):
    torch.save({name: value for name, value in files.sae.items() if name != key} | {"threshold": torch.ones(2)}, files.sae_weights)
    text = message(load_sae, files)
    assert str(files.sae_weights) in text and f"missing: ['{key}']" in text and "unknown: ['threshold']" in text
    assert "another model" in text


@pytest.mark.parametrize("key", sorted(model_shapes(SMALL)))
def test_each_key_of_the_model_is_needed(files, key):
    torch.save({name: value for name, value in files.model.items() if name != key}, files.weights)
    text = message(load_model, files)
    assert f"missing: ['{key}']" in text and "unknown: none" in text


def test_unknown_key_of_the_model(files):
    torch.save(files.model | {"blocks.1.ln1.w": torch.ones(SMALL.d_model)}, files.weights)
    text = message(load_model, files)
    assert str(files.weights) in text and "unknown: ['blocks.1.ln1.w']" in text and "missing: none" in text


def test_each_shape_is_checked(files):
    for name, value in files.sae.items():
        torch.save(files.sae | {name: value[:-1]}, files.sae_weights)
        text = message(load_sae, files)
        assert f"{name} has shape {tuple(value[:-1].shape)}" in text and str(tuple(value.shape)) in text
    for name, value in files.model.items():
        torch.save(files.model | {name: value[None]}, files.weights)
        text = message(load_model, files)
        assert f"{name} has shape (1, " in text and str(tuple(value.shape)) in text and "another model" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(files, bad):
    for call, state, name, path in (
        (load_sae, files.sae, "b_enc", files.sae_weights),
        (load_model, files.model, "blocks.0.attn.b_V", files.weights),
    ):
        broken = state[name].clone()
        broken.view(-1)[-1] = bad
        torch.save(state | {name: broken}, path)
        with pytest.raises(ValueError) as caught:
            call(files)
        text = str(caught.value)
        assert str(path) in text and name in text and "hold 1 NaN or infinite" in text and "load the weights again" in text


def test_checkpoint_of_another_model(files, tmp_path):
    shutil.copy(files.sae_weights, files.weights)
    assert "belongs to another model" in message(load_model, files)
    other = SMALL.__class__(d_mlp=64)
    write_sae(tmp_path / "other", 25, other)
    shutil.copy(tmp_path / "other" / "25.pt", files.sae_weights)
    text = message(load_sae, files)
    assert "W_enc has shape (64, 512), its config says (32, 256)" in text and "belongs to another model" in text


@pytest.mark.parametrize("key", sorted(set(model_config(SMALL)) - {"tokenizer_name", "shortformer_pos"}))
def test_model_config_without_a_key(files, key):
    config = model_config(SMALL)
    del config[key]
    files.config.write_text(json.dumps(config))
    text = message(load_model, files)
    assert key in text and "config.json" in text


@pytest.mark.parametrize("value", ["RMS", "BN", None])
def test_normalization_that_this_layout_does_not_have(files, value):
    files.config.write_text(json.dumps(model_config(SMALL) | {"normalization": value}))
    assert "normalization" in message(load_model, files)


@pytest.mark.parametrize("key", ["d_mlp", "dict_mult"])
def test_sae_config_without_a_key(files, key):
    config = sae_config(SMALL, 52)
    del config[key]
    files.sae_config.write_text(json.dumps(config))
    text = message(load_sae, files)
    assert str(files.sae_config) in text and f"lacks {key}" in text and "NeelNanda/sparse_autoencoder" in text


@pytest.mark.parametrize("content", [b"", b"{", b'{"d_mlp": 3', b"<!doctype html>", b"\xff\xfe\x00"])
def test_config_that_is_not_json(files, content):
    for path, call in ((files.config, load_model), (files.sae_config, load_sae)):
        path.write_bytes(content)
        text = message(call, files)
        assert str(path) in text and "is not JSON" in text and "download it again" in text


def test_config_that_is_no_object(files):
    files.config.write_text("[1]")
    text = message(load_model, files)
    assert str(files.config) in text and "a list, not an object" in text


@pytest.fixture
def tokenizer_folder(tmp_path):
    return shutil.copytree(TOKENIZER, tmp_path / "tokenizer")


@pytest.mark.parametrize("kept", ["eos_token", "bos_token"])
def test_tokenizer_without_special_tokens(tokenizer_folder, kept):
    (tokenizer_folder / "special_tokens_map.json").write_text(json.dumps({kept: "<|EOS|>"}))
    text = message(formats.tokenizer, tokenizer_folder)
    assert str(tokenizer_folder) in text and "no BOS or EOS" in text and "special_tokens_map.json" in text


@pytest.mark.parametrize("file", ["tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "<html>", "[]"])
def test_damaged_tokenizer(tokenizer_folder, file, content):
    (tokenizer_folder / file).write_text(content)
    text = message(formats.tokenizer, tokenizer_folder)
    assert str(tokenizer_folder) in text and "download it again" in text
