"""Tokens as people read them: visible text, and whole characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import check_tokens
from saework.core.byte_pieces import text_of_bytes

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
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
    return joined_at_first(check_tokens(tokens)[0].tolist(), texts, tokenizer)


def joined_at_first(ids: list[int], texts: list[str], tokenizer: Tokenizer) -> list[str]:
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
