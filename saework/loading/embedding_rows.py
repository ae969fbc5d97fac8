"""Some tokens' rows of a model's embedding, in few requests, without the rest of it.

The embedding of gemma-2-2b is 2.4 GB, and one row of it 9 kB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.cut_cache import RECORD, make_folder, model_cache, write_chunks
from saework.loading.cut_folders import published_model, tensors_here
from saework.loading.cut_models import EmbeddingRows, FirstBlocks
from saework.loading.hub import Repository
from saework.loading.published_tensors import WEIGHTS, PublishedModel
from saework.loading.stored_tensors import StoredTensor, header_of

MAX_REQUESTS = 64
MAX_GAP = 256 * 1024
"""Bytes between two rows that are read, and not kept, rather than sending another request."""


def embedding_rows(
    repository: Repository, hub_folder: Path, blocks: FirstBlocks, token_ids: Iterable[int]
) -> EmbeddingRows:
    """The rows of some tokens, kept in the cache beside the first blocks.

    Memory: these rows, twice.

    Args:
        repository: of the whole model.
        hub_folder: as ``config_folder`` gave it.
        blocks: of the model, with its embedding.
        token_ids: of the tokens, in any order.

    Raises:
        NotAvailableError: no access or network.
        WeightsError: a token has no row; the Hub gives other bytes than it should, or the cache was
            changed.
    """
    import safetensors.torch

    name, wanted = blocks.embedding, sorted(set(token_ids))
    d_vocab, _ = blocks.shapes[name]
    if wanted[-1] >= d_vocab:
        raise WeightsError(
            f"the text has token {wanted[-1]}, and the embedding of {repository.name} has "
            f"{d_vocab} rows, from 0: the tokenizer belongs to another model"
        )
    embedding = replace(blocks, shapes={name: blocks.shapes[name]})
    if repository.folder:
        published = PublishedModel(repository, repository.folder)
        tensors = published.tensors(embedding, {}, ranges=False)
        stored = b"".join(_file(tensors, wanted))
    else:
        published = published_model(repository, hub_folder)
        folder = _rows_folder(published, embedding, wanted)
        stored = (folder / WEIGHTS).read_bytes()
    values = safetensors.torch.load(stored)[name]
    return EmbeddingRows(tuple(wanted), values, d_vocab)


def _rows_folder(published: PublishedModel, embedding: FirstBlocks, wanted: list[int]) -> Path:
    """The folder with these rows of a model on the Hub; made if need be.

    Raises:
        NotAvailableError, WeightsError: as ``embedding_rows``.
    """
    cache = model_cache(published.repository)
    digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    folder = cache / f"rows-{digest[:16]}"

    def write(partial: Path) -> dict[str, object]:
        def write_weights(tensors: dict[str, StoredTensor]) -> str:
            return write_chunks(partial / WEIGHTS, _file(tensors, wanted))

        known = tensors_here(cache, embedding.shapes)
        weights = published.used(embedding, known, write_weights)
        return {
            "repository": published.repository.name,
            "revision": published.repository.revision,
            "tokens": wanted,
            "sha256": {WEIGHTS: weights},
        }

    make_folder(folder, (WEIGHTS,), write)
    recorded = read_json(folder / RECORD)
    if recorded.get("tokens") != wanted:
        raise WeightsError(
            f"{folder} is damaged: {RECORD} names other tokens; delete {folder}, and load again"
        )
    return folder


def _file(tensors: Mapping[str, StoredTensor], rows: list[int]) -> Iterator[bytes]:
    """A safetensors file with these rows of the one matrix, bit by bit as they are stored."""
    ((name, matrix),) = tensors.items()
    n_rows, width = matrix.shape
    row_bytes = matrix.n_bytes // n_rows
    n_bytes = len(rows) * row_bytes
    of_rows = replace(matrix, shape=(len(rows), width), start=0, stop=n_bytes)
    yield header_of({name: of_rows}, [name])
    for group in requests(rows, row_bytes):
        first, last = group[0], group[-1]
        start = matrix.start + first * row_bytes
        stop = matrix.start + (last + 1) * row_bytes
        chunks = matrix.source.chunks(start, stop)
        wanted = set(group)
        for row, content in enumerate(_rows_of(chunks, row_bytes), first):
            if row in wanted:
                yield content


def requests(rows: Sequence[int], row_bytes: int) -> list[list[int]]:
    """Rows that are read together: near ones, and so many that there are few groups.

    Args:
        rows: ascending.
        row_bytes: of one row.
    """
    steps = [after - before for before, after in pairwise(rows)]
    limit = MAX_GAP // row_bytes
    if len(steps) >= MAX_REQUESTS:
        largest = sorted(steps, reverse=True)
        limit = max(limit, largest[MAX_REQUESTS - 1])
    groups = [[rows[0]]]
    for row, step in zip(rows[1:], steps):
        if step > limit:
            groups.append([])
        groups[-1].append(row)
    return groups


def _rows_of(chunks: Iterable[bytes], row_bytes: int) -> Iterator[bytes]:
    """Pieces of any size, as rows."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        for _ in range(len(waiting) // row_bytes):
            yield bytes(waiting[:row_bytes])
            del waiting[:row_bytes]
