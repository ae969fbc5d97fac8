"""What Python itself says of each token: inside a comment, a docstring, another string, a keyword, ...

Computed once by the builder and stored, since ``tokenize`` and ``ast`` differ between Python versions.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Sequence

import numpy as np
import torch

from saework.loading import corpus

NAMES = ("code", "comment", "docstring", "string", "keyword", "number", "defined_name")


def python_labels(
    texts: Sequence[str], tokenizer, offsets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Labels of tokens, by the first character of each that is not white space.

    Args: ``offsets``: from ``corpus.tokenize_rows_with_offsets`` of the same texts.
    Returns: bool of the shape of ``offsets``, by name; False on BOS, and on documents that are not Python.
    """
    whole = corpus.joined_text(texts, tokenizer)
    labels = {name: np.zeros(len(whole) + 1, dtype=bool) for name in NAMES}
    base = 0
    for batch in corpus.batches(texts):
        for i, text in enumerate(batch):
            base += len(tokenizer.eos_token) if i else 0
            for name, start, end in _spans(text):
                labels[name][base + start : base + end] = True
            base += len(text)
    at = _first_visible(whole, offsets.numpy())
    return {
        name: torch.from_numpy(marks[at] & (offsets.numpy() >= 0)) for name, marks in labels.items()
    }


def _first_visible(text: str, offsets: np.ndarray) -> np.ndarray:
    """For each offset, the next character that is not white space: " import" is about the "i"."""
    position = np.arange(len(text) + 1)
    hidden = np.array([character.isspace() for character in text] + [False])
    position[hidden] = len(text)
    following = np.minimum.accumulate(position[::-1])[::-1]
    return following[np.maximum(offsets, 0)]


def _spans(text: str) -> list[tuple[str, int, int]]:
    """``(label, first character, past the last)`` of a document; none if it is not Python."""
    try:
        tree = ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return []
    if not any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))
        for node in ast.walk(tree)
    ):
        return []  # a line or two of prose can be Python by accident
    starts = np.cumsum([0, *(len(line) + 1 for line in text.split("\n"))])
    docstrings = _docstring_starts(tree)
    spans, previous = [("code", 0, len(text))], ""
    for token in tokens:
        label = _label(token, docstrings, previous)
        previous = token.string if token.type == tokenize.NAME else ""
        if label:
            (first_line, first), (last_line, last) = token.start, token.end
            spans.append(
                (label, int(starts[first_line - 1]) + first, int(starts[last_line - 1]) + last)
            )
    return spans


def _label(
    token: tokenize.TokenInfo, docstrings: set[tuple[int, int]], previous: str
) -> str | None:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING:
        line, column = token.start
        start = (line, len(token.line[:column].encode()))  # ast counts bytes, tokenize characters
        return "docstring" if start in docstrings else "string"
    if token.type == tokenize.NUMBER:
        return "number"
    if token.type == tokenize.NAME:
        if keyword.iskeyword(token.string):
            return "keyword"
        return "defined_name" if previous in ("def", "class") else None
    return None


def _docstring_starts(tree: ast.AST) -> set[tuple[int, int]]:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (
        node.body
        for node in ast.walk(tree)
        if isinstance(node, owners) and ast.get_docstring(node) is not None
    )
    return {(body[0].value.lineno, body[0].value.col_offset) for body in bodies}
