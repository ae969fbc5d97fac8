"""Pages put together: counts, order, dead features, links."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from page_checks import html_of, tree

from saework import feature_page, feature_pages
from saework.views.feature_page import measure as module
from saework.views.feature_page.measure import measure, pages


def test_how_often_and_how_strongly(page, activations):
    counted = activations[:, 1:]
    fires = counted > 0
    own = counted[..., page.feature]
    assert (page.n_tokens, page.count) == (6 * 19, int((own > 0).sum()))
    assert page.firing_rate == pytest.approx((own > 0).double().mean().item())
    assert page.max_activation == pytest.approx(own.max().item(), abs=1e-5)
    assert page.mean_l0 == pytest.approx(fires.sum(-1).double().mean().item())
    assert page.l0_share == pytest.approx(page.count / int(fires.sum()))


def test_the_model_is_run_once_for_all_pages(book, monkeypatch):
    measured = measure(book, [20, 7, 20], progress=False)
    assert measured.features == [7, 20]

    def no_run(*arguments, **options):
        raise AssertionError("the model was run again")

    monkeypatch.setattr(module, "read_contexts", no_run)
    monkeypatch.setattr(type(book.model), "forward", no_run)
    assert [page.feature for page in pages(measured, [20, 7, 20])] == [20, 7, 20]


def test_blocks_of_features_give_the_same_pages(book, monkeypatch):
    at_once = [repr(page) for page in feature_pages(book, [31, 7, 31, 20])]
    monkeypatch.setattr(module, "FEATURES_AT_ONCE", 3)
    in_blocks = list(feature_pages(book, [31, 7, 31, 20]))
    assert [page.feature for page in in_blocks] == [31, 7, 31, 20]
    assert [repr(page) for page in in_blocks] == at_once


def test_a_feature_that_never_fired(book, activations):
    assert not (activations[..., 0] > 0).any()
    page = feature_page(book, 0)
    assert page.dead
    assert (page.count, page.max_activation, page.l0_share) == (0, 0.0, 0.0)
    assert (page.top, page.intervals) == ((), ())
    assert page.rate_bound == pytest.approx(1 - 0.05 ** (1 / 114))
    assert math.isnan(page.mean_loss_change) and math.isnan(page.loss_change_error)
    # What the weights say is there.
    assert page.logits.raised["logit"].iloc[0] > 0 and len(page.nearest) >= 5


def test_neuronpedia_is_a_link_that_nobody_opens(book, tmp_path):
    metadata = SimpleNamespace(hook_name=book.hook, neuronpedia_id='gpt2-small/8-res"jb')
    parts = {name: getattr(book.sae, name) for name in ("W_enc", "W_dec", "encode", "decode")}
    sae = SimpleNamespace(**parts, cfg=SimpleNamespace(metadata=metadata))
    page = feature_page(replace(book, sae=sae), 7)
    assert page.neuronpedia == "https://www.neuronpedia.org/gpt2-small/8-res%22jb/7"
    links = [a.get("href") for a in tree(html_of(page, tmp_path)).iter("a") if a.get("href")]
    assert links == [page.neuronpedia]
    assert repr(page).endswith(f"Neuronpedia: {page.neuronpedia}")


def test_a_character_of_several_tokens_stands_once(book):
    ids = book.tokenizer("日本語😀", add_special_tokens=False)["input_ids"]
    tokens = book.tokens.clone()
    tokens[:, 1 : 1 + len(ids)] = torch.tensor(ids)
    page = feature_page(replace(book, tokens=tokens), 7)
    strings = {string for example in page.top for string in example.strings}
    assert strings >= {"日", "本", "😀", "←"}
    assert any(name.startswith("⟨0x") for name in page.fires_on["token"])
    assert "\ufffd" not in repr(page)
