"""A text read once, and any feature on it: against the slow ways."""

import pytest
import torch
from conftest import random_sae, slow_features
from stand_ins import PlainSAE

from saework import Workbook, feature_activations, text_heatmap, token_heatmap
from saework.analysis.features import active_features
from saework.core.tokens import str_tokens, visible
from saework.views.explorer.text_reading import read, read_start

TEXT = "def f(x): # a note"


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "plain"])
def test_any_feature_on_any_token_after_one_run(tiny, architecture):
    sae = random_sae(
        24,
        48,
        tiny.hook,
        torch.Generator().manual_seed(2),
        "jumprelu" if architecture == "jumprelu" else "standard",
    )
    sae = PlainSAE(sae.encode, sae.decode, d_sae=48) if architecture == "plain" else sae
    reading = read(Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, tiny.hook), "a few words")
    for feature in range(48):
        expected = feature_activations(tiny.model, sae, "a few words", feature, hook=tiny.hook)
        torch.testing.assert_close(reading.values(feature), expected, rtol=0, atol=0)
    for pos in (0, 2, -1):
        assert reading.firing(pos, n=5).equals(
            active_features(tiny.model, sae, "a few words", pos=pos, n=5, hook=tiny.hook)
        )


def test_a_window_shows_its_positions_and_marks_what_lies_in_it(book):
    reading = read(book, book.tokens[1])
    whole, part = reading.heatmap(7), reading.heatmap(7, window=range(4, 9), mark=6)
    assert (
        len(whole.strings) == 19
        and part.strings == whole.strings[3:8]
        and part.values == whole.values[3:8]
    )
    assert part.mark == 2 and reading.heatmap(7, window=range(4, 9), mark=9).mark is None


def test_several_rows(book):
    with pytest.raises(ValueError, match="6 rows were given; give text or one row"):
        read(book, book.tokens)


@pytest.mark.parametrize("feature", [-1, 48])
def test_a_feature_that_does_not_exist(book, feature):
    with pytest.raises(ValueError, match=rf"feature {feature} does not exist"):
        read(book, "a").values(feature)


def test_each_token_and_what_fires_on_it_are_named_for_the_lists(book):
    reading = read(book, TEXT)
    strings = str_tokens(book.model.to_tokens(TEXT)[0], book.tokenizer)
    expected = [(f"{pos}: {visible(strings[pos])}", pos) for pos in range(1, len(strings))]
    assert reading.token_options == expected
    firing = reading.firing(3)
    names = [f"{feature}: {value:.3g}" for feature, value in zip(firing["index"], firing["value"])]
    assert reading.firing_options(3) == list(zip(names, firing["index"]))


def test_text_heatmap_is_one_feature_on_one_text_without_bos(book):
    tokens = book.model.to_tokens(TEXT, prepend_bos=True)
    values = slow_features(book.model, book.sae, tokens, book.hook)[0, 1:, 7]
    heatmap = text_heatmap(book, TEXT, 7)
    assert "".join(heatmap.strings) == TEXT
    assert list(heatmap.values) == pytest.approx(values.tolist(), abs=1e-4)
    assert heatmap.max_value == max(map(abs, heatmap.values))
    assert text_heatmap(book, TEXT, 7, max_value=5.0).max_value == 5.0


def test_text_heatmap_of_no_text_shows_bos(book):
    assert text_heatmap(book, "", 7).strings == (book.tokenizer.bos_token,)


def test_a_static_rendering_matches_the_packages_own_pieces(book):
    tokens = book.model.to_tokens(TEXT)[0]
    values = feature_activations(book.model, book.sae, tokens, 7)
    expected = token_heatmap(
        str_tokens(tokens, book.tokenizer)[1:], values[1:], label="feature 7, activation"
    )
    assert text_heatmap(book, TEXT, 7) == expected


def test_without_a_bos_the_first_token_is_shown(book):
    tokens = book.model.to_tokens(TEXT)[0]
    assert read(book, tokens[1:]).first == 0 and read(book, tokens).first == 1
    assert "".join(read(book, tokens[1:]).heatmap(7).strings) == TEXT


def test_a_text_is_read_as_far_as_the_context_goes(book):
    text = "one two three " * 20
    reading = read_start(book, text)
    tokens = book.model.to_tokens(text, truncate=False)
    torch.testing.assert_close(reading.tokens, tokens[:, :32])
    assert f"first 31 are read, {tokens.shape[1] - 32:,} are not" in reading.left_out
    whole = read_start(book, TEXT)
    assert whole.left_out == ""
    torch.testing.assert_close(whole.values(7), read(book, TEXT).values(7), rtol=0, atol=0)


def test_what_is_no_workbook_is_told(book):
    with pytest.raises(ValueError, match="workbook is the name 'gelu-1l-mini'; load it first"):
        text_heatmap("gelu-1l-mini", TEXT, 7)
