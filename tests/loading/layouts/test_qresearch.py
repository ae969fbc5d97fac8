"""qresearch's SAE layout against plain tensors and sae_lens, and what bad files get."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import random_sae, weights_error
from local_hub import QRESEARCH_FILE, write_qresearch
from sae_files import as_sae, assert_close, assert_same_sae, inputs, rounded, sae_lens_loaders

from saework.loading.layouts.qresearch import QRESEARCH

RESID = "blocks.9.hook_resid_pre"


def read(path):
    return QRESEARCH.read([path], hook=RESID)


def test_qresearch_at_its_real_shape(tmp_path, monkeypatch):
    w = write_qresearch(tmp_path, d_in=2048, d_sae=32768)
    sae, x = (
        QRESEARCH.read([tmp_path / QRESEARCH_FILE], hook=RESID),
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
        *sae_lens_loaders(monkeypatch, tmp_path).deepseek_r1_sae_huggingface_loader(
            "x", QRESEARCH_FILE, cfg_overrides=overrides
        )[:2]
    )
    assert_close(own.encode(x), features)
    assert_close(own.decode(features), sae.decode(features))


def test_qresearch_files_of_another_kind(tmp_path):
    w = write_qresearch(tmp_path, "a-l9.pt", d_in=8, d_sae=20)
    path = tmp_path / "a-l9.pt"
    state = torch.load(path, weights_only=True)
    torch.save(w, path)
    text = weights_error(read, path)
    assert str(path) in text and "no matrix encoder.weight" in text and "qresearch" in text
    torch.save(state | {"decoder.bias": state["decoder.bias"][:-1]}, path)
    assert "decoder.bias has shape (7,)" in weights_error(read, path)
    torch.save({key: value for key, value in state.items() if key != "decoder.weight"}, path)
    assert "missing: ['decoder.weight']" in weights_error(read, path)
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated or damaged" in weights_error(read, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_written_is_read_again(tmp_path, dtype):
    sae = rounded(random_sae(8, 20, RESID, torch.Generator().manual_seed(0)), dtype)
    sae.cfg.apply_b_dec_to_input = False
    (file,) = QRESEARCH.write(sae, tmp_path, "mine-l9", dtype=dtype)
    assert file == "mine-l9.pt"
    assert_same_sae(read(tmp_path / file), sae)
    assert QRESEARCH.hook_named_by(tmp_path / file) == RESID
    stored = torch.load(tmp_path / file, weights_only=True)
    assert {value.dtype for value in stored.values()} == {dtype}
    x = inputs(8, 50).to(dtype).float()
    hidden = F.linear(x, stored["encoder.weight"].float(), stored["encoder.bias"].float())
    assert_close(sae.encode(x), torch.relu(hidden))


def test_an_sae_that_subtracts_b_dec_is_not_written(tmp_path):
    sae = random_sae(8, 20, RESID, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="apply_b_dec_to_input True.*apply_b_dec_to_input False"):
        QRESEARCH.write(sae, tmp_path, "mine-l9")
