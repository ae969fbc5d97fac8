"""The short runs that notebook 09 trains itself."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from saework.core.files import DATA
from saework.studies.feature_ordering import SMALL, live, train


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(live, "LIVE_STEPS", 20)
    monkeypatch.setattr(live, "LIVE_SEEDS", (0, 1))
    setting = replace(SMALL, d_in=8, d_sae=16, batch=32)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    return setting, lambda seed, start: repeat(x), torch.eye(8)


def test_a_new_order_follows_every_step_after_the_warm_up(toy):
    setting, batches, held_out = toy
    short = replace(setting, steps=20)
    variants = live.live_variants(short)
    for name, orders in (("plain", []), ("state left", list(range(9, 21)))):
        run = train(variants[name], short, batches, held_out, progress=False)
        assert run.reorder_steps == orders


def test_claims_are_means_over_the_seeds(toy):
    setting, batches, held_out = toy
    claims = {claim["id"]: claim for claim in live.live_claims(setting, batches, held_out)}
    short = replace(setting, steps=20)
    variant = live.live_variants(short)["plain"]
    errors = [
        train(variant, short, batches, held_out, seed=seed, progress=False).metrics["mse"]
        for seed in (0, 1)
    ]
    plain = claims["live/plain/mse"]
    assert plain["value"] == pytest.approx(sum(errors) / 2)
    assert plain["source"].startswith("regression value: mean of 2 seeds, 20 steps each")
    moved = claims["live/state moved/mse"]
    assert moved["value"] == pytest.approx(plain["value"], rel=1e-3)


def test_the_recorded_claims_are_these():
    stored = json.loads((DATA / "feature-ordering" / "claims.json").read_text(encoding="utf-8"))
    ids = [claim["id"] for claim in stored if claim["id"].startswith("live/")]
    assert ids == [f"live/{name}/mse" for name in live.live_variants(SMALL)]
