"""The rebuilt last step of a model against Hugging Face's own logits and losses."""

from __future__ import annotations

import copy

import pytest
import torch
from families import EXTRA, hugging_face_and_bridge

from saework.engine import unembedding
from saework.engine.forward import final_states, token_losses
from saework.engine.losses import next_token_logits
from saework.engine.unembedding import logits_transform


@pytest.mark.parametrize("family", EXTRA)
def test_each_familys_losses_are_hugging_faces(family, tiny, tmp_path):
    hf, model = hugging_face_and_bridge(family, tiny, tmp_path)
    # TransformerLens 3.9 rotates Cohere's queries and keys by halves, where Hugging Face rotates
    # neighbours: its own logits are compared, which still shows the scale
    expected = model(tiny.tokens) if family == "Cohere" else hf(tiny.tokens).logits
    logits = next_token_logits(model, final_states(model, tiny.tokens))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    log_probs = expected.log_softmax(-1)[:, :-1]
    losses = -log_probs.gather(-1, tiny.tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(token_losses(model, tiny.tokens), losses, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["Granite", "Cohere", "Gemma2"])
def test_compatibility_mode(family, tiny, tmp_path):
    """Cohere's scale is then folded into the unembedding, after a first comparison too."""
    _, model = hugging_face_and_bridge(family, tiny, tmp_path)
    expected = model(tiny.tokens).log_softmax(-1)
    token_losses(model, tiny.tokens)
    model.enable_compatibility_mode()
    logits = next_token_logits(model, final_states(model, tiny.tokens))
    torch.testing.assert_close(logits.log_softmax(-1), expected, rtol=0, atol=1e-4)


def test_an_unknown_last_step_is_refused(gpt2_bridge, tiny):
    model = copy.deepcopy(gpt2_bridge)
    head = model.unembed.original_component
    head.register_forward_hook(lambda module, args, logits: logits * 0.9)
    with pytest.raises(ValueError, match="not hidden @ W_U .* after its unembedding is not known"):
        token_losses(model, tiny.tokens)


def test_logits_of_another_number_than_the_columns_are_refused(gpt2_bridge, tiny):
    model = copy.deepcopy(gpt2_bridge)
    head = model.unembed.original_component
    head.register_forward_hook(lambda module, args, logits: logits[..., :4000])
    with pytest.raises(ValueError, match="gives 4000 logits, but its W_U has 4096 columns"):
        token_losses(model, tiny.tokens)


def test_a_model_is_compared_once_and_again_when_its_unembedding_changes(tiny, monkeypatch):
    model = copy.deepcopy(tiny.model)
    compared = []
    compare = unembedding._transform_that_fits
    monkeypatch.setattr(
        unembedding, "_transform_that_fits", lambda model: compared.append(1) or compare(model)
    )
    first = token_losses(model, tiny.tokens)
    assert torch.equal(token_losses(model, tiny.tokens), first)
    assert len(compared) == 1
    model.unembed.W_U.mul_(2)
    token_losses(model, tiny.tokens)
    assert len(compared) == 2


def test_half_precision_is_not_refused(tiny):
    model = copy.deepcopy(tiny.model).to(torch.bfloat16)
    logits = torch.ones(2, 3)
    assert torch.equal(logits_transform(model)(logits), logits)


def test_weights_that_are_not_numbers_are_left_to_later_checks(tiny):
    model = copy.deepcopy(tiny.model)
    model.unembed.W_U.fill_(torch.nan)
    assert token_losses(model, tiny.tokens).isnan().all()
