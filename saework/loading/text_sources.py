"""Where a release's rows of tokens come from: one function per kind of text.

Each takes a ``TextRequest`` and returns the rows and the repository that they came from. Each also
cuts the caller's own text, in the same way as the release's. A new kind of text is a function here,
and the releases that use it name it in the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.argument_kinds import check_no_surrogate
from saework.loading import corpus, documents
from saework.loading.hub import Repository

if TYPE_CHECKING:
    from saework.core.protocols import Tokenizer

DEFAULT_STREAMED_TOKENS = 16_384
PARQUET_FILES = "data/*.parquet"
GIVEN = Repository("given by the caller", folder=Path())


@dataclass(frozen=True)
class TextRequest:
    """What ``load`` asks for."""

    release: str
    """Its name, for errors."""
    tokenizer: Tokenizer
    repository: Repository
    """Of the release's text."""
    row_length: int
    """Tokens in a row, BOS included; the SAE's ``context_size`` where it names one."""
    corpus: str | None
    """The data set to stream, for an SAE that names one."""
    n_tokens: int | None
    """How many are needed; None for the default."""
    own_texts: Sequence[str] | None
    """The caller's documents, in place of the release's text."""
    prepend_bos: bool = True
    """Whether each row begins with BOS, as in the SAE's training."""


Rows = tuple[torch.Tensor, Repository]
"""Integers ``[batch, pos]``, BOS first where there is one, and where the text came from."""
TextSource = Callable[[TextRequest], Rows]
Cut = Callable[..., torch.Tensor]


def own_documents(text: object) -> list[str]:
    """The caller's text as documents.

    Raises:
        ValueError: if it is empty, or no text.
    """
    if hasattr(text, "keys"):  # a mapping or a frame, whose names would be read as documents
        raise ValueError(
            f"text is a {type(text).__name__}; give one string, or a list of strings, such as "
            "list(frame['text'])"
        )
    documents: list[Any] = [text]
    if isinstance(text, Iterable) and not isinstance(text, str):
        documents = list(text)
    if not all(isinstance(document, str) for document in documents):
        raise ValueError(f"text is {str(text)[:60]}; give one string, or a list of strings")
    for number, document in enumerate(documents):
        check_no_surrogate(document, f"document {number} of text=")
    if not any(document.strip() for document in documents):
        raise ValueError("text is empty; give text, or leave text= out for the release's own")
    return documents


def published(request: TextRequest) -> Rows:
    """Parquet documents, cut and shuffled as the gelu-1l notebook did it.

    That cut has BOS in front. For an SAE that was trained without it, rows are packed instead.
    """
    if not request.prepend_bos:
        return packed(request)
    return _parquet_rows(request, corpus.tokenize_rows)


def packed(request: TextRequest) -> Rows:
    """Parquet documents, packed into rows as sae_lens does it, and shuffled."""
    return _parquet_rows(request, _packed_cut(request))


def streamed(request: TextRequest) -> Rows:
    """The start of the corpus that the SAE names, packed into rows as sae_lens does it.

    Raises:
        ValueError: if neither the SAE nor the release names a corpus.
        NotAvailableError: if the Hub cannot be reached, or has no parquet of it.
    """
    if request.own_texts is not None:
        return _own_rows(request, request.own_texts, _packed_cut(request))
    if not request.corpus:
        raise ValueError(f"this SAE of {request.release} names no corpus; give text=")
    texts, revision = documents.streamed_texts(request.corpus)
    n_tokens = request.n_tokens or DEFAULT_STREAMED_TOKENS
    rows = corpus.packed_rows(
        texts,
        request.tokenizer,
        length=request.row_length,
        n_rows=math.ceil(n_tokens / request.row_length),
        prepend_bos=request.prepend_bos,
    )
    source = Repository(request.corpus, revision=revision, kind="dataset")
    return rows, source


def conversation(request: TextRequest) -> Rows:
    """The conversation on which qresearch's notebook reads its features, as one row."""
    if request.own_texts is not None:
        return _own_rows(request, request.own_texts, _packed_cut(request))
    rows = corpus.chat_tokens(corpus.PIRATE_CONVERSATION, request.tokenizer)
    return rows, request.repository


def _packed_cut(request: TextRequest) -> Cut:
    """``packed_rows``, with BOS in front or not as the request says."""
    return partial(corpus.packed_rows, prepend_bos=request.prepend_bos)


def _parquet_rows(request: TextRequest, cut: Cut) -> Rows:
    """All rows of the release's parquet files, shuffled."""
    if request.own_texts is not None:
        return _own_rows(request, request.own_texts, cut)
    folder = request.repository.fetch_folder([PARQUET_FILES])
    texts: list[str] = []
    files = sorted(folder.glob(PARQUET_FILES))
    for file in files:
        texts += documents.read_parquet(file)
    rows = cut(texts, request.tokenizer, length=request.row_length)
    return corpus.shuffled(rows), request.repository


def _own_rows(request: TextRequest, texts: Sequence[str], cut: Cut) -> Rows:
    """The caller's documents in order; one short row if they do not fill one."""
    tokenizer = request.tokenizer
    joined = str(tokenizer.eos_token).join(texts)
    encoded = tokenizer(joined, add_special_tokens=False)
    ids = encoded["input_ids"]
    if len(ids) < request.row_length:
        bos = tokenizer.bos_token_id
        if bos is not None and request.prepend_bos and ids[:1] != [bos]:
            ids = [bos, *ids]
        return torch.tensor([ids]), GIVEN
    rows = cut(texts, tokenizer, length=request.row_length)
    return rows, GIVEN
