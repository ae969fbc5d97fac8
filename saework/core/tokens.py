"""Tokens as people read them: visible text, tokens in context, the vocabulary as a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import check_positive, check_tokens
from saework.core.arrays import as_array
from saework.core.byte_pieces import text_of_bytes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from saework.core.protocols import Tokenizer

SPACE = "·"
NEWLINE = "↩"
TAB = "→"
CONTINUED = "←"
"""A token that goes on with the character of the tokens before it."""
NO_CHARACTER = "\ufffd"
"""What bytes decode to that are no whole character."""
LONGEST_CHARACTER = 8  # tokens; four bytes, and the ends of its neighbours
_NAMED = {
    " ": SPACE,
    "\n": NEWLINE,
    "\t": TAB,
}
# Unicode's categories of what a reader cannot see: control, format (right-to-left marks,
# zero-width space), surrogate, private use, unassigned; and the three kinds of separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}


def visible(text: str) -> str:
    """Text in which nothing is hidden: space ``·``, newline ``↩``, tab ``→``.

    Any other control or invisible character becomes its number, such as ``⟨U+200F⟩`` for the
    right-to-left mark. Emoji joined by the zero-width joiner come apart, so that a reader sees
    every character.

    Raises:
        ValueError: not a string.

    Source: the three signs are the gelu-1l notebook's (which keeps the line break after ``↩``).

    >>> visible(" the\\n")
    '·the↩'
    """
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f"visible() takes text, not {kind}; decode tokens with str_tokens()")
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) in _INVISIBLE:
        return f"⟨U+{ord(character):04X}⟩"
    return character


@checked
def str_tokens(tokens: Int[Tensor, " pos"] | Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each token of one row, decoded on its own.

    Args:
        tokens: integers ``[pos]``.
        tokenizer: the model's.

    Raises:
        ValueError: several rows, or what ``check_tokens`` refuses.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> str_tokens(book.tokens[0, :4], book.tokenizer)
    ['<|BOS|>', ' s', 'ix', ' mon']
    """
    rows = check_tokens(tokens)
    if len(rows) > 1:
        raise ValueError(
            f"tokens have {len(rows)} rows; give one row, such as tokens[0], or use token_df for "
            "several"
        )
    ids = rows[0].tolist()
    # each id once: a long text has few distinct ones
    distinct = list(dict.fromkeys(ids))
    texts = decode_each(distinct, tokenizer)
    text_of = dict(zip(distinct, texts))
    return [text_of[token_id] for token_id in ids]


@checked
def whole_characters(
    tokens: Int[Tensor, " pos"] | Sequence[int], tokenizer: Tokenizer
) -> list[str]:
    """``str_tokens`` for a reader: a character of several tokens stands at the first of them.

    The tokens after it are ``←``. On its own, none of them is text: it decodes to ``�``. So what
    is cut off from its character is shown as bytes (``token_names``).

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> tokens = book.tokenizer("a 日", add_special_tokens=False)["input_ids"]
    >>> whole_characters(tokens, book.tokenizer)
    ['a', ' ', '日', '←', '←']
    """
    texts = str_tokens(tokens, tokenizer)
    return _joined(check_tokens(tokens)[0].tolist(), texts, tokenizer)


def _joined(ids: list[int], texts: list[str], tokenizer: Tokenizer) -> list[str]:
    """The texts of a row's tokens, as ``whole_characters`` has them."""
    shown = [_readable(i, text, tokenizer) for i, text in zip(ids, texts)]
    for start, end, character in _split_characters(ids, texts, tokenizer):
        shown[start:end] = [character, *[CONTINUED] * (end - start - 1)]
    return shown


def _readable(token_id: int, text: str, tokenizer: Tokenizer) -> str:
    """A token's text, or, for a part of a character, its bytes."""
    if NO_CHARACTER not in text:
        return text
    (piece,) = tokenizer.convert_ids_to_tokens([token_id])
    return text_of_bytes(piece) or text


