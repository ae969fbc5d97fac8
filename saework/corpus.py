"""Text to rows of tokens, cut exactly as the published notebook cut them.

Row labels such as ``51/89`` (row 51, position 89) mean something only if the rows are the same
ones. The published rows were made by TransformerLens 2's ``tokenize_and_concatenate``; later
versions cut differently, so the old algorithm is written out here.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

DOCUMENTS_PER_BATCH = 1000
CHUNKS_PER_BATCH = 20
SHUFFLE_SEED = 42


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Groups of 1,000 documents, the unit that the published tokenization joins and cuts."""
    for start in range(0, len(texts), DOCUMENTS_PER_BATCH):
        yield list(texts[start : start + DOCUMENTS_PER_BATCH])


def tokenize_rows(texts: Sequence[str], tokenizer, *, length: int = 128) -> torch.Tensor:
    """Rows of tokens from documents, BOS first, in document order (not yet shuffled).

    Per 1,000 documents: join them with the EOS string, cut the result into 20 chunks of equal
    length in characters, tokenize each chunk, lay the tokens end to end, cut rows of
    ``length - 1`` and drop the remainder, and put BOS in front of each row.

    Returns: long ``[row, length]``.
    Raises: ValueError if the texts are too short for one row.
    Source: ``tokenize_and_concatenate`` of TransformerLens 2, as the gelu-1l notebook called it.
    """
    rows, _ = tokenize_rows_with_offsets(texts, tokenizer, length=length)
    return rows


def tokenize_rows_with_offsets(
    texts: Sequence[str], tokenizer, *, length: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``tokenize_rows``, and where each token starts.

    Returns: rows, long ``[row, length]``, and offsets of the same shape: the character of
    ``joined_text(texts, tokenizer)`` at which the token starts; -1 for BOS.
    """
    if length < 2:
        raise ValueError(f"length is {length}; a row is BOS and at least one token, so give 2 or more")
    rows, offsets, base = [], [], 0
    for batch in batches(texts):
        joined = tokenizer.eos_token.join(batch)
        ids, starts = _tokenize_in_chunks(joined, tokenizer)
        n_rows = len(ids) // (length - 1)
        kept = n_rows * (length - 1)
        shape = (n_rows, length - 1)
        rows.append(_with_first_column(ids[:kept].reshape(shape), tokenizer.bos_token_id))
        offsets.append(_with_first_column(starts[:kept].reshape(shape) + base, -1))
        base += len(joined)
    if not rows or sum(map(len, rows)) == 0:
        raise ValueError(
            f"the text is too short: not one row of {length - 1} tokens came out of {len(texts)} documents; "
            "give more text or a smaller length"
        )
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(offsets))


def joined_text(texts: Sequence[str], tokenizer) -> str:
    """The text that ``tokenize_rows_with_offsets`` counts its characters in."""
    return "".join(tokenizer.eos_token.join(batch) for batch in batches(texts))


def shuffled(rows: torch.Tensor, *, seed: int = SHUFFLE_SEED) -> torch.Tensor:
    """Rows in the order of ``datasets.Dataset.shuffle(seed)``, the published notebook's order."""
    return rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]


def published_rows(n_rows: int, n_batches: int, *, skip: int = 0, seed: int = 52, shape: tuple[int, int] = (2048, 16384)) -> torch.Tensor:
    """The rows that the published notebook's random batches took, ``[n_batches * 64]``.

    It drew them with ``torch.randperm`` from the generator that its autoencoder had seeded (52 for
    run1) and had drawn two weight matrices from; the same draws are made again here. That this
    gives the very rows is inferred from the code, and shows in the losses.

    Args:
        n_rows: rows of the tokenized corpus.
        skip: batches that were drawn before (the notebook scored 5 batches, then counted firings on 50).
        shape: of the encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    for size in (shape, shape[::-1]):
        torch.nn.init.kaiming_uniform_(torch.empty(size), generator=generator)
    drawn = [torch.randperm(n_rows, generator=generator)[:64] for _ in range(skip + n_batches)]
    return torch.cat(drawn[skip:])


def read_parquet(path: str | Path, *, column: str = "text") -> list[str]:
    """The documents of a parquet file in the layout of ``NeelNanda/c4-code-20k``.

    Raises: ValueError if the file has no such column, or holds anything but text.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file ({error}); download it again") from error
    if column not in table.column_names:
        raise ValueError(f"{path} has no column {column!r}; it has {table.column_names}")
    texts = table.column(column).to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {column!r} of {path} holds values that are not text")
    return texts


def standard_library() -> list[tuple[str, str]]:
    """``(name, source)`` of this machine's Python standard library, in order of name.

    What it holds depends on the Python version, so no stored number rests on it: it is for
    large live scans, and for training the minis.

    Raises: FileNotFoundError if the sources were not installed (some distributions leave them out).
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages"} & set(path.parts)
    )
    sources = [(name, text) for name, path in files if (text := _read_utf8(path)).strip()]
    if len(sources) < 100:
        raise FileNotFoundError(
            f"{root} holds {len(sources)} Python sources; the standard library was installed without them. "
            "Give text= instead, or use a Python that has its sources"
        )
    return sources


def _read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a few test files are broken on purpose
        return ""


def _with_first_column(array: np.ndarray, value: int) -> np.ndarray:
    return np.concatenate([np.full((len(array), 1), value, dtype=array.dtype), array], axis=1)


def _tokenize_in_chunks(text: str, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the 20 chunks laid end to end, and the character at which each token starts."""
    size = (len(text) - 1) // CHUNKS_PER_BATCH + 1
    chunks = [text[i * size : (i + 1) * size] for i in range(CHUNKS_PER_BATCH)]
    encoded = tokenizer(chunks, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.concatenate([np.asarray(x, dtype=np.int64) for x in encoded["input_ids"]])
    starts = np.concatenate(
        [np.asarray([start for start, _ in x], dtype=np.int64) + i * size for i, x in enumerate(encoded["offset_mapping"])]
    )
    keep = ids != tokenizer.pad_token_id if tokenizer.pad_token_id is not None else np.ones(len(ids), bool)
    return ids[keep], starts[keep]
