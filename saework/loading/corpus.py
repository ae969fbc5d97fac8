"""Text to rows of tokens, cut exactly as the published notebook cut them.

Row labels such as ``51/89`` (row 51, position 89) mean something only if the rows are the same
ones. The published rows were made by TransformerLens 2's ``tokenize_and_concatenate``; later
versions cut differently, so the old algorithm is written out here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.errors import NotAvailableError
from saework.loading.hub import explained

DOCUMENTS_PER_BATCH = 1000
CHUNKS_PER_BATCH = 20
SHUFFLE_SEED = 42
PIRATE_CONVERSATION = [
    {"role": "user", "content": "Roleplay as a pirate"},
    {
        "role": "assistant",
        "content": "Yarr, I'll be speakin' like a true seafarer from here on out! Got me sea legs ready and me vocabulary set to proper "
        "pirate speak. What can I help ye with, me hearty?",
    },
]
"""The conversation on which qresearch's notebook (22 January 2025) reads its features."""
STEERING_PASSAGE = (
    "Read the data from a file, sort the data by key, "
    "and return a list of the data that was changed."
)
"""What the steering notebook reads on llama-mini, in place of the pirate's conversation."""


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
        raise ValueError(
            f"length is {length}; a row is BOS and at least one token, so give 2 or more"
        )
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


def packed_rows(
    texts: Iterable[str], tokenizer, *, length: int, n_rows: int | None = None
) -> torch.Tensor:
    """Rows as sae_lens cuts them: documents end to end, BOS in front of each row and between documents.

    Args: ``n_rows``: stop after so many rows, so that a streamed corpus is read no further.
    Returns: long ``[row, length]``; what is left after the last whole row is dropped.
    Raises: ValueError if the texts are too short for one row.
    Source: ``sae_lens.tokenization_and_batching.concat_and_batch_sequences``, called as its activation store calls it.
    """
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    documents = (
        torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        for text in texts
    )
    bos = tokenizer.bos_token_id
    rows = concat_and_batch_sequences(
        documents, length, begin_batch_token_id=bos, sequence_separator_token_id=bos
    )
    found = list(itertools.islice(rows, n_rows))
    if not found:
        raise ValueError(
            f"the text is too short: not one row of {length} tokens came out of it; give more text or a smaller length"
        )
    return torch.stack(found)


def joined_text(texts: Sequence[str], tokenizer) -> str:
    """The text that ``tokenize_rows_with_offsets`` counts its characters in."""
    return "".join(tokenizer.eos_token.join(batch) for batch in batches(texts))


def shuffled(rows: torch.Tensor, *, seed: int = SHUFFLE_SEED) -> torch.Tensor:
    """Rows in the order of ``datasets.Dataset.shuffle(seed)``, the published notebook's order."""
    return rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]


def published_rows(
    n_rows: int,
    n_batches: int,
    *,
    skip: int = 0,
    seed: int = 52,
    shape: tuple[int, int] = (2048, 16384),
) -> torch.Tensor:
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
        raise ValueError(
            f"{path} is not a readable parquet file ({error}); download it again"
        ) from error
    if column not in table.column_names:
        raise ValueError(f"{path} has no column {column!r}; it has {table.column_names}")
    texts = table.column(column).to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {column!r} of {path} holds values that are not text")
    return texts


def streamed_texts(name: str, *, column: str = "text") -> tuple[Iterator[str], str]:
    """The documents of a data set on the Hub, read by ranges as they are wanted, and where they lie.

    Reads the first parquet file of its training split, from the Hub's own parquet copy
    (``refs/convert/parquet``) if there is one, so that data sets in any format can be read.

    Raises: NotAvailableError if it cannot be reached, or has no parquet; ValueError without such a column.
    """
    import pyarrow.parquet as parquet
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import RevisionNotFoundError

    def find(revision: str) -> list[str]:
        try:
            files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        except RevisionNotFoundError:
            return []
        found = sorted(file for file in files if file.endswith(".parquet"))
        return [file for file in found if "train" in file] or found

    try:
        where = next(
            (
                (revision, files[0])
                for revision in ("refs/convert/parquet", "main")
                if (files := find(revision))
            ),
            None,
        )
        if where is None:
            raise NotAvailableError(
                f"the data set {name} has no parquet file on the Hub; give text= instead"
            )
        revision = HfApi().dataset_info(name, revision=where[0]).sha
        opened = HfFileSystem().open(f"datasets/{name}@{revision}/{where[1]}", block_size=2**22)
        file = parquet.ParquetFile(
            opened, pre_buffer=False
        )  # buffering would fetch the whole column first
    except NotAvailableError:
        raise
    except Exception as error:
        raise explained(error, "the text", name, kind="dataset") from None
    if column not in file.schema_arrow.names:
        raise ValueError(
            f"the data set {name} has no column {column!r} (it has {file.schema_arrow.names}); give text= instead"
        )

    def texts() -> Iterator[str]:
        try:
            for batch in file.iter_batches(batch_size=16, columns=[column]):
                yield from batch.column(0).to_pylist()
        except Exception as error:
            raise explained(error, "the text", name, kind="dataset") from None

    return texts(), revision


def _with_first_column(array: np.ndarray, value: int) -> np.ndarray:
    return np.concatenate([np.full((len(array), 1), value, dtype=array.dtype), array], axis=1)


def _tokenize_in_chunks(text: str, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the 20 chunks laid end to end, and the character at which each token starts."""
    size = (len(text) - 1) // CHUNKS_PER_BATCH + 1
    chunks = [text[i * size : (i + 1) * size] for i in range(CHUNKS_PER_BATCH)]
    encoded = tokenizer(chunks, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.concatenate([np.asarray(x, dtype=np.int64) for x in encoded["input_ids"]])
    starts = np.concatenate(
        [
            np.asarray([start for start, _ in x], dtype=np.int64) + i * size
            for i, x in enumerate(encoded["offset_mapping"])
        ]
    )
    keep = (
        ids != tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else np.ones(len(ids), bool)
    )
    return ids[keep], starts[keep]


def chat_tokens(
    messages, tokenizer, *, add_generation_prompt: bool = False, date: str = "22 Jan 2025"
) -> torch.Tensor:
    """A conversation as the model's chat template writes it, the same tokens on every day.

    Args:
        messages: a list of ``{"role": "user", "content": "..."}``; roles as the template knows them.
        add_generation_prompt: end with the opening of the assistant's turn, for ``steer`` to go on from.
        date: what stands where the template (Llama's) would write today's date; by default that of qresearch's notebook.

    Returns: long ``[1, pos]``, with whatever special tokens the template writes (BOS among them).
    Raises: ValueError if the tokenizer has no chat template, or messages are of another form.
    """
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or "this model"
        raise ValueError(
            f"the tokenizer of {name} has no chat template; use that of an -Instruct model, or give plain text"
        )
    well_formed = isinstance(messages, (list, tuple)) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not messages or not well_formed:
        raise ValueError(
            f'messages are {messages!r}; give a list such as [{{"role": "user", "content": "Who are you?"}}]'
        )
    ids = tokenizer.apply_chat_template(
        list(messages),
        tokenize=True,
        return_dict=False,
        add_generation_prompt=add_generation_prompt,
        date_string=date,
    )
    return torch.tensor([ids], dtype=torch.long)
