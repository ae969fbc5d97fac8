"""A page's numbers in its HTML, its headline, and its file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from page_checks import cells, html_of, tree, words_of

from saework import feature_page
from saework.core.tokens import visible
from saework.views.feature_page.parts import decimals, percent, signed


def test_the_headline(page):
    assert page.headline == (
        f"Fires on {percent(page.firing_rate)} of 114 tokens ({page.count} times), "
        f"at most at {decimals(page.max_activation, 2)}; "
        f"{page.firing_rate:.3g} of a mean L0 of {page.mean_l0:.3g} ({percent(page.l0_share)})."
    )
    assert " (once), " in replace(page, count=1).headline


def test_a_dead_features_headline(book):
    assert feature_page(book, 0).headline == (
        "Dead here: it never fired on 114 tokens, so its rate is below 0.0259 (95%)."
    )


def test_the_page_shows_the_numbers_of_its_firings(pages, tmp_path):
    page = pages[7]
    root = tree(html_of(page, tmp_path))
    assert words_of(root.find(".//h1")) == "Feature 7"
    assert words_of(root.find(".//p[@class='lead']")) == page.headline
    histogram = [
        [f"{row.low:.3g}", f"{row.high:.3g}", str(row.firings)]
        for row in page.histogram.itertuples()
    ]
    assert cells(root, "Histogram")[1:] == histogram
    n_examples = sum(1 + len(interval.examples) for interval in page.intervals)
    assert len(cells(root, "A few firings of each strength")[1:]) == n_examples
    ablation = [[str(row.tokens), signed(row.loss_change)] for row in page.ablation.itertuples()]
    assert [row[2:4] for row in cells(root, "Mean change")[1:]] == ablation
    error = decimals(page.loss_change_error)
    change = f"by {signed(page.mean_loss_change)} nats on average (standard error {error}), as"
    assert change in words_of(root)
    assert "x − f·W_dec[feature] takes the place of x" in words_of(root)
    assert "the SAE's error stays" in words_of(root)


def test_the_page_shows_the_examples_in_context(pages, tmp_path):
    page = pages[7]
    root = tree(html_of(page, tmp_path))
    top = cells(root, "The strongest firings")[1:]
    expected = [
        [example.token, f"{example.activation:.2f}", signed(example.loss_change)]
        for example in page.top
    ]
    assert [row[:3] for row in top] == expected
    contexts = [cell for cell in root.iter("td") if cell.get("class") == "context"][: len(top)]
    for cell, example in zip(contexts, page.top):
        assert words_of(cell.find(".//b")).startswith(example.token)
        for value in cell.iter("sub"):
            value.text = ""  # the values behind the tokens
        assert words_of(cell) == "".join(map(visible, example.strings))


def test_the_page_shows_the_numbers_of_its_weights(pages, tmp_path):
    page = pages[7]
    root = tree(html_of(page, tmp_path))
    for caption, frame in (
        ("Most raised", page.logits.raised),
        ("Most lowered", page.logits.lowered),
    ):
        expected = [[row.token, signed(row.logit)] for row in frame.itertuples()]
        assert cells(root, caption)[1:] == expected
    own = [[*cosines(row), percent(row.firing_rate)] for row in page.nearest.itertuples()]
    assert cells(root, "In this SAE")[1:] == own
    other = [[*cosines(row), "yes" if row.mutual else "no"] for row in page.other.itertuples()]
    assert cells(root, "In the other SAE")[1:] == other
    together = [
        [str(row.feature), str(row.both), percent(row.given_this), percent(row.base_rate)]
        for row in page.cofiring.itertuples()
    ]
    assert cells(root, "Those whose rate rises most")[1:] == together


def cosines(row):
    return [str(row.feature), decimals(row.decoder_cosine), decimals(row.encoder_cosine)]


def test_two_builds_are_byte_for_byte_the_same(book, other, page, tmp_path):
    again = feature_page(book, page.feature, other=other)
    first, second = page.save(tmp_path / "a.html"), again.save(tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert (repr(page), page._repr_html_()) == (repr(again), again._repr_html_())


def test_a_link_is_https(page):
    with pytest.raises(ValueError, match="neuronpedia is 'javascript:alert.*begins with https://"):
        replace(page, neuronpedia="javascript:alert(1)")
