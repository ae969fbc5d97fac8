"""The feature that a word of a passage sets apart, against loops over features and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import slow_features
from stand_ins import PlainSAE

from saework.loading.catalogue import release_named
from saework.loading.subject import Subject, feature_of, touches_words

PASSAGE = "the cat sat, and a Cat ran"


def test_the_feature_with_the_largest_margin(tiny):
    tokens = tiny.model.to_tokens(PASSAGE)
    features = slow_features(tiny.model, tiny.sae, tokens, tiny.hook)[0, 1:]
    strings = [tiny.tokenizer.decode([token]) for token in tokens[0, 1:].tolist()]
    is_word = touches_words(strings, ["cat"]).tolist()
    assert 2 <= sum(is_word) < len(is_word)
    best, best_margin = None, 0.0
    for feature, values in enumerate(features.T.tolist()):
        on = max(value for value, word in zip(values, is_word) if word)
        off = max(value for value, word in zip(values, is_word) if not word)
        if on - off > best_margin:
            best, best_margin = feature, on - off
    assert feature_of(tiny.model, tiny.sae, Subject(("cat",), PASSAGE)) == best


def test_words_are_whole_and_of_any_case():
    strings = ["Cat", "alog", " ca", "ts", " CAT", ", the", " cat"]
    assert touches_words(strings, ["cat"]).tolist() == [False] * 4 + [True, False, True]
    assert touches_words(["a", "+b"], ["a+"]).tolist() == [True, True]


def test_what_is_refused(tiny):
    def refused(subject, sae=tiny.sae):
        with pytest.raises(ValueError) as caught:
            feature_of(tiny.model, sae, subject)
        return str(caught.value)

    assert refused(Subject(("cat",))) == (
        "this subject has no passage to choose a feature by; give a feature"
    )
    assert refused(Subject(("dog", "cow"), PASSAGE)) == (
        f"the passage {PASSAGE!r} must hold some of the words dog, cow, and others"
    )
    d_sae, d_in = tiny.sae.W_dec.shape
    silent = PlainSAE(lambda x: x.new_zeros(*x.shape[:-1], d_sae), None, d_in=d_in, d_sae=d_sae)
    silent.cfg = tiny.sae.cfg
    assert refused(Subject(("cat",), PASSAGE), silent) == (
        f"no feature is more active on cat than on the rest of {PASSAGE!r}; give a feature"
    )


def test_a_published_feature_is_taken_for_its_own_sae_only(book):
    gpt2 = release_named("gpt2-small-res-jb")
    assert replace(book, release=gpt2, sae_id=gpt2.sae().id).subject_feature() == 16899
    other = replace(gpt2, subject=Subject(("cat",), PASSAGE))
    found = replace(book, release=other, sae_id="blocks.3.hook_resid_pre").subject_feature()
    assert found == feature_of(book.model, book.sae, other.subject)
    with pytest.raises(ValueError, match="no subject, such as cats; choose a feature yourself"):
        book.subject_feature()


def test_subjects_of_the_catalogue():
    """Written out here: passages, words and strengths."""
    passage = "My cat is sleeping on the couch."
    wanted = {
        "gpt2-small-res-jb": Subject(("cat",), passage, 45.0),
        "gemma-scope-2-270m-pt-res": Subject(("cat",), passage, None),
        "llama-3.2-1b-qresearch": Subject(("pirate", "ye", "arr", "matey"), None, 3.0),
    }
    for name, subject in wanted.items():
        assert release_named(name).subject == subject
    mini = release_named("llama-mini").subject
    assert (mini.words, mini.strength) == (("data",), 6.0) and mini.passage.count("data") == 3
    assert release_named("gelu-1l").subject is None
