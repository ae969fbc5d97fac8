"""Which published numbers find which mistakes, beside counting them by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from saework import Claim, claims_of_reference, load, mutations, read_reference, validate
from saework.analysis.reconstruction import reconstruction_metrics
from saework.loading.known_mistakes import MISTAKES, Mistake, loaded_from
from saework.loading.mutations import mutation_score, reconstruction_values, reference_values


def claim(id, value, tolerance):
    return Claim(id, value, "", "a card", tolerance, "tiny")


@pytest.fixture(scope="module")
def measured(tiny):
    table = reconstruction_metrics(tiny.model, tiny.sae, tiny.tokens, progress=False)
    return table.with_bos


def test_each_mistake_is_counted_as_by_hand(tiny, measured):
    claims = [
        claim("l0", measured["l0"], 0.05),
        claim("mse_per_token", measured["mse_per_token"], 0.01 * measured["mse_per_token"]),
    ]
    table = mutation_score(tiny.model, tiny.sae, tiny.tokens, claims).set_index("mutation")
    assert table.index.tolist() == [mistake.name for mistake in MISTAKES]
    loaded = loaded_from(tiny.model, tiny.sae, tiny.tokens, None)
    for mistake in MISTAKES:
        row = table.loc[mistake.name]
        mutated = mistake.of(loaded)
        if isinstance(mutated, str):
            assert not row.applies and not row.caught and row.reason == mutated
            continue
        x = tiny.model.run_with_cache(mutated.tokens, names_filter=mutated.hook)[1][mutated.hook]
        features = mutated.sae.encode(x)
        l0 = float((features != 0).sum(-1).float().mean())
        mse = float((x - mutated.sae.decode(features)).double().pow(2).sum(-1).mean())
        values = {"l0": l0, "mse_per_token": mse}
        by = [c.id for c in claims if abs(values[c.id] - c.value) > c.tolerance]
        assert row.by == by and row.catching == len(by) and row.caught == bool(by), mistake.name
    n_applied = int(table.applies.sum())
    assert 4 <= n_applied < len(MISTAKES)
    assert table.attrs["score"] == table.caught.sum() / n_applied
    assert table.attrs["claims"] == ["l0", "mse_per_token"] and table.attrs["failing"] == []


def test_a_loose_number_catches_nothing(tiny, measured):
    table = mutation_score(tiny.model, tiny.sae, tiny.tokens, [claim("l0", 20, 1e6)])
    assert not table.caught.any() and table.attrs["score"] == 0 and table.applies.any()


def test_l0_is_blind_to_the_decoder(book, measured):
    only_l0 = [claim("l0", measured["l0"], 1e-3)]
    table = mutation_score(book, only_l0).set_index("mutation")
    assert not table.caught["decoder stored the other way round"]
    both = [*only_l0, claim("variance_explained", measured["variance_explained"], 1e-3)]
    table = mutation_score(book, both).set_index("mutation")
    assert table.by["decoder stored the other way round"] == ["variance_explained"]


def test_a_claim_that_fails_by_itself_catches_nothing(book, measured):
    claims = [claim("l0", measured["l0"], 1e-3), claim("l1", -1.0, 1e-3)]
    table = mutation_score(book, claims)
    assert table.attrs["failing"] == ["l1"] and table.attrs["claims"] == ["l0"]
    assert not any("l1" in by for by in table.by)
    with pytest.raises(ValueError, match=r"no claim holds for the SAE as it is loaded \(l1 \(-1"):
        mutation_score(book, claims[1:])
    with pytest.raises(ValueError, match="no claim holds .* \\(none at all\\)"):
        mutation_score(book, [])
    with pytest.raises(ValueError, match="the measure gives no wonder; it gives tokens, predict"):
        mutation_score(book, [claim("wonder", 1.0, 1.0)])


def test_an_error_is_a_mistake_that_is_found(book, measured, monkeypatch):
    def wrong_width(loaded):
        return dataclasses.replace(loaded, hook="blocks.0.hook_resid_pre")

    loud = [Mistake("another width", "nobody", wrong_width)]
    monkeypatch.setattr(mutations, "MISTAKES", loud)
    (row,) = mutation_score(book, [claim("l0", measured["l0"], 1e-3)]).itertuples()
    assert row.applies and row.caught and row.by == [] and "is 16 wide" in row.reason


def test_what_is_measured_by_default(tiny, measured):
    loaded = loaded_from(tiny.model, tiny.sae, tiny.tokens, None)
    values = reconstruction_values(loaded)
    for name, value in measured.items():
        assert values[name] == value or math.isnan(value)


def test_a_reference_finds_each_mistake_of_the_mini():
    """The numpy reference of notebook 05, and the two that a card with L0 alone would miss."""
    reference = read_reference("gemma-mini")
    sae_id = reference["sae_npz_path"].removesuffix("/params.npz")
    book = load("gemma-mini", sae_id, text=reference["prompt"], device="cpu", check=False)
    claims = claims_of_reference(reference, tier="gemma-mini")
    measure = reference_values(reference)
    loaded = loaded_from(book.model, book.sae, book.tokens, book.hook)
    assert measure(loaded) == validate(book, reference)
    table = mutation_score(book, claims, measure=measure).set_index("mutation")
    assert table.applies.sum() == 10 and table.caught[table.applies].all()
    assert len(table.attrs["claims"]) == len(claims) == 20
    assert table.catching["weights in bfloat16"] < table.catching["the block's input"]
    assert torch.equal(book.sae.W_enc, loaded.sae.W_enc)
