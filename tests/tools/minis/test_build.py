"""The builder on toys writes the same files as the real minis; and what the real ones reached."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from toys import DOCUMENTS, RELU, TOYS

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.claims import Claim
from saework.core.errors import UnknownNameError
from saework.core.files import DATA
from saework.loading.catalogue import SAE_LAYOUTS, release_named
from saework.loading.sae_ids import card_of
from saework.loading.weights_files import read_tensors
from tools.minis import build, claims, rare_run, text
from tools.minis import sae as sae_trainer


@pytest.fixture
def toy_text(monkeypatch):
    monkeypatch.setattr(text, "training_text", lambda: (DOCUMENTS[:36], DOCUMENTS[36:]))
    monkeypatch.setattr(build, "SCAN_TOKENS", 2560)
    monkeypatch.setattr(build, "HELD_OUT_ROWS", 8)
    monkeypatch.setattr(claims, "PROBE_SIZES", (1, 8))
    monkeypatch.setattr(build.documents, "read_parquet", lambda path: DOCUMENTS[:12])


@pytest.mark.parametrize("name", TOYS)
def test_a_build_writes_what_the_loader_reads(name, toy_text, tmp_path):
    out = build.build(
        name, work=tmp_path / "work", device="cpu", recipe=TOYS[name], out=tmp_path / "mini"
    )
    card = json.loads((out / "card.json").read_text())
    assert len(card["saes"]) == len(TOYS[name].saes)
    for planned, (sae_id, entry) in zip(TOYS[name].saes, card["saes"].items()):
        assert len(entry["curve"]) == sae_trainer.CHECKPOINTS
        paths = [out / "sae" / file for file in entry["files"]]
        sae = SAE_LAYOUTS[entry["layout"]].read(paths, hook=planned.recipe.hook)
        assert (
            sae.W_enc.shape == (planned.recipe.d_in, planned.recipe.d_sae)
            and sae.cfg.metadata.hook_name == planned.recipe.hook
        )
        assert f"{entry['mean_l0']:.1f}" in (out / "README.md").read_text()
        if entry["layout"] == "gemma_scope":
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

    def kinds(folder):
        """The folders, and the endings of the files in them."""
        files = [path for path in folder.rglob("*.*") if path.is_file()]
        made = [path for path in files if path.name not in made_otherwise]
        return {(path.relative_to(folder).parts[0], path.suffix) for path in made}

    assert kinds(out) == kinds(DATA / name)
    written = [Claim(**row, tier=name) for row in json.loads((out / "claims.json").read_text())]
    published = {claim.id.split("/")[0] for claim in release_named(name).claims()}
    assert {claim.id.split("/")[0] for claim in written} <= published


def test_an_sae_is_added_to_a_packaged_mini(toy_text, tmp_path, monkeypatch):
    name = "gelu-1l-mini"
    toy = TOYS[name]
    out = build.build(name, work=tmp_path / "work", device="cpu", recipe=toy, out=tmp_path / "mini")
    before = {
        sae_id: json.loads((out / "card.json").read_text())["saes"][sae_id]
        for sae_id in ("run1", "run2")
    }
    recipe = replace(RELU, steps=8, seed=3)
    monkeypatch.setattr(rare_run, "WINDOW_STEPS", 4)
    planned = replace(
        toy.saes[0],
        id="run3",
        place="3",
        recipe=recipe,
        train=rare_run.train,
        trainer="published loop",
    )
    monkeypatch.setitem(build.RECIPES, name, replace(toy, saes=(*toy.saes, planned)))
    for _ in range(2):  # a second time replaces it
        build.add(name, "run3", work=tmp_path / "added", out=out)
        card = json.loads((out / "card.json").read_text())
        written = json.loads((out / "claims.json").read_text())
        assert list(card["saes"]) == ["run1", "run2", "run3"]
        assert {key: card["saes"][key] for key in before} == before
        assert len(card["saes"]["run3"]["curve"]) == 2
        assert len({claim["id"] for claim in written}) == len(written)
    rows, held_out = build.packaged_rows(
        build.read_tokenizer(out / "tokenizer"), tmp_path / "added"
    )
    model = build.NEEL.read(out / "model", build.read_tokenizer(out / "tokenizer"))
    weights, _ = rare_run.train(model, rows, recipe, tmp_path / "again")
    stored = read_tensors(out / "sae" / "3.pt")
    for key, value in weights.items():
        assert torch.equal(stored[key], value.half()), key
    text_of_card = (out / "README.md").read_text()
    assert "published loop |" in text_of_card and "build add gelu-1l-mini run3`" in text_of_card
    assert any(claim["id"] == "reconstruction/run3/score" for claim in written)
    with pytest.raises(UnknownNameError, match="run1, run2, run3"):
        build.add(name, "run4", work=tmp_path / "added", out=out)


def test_no_training_row_is_a_held_out_row(tmp_path, monkeypatch):
    copied = "the same licence text stands in many packages. " * 60
    train, held_out = ["def area(width, height): ... " * 90, copied], [copied]
    monkeypatch.setattr(text, "training_text", lambda: (train, held_out))
    monkeypatch.setattr(build.corpus, "CHUNKS_PER_BATCH", 1)
    tokenizer = build.read_tokenizer(DATA / "gelu-1l-mini" / "tokenizer")
    rows, held_out_rows = build.packaged_rows(tokenizer, tmp_path)
    held_out_set = {tuple(row) for row in held_out_rows.tolist()}
    assert len(rows) > 3 and len(held_out_set) > 1
    assert not held_out_set & {tuple(row) for row in rows.tolist()}
    assert rows.dtype == torch.int16


def test_the_gelu_mini_reaches_its_targets():
    card = card_of("gelu-1l-mini")
    assert card["tokens"]["bundled"] >= 60_000
    for sae in card["saes"].values():
        assert sae["scan_tokens"] >= 1_000_000
        assert sae["held_out"]["score"] >= 0.9112 and sae["bundled"]["score"] >= 0.88
        assert sae["mean_l0"] <= 45 and sae["dead_fraction"] < 0.2
    rare = {sae_id: sae["rare_fraction"] for sae_id, sae in card["saes"].items()}
    assert rare["run3"] > 0.5 > 20 * rare["run2"], "the phenomenon of the rare features' notebook"


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
    assert size < 50e6
    release = release_named("gelu-1l-mini")
    assert read_tensors(release.repositories["sae"].fetch("25.pt"))["W_enc"].dtype == torch.float16


def test_an_unknown_mini_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="gelu-1l-mini"):
        build.build("gelu-mini", work=tmp_path, device="cpu")
