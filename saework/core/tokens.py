"""Tokens as people read them: visible text, tables of tokens in context, tables of the vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from saework.core.arguments import check_positive, check_tokens

SPACE, NEWLINE, TAB = "·", "↩", "→"
_NAMED = {" ": SPACE, "\n": NEWLINE, "\t": TAB}
# Control, format (right-to-left marks, zero-width space), surrogate, private use, unassigned.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn"}
_SEPARATORS = {"Zs", "Zl", "Zp"}


def visible(text: str) -> str:
    """Text in which nothing is hidden: space ``·``, newline ``↩``, tab ``→``, and any other control
    or invisible character by its number, such as ``⟨U+200F⟩`` for the right-to-left mark.

    Emoji joined by the zero-width joiner come apart, so that what is there can be seen.
    Source: the three signs are the gelu-1l notebook's (which keeps the line break after ``↩``).
    """
    if not isinstance(text, str):
        raise ValueError(
            f"visible() takes text, not {type(text).__name__}; decode tokens with str_tokens()"
        )
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) in _INVISIBLE | _SEPARATORS:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def str_tokens(tokens, tokenizer) -> list[str]:
    """Each token of one row decoded on its own.

    Args: ``tokens``: integers ``[pos]``.
    """
    ids = check_tokens(tokens)[0].tolist()
    known = list(dict.fromkeys(ids))
    texts = dict(zip(known, decode_each(known, tokenizer)))
    return [texts[i] for i in ids]


def decode_each(ids: Sequence[int], tokenizer) -> list[str]:
    """The text of each token id; empty for an id that the tokenizer does not know (padded vocabularies)."""
    known = len(tokenizer)
    texts = tokenizer.batch_decode(
        [[i] if i < known else [] for i in ids],
        clean_up_tokenization_spaces=False,
        skip_special_tokens=False,
    )
    return list(texts)


def not_bos(tokens: torch.Tensor, tokenizer) -> torch.Tensor:
    """Bool, in the tokens' shape: False on BOS; True everywhere if the tokenizer has none, or there is nothing else."""
    bos = getattr(tokenizer, "bos_token_id", None)
    others = torch.ones_like(tokens, dtype=torch.bool) if bos is None else tokens != bos
    return others if others.any() else ~others


def token_df(
    tokens, tokenizer, *, len_prefix: int = 5, len_suffix: int = 1, **columns
) -> pd.DataFrame:
    """One row a token, with its context.

    Args:
        tokens: long ``[batch, pos]``.
        len_prefix, len_suffix: tokens of context before and after.
        columns: more columns, each a value a token, ``[batch, pos]`` or flat.

    Returns: columns ``str_tokens``, ``unique_token`` (``token/pos``), ``context``
    (``prefix|token|suffix``), ``batch``, ``pos``, ``label`` (``batch/pos``), then yours.

    Raises: ValueError if a column has another number of values than there are tokens.

    Source: ``make_token_df`` of the gelu-1l notebook, whose suffix is by a slip always empty at the
    second-to-last position; here it is not.
    """
    tokens = check_tokens(tokens)
    (
        check_positive(len_prefix, "len_prefix", minimum=0),
        check_positive(len_suffix, "len_suffix", minimum=0),
    )
    n_rows, n_pos = tokens.shape
    flat = [visible(text) for text in str_tokens(tokens.flatten(), tokenizer)]
    rows = [flat[i * n_pos : (i + 1) * n_pos] for i in range(n_rows)]
    contexts = [
        f"{''.join(row[max(0, p - len_prefix) : p])}|{row[p]}|{''.join(row[p + 1 : p + 1 + len_suffix])}"
        for row in rows
        for p in range(n_pos)
    ]
    batch, pos = np.divmod(np.arange(n_rows * n_pos), n_pos)
    frame = pd.DataFrame(
        {
            "str_tokens": flat,
            "unique_token": [f"{text}/{p}" for text, p in zip(flat, pos)],
            "context": contexts,
            "batch": batch,
            "pos": pos,
            "label": [f"{b}/{p}" for b, p in zip(batch, pos)],
        }
    )
    for name, values in columns.items():
        values = (
            values.detach().cpu().numpy()
            if isinstance(values, torch.Tensor)
            else np.asarray(values)
        )
        if values.size != len(frame):
            raise ValueError(
                f"column {name!r} has {values.size} values for {len(frame)} tokens "
                f"({n_rows} rows of {n_pos}); give one value a token"
            )
        frame[name] = values.reshape(-1)
    return frame


def vocab_df(logits, tokenizer, *, probs: bool = False) -> pd.DataFrame:
    """The vocabulary with a number each, highest first; ties in order of token id.

    Args:
        logits: ``[d_vocab]``.
        probs: also ``log_prob`` (nats) and ``prob``, by softmax over the vocabulary.

    Returns: columns ``token``, ``logit`` (, ``log_prob``, ``prob``); the index is the token id.
    """
    logits = torch.as_tensor(logits).detach().cpu()
    if logits.ndim != 1 or len(logits) == 0:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; give one value a token, [d_vocab]"
        )
    frame = pd.DataFrame(
        {"token": [visible(t) for t in decode_each(range(len(logits)), tokenizer)]}
    )
    frame["logit"] = logits.float().numpy()
    if probs:
        log_prob = logits.double().log_softmax(dim=-1)
        frame["log_prob"], frame["prob"] = log_prob.numpy(), log_prob.exp().numpy()
    frame.index.name = "token_id"
    return frame.sort_values("logit", ascending=False, kind="stable")
