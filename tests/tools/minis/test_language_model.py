"""Training of a mini's language model, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from toys import DOCUMENTS, toy_model

from saework.engine.activation_batches import endless_order
from tools.minis import build, language_model, text


@pytest.fixture
def trained_on(monkeypatch, tmp_path):
    """Rows, held-out rows and the tokenizer of a toy."""
    monkeypatch.setattr(text, "training_text", lambda: (DOCUMENTS[:36], DOCUMENTS[36:]))

    def make(recipe):
        rows, held_out = build.training_rows(recipe, tmp_path)
        return rows, held_out, build.read_tokenizer(tmp_path / "tokenizer")

    return make


@pytest.mark.parametrize("architecture", ["gelu", "gemma2", "llama"])
def test_a_step_has_the_gradient_of_the_mean_loss(trained_on, architecture):
    recipe = toy_model(architecture)
    rows, _, tokenizer = trained_on(recipe)
    model = language_model.untrained_model(recipe, tokenizer)
    tokens = rows[:10].long()  # more than two chunks
    loss = language_model._step(model, tokens)
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    output = model(tokens)
    logits = getattr(output, "logits", output)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        assert torch.allclose(gradients[name], weight.grad, atol=1e-5), name
    assert language_model._held_out_loss(model, tokens) == pytest.approx(loss, rel=1e-5)


def test_an_interrupted_training_gives_the_same_model(trained_on, tmp_path, monkeypatch):
    recipe = toy_model("gelu")
    rows, held_out, tokenizer = trained_on(recipe)
    monkeypatch.setattr(language_model, "CURVE_STEPS", 2)

    def train(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        return language_model.train_model(
            rows, held_out, recipe, tokenizer, tmp_path / folder, device="cpu"
        )

    whole, curve = train("whole")
    step, calls = language_model._step, []

    def cut_off(model, tokens):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(model, tokens)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(language_model, "_step", cut_off)
        train("broken")
    resumed, resumed_curve = train("broken")
    assert [entry[0] for entry in resumed_curve] == [entry[0] for entry in curve] == [2, 4, 6]
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_the_order_of_rows_is_one_permutation_after_another():
    order = endless_order(7, seed=1, epochs=3)
    assert [sorted(epoch.tolist()) for epoch in order.split(7)] == [list(range(7))] * 3


def test_the_learning_rate_rises_and_then_falls_to_nothing():
    factor = language_model._warm_up_then_cosine(110, warm_up=10)
    assert [factor(step) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert factor(60) == pytest.approx(0.5) and factor(110) == pytest.approx(0)
