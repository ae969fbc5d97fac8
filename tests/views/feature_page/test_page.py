"""A page's numbers in its HTML, its headline, and its file."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version

import pytest
from page_checks import cells, html_of, tree, words_of

from saework import feature_page
from saework.core.tokens import visible
from saework.views.feature_page.parts import decimals, percent, signed

WHEN = datetime(2026, 11, 28, 20, 5)


def test_the_headline(page):
    assert page.headline == (
        f"Fires on {percent(page.firing_rate)} of 114 tokens ({page.count} times), "
        f"at most at {decimals(page.max_activation, 2)}; "
        f"on average {page.mean_l0:.3g} features fire on a token."
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
    ablation = [
        [str(row.tokens), signed(row.loss_change), decimals(row.standard_error)]
        for row in page.ablation.itertuples()
    ]
    assert [row[2:5] for row in cells(root, "Mean change")[1:]] == ablation
    tokens = [[row.token, percent(row.share)] for row in page.fires_on.itertuples()]
    assert cells(root, "Tokens on which")[1:] == tokens
    logits = [str(row.tokens) for row in page.logits.histogram.itertuples()]
    assert [row[2] for row in cells(root, "Histogram of the effect")[1:]] == logits
    error = decimals(page.loss_change_error)
    change = f"by {signed(page.mean_loss_change)} nats on average (standard error {error}, n = "
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
    first = page.save(tmp_path / "a.html", when=WHEN)
    second = again.save(tmp_path / "b.html", when=WHEN)
    assert first.read_bytes() == second.read_bytes()
    assert (repr(page), page._repr_html_()) == (repr(again), again._repr_html_())


def test_the_foot_says_when_and_with_what(page):
    html = page.document(when=WHEN, command="saework page x 7")
    words = words_of(tree(html).find(".//footer"))
    assert "on 2026-11-28 20:05 with saework page x 7." in words
    assert (
        f"Made by saework {version('saework')} " in words and f"torch {version('torch')}" in words
    )
    assert f"Fingerprints: {page.fingerprint}" in words
    assert re.fullmatch("SAE [0-9a-f]{16}, tokens [0-9a-f]{16}", page.fingerprint)
    # A notebook's outputs are the same on each day and machine.
    assert "2026" not in page._repr_html_() and "<footer" not in page._repr_html_()


def test_the_fingerprint_is_of_the_tokens_too(book, pages):
    other_tokens = replace(book, tokens=book.tokens.flip(0))
    first, second = pages[7].fingerprint, feature_page(other_tokens, 7).fingerprint
    assert first.split(",")[0] == second.split(",")[0] and first != second


def test_a_note_is_text(page, tmp_path):
    words = "<b>mine</b>\n\n  a  {{ page }} \u202e"
    noted = replace(page, note=words)
    root = tree(html_of(noted, tmp_path))
    lines = ["".join(p.itertext()) for p in root.find(".//blockquote")]
    assert lines == ["<b>mine</b>", "", "  a  {{ page }} ⟨U+202E⟩"]
    assert "NOTE\n<b>mine</b>\n" in repr(noted) and "NOTE" not in repr(page)
    assert tree(html_of(page, tmp_path)).find(".//blockquote") is None
    with pytest.raises(ValueError, match="note is a int; give text"):
        replace(page, note=7)


def test_a_note_given_with_the_feature(book):
    assert feature_page(book, 7, note="mine").note_lines == ["mine"]


def test_a_link_is_https(page):
    with pytest.raises(ValueError, match="neuronpedia is 'javascript:alert.*begins with https://"):
        replace(page, neuronpedia="javascript:alert(1)")
