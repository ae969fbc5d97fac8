"""Model layouts: what is written is read again as the same function."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from local_hub import SMALL, TOKENIZER, model_config, write_hf_tokenizer, write_model

from saework.loading import models
from saework.loading.model_layouts import HUGGINGFACE, NEEL
from saework.loading.tokenizer_files import read_tokenizer


def some_tokens() -> torch.Tensor:
    tokens = torch.randint(3, 4096, (2, 9), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 1
    return tokens


def test_the_files_of_each_layout():
    assert (NEEL.name, NEEL.files) == ("neel", ("config.json", "model_final.pth"))
    assert (HUGGINGFACE.name, HUGGINGFACE.files) == (
        "huggingface",
        ("config.json", "*.safetensors"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_unprocessed_model_of_neels_layout(tmp_path, dtype):
    """Its weights are stored as they are."""
    config = model_config(SMALL)
    model = models.neel_model_shell(config, processed=False)
    state = {name: value.to(dtype) for name, value in write_model(tmp_path / "first").items()}
    model.load_state_dict(state, strict=False)
    record = {"tokenizer_name": config["tokenizer_name"]}
    NEEL.write(model, tmp_path / "again", dtype=dtype, record=record)
    stored = torch.load(tmp_path / "again" / "model_final.pth", weights_only=True)
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], value) for name, value in state.items())
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


@torch.no_grad()
def test_a_processed_model_of_neels_layout(tmp_path):
    """Its norms are folded away, so that other weights are stored; the function is the same."""
    write_model(tmp_path / "first")
    tokenizer = read_tokenizer(TOKENIZER)
    model = NEEL.read(tmp_path / "first", tokenizer)
    NEEL.write(model, tmp_path / "again")
    again = NEEL.read(tmp_path / "again", tokenizer, dtype=torch.float32)
    tokens = some_tokens()
    assert torch.allclose(again(tokens), model(tokens), atol=1e-4)
    assert not again.training and not any(p.requires_grad for p in again.parameters())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_of_transformers(gpt2, tmp_path, dtype):
    hf = copy.deepcopy(gpt2).eval()
    HUGGINGFACE.write(hf, tmp_path, dtype=dtype)
    assert {p.dtype for p in hf.parameters()} == {dtype}
    write_hf_tokenizer(tmp_path, "gpt2")
    model = HUGGINGFACE.read(tmp_path, read_tokenizer(tmp_path))
    tokens = some_tokens()
    assert torch.allclose(model(tokens), hf.float()(tokens).logits, atol=1e-4)
