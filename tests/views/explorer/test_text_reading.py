"""A text read once, and the searches: against the slow ways."""

import pytest
import torch
from conftest import random_sae
from stand_ins import PlainSAE

from saework import Workbook, feature_activations, scan
from saework.analysis.features import active_features
from saework.views.explorer.text_reading import features_on, read, token_forms


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


@pytest.mark.parametrize(
    "typed, forms",
    [
        ("return", ["return", " return"]),
        (" return", [" return"]),
        ("·return", [" return"]),
        ("↩", ["\n"]),
        ("\n", ["\n"]),
        ("(", ["(", " ("]),
    ],
)
def test_a_typed_token_is_read_as_typed_and_with_a_space_in_front(tiny, typed, forms):
    assert [tiny.tokenizer.decode([i]) for i in token_forms(typed, tiny.tokenizer)] == forms


@pytest.mark.parametrize(
    "typed, message",
    [
        ("", "no token was typed; type one, such as ·return"),
        ("two words", r"two·words is \d tokens here: two\|·words; type one of them"),
    ],
)
def test_what_is_no_single_token(tiny, typed, message):
    with pytest.raises(ValueError, match=message):
        token_forms(typed, tiny.tokenizer)


def test_a_search_over_examples_wants_the_rows_that_were_scanned(book):
    kept = scan(book.model, book.sae, book.tokens, top_k=5, progress=False)
    with pytest.raises(ValueError, match="the scan has examples outside these 2 rows of 20 tokens"):
        features_on(kept, book.tokens[:2], [5])
    with pytest.raises(ValueError, match="outside these 6 rows of 3 tokens"):
        features_on(kept, book.tokens[:, :3], [5])
    with pytest.raises(ValueError, match="kept no positions"):
        features_on(kept.without_positions(), book.tokens, [5])
    assert len(features_on(kept, book.tokens, [0])) == 0
