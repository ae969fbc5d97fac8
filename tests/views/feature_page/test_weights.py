"""What the weights say of a feature, against plain tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from page_checks import slow_activations
from stand_ins import PlainSAE

from saework import feature_page
from saework.core.tokens import token_names
from saework.views.feature_page.parts import decimals
from saework.views.feature_page.weights import (
    Directions,
    histogram_of_effect,
    nearest_features,
)


def test_logit_effect(book, page):
    effect = book.sae.W_dec[page.feature] @ book.model.W_out[0] @ book.model.W_U
    order = effect.sort(descending=True, stable=True)
    ids = order.indices[:10].tolist()
    raised, lowered = page.logits.raised, page.logits.lowered
    assert list(raised.index) == ids
    assert raised["logit"].tolist() == pytest.approx(order.values[:10].tolist(), abs=1e-5)
    assert list(raised["token"]) == token_names(ids, book.tokenizer)
    assert list(lowered.index) == order.indices.flip(0)[:10].tolist()


def test_the_shape_of_the_logit_effects_distribution(book, page):
    effect = (book.sae.W_dec[page.feature] @ book.model.W_out[0] @ book.model.W_U).double()
    z = (effect - effect.mean()) / effect.std(correction=0)
    assert page.logits.skew == pytest.approx(z.pow(3).mean().item(), abs=1e-4)
    assert page.logits.kurtosis == pytest.approx(z.pow(4).mean().item() - 3, abs=1e-4)
    skew, kurtosis = decimals(page.logits.skew, 2), decimals(page.logits.kurtosis, 2)
    assert f"a skew of {skew} and an excess kurtosis of {kurtosis}" in repr(page)


def test_the_histogram_of_the_logit_effect(book, page):
    effect = (book.sae.W_dec[page.feature] @ book.model.W_out[0] @ book.model.W_U).tolist()
    frame = page.logits.histogram
    edges = [*frame["low"], frame["high"].iloc[-1]]
    assert 3 <= len(frame) <= 24 and edges[0] <= min(effect) and edges[-1] >= max(effect)
    assert 0 in edges and frame["low"].iloc[1:].tolist() == frame["high"].iloc[:-1].tolist()
    for row in frame.itertuples():
        assert row.tokens == sum(row.low <= value < row.high for value in effect)
    assert frame["tokens"].sum() == len(effect)


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([0.0, 0.0], [0, 1]),
        ([1.0, 3.0], [k * 0.2 for k in range(16)]),
        ([-0.4, -2.0], [k * 0.1 for k in range(-20, 1)]),
        ([0.0, 22.0], list(range(23))),
    ],
)
def test_the_histograms_edges_are_round(values, edges):
    frame = histogram_of_effect(np.array(values))
    assert [*frame["low"], frame["high"].iloc[-1]] == pytest.approx(edges)
    assert frame["tokens"].sum() == len(values)


def check_nearest(frame, book, to, feature, n, *, own: bool):
    similar = torch.nn.functional.cosine_similarity
    decoder = similar(to.W_dec, book.sae.W_dec[feature][None])
    encoder = similar(to.W_enc.T, book.sae.W_enc[:, feature][None])
    picked = set()
    for cosine in (decoder, encoder):
        order = cosine.argsort(descending=True).tolist()
        if own:
            order.remove(feature)
        picked |= set(order[:n])
    nearest = sorted(picked, key=lambda i: -decoder[i].item())
    assert frame["feature"].tolist() == nearest
    assert frame["decoder_cosine"].tolist() == pytest.approx(decoder[nearest].tolist(), abs=1e-5)
    assert frame["encoder_cosine"].tolist() == pytest.approx(encoder[nearest].tolist(), abs=1e-5)


def test_nearest_features_of_the_same_sae(book, page, activations):
    check_nearest(page.nearest, book, book.sae, page.feature, 5, own=True)
    rates = (activations[:, 1:] > 0).double().mean((0, 1))
    expected = rates[page.nearest["feature"].tolist()].tolist()
    assert page.nearest["firing_rate"].tolist() == pytest.approx(expected)


def test_nearest_features_of_another_sae(book, page, other):
    check_nearest(page.other, book, other, page.feature, 3, own=False)
    similar = torch.nn.functional.cosine_similarity
    for feature, mutual in zip(page.other["feature"], page.other["mutual"]):
        back = similar(book.sae.W_dec, other.W_dec[feature][None]).argmax().item()
        assert mutual == (back == page.feature)


def test_both_kinds_of_neighbour_were_seen(pages):
    mutual = {value for page in pages.values() for value in page.other["mutual"]}
    assert mutual == {True, False}


def test_a_features_neighbours_do_not_depend_on_the_others(book):
    own = Directions.of(book.sae)
    rate = (slow_activations(book) > 0).double().mean((0, 1))
    together = nearest_features([31, 7], own, rate)
    (alone,) = nearest_features([7], own, rate)
    assert together[1].equals(alone)


def test_what_chance_would_give_for_the_nearest(pages):
    drawn = torch.randn(4000, 48, 24, generator=torch.Generator().manual_seed(0))
    cosines = torch.nn.functional.normalize(drawn, dim=-1)[..., 0]
    best = cosines.max(1).values.median().item()
    assert pages[7].chance_cosine == pytest.approx(best, abs=0.01)
    # The other SAE has 40 rows, not 48.
    assert pages[7].other_chance < pages[7].chance_cosine


def test_an_sae_without_encoder_weights_has_neighbours_by_decoder(book, other):
    sae = PlainSAE(book.sae.encode, book.sae.decode, d_sae=48)
    sae.W_dec = book.sae.W_dec
    del sae.W_enc

    page = feature_page(replace(book, sae=sae), 7, other=other)
    similar = torch.nn.functional.cosine_similarity(sae.W_dec, sae.W_dec[7][None])
    similar[7] = -2
    assert page.nearest["feature"].tolist() == similar.argsort(descending=True)[:5].tolist()
    assert page.nearest["encoder_cosine"].isna().all()
    assert page.other["encoder_cosine"].isna().all() and len(page.other) == 3
    assert "–" in repr(page)
