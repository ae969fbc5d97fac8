"""The regression values that are stored with the minis come out again."""

from __future__ import annotations

import json

import pytest

from saework import load, recons_score
from saework.core.files import DATA
from tools.minis import claims
from tools.minis.claims import MeasuredSae


@pytest.fixture(scope="module")
def measured():
    book = load("gelu-1l-mini", check=False)
    score = recons_score(book.model, book.sae, book.tokens[:16], progress=False)
    return MeasuredSae("run1", book.model, book.sae, book.tokens, score, book.recorded_scan())


@pytest.fixture(scope="module")
def stored():
    rows = json.loads((DATA / "gelu-1l-mini" / "claims.json").read_text(encoding="utf-8"))
    return {row["id"]: row for row in rows}


def test_rare_features_as_stored(measured, stored):
    found = {row["id"]: row for row in claims.score_claims(measured)}
    assert found["reconstruction/run1/score"]["value"] == measured.score.score
    for id in ("mean_l0", "dead", "rare"):
        row = found[f"rare/run1/{id}"]
        assert row == stored[row["id"]] | {"value": pytest.approx(stored[row["id"]]["value"])}
    assert found.keys() <= stored.keys()


def test_the_feature_of_the_story_as_stored(measured, stored):
    rate, tokens, logits = claims.feature_claims(measured, 3018)
    assert rate["value"] == pytest.approx(stored["feature/rate"]["value"])
    assert tokens == stored["feature/top_logit_tokens"]
    assert logits["value"] == pytest.approx(stored["feature/top_logits"]["value"], abs=1e-3)


def test_the_sparse_probes_as_stored(measured, stored):
    labels = load("gelu-1l-mini", check=False).labels()
    found = claims.probing_claims(measured, labels)
    assert len(found) == 4
    for row in found:
        recorded = stored[row["id"]]["value"]
        assert row["value"] == pytest.approx(recorded, abs=row["tolerance"])


def test_the_minis_of_the_steering_notebook_as_stored():
    book = load("llama-mini", n_tokens=1024, check=False)
    rows = json.loads((DATA / "llama-mini" / "claims.json").read_text(encoding="utf-8"))
    stored = {row["id"]: row["value"] for row in rows}
    scan = book.recorded_scan()
    score = recons_score(book.model, book.sae, book.tokens, progress=False)
    own = MeasuredSae("l2", book.model, book.sae, book.tokens, score, scan)
    for row in claims.steering_claims(own):
        assert row["value"] == pytest.approx(stored[row["id"]], abs=row["tolerance"] or 1e-9)


def test_a_card_counts_bos_and_a_frontier_does_not(measured, monkeypatch):
    monkeypatch.setattr(claims, "CARD_ROWS", 4)
    monkeypatch.setattr(claims, "FRONTIER_ROWS", 2)
    card = {row["id"]: row["value"] for row in claims.card_claims(measured)}
    frontier = {row["id"]: row["value"] for row in claims.frontier_claims(measured)}
    rows = measured.bundled
    score = recons_score(measured.model, measured.sae, rows[:4], progress=False)
    assert card["card/run1/ce_loss_with_sae"] == pytest.approx(score.recons_loss, rel=1e-5)
    assert card["card/run1/dead"] == int(measured.scan.dead.sum())
    without_bos = rows[:2] != measured.model.tokenizer.bos_token_id
    score = recons_score(measured.model, measured.sae, rows[:2], mask=without_bos, progress=False)
    assert frontier["frontier/run1/ce_loss_score"] == pytest.approx(score.score, abs=1e-4)