def _split_characters(
    ids: list[int], texts: list[str], tokenizer: Tokenizer
) -> Iterator[tuple[int, int, str]]:
    """Runs of tokens that are text only together: where each begins and ends, and its text."""
    start = 0
    while start < len(ids):
        end = start + 1
        text = texts[start]
        # The shortest run that is whole; one that never becomes so is a real ``�``, or cut off.
        while NO_CHARACTER in text and end < len(ids) and end - start < LONGEST_CHARACTER:
            if NO_CHARACTER not in texts[end]:
                break
            end += 1
            (text,) = tokenizer.batch_decode(
                [ids[start:end]], clean_up_tokenization_spaces=False, skip_special_tokens=False
            )
        if NO_CHARACTER in text or end == start + 1:
            start += 1
            continue
        if texts[start].startswith(" ") and not text.startswith(" "):
            text = f" {text}"
        yield start, end, text
        start = end


def decode_each(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each token id; empty for ids beyond the tokenizer (padded vocabularies)."""
    if len(ids) == 0:  # transformers gives one text for no rows
        return []
    n_known = len(tokenizer)
    rows = [[token_id] if token_id < n_known else [] for token_id in ids]
    texts = tokenizer.batch_decode(
        rows,
        clean_up_tokenization_spaces=False,
        skip_special_tokens=False,
    )
    texts = list(texts)
    if len(texts) != len(rows):
        raise ValueError(
            f"the tokenizer gave {len(texts)} texts for {len(rows)} tokens; give the model's own"
        )
    return _with_leading_spaces(ids, texts, tokenizer)


def _with_leading_spaces(
    ids: Sequence[int],
    texts: list[str],
    tokenizer: Tokenizer,
) -> list[str]:
    """Texts with the space that some decoders (Llama 2, Mistral) strip where a text begins.

    SentencePiece writes the space as ``▁`` in the vocabulary's own pieces.
    """
    n_known = len(tokenizer)
    known = [token_id for token_id in ids if token_id < n_known]
    pieces = tokenizer.convert_ids_to_tokens(known)
    piece_of = dict(zip(known, pieces))
    restored = []
    for token_id, text in zip(ids, texts):
        piece = piece_of.get(token_id) or ""
        n_spaces = len(piece) - len(piece.lstrip("▁"))
        n_decoded = len(text) - len(text.lstrip(" "))
        n_lost = max(0, n_spaces - n_decoded)
        restored.append(n_lost * " " + text)
    return restored


def token_names(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The visible text of each token out of any context.

    A part of a character is no text. So its bytes are shown, such as ``⟨0xE6⟩``, if the vocabulary
    is one of bytes (GPT-2's kind, or SentencePiece's fallback); otherwise it stays ``�``.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> token_names(book.tokenizer(" 日", add_special_tokens=False)["input_ids"], book.tokenizer)
    ['·', '⟨0xE6⟩', '⟨0x97⟩', '⟨0xA5⟩']
    """
    texts = decode_each(ids, tokenizer)
    return [visible(_readable(i, text, tokenizer)) for i, text in zip(ids, texts)]


def not_bos(tokens: Int[Tensor, "*batch pos"], tokenizer: Any) -> Bool[Tensor, "*batch pos"]:
    """A mask that is False on BOS.

    Args:
        tokens: integers of any shape.
        tokenizer: the model's; None, or one without a BOS, leaves no token out.

    Returns:
        In the tokens' shape; True everywhere if no token but BOS is there.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    if bos is None:
        return everything
    others = tokens != bos
    if others.any():
        return others
    return everything


@checked
def token_df(
    tokens: Int[Tensor, "batch pos"] | Sequence,
    tokenizer: Tokenizer,
    *,
    len_prefix: int = 5,
    len_suffix: int = 1,
    **columns: Any,
) -> pd.DataFrame:
    """One row for each token, with its context.

    Args:
        tokens: integers ``[batch, pos]``.
        tokenizer: the model's.
        len_prefix: tokens of context before.
        len_suffix: tokens of context after.
        columns: more columns, each with one value per token, ``[batch, pos]`` or flat.

    Returns:
        Columns:

        - ``str_tokens``: the token's visible text; a character of several tokens stands at the
          first of them, and the others are ``←``;
        - ``unique_token``: ``token/pos``;
        - ``context``: ``prefix|token|suffix``;
        - ``batch``, ``pos``: its row and its place in the row;
        - ``label``: ``batch/pos``;
        - then yours.

    Raises:
        ValueError: a column has another number of values than there are tokens, or another shape;
            or the name of one that is there already.

    Source: ``make_token_df`` of the gelu-1l notebook, whose suffix is by a slip always empty at
    the second-to-last position; here it is not.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> token_df(book.tokens[:1, :3], book.tokenizer)[["context", "label"]]
                 context label
    0    |<|BOS|>|·s   0/0
    1  <|BOS|>|·s|ix   0/1
    2  <|BOS|>·s|ix|   0/2
    """
    tokens = check_tokens(tokens)
    check_positive(len_prefix, "len_prefix", minimum=0)
    check_positive(len_suffix, "len_suffix", minimum=0)
    n_rows, n_pos = tokens.shape
    all_texts = str_tokens(tokens.flatten(), tokenizer)
    texts: list[str] = []
    contexts: list[str] = []
    for index, ids in enumerate(tokens.tolist()):
        row = all_texts[index * n_pos : (index + 1) * n_pos]
        shown = [visible(text) for text in _joined(ids, row, tokenizer)]
        texts += shown
        contexts += _contexts(shown, len_prefix, len_suffix)
    batch, pos = np.divmod(np.arange(len(texts)), n_pos)
    unique_tokens = [f"{text}/{place}" for text, place in zip(texts, pos)]
    labels = [f"{index}/{place}" for index, place in zip(batch, pos)]
    frame = pd.DataFrame(
        {
            "str_tokens": texts,
            "unique_token": unique_tokens,
            "context": contexts,
            "batch": batch,
            "pos": pos,
            "label": labels,
        }
    )
    for name, given in columns.items():
        values = as_array(given)
        if name in frame:
            raise ValueError(
                f"column {name!r} is there already (token_df has {', '.join(frame)}); "
                "give yours another name"
            )
        if values.size != len(frame):
            raise ValueError(
                f"column {name!r} has {values.size} values for {len(frame)} tokens "
                f"({n_rows} rows of {n_pos}); give one value per token"
            )
        if values.ndim > 1 and values.shape != (n_rows, n_pos):
            raise ValueError(
                f"column {name!r} has shape {values.shape}, and the tokens {(n_rows, n_pos)}; "
                "give one value per token in their order"
            )
        frame[name] = values.reshape(-1)
    return frame


def _contexts(texts: list[str], len_prefix: int, len_suffix: int) -> list[str]:
    """``prefix|token|suffix`` of each token of one row."""
    contexts = []
    for pos, text in enumerate(texts):
        first, after = max(0, pos - len_prefix), pos + 1
        prefix = "".join(texts[first:pos])
        suffix = "".join(texts[after : after + len_suffix])
        contexts.append(f"{prefix}|{text}|{suffix}")
    return contexts


@checked
def vocab_df(
    logits: Float[Tensor, " d_vocab"], tokenizer: Tokenizer, *, probs: bool = False
) -> pd.DataFrame:
    """The vocabulary with one number per token, highest first.

    Args:
        logits: ``[d_vocab]``.
        tokenizer: the model's.
        probs: also columns ``log_prob`` (nats) and ``prob``, by softmax over the vocabulary.

    Returns:
        Columns ``token`` and ``logit``; the index is the token id. Ties are in order of id.

    Raises:
        ValueError: not one axis, empty, not real numbers, or NaN.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> logits = book.model(book.tokens[:1, :9])[0, -1]
    >>> vocab_df(logits, book.tokenizer).head(2)["token"].tolist()
    ['·be', '·not']
    """
    try:
        logits = torch.as_tensor(logits).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"logits are a {type(logits).__name__}; give one number per token, [d_vocab]"
        ) from error
    shape = tuple(logits.shape)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"logits have shape {shape}; give one value per token, [d_vocab]")
    if logits.dtype == torch.bool or logits.is_complex() or logits.isnan().any():
        raise ValueError(
            f"logits are {logits.dtype}, {int(logits.isnan().sum())} of them NaN; give real numbers"
        )
    if probs and not logits.max().isfinite():
        raise ValueError(
            f"the largest logit is {float(logits.max())}, of which no probability can be taken; "
            "give finite logits (-inf for what is left out), or probs=False"
        )
    frame = pd.DataFrame(
        {
            "token": token_names(range(shape[0]), tokenizer),
            "logit": logits.float().numpy(),
        }
    )
    if probs:
        log_prob = logits.double().log_softmax(dim=-1)
        frame["log_prob"] = log_prob.numpy()
        frame["prob"] = log_prob.exp().numpy()
    frame.index.name = "token_id"
    return frame.sort_values("logit", ascending=False, kind="stable")
