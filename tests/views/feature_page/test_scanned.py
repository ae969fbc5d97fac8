"""A scan that is given: what it counted, and whether it is of this workbook."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_sae
from page_checks import slow_activations

from saework import Workbook, feature_page, scan
from saework.core.tokens import not_bos
from saework.views.feature_page.scanned import counted_tokens, scan_for_pages

LEFT_OUT = "the token that begins a row of text (BOS) is left out."


def test_the_scan_of_our_own_leaves_bos_out(book):
    own = scan_for_pages(book, [7, 20], progress=False)
    assert own.n_tokens == 6 * 19
    assert own.cofiring_features.tolist() == [7, 20]
    assert own.top_values.shape[1] == 10
    counted = counted_tokens(own, book)
    assert counted.known and counted.number == own.n_tokens
    assert torch.equal(counted.mask, not_bos(book.tokens, book.tokenizer))


def test_the_page_says_that_bos_is_left_out(pages):
    assert pages[7].counted == f"Counted on 114 tokens of 6 rows; {LEFT_OUT}"


def test_a_given_scan_is_used_and_may_count_bos(book, activations):
    page = feature_page(book, 7, scan=scan(book, cofiring=[7]))
    assert page.counted == (
        "Counted on 120 tokens of 6 rows, the token that begins a row of text (BOS) among them."
    )
    fires = activations > 0
    assert (page.n_tokens, page.count) == (120, int(fires[..., 7].sum()))
    both = (fires & fires[..., 7, None]).sum((0, 1))
    features = page.cofiring["feature"].tolist()
    assert page.cofiring["both"].tolist() == both[features].tolist()


def test_a_scan_of_some_rows(book, monkeypatch):
    rows = book.tokens[2:5]
    mask = rows != book.tokenizer.bos_token_id
    part = scan(book.model, book.sae, rows, first_row=2, mask=mask)
    page = feature_page(book, 7, scan=part)
    assert page.counted == f"Counted on 57 tokens of 3 rows; {LEFT_OUT}"
    assert {example.row for example in page.top} <= {2, 3, 4}
    expected = slow_activations(book)[2:5, 1:, 7]
    assert page.count == int((expected > 0).sum())

    def everywhere(self):
        return {"any": torch.ones_like(self.tokens, dtype=torch.bool)}

    monkeypatch.setattr(Workbook, "labels", everywhere)
    assert feature_page(book, 7, scan=part).labels.loc["any", "tokens"] == 57


def test_a_mask_that_the_scan_does_not_say(book, monkeypatch):
    odd = torch.arange(120).reshape(6, 20) % 2 == 1
    monkeypatch.setattr(Workbook, "labels", lambda self: {"odd": odd})
    page = feature_page(book, 7, scan=scan(book, mask=odd))
    assert page.counted == (
        "Counted on 60 tokens of 6 rows, chosen by a mask that the scan does not say."
    )
    assert page.labels is None


def test_a_scan_that_did_not_count_what_fires_together_says_how(book):
    page = feature_page(book, 7, scan=scan(book, cofiring=[20]))
    assert page.cofiring is None
    reason = "Not counted in this scan; make it with cofiring=[7], or leave scan= out."
    assert reason in repr(page)


def refused(book, given, match):
    with pytest.raises(ValueError, match=match):
        feature_page(book, 7, scan=given)


def test_a_scan_of_another_sae(book, other):
    match = "the scan has 40 features and this SAE 48; give a scan of this SAE, or leave"
    refused(book, scan(book.model, other, book.tokens), match)
    other = random_sae(24, 48, book.hook, torch.Generator().manual_seed(5))
    match = (
        "this scan is of another SAE or hook than the workbook's .*; make it with scan.*scan= out"
    )
    refused(book, scan(book.model, other, book.tokens), match)


def test_a_scan_without_positions(book):
    match = "this scan kept no positions .*; scan workbook.tokens with top_k=10 or more, or leave"
    refused(book, scan(book, top_k=0), match)
    refused(book, scan(book).without_positions(), match)


def test_a_scan_of_more_rows(book):
    match = "this scan reaches to row 8, but there are 6 rows; give the rows that were scanned"
    refused(book, scan(book, first_row=3), match)


def test_a_scan_of_other_tokens(book):
    rolled = book.tokens.roll(1, 0)
    match = "row 0 holds other tokens than those that were scanned; give the rows"
    refused(book, scan(book.model, book.sae, rolled), match)


def test_a_scan_of_another_model(book):
    match = (
        r"feature 7 is at [\d.]+ in row \d, position \d+, but there it is at [\d.e-]+: "
        r"another model was scanned; make the scan with scan\(workbook\)"
    )
    other = copy.deepcopy(book.model)
    other.W_E.data = other.W_E.roll(1, 0)
    refused(book, scan(other, book.sae, book.tokens), match)


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_a_model_that_was_trained_on_is_another_one(book, share):
    """Its activations are a few per cent away, much more than rounding."""
    kept = scan(book)
    other = copy.deepcopy(book.model)
    other.blocks[0].mlp.W_in.data *= share
    with pytest.raises(ValueError, match="another model was scanned"):
        feature_page(Workbook(other, *list(vars(book).values())[1:]), 7, scan=kept)
