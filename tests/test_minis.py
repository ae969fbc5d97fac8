"""The builder on a toy: the same files as the real mini, and a resumed run equal to an unbroken one."""

from __future__ import annotations

import json

import pytest
import torch
from sae_lens.training.sae_trainer import SAETrainer

from saework import formats, minis, training
from saework._checks import UnknownNameError
from saework.catalogue import DATA, release_named
from saework.scanning import FeatureScan

TOY = training.Recipe(
    d_model=16, d_mlp=32, n_heads=2, d_vocab=300, n_ctx=128, d_sae=64, rows_per_step=4, model_steps=6, sae_steps=32, sae_batch=256, story_feature=0
)
SENTENCE = "def area(width, height):\n    # Multiply the sides, and return it.\n    return width * height\n"


@pytest.fixture
def toy_text(monkeypatch):
    documents = [f"{SENTENCE * 30}\n# document {i}\n" for i in range(40)]
    monkeypatch.setattr(training, "training_text", lambda: (documents[:36], documents[36:]))


def test_a_build_writes_what_the_loader_reads(toy_text, tmp_path, monkeypatch):
    monkeypatch.setattr(minis, "SCAN_TOKENS", 2560)
    monkeypatch.setattr(minis, "HELD_OUT_ROWS", 8)
    out = minis.build("gelu-1l-mini", work=tmp_path / "work", device="cpu", recipe=TOY, out=tmp_path / "mini")
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    packaged = {path.relative_to(DATA / "gelu-1l-mini").as_posix() for path in (DATA / "gelu-1l-mini").rglob("*") if path.is_file()}
    assert files == packaged - {f"text/{minis.TEXT_FILE}"}
    card = json.loads((out / "card.json").read_text())
    assert card["scan_tokens"] == 2560 and len(card["sae_curves"]["25"]) == training.CHECKPOINTS
    scan = FeatureScan.load(out / "scans" / "25.safetensors")
    assert scan.n_tokens == 2560 and scan.top_positions.numel() == 0, "counts only: no text, no positions"
    assert f"{card['runs']['25']['mean_l0']:.1f}" in (out / "README.md").read_text()


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(toy_text, tmp_path, monkeypatch):
    rows, held_out = minis._training_rows(TOY, tmp_path)
    model, _ = training.train_model(rows, held_out, TOY, tmp_path, device="cpu")
    model.requires_grad_(False)
    whole, curve = training.train_sae(model, rows, TOY, tmp_path / "whole", seed=1, device="cpu")

    step = SAETrainer.step

    def cut_off(self, batch):
        if self.n_training_steps == 21:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAETrainer, "step", cut_off)
        training.train_sae(model, rows, TOY, tmp_path / "broken", seed=1, device="cpu")
    resumed, resumed_curve = training.train_sae(model, rows, TOY, tmp_path / "broken", seed=1, device="cpu")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert curve == resumed_curve


def test_weights_in_the_published_layout_compute_what_was_trained():
    trainer = training._sae_trainer(TOY, seed=3, device="cpu")
    x, scale = torch.randn(50, TOY.d_mlp), 1.7
    trainer.sae.b_enc.data += 0.1 * torch.randn(TOY.d_sae)
    trainer.sae.b_dec.data += 0.1 * torch.randn(TOY.d_mlp)
    expected = trainer.sae.decode(trainer.sae.encode(scale * x)) / scale
    w = training._published_layout(trainer.sae, scale)
    features = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(features @ w["W_dec"] + w["b_dec"], expected, atol=1e-5)
    assert torch.allclose(w["W_dec"].norm(dim=1), torch.ones(TOY.d_sae))


def test_the_mini_reaches_its_targets():
    card = json.loads((DATA / "gelu-1l-mini" / "card.json").read_text())
    assert card["scan_tokens"] >= 1_000_000 and card["bundled_tokens"] >= 60_000
    for run in card["runs"].values():
        assert run["held_out"]["score"] >= 0.9112 and run["bundled"]["score"] >= 0.88
        assert run["mean_l0"] <= 40 and run["dead_fraction"] < 0.2


def test_packaged_weights_stay_small():
    size = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file() and "notebooks" not in path.parts)
    assert size < 40e6
    release = release_named("gelu-1l-mini")
    assert formats.read_tensors(release.repositories["sae"].fetch("25.pt"))["W_enc"].dtype == torch.float16


def test_an_unknown_mini_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="gelu-1l-mini"):
        minis.build("gelu-mini", work=tmp_path, device="cpu")
