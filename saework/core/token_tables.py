"""Tokens in their contexts, and the vocabulary, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from saework.core.argument_kinds import checked
from saework.core.arguments import as_tensor, check_positive, check_tokens
from saework.core.arrays import as_array
from saework.core.tokens import joined_at_first, str_tokens, token_names, visible

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import Tokenizer


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
        shown = [visible(text) for text in joined_at_first(ids, row, tokenizer)]
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
    logits = as_tensor(logits, "logits").detach().cpu()
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
