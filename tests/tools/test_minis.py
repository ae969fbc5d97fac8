"""The builder on toys: the same files as the real minis, and a resumed run equal to an unbroken one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from sae_lens.training.sae_trainer import SAETrainer

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.errors import UnknownNameError
from saework.core.files import DATA
from saework.loading import layouts
from saework.loading.catalogue import card_of, release_named
from tools.minis import build, language_model, text
from tools.minis import sae as sae_trainer
from tools.minis.sae import SaeRecipe

SENTENCE = "def area(width, height):\n    # Multiply the sides, and return it.\n    return width * height\n"
POST, RESID, INPUT = "blocks.0.mlp.hook_post", "blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"
SMALL = {"steps": 32, "batch": 256}


def toy_model(architecture: str) -> language_model.ModelRecipe:
    sizes = {
        "d_model": 16,
        "d_mlp": 32,
        "n_heads": 2,
        "d_vocab": 300,
        "n_ctx": 128,
        "rows_per_step": 4,
        "steps": 6,
    }
    return language_model.ModelRecipe(
        architecture=architecture, n_layers=1 if architecture == "gelu" else 2, **sizes
    )


RELU = SaeRecipe(POST, 32, 64, l1=2.0, **SMALL)
JUMPRELU = SaeRecipe(RESID, 16, 64, target_l0=4, subtract_b_dec=False, bos=False, **SMALL)
TOYS = {
    "gelu-1l-mini": build.Recipe(
        toy_model("gelu"),
        (
            build.PlannedSae("run1", "neel", RELU),
            build.PlannedSae("run2", "neel", replace(RELU, seed=2)),
        ),
        ("run1", 0),
    ),
    "gemma-mini": build.Recipe(
        toy_model("gemma2"),
        (
            build.PlannedSae(
                "layer_1/width_64/average_l0_{l0}", "gemma_scope", JUMPRELU, scan=False
            ),
            build.PlannedSae(RESID, "sae_lens", SaeRecipe(RESID, 16, 64, l1=2.0, **SMALL)),
        ),
    ),
    "llama-mini": build.Recipe(
        toy_model("llama"),
        (
            build.PlannedSae(
                "l1", "qresearch", SaeRecipe(INPUT, 16, 64, l1=2.0, subtract_b_dec=False, **SMALL)
            ),
        ),
    ),
}


@pytest.fixture
def toy_text(monkeypatch):
    documents = [f"{SENTENCE * 30}\n# document {i}\n" for i in range(40)]
    monkeypatch.setattr(text, "training_text", lambda: (documents[:36], documents[36:]))
    monkeypatch.setattr(build, "SCAN_TOKENS", 2560)
    monkeypatch.setattr(build, "HELD_OUT_ROWS", 8)
    monkeypatch.setattr(build.corpus, "read_parquet", lambda path: documents[:12])


@pytest.mark.parametrize("name", TOYS)
def test_a_build_writes_what_the_loader_reads(name, toy_text, tmp_path):
    out = build.build(
        name, work=tmp_path / "work", device="cpu", recipe=TOYS[name], out=tmp_path / "mini"
    )
    card = json.loads((out / "card.json").read_text())
    assert len(card["saes"]) == len(TOYS[name].saes)
    for planned, (sae_id, entry) in zip(TOYS[name].saes, card["saes"].items()):
        assert len(entry["curve"]) == sae_trainer.CHECKPOINTS
        sae = layouts.stored_sae(
            entry["layout"],
            [out / "sae" / file for file in entry["files"]],
            hook=planned.recipe.hook,
        )
        assert (
            sae.W_enc.shape == (planned.recipe.d_in, planned.recipe.d_sae)
            and sae.cfg.metadata.hook_name == planned.recipe.hook
        )
        assert f"{entry['mean_l0']:.1f}" in (out / "README.md").read_text()
        if planned.layout == "gemma_scope":
            assert sae_id.startswith("layer_1/width_64/average_l0_") and entry["files"] == [
                f"{sae_id}/params.npz"
            ]
            assert (
                abs(int(sae_id.rsplit("_", 1)[1]) - entry["mean_l0"]) < 0.15 * entry["mean_l0"] + 1
            ), "with and without BOS differ a little"
        if planned.scan:
            scan = FeatureScan.load(out / "scans" / build.scan_file(sae_id))
            assert scan.n_tokens == 2560 and scan.top_positions.numel() == 0, (
                "counts only: no text, no positions"
            )
    made_otherwise = {"reference.json", build.TEXT_FILE.split("/")[1]}
    kinds = lambda folder: {
        (path.relative_to(folder).parts[0], path.suffix)
        for path in folder.rglob("*.*")
        if path.is_file() and path.name not in made_otherwise
    }  # noqa: E731
    assert kinds(out) == kinds(DATA / name)


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


def test_the_gelu_mini_reaches_its_targets():
    card = card_of("gelu-1l-mini")
    assert card["tokens"]["bundled"] >= 60_000
    for sae in card["saes"].values():
        assert sae["scan_tokens"] >= 1_000_000
        assert sae["held_out"]["score"] >= 0.9112 and sae["bundled"]["score"] >= 0.88
        assert sae["mean_l0"] <= 40 and sae["dead_fraction"] < 0.2


def test_the_gemma_and_llama_minis_hold_what_the_notebooks_need():
    gemma, llama = card_of("gemma-mini"), card_of("llama-mini")
    assert gemma["model"]["recipe"]["n_layers"] >= 4 and llama["model"]["recipe"]["n_layers"] >= 3
    suites = {}
    for sae_id, sae in gemma["saes"].items():
        assert sae["held_out"]["score"] > 0.85 and sae["dead_fraction"] < 0.5, sae_id
        suites.setdefault(sae_id.rsplit("/", 1)[0], []).append(sae["mean_l0"])
    suites = {suite: l0 for suite, l0 in suites.items() if suite.startswith("layer_")}
    layers = {suite.split("/")[0] for suite, l0 in suites.items() if len(l0) >= 3}
    assert len(layers) >= 2 and len(suites) > len(layers), (
        "three sparsities at two layers, two widths at one"
    )
    assert all(max(l0) > 3 * min(l0) for l0 in suites.values() if len(l0) >= 3)
    assert [sae["layout"] for sae in llama["saes"].values()] == ["qresearch"]


def test_packaged_weights_stay_small():
    size = sum(
        path.stat().st_size
        for path in DATA.rglob("*")
        if path.is_file() and "notebooks" not in path.parts
    )
    assert size < 40e6
    release = release_named("gelu-1l-mini")
    assert (
        layouts.read_tensors(release.repositories["sae"].fetch("25.pt"))["W_enc"].dtype
        == torch.float16
    )


def test_an_unknown_mini_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="gelu-1l-mini"):
        build.build("gelu-mini", work=tmp_path, device="cpu")
