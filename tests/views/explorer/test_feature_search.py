"""Searches by a token: against the slow ways."""

from dataclasses import replace

import pytest
import torch
from conftest import random_sae

from saework import logit_effect, scan
from saework.views.explorer.feature_search import (
    example_options,
    features_on,
    features_raising,
    find_features,
    raising_options,
    token_forms,
    token_words,
)


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


@pytest.fixture
def kept(book):
    return scan(book, top_k=5, progress=False)


def test_features_are_ranked_by_their_largest_effect_on_the_tokens(book):
    tokens = [40, 300]
    effects = torch.stack([logit_effect(book, feature) for feature in range(48)])[:, tokens]
    found = features_raising(book, tokens, n=6)
    order = effects.max(1).values.argsort(descending=True)[:6].tolist()
    assert found["index"].tolist() == order
    assert found["value"].tolist() == pytest.approx(effects[order].max(1).values.tolist(), rel=1e-4)
    assert found["token"].tolist() == [tokens[i] for i in effects[order].argmax(1).tolist()]


def test_a_found_feature_says_its_effect_and_its_token(book):
    (token,) = book.tokenizer(" return", add_special_tokens=False)["input_ids"]
    found = features_raising(book, [token])
    options = raising_options(book, [token])
    assert [feature for _, feature in options] == found["index"].tolist()
    assert options[0][0] == f"{found['index'][0]}: {found['value'][0]:+.3g} on ·return"


def test_features_are_counted_over_the_examples_that_were_kept(book, kept):
    row, pos = kept.top_positions[7, 0].tolist()
    token = int(book.tokens[row, pos])
    found = features_on(kept, book.tokens, [token]).set_index("index")
    for feature in range(48):
        places = [place for place in kept.top_positions[feature].tolist() if place[0] >= 0]
        n_on_token = sum(int(book.tokens[row, pos]) == token for row, pos in places)
        if n_on_token:
            assert found.loc[feature].tolist() == [n_on_token, len(places)]
        else:
            assert feature not in found.index
    assert found["value"].is_monotonic_decreasing


def test_a_feature_found_by_its_examples_says_how_many(book, kept):
    row, pos = kept.top_positions[7, 0].tolist()
    token = int(book.tokens[row, pos])
    found = features_on(kept, book.tokens, [token])
    options = example_options(kept, book.tokens, [token], book.tokenizer)
    assert [feature for _, feature in options] == found["index"].tolist()
    first = found.iloc[0]
    counts = f"{first['index']}: {first['value']} of {first['of']} examples"
    assert options[0][0].startswith(f"{counts} (top tokens: ")


def test_the_tokens_of_a_search_in_words(tiny):
    tokens = token_forms("return", tiny.tokenizer)
    assert token_words(tokens, tiny.tokenizer) == "return or ·return"


def test_find_features_by_examples(book, kept):
    row, pos = kept.top_positions[7, 0].tolist()
    token = int(book.tokens[row, pos])
    text = book.tokenizer.decode([token])
    ids = token_forms(text, book.tokenizer)
    found = find_features(book, text, scan=kept, n=3)
    expected = features_on(kept, book.tokens, ids, n=3)
    assert found["feature"].tolist() == expected["index"].tolist()
    assert found["on_token"].tolist() == expected["value"].tolist()
    assert found["examples"].tolist() == expected["of"].tolist()
    options = example_options(kept, book.tokens, ids, book.tokenizer)
    for (label, _), top in zip(options, found["top_tokens"]):
        assert label.endswith(f"(top tokens: {top})")


def test_find_features_by_logit(book):
    tokens = token_forms("return", book.tokenizer)
    expected = features_raising(book, tokens, n=4)
    found = find_features(book, "return", by="logit", n=4)
    assert list(found.columns) == ["feature", "effect", "token"]
    assert found["feature"].tolist() == expected["index"].tolist()
    assert found["effect"].tolist() == expected["value"].tolist()
    assert set(found["token"]) <= {"return", "·return"}


def test_find_features_without_a_scan_makes_one(book):
    mask = book.tokens != book.tokenizer.bos_token_id
    own = scan(book, mask=mask, progress=False)
    row, pos = own.top_positions[7, 0].tolist()
    text = book.tokenizer.decode([int(book.tokens[row, pos])])
    assert find_features(book, text).equals(find_features(book, text, scan=own))


@pytest.mark.parametrize(
    ("token", "options", "message"),
    [
        ("return", {"by": "size"}, "by is 'size'; give 'examples' or 'logit'"),
        ("two words", {}, "type one of them"),
        (7, {}, "token is 7; give its text, such as ·return"),
        ("return", {"n": 0, "by": "logit"}, "n is 0; give a whole number of at least 1"),
    ],
)
def test_find_features_says_what_it_cannot_take(book, token, options, message):
    with pytest.raises(ValueError, match=message):
        find_features(book, token, **options)


def test_find_features_of_something_else(book, kept):
    with pytest.raises(ValueError, match="workbook is the name 'gelu-1l-mini'; load it first"):
        find_features("gelu-1l-mini", "return")
    sae = random_sae(24, 48, book.hook, torch.Generator().manual_seed(8))
    with pytest.raises(ValueError, match="this scan is of another SAE or hook"):
        find_features(replace(book, sae=sae), "return", scan=kept)


def test_a_scan_of_other_text_is_refused(book, kept):
    other = replace(book, tokens=book.tokens.flip(0))
    with pytest.raises(ValueError, match="row 0 holds other tokens than those that were scanned"):
        find_features(other, "return", scan=kept)
