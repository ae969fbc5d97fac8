"""Each kind of text: the release's own, the caller's, and where it came from."""

from __future__ import annotations

import copy

import pytest
import torch
from local_hub import documents as some_documents

from saework.loading import corpus, documents, text_sources
from saework.loading.hub import Repository
from saework.loading.text_sources import GIVEN, TextRequest, conversation, packed, published

KINDS = [published, packed, text_sources.streamed, conversation]
CUT = {published: corpus.tokenize_rows}


@pytest.fixture
def ask(tiny, folders):
    """A request for text of a repository in a folder."""

    def make(**changes):
        given = {
            "release": "small",
            "tokenizer": tiny.tokenizer,
            "repository": Repository("ours/text", folder=folders / "text"),
            "row_length": 32,
            "corpus": None,
            "n_tokens": None,
            "own_texts": None,
        }
        return TextRequest(**given | changes)

    return make


@pytest.mark.parametrize("kind", [published, packed])
def test_parquet_files_are_cut_and_shuffled(ask, kind):
    request = ask()
    rows, source = kind(request)
    files = sorted((request.repository.folder / "data").glob("*.parquet"))
    texts = [text for file in files for text in documents.read_parquet(file)]
    cut = CUT.get(kind, corpus.packed_rows)(texts, request.tokenizer, length=32)
    assert torch.equal(rows, corpus.shuffled(cut)) and not torch.equal(rows, cut)
    assert source is request.repository


@pytest.mark.parametrize("kind", KINDS)
def test_own_text_is_cut_as_the_releases_and_not_shuffled(ask, kind):
    texts = some_documents(40)
    rows, source = kind(ask(own_texts=texts))
    cut = CUT.get(kind, corpus.packed_rows)
    assert torch.equal(rows, cut(texts, ask().tokenizer, length=32)) and source is GIVEN


@pytest.mark.parametrize("kind", KINDS)
def test_own_text_that_is_short_is_one_row(ask, kind):
    request = ask(own_texts=["a b", "c"])
    rows, _ = kind(request)
    assert request.tokenizer.decode(rows[0]) == "<|BOS|>a b<|EOS|>c"


@pytest.mark.parametrize("n_tokens,n_rows", [(None, 512), (1, 1), (64, 2), (65, 3)])
def test_a_corpus_is_streamed_as_far_as_needed(ask, monkeypatch, n_tokens, n_rows):
    texts = some_documents(400) * 4
    commit = "c" * 40
    monkeypatch.setattr(documents, "streamed_texts", lambda name: (iter(texts), commit))
    request = ask(corpus="owner/set", n_tokens=n_tokens)
    rows, source = text_sources.streamed(request)
    expected = corpus.packed_rows(texts, request.tokenizer, length=32)
    assert torch.equal(rows, expected[:n_rows]) and len(rows) == n_rows
    assert (source.name, source.revision, source.kind) == ("owner/set", commit, "dataset")


def test_an_sae_that_names_no_corpus(ask):
    with pytest.raises(ValueError, match="this SAE of small names no corpus; give text="):
        text_sources.streamed(ask())


def test_the_published_conversation(ask, monkeypatch):
    asked = []
    monkeypatch.setattr(
        corpus, "chat_tokens", lambda *arguments: asked.append(arguments) or torch.ones(1, 3)
    )
    request = ask()
    rows, source = conversation(request)
    assert asked == [(corpus.PIRATE_CONVERSATION, request.tokenizer)]
    assert rows.shape == (1, 3) and source is request.repository


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_bos_in_front(ask, kind):
    """As an SAE's prepend_bos: false says."""
    rows, _ = kind(ask(own_texts=["a b", "c"], prepend_bos=False))
    assert ask().tokenizer.decode(rows[0]) == "a b<|EOS|>c"
    texts = some_documents(40)
    rows, _ = kind(ask(own_texts=texts, prepend_bos=False))
    packed_rows = corpus.packed_rows(texts, ask().tokenizer, length=32, prepend_bos=False)
    assert torch.equal(rows, packed_rows) and (rows[:, 0] != 1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_text_without_bos(ask, kind):
    tokenizer = copy.deepcopy(ask().tokenizer)
    tokenizer.bos_token = None
    rows, _ = kind(ask(own_texts=["a b", "c"], tokenizer=tokenizer))
    assert tokenizer.decode(rows[0]) == "a b<|EOS|>c"


@pytest.mark.parametrize("kind", [published, packed])
def test_parquet_rows_without_a_bos_in_front(ask, kind):
    rows, _ = kind(ask(prepend_bos=False))
    assert (rows[:, 0] != 1).any() and (kind(ask())[0][:, 0] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_brings_its_bos_gets_no_second_one(ask, kind):
    rows, _ = kind(ask(own_texts=["<|BOS|>a b"]))
    assert ask().tokenizer.decode(rows[0]) == "<|BOS|>a b"
