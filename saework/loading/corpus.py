"""Text to rows of tokens, cut exactly as the published notebook cut them.

Row labels such as ``51/89`` (row 51, position 89) mean something only if the rows are the same.
The published rows were made by TransformerLens 2's ``tokenize_and_concatenate``. Later versions cut
differently, so the old algorithm is written out here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.argument_kinds import (
    check_no_surrogate,
    check_several,
    check_text,
    check_tokenizer,
    check_whole,
    checked,
)

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import Tokenizer

DOCUMENTS_PER_BATCH = 1000
CHUNKS_PER_BATCH = 20
SHUFFLE_SEED = 42
PIRATE_CONVERSATION = [
    {"role": "user", "content": "Roleplay as a pirate"},
    {
        "role": "assistant",
        "content": "Yarr, I'll be speakin' like a true seafarer from here on out! "
        "Got me sea legs ready and me vocabulary set to proper pirate speak. "
        "What can I help ye with, me hearty?",
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


@checked
def tokenize_rows(
    texts: Sequence[str], tokenizer: Tokenizer, *, length: int = 128
) -> Int[Tensor, "batch pos"]:
    """Rows of tokens from documents, BOS first, in document order (not yet shuffled).

    A tokenizer without a BOS gets rows without one.

    For each 1,000 documents: join them with the EOS string, and cut the result into 20 chunks of
    equal length in characters. Tokenize each chunk, put the tokens end to end, and cut them into
    rows of ``length - 1``. Drop the remainder, and put BOS in front of each row.

    Args:
        texts: the documents.
        tokenizer: the model's.
        length: tokens in a row, BOS included.

    Returns:
        Integers ``[batch, length]``.

    Raises:
        ValueError: if the texts are too short for one row, or ``length`` is below 2.

    Source: ``tokenize_and_concatenate`` of TransformerLens 2, as the gelu-1l notebook called it.
    """
    rows, _ = _rows_and_offsets(texts, tokenizer, length, with_offsets=False)
    return rows


def tokenize_rows_with_offsets(
    texts: Sequence[str], tokenizer: Tokenizer, *, length: int = 128
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """As ``tokenize_rows``, and where each token starts.

    Returns:
        Rows ``[batch, length]``, and offsets of the same shape: the character of
        ``joined_text(texts, tokenizer)`` at which the token starts; -1 for BOS.
    """
    return _rows_and_offsets(texts, tokenizer, length, with_offsets=True)


def _rows_and_offsets(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, *, with_offsets: bool
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Rows, and where their tokens start: no rows of that unless asked for, as it takes memory."""
    texts = _checked_texts(texts)
    check_whole("length", length)
    if length < 2:
        raise ValueError(
            f"length is {length}; a row is BOS and at least one token, so give 2 or more"
        )
    bos = tokenizer.bos_token_id
    per_row = length if bos is None else length - 1
    rows, offsets = [], [np.empty((0, length), dtype=np.int64)]
    batch_start = 0  # the character at which the batch starts
    for batch in batches(texts):
        joined = str(tokenizer.eos_token).join(batch)
        ids, starts = _tokenize_in_chunks(joined, tokenizer, with_starts=with_offsets)
        rows.append(_cut(ids, per_row, bos))
        if with_offsets:
            offsets.append(_cut(starts + batch_start, per_row, None if bos is None else -1))
        batch_start += len(joined)
    if sum(map(len, rows)) == 0:
        raise ValueError(
            f"the text is too short: not one row of {per_row} tokens came out of "
            f"{len(texts)} documents; give more text or a smaller length"
        )
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(offsets))


def _checked_texts(texts: Any) -> list[str]:
    """Documents as a list. Raises: ValueError for anything but strings without lone surrogates."""
    check_several("texts", texts)
    documents = list(texts)
    for number, text in enumerate(documents):
        check_text(f"document {number}", text)
        check_no_surrogate(text, f"document {number}")
    return documents


@checked
def packed_rows(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    length: int,
    n_rows: int | None = None,
    prepend_bos: bool = True,
) -> Int[Tensor, "batch pos"]:
    """Rows as sae_lens packs them: documents end to end, and BOS between them.

    BOS is also in front of each row. What is left after the last whole row is dropped. A tokenizer
    without a BOS gets rows without one.

    Args:
        texts: the documents.
        tokenizer: the model's.
        length: tokens in a row, BOS included.
        n_rows: stop after so many rows, so that a streamed corpus is read no further.
        prepend_bos: False for rows without a BOS in front, as some SAEs were trained; BOS still
            stands between documents.

    Returns:
        Integers ``[batch, length]``.

    Raises:
        ValueError: if the texts are too short for one row.

    Source: ``sae_lens.tokenization_and_batching.concat_and_batch_sequences``, called as sae_lens's
    activation store calls it.
    """
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    bos = tokenizer.bos_token_id

    def ids_of(text: str) -> Tensor:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # a text's own BOS would stand beside the separator
        own = ids[1:] if ids[:1] == [bos] else ids
        return torch.tensor(own, dtype=torch.long)

    documents = map(ids_of, texts)
    all_rows = concat_and_batch_sequences(
        documents,
        length,
        begin_batch_token_id=bos if prepend_bos else None,
        sequence_separator_token_id=bos,
    )
    rows = list(itertools.islice(all_rows, n_rows))
    if not rows:
        raise ValueError(
            f"the text is too short: not one row of {length} tokens came out of it; "
            "give more text or a smaller length"
        )
    return torch.stack(rows)


