"""What a model is given, against the same text or rows alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from stand_ins import POST

from saework import feature_activations, recons_score, scan
from saework.engine.forward import activations, as_tokens, token_losses
from saework.engine.model_input import check_padding

PAD = 2  # of the tests' tokenizer


def padded(tokens, n_pads, side):
    """Rows of which the first ``n_pads[i]`` or last tokens are padding."""
    rows = []
    for row, n in zip(tokens, n_pads):
        text, pads = row[: len(row) - n], row.new_full((n,), PAD)
        rows.append(torch.cat([pads, text] if side == "left" else [text, pads]))
    return torch.stack(rows)


def test_padding_on_the_right_gives_what_each_row_gives_alone(tiny):
    n_pads = [0, 3, 0, 7, 1, 0]
    tokens = padded(tiny.tokens, n_pads, "right")
    together = activations(tiny.model, tokens, POST)
    losses = token_losses(tiny.model, tokens)
    for i, n in enumerate(n_pads):
        alone = tiny.tokens[i, : 20 - n]
        torch.testing.assert_close(
            together[i, : 20 - n], activations(tiny.model, alone, POST)[0], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            losses[i, : 19 - n], token_losses(tiny.model, alone)[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", ["scan", "recons_score", "activations"])
def test_padding_on_the_left_is_refused_everywhere(tiny, name):
    tokens = padded(tiny.tokens, [0, 3, 0, 7, 0, 0], "left")
    calls = {
        "scan": lambda: scan(tiny.model, tiny.sae, tokens, mask=tokens != PAD, progress=False),
        "recons_score": lambda: recons_score(
            tiny.model, tiny.sae, tokens, mask=tokens != PAD, progress=False
        ),
        "activations": lambda: activations(tiny.model, tokens, POST),
    }
    with pytest.raises(ValueError, match=r"padding \(token 2\) stands before text in rows 1, 3\."):
        calls[name]()


def test_rows_of_padding_alone_and_tokenizers_whose_padding_may_be_text():
    tokens = torch.tensor([[2, 2, 2], [2, 5, 6]])
    check_padding(tokens[:1], SimpleNamespace(pad_token_id=2))
    for other in ("bos_token_id", "eos_token_id", "unk_token_id"):
        check_padding(tokens, SimpleNamespace(pad_token_id=2, **{other: 2}))
    check_padding(tokens, None)
    check_padding(tokens, SimpleNamespace(pad_token_id=None))
    with pytest.raises(ValueError, match="in rows 1"):
        check_padding(tokens, SimpleNamespace(pad_token_id=2, bos_token_id=1))


def test_a_text_that_brings_its_bos_gets_no_second_one(tiny):
    bos = tiny.tokenizer.bos_token
    plain = as_tokens(tiny.model, "a sum of two")
    assert torch.equal(as_tokens(tiny.model, f"{bos}a sum of two"), plain)
    assert plain[0].tolist().count(tiny.tokenizer.bos_token_id) == 1
    assert torch.equal(
        feature_activations(tiny.model, tiny.sae, f"{bos}a sum", 7),
        feature_activations(tiny.model, tiny.sae, "a sum", 7),
    )


def test_a_bridged_model_too(gpt2_bridge):
    bos = gpt2_bridge.tokenizer.bos_token
    plain = as_tokens(gpt2_bridge, "a sum of two")
    assert torch.equal(as_tokens(gpt2_bridge, f"{bos}a sum of two"), plain)


def test_dropout_that_is_on_is_refused(gpt2_bridge, tiny):
    model = copy.deepcopy(gpt2_bridge)
    expected = token_losses(model, tiny.tokens)
    model.train()
    with pytest.raises(ValueError, match=r"training mode, .*call model.eval\(\) first"):
        token_losses(model, tiny.tokens)
    model.eval()
    model.original_model.train()
    with pytest.raises(ValueError, match="training mode"):
        activations(model, tiny.tokens, "blocks.0.hook_out")
    model.eval()
    assert torch.equal(token_losses(model, tiny.tokens), expected)


def test_attention_that_drops_by_a_number_is_refused(llama_bridge, tiny):
    model = copy.deepcopy(llama_bridge)
    model.train()
    token_losses(model, tiny.tokens)  # no dropout
    model.blocks[0].attn.original_component.attention_dropout = 0.1
    with pytest.raises(ValueError, match="training mode"):
        token_losses(model, tiny.tokens)


def test_training_mode_without_dropout_changes_nothing(tiny):
    expected = token_losses(tiny.model, tiny.tokens)
    model = copy.deepcopy(tiny.model).train()
    assert torch.equal(token_losses(model, tiny.tokens), expected)


@pytest.mark.parametrize("model_says", [True, False])
@pytest.mark.parametrize(("sae_says", "begins"), [(True, True), (False, False), (None, None)])
def test_text_begins_as_the_rows_that_the_sae_was_trained_on(
    tiny, monkeypatch, model_says, sae_says, begins
):
    """TransformerLens puts no BOS before a Pythia's text, but SAEs of Pythia were given one."""
    monkeypatch.setattr(tiny.model.cfg, "default_prepend_bos", model_says)
    sae = copy.deepcopy(tiny.sae)
    sae.cfg.metadata.prepend_bos = sae_says
    words = tiny.model.to_tokens("two words", prepend_bos=False)
    begins = model_says if begins is None else begins
    bos = torch.full((1, int(begins)), tiny.model.tokenizer.bos_token_id)
    rows = torch.cat([bos, words], 1)
    assert torch.equal(as_tokens(tiny.model, "two words", sae), rows)
    expected = feature_activations(tiny.model, sae, rows[0], 7)
    assert torch.equal(feature_activations(tiny.model, sae, "two words", 7), expected)
