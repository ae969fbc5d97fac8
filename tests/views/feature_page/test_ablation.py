"""Change of loss by ablation, against one full run of the model for each feature and row."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_sae
from page_checks import check_ablation, slow_activations, slow_losses_of_row

from saework import feature_page, scan
from saework.core.tokens import not_bos
from saework.views.feature_page import ablation as module
from saework.views.feature_page.ablation import ablated_losses, contribution, losses_after
from saework.views.feature_page.examples import choose


def test_changes_of_loss(book, page):
    check_ablation(book, page)
    # Otherwise the comparison would say nothing.
    assert any(abs(example.loss_change) > 0.01 for example in page.top)


def test_changes_of_loss_where_tokens_reach_later_ones_by_attention(early):
    page = feature_page(early, 10)
    assert page.count > 10
    # It fires at BOS too, where it is left in.
    assert (slow_activations(early)[:, 0, 10] > 0).all()
    check_ablation(early, page)


def test_changes_of_loss_with_bos_counted(book, early):
    check_ablation(book, feature_page(book, 7, scan=scan(book, cofiring=[7])), edit_bos=True)
    check_ablation(early, feature_page(early, 10, scan=scan(early)), edit_bos=True)


def test_a_rare_feature_is_measured_whole(book):
    sae = random_sae(24, 48, book.hook, torch.Generator().manual_seed(0))
    rare = replace(book, sae=sae)
    values = slow_activations(rare)[:, 1:, 9]
    sae.b_enc.data[9] -= values.flatten().sort().values[-3:].mean()
    page = feature_page(rare, 9)
    assert 1 <= page.count <= 4
    for interval in page.intervals:
        assert len(interval.examples) == interval.firings
    check_ablation(rare, page)


def test_of_many_firings_as_many_as_asked_for_are_ablated(book, pages):
    whole = pages[7]
    page = feature_page(book, 7, n_ablated=30)
    assert page.n_firings == page.count > 30 >= page.n_ablated > 20
    assert page.ablation["tokens"].iloc[2:].sum() == page.n_ablated
    assert f"Over {page.n_ablated} of its {page.count} firings, the loss" in repr(page)
    # The same in each call, and another mean than over all.
    again = feature_page(book, 7, n_ablated=30)
    assert again.ablation.equals(page.ablation)
    assert page.mean_loss_change != whole.mean_loss_change
    with pytest.raises(ValueError, match="n_ablated is 0; give a whole number of at least 1"):
        feature_page(book, 7, n_ablated=0)


def test_a_hook_with_no_path_to_the_logits(book):
    hook = "blocks.0.ln2.hook_normalized"
    sae = random_sae(16, 20, hook, torch.Generator().manual_seed(1))
    normed = replace(book, sae=sae, hook=hook)
    page = feature_page(normed, 6)
    assert page.logits is None and page.count > 0
    assert f"There is none to show: {hook} does not write to the residual stream" in repr(page)
    check_ablation(normed, page)


def test_small_batches_give_the_same(early, monkeypatch):
    places = choose(scan(early, progress=False), [3, 10])
    mask = not_bos(early.tokens, early.tokenizer)
    parts = (early.model, early.sae, early.tokens, early.hook, places, mask)
    at_once = ablated_losses(*parts, progress=False)
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 45)
    in_batches = ablated_losses(*parts, progress=False)
    assert np.allclose(at_once, in_batches, atol=1e-5, equal_nan=True)
    assert np.isfinite(at_once).sum() > 20


def test_the_loss_after_a_place(book):
    hidden = book.model.run_with_cache(book.tokens)[1]["ln_final.hook_normalized"]
    row, pos = np.array([4, 1, 1]), np.array([0, 19, 18])
    losses = losses_after(book.model, hidden, book.tokens, row, pos)
    expected = [slow_losses_of_row(book, book.tokens[r : r + 1], []) for r in (4, 1)]
    assert losses[0] == pytest.approx(expected[0][0].item(), abs=1e-5)
    assert math.isnan(losses[1])
    assert losses[2] == pytest.approx(expected[1][18].item(), abs=1e-5)


def test_an_sae_that_scales_its_input_loses_its_feature_in_that_scale(tiny):
    from sae_lens import StandardSAE, StandardSAEConfig

    config = StandardSAEConfig(
        d_in=24, d_sae=48, normalize_activations="layer_norm", apply_b_dec_to_input=True
    )
    sae = StandardSAE(config)
    sae.load_state_dict(tiny.sae.state_dict())
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1
    without = sae.encode(x)
    without[0, :, 20] = 0
    without[1, :, 7] = 0
    decoded_without = sae.decode(without)
    expected = sae.decode(sae.encode(x)) - decoded_without
    assert expected.abs().max() > 1
    assert torch.allclose(contribution(sae, x, torch.tensor([20, 7])), expected, atol=1e-5)