def joined_text(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    """The text that ``tokenize_rows_with_offsets`` counts its characters in."""
    return "".join(str(tokenizer.eos_token).join(batch) for batch in batches(texts))


@checked
def shuffled(rows: Tensor, *, seed: int = SHUFFLE_SEED) -> Tensor:
    """Rows in the order of ``datasets.Dataset.shuffle(seed)``, the published notebook's order."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[torch.from_numpy(order)]


def published_rows(
    n_rows: int,
    n_batches: int,
    *,
    skip: int = 0,
    seed: int = 52,
    shape: tuple[int, int] = (2048, 16384),
) -> Int[Tensor, " row"]:
    """The numbers of the rows that the published notebook's random batches took.

    It drew them with ``torch.randperm`` from the generator that its autoencoder had seeded (52 for
    run1) and had drawn two weight matrices from. The same draws are made again here. That this
    gives the same rows is inferred from the code, and shows in the losses.

    Memory: two matrices of the SAE's shape, 268 MB by default.

    Args:
        n_rows: rows of the tokenized corpus.
        n_batches: of 64 rows each.
        skip: batches drawn before (the notebook scored 5 batches, then counted firings on 50).
        seed: of the autoencoder.
        shape: of its encoder.

    Returns:
        Integers ``[n_batches * 64]``.
    """
    generator = torch.Generator().manual_seed(seed)
    for size in (shape, shape[::-1]):
        torch.nn.init.kaiming_uniform_(torch.empty(size), generator=generator)
    draws = [torch.randperm(n_rows, generator=generator)[:64] for _ in range(skip + n_batches)]
    return torch.cat(draws[skip:])


def _cut(values: np.ndarray, per_row: int, first: int | None) -> np.ndarray:
    """Rows of so many values, the remainder dropped, each with ``first`` in front if given."""
    n_rows = len(values) // per_row
    rows = values[: n_rows * per_row].reshape(n_rows, per_row)
    if first is None:
        return rows
    column = np.full((n_rows, 1), first, dtype=rows.dtype)
    return np.concatenate([column, rows], axis=1)


def _tokenize_in_chunks(
    text: str, tokenizer: Tokenizer, *, with_starts: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the 20 chunks end to end, and the character at which each token starts.

    Without starts, zeros in their place.
    """
    size = (len(text) - 1) // CHUNKS_PER_BATCH + 1
    chunk_starts = [i * size for i in range(CHUNKS_PER_BATCH)]
    chunks = [text[start : start + size] for start in chunk_starts]
    encoded = tokenizer(chunks, add_special_tokens=False, return_offsets_mapping=with_starts)
    ids = np.concatenate([np.asarray(chunk, dtype=np.int64) for chunk in encoded["input_ids"]])
    starts = np.zeros_like(ids)
    if with_starts:
        token_starts = []
        for chunk_start, offsets in zip(chunk_starts, encoded["offset_mapping"]):
            within_chunk = np.asarray([start for start, _ in offsets], dtype=np.int64)
            token_starts.append(within_chunk + chunk_start)
        starts = np.concatenate(token_starts)
    dropped = [tokenizer.pad_token_id]
    # each row gets its own BOS; a tokenizer that has one token for both keeps the separators
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        dropped.append(tokenizer.bos_token_id)
    dropped_ids = [token_id for token_id in dropped if token_id is not None]
    is_text = ~np.isin(ids, dropped_ids)
    return ids[is_text], starts[is_text]


def chat_tokens(
    messages: Sequence[Mapping[str, str]],
    tokenizer: Tokenizer,
    *,
    add_generation_prompt: bool = False,
    date: str = "22 Jan 2025",
) -> Int[Tensor, "1 pos"]:
    """A conversation as the model's chat template writes it, the same tokens on every day.

    Args:
        messages: such as ``{"role": "user", "content": "..."}``; roles as the template knows them.
        tokenizer: with a chat template.
        add_generation_prompt: end with the opening of the assistant's turn, for ``steer`` to
            continue from.
        date: what stands where the template (Llama's) would write today's date; by default that of
            qresearch's notebook.

    Returns:
        Integers ``[1, pos]``, with the special tokens that the template writes (BOS among them).

    Raises:
        ValueError: if the tokenizer has no chat template, messages are of another form, or the
            template cannot write them.

    >>> from saework.loading.tokenizer_files import read_tokenizer
    >>> from saework.core.files import DATA
    >>> tokenizer = read_tokenizer(DATA / "llama-mini" / "tokenizer")
    >>> tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    >>> chat_tokens([{"role": "user", "content": "def f"}], tokenizer).shape
    torch.Size([1, 3])
    """
    check_tokenizer("tokenizer", tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or "this model"
        raise ValueError(
            f"the tokenizer of {name} has no chat template; "
            "use that of an -Instruct model, or give plain text"
        )
    listed = isinstance(messages, (list, tuple))
    if not messages or not listed or not all(map(_is_message, messages)):
        raise ValueError(
            f"messages are {messages!r}; "
            'give a list such as [{"role": "user", "content": "Who are you?"}]'
        )
    from jinja2.exceptions import TemplateError

    try:
        ids = tokenizer.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=False,
            add_generation_prompt=add_generation_prompt,
            date_string=date,
        )
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        raise ValueError(
            f"the tokenizer's chat template cannot write these messages: {error}. "
            f"Their roles are {roles}; give roles that the template knows (Gemma's has no "
            "'system': put its words into the first user message), or write the text yourself"
        ) from error
    return torch.tensor([ids], dtype=torch.long)


def _is_message(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
