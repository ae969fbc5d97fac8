"""Training of SAEs: a resumed run equals an unbroken one, and weights are as layouts store them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sae_lens.training.sae_trainer import SAETrainer
from toys import DOCUMENTS, JUMPRELU, RELU, RESID, TOYS

from tools.minis import build, text
from tools.minis import sae as sae_trainer


@pytest.fixture
def toy_text(monkeypatch):
    monkeypatch.setattr(text, "training_text", lambda: (DOCUMENTS[:36], DOCUMENTS[36:]))


@pytest.mark.parametrize("recipe", [RELU, JUMPRELU], ids=["relu", "jumprelu"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    recipe, toy_text, tmp_path, monkeypatch
):
    toy = TOYS["gelu-1l-mini" if recipe is RELU else "gemma-mini"].model
    rows, held_out = build.training_rows(toy, tmp_path)
    model, _ = build.trained_model(toy, rows, held_out, tmp_path, tmp_path / "out", device="cpu")
    whole, curve = sae_trainer.train_sae(model, rows, recipe, tmp_path / "whole", device="cpu")

    step = SAETrainer.step

    def cut_off(self, batch):
        if self.n_training_steps == 21:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAETrainer, "step", cut_off)
        sae_trainer.train_sae(model, rows, recipe, tmp_path / "broken", device="cpu")
    resumed, resumed_curve = sae_trainer.train_sae(
        model, rows, recipe, tmp_path / "broken", device="cpu"
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert curve == resumed_curve


def test_bos_is_left_out_of_training_where_the_recipe_says_so(toy_text, tmp_path):
    rows, held_out = build.training_rows(TOYS["gemma-mini"].model, tmp_path)
    model, _ = build.trained_model(
        TOYS["gemma-mini"].model, rows, held_out, tmp_path, tmp_path / "out", device="cpu"
    )
    bos = model.run_with_cache(rows[:1, :1].long(), names_filter=[RESID])[1][RESID][0, 0]
    seen = {
        bos_in: next(replace(JUMPRELU, bos=bos_in).batches(model, rows)) for bos_in in (True, False)
    }
    assert ((seen[True] - bos).abs().max(1).values < 1e-4).any() and not (
        (seen[False] - bos).abs().max(1).values < 1e-4
    ).any()


@pytest.mark.parametrize(
    "recipe",
    [RELU, replace(RELU, subtract_b_dec=False), JUMPRELU],
    ids=["relu", "no b_dec", "jumprelu"],
)
def test_weights_in_the_published_layout_compute_what_was_trained(recipe):
    trainer = sae_trainer._sae_trainer(replace(recipe, seed=3), device="cpu")
    x, scale, sae = torch.randn(50, recipe.d_in), 1.7, trainer.sae
    sae.b_enc.data += 0.1 * torch.randn(recipe.d_sae)
    sae.b_dec.data += 0.1 * torch.randn(recipe.d_in)
    if recipe is JUMPRELU:
        sae.threshold.data += torch.rand(recipe.d_sae)
    expected = sae.decode(sae.encode(scale * x)) / scale
    w = sae_trainer._published_layout(sae, scale)
    before = (x - w["b_dec"] if recipe.subtract_b_dec else x) @ w["W_enc"] + w["b_enc"]
    features = before * (before > w["threshold"]) if recipe is JUMPRELU else torch.relu(before)
    assert torch.allclose(features @ w["W_dec"] + w["b_dec"], expected, atol=1e-5)
    assert torch.allclose(w["W_dec"].norm(dim=1), torch.ones(recipe.d_sae))
