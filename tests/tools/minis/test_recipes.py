"""The recipes describe the minis that are committed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from saework.core.files import DATA
from saework.loading.catalogue import release_named
from saework.loading.sae_ids import card_of
from tools.minis.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_committed_mini_is_that_of_its_recipe(name):
    recipe, card = RECIPES[name], card_of(name)
    assert asdict(recipe.model) == card["model"]["recipe"]
    assert len(recipe.saes) == len(card["saes"])
    for planned, (sae_id, entry) in zip(recipe.saes, card["saes"].items()):
        l0 = sae_id.rpartition("_")[2]
        assert planned.id.format(l0=l0) == sae_id
        files = planned.layout.files(planned.place.format(l0=l0))
        assert files == tuple(entry["files"]) == release_named(name).sae(sae_id).files
        assert planned.layout.name == entry["layout"]
        assert asdict(planned.recipe) == entry["recipe"]
        assert planned.scan == (DATA / name / "scans").exists() or sae_id.startswith("layer")


def test_the_story_is_about_an_sae_of_its_mini():
    stories = {name: recipe.story for name, recipe in RECIPES.items() if recipe.story}
    assert stories == {"gelu-1l-mini": ("run1", 3018)}
    assert stories["gelu-1l-mini"][0] in release_named("gelu-1l-mini").ids()


@pytest.mark.parametrize("run,file", [(0, "25_cfg.json"), (1, "47_cfg.json")])
def test_the_record_of_a_run_is_what_its_config_says(run, file):
    record = RECIPES["gelu-1l-mini"].saes[run].record
    config = json.loads((DATA / "gelu-1l-mini" / "sae" / file).read_text())
    assert config == record | {"dict_mult": 8, "d_mlp": 512, "enc_dtype": "fp32"}
