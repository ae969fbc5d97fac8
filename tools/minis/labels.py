"""What Python itself says of each token: comment, docstring, other string, keyword, ...

Computed once by the builder and stored, since ``tokenize`` and ``ast`` differ between Python
versions.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.loading import corpus

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from saework.core.protocols import Tokenizer

NAMES = ("code", "comment", "docstring", "string", "keyword", "number", "defined_name")


Span = tuple[str, int, int]
"""Label, first character, one past the last."""


def python_labels(
    texts: Sequence[str], tokenizer: Tokenizer, offsets: Int[Tensor, "batch pos"]
) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Labels of tokens, by the first character of each that is not white space.

    Args:
        texts: the documents.
        tokenizer: the model's.
        offsets: from ``corpus.tokenize_rows_with_offsets`` of the same texts.

    Returns:
        By name; False on BOS, and on documents that are not Python.
    """
    eos = str(tokenizer.eos_token)
    whole = corpus.joined_text(texts, tokenizer)
    character_labels = {name: np.zeros(len(whole) + 1, dtype=bool) for name in NAMES}
    base = 0  # the character at which the document starts
    for batch in corpus.batches(texts):
        for i, text in enumerate(batch):
            if i > 0:
                base += len(eos)
            for name, start, end in _spans(text):
                covered = slice(base + start, base + end)
                character_labels[name][covered] = True
            base += len(text)
    starts = offsets.numpy()
    visible = _first_visible(whole, starts)
    is_text = starts >= 0
    labels = {}
    for name, values in character_labels.items():
        token_labels = values[visible] & is_text
        labels[name] = torch.from_numpy(token_labels)
    return labels


def _first_visible(text: str, offsets: np.ndarray) -> np.ndarray:
    """For each offset, the next character that is not white space: " import" is about the "i"."""
    end = len(text)
    position = np.arange(end + 1)
    for i, character in enumerate(text):
        if character.isspace():
            position[i] = end
    # From the back, the smallest position so far is the next visible character.
    backwards = position[::-1]
    following = np.minimum.accumulate(backwards)[::-1]
    return following[np.maximum(offsets, 0)]


def _spans(text: str) -> list[Span]:
    """The labelled parts of a document; none if it is not Python."""
    try:
        tree = ast.parse(text)
        lines = io.StringIO(text)
        tokens = list(tokenize.generate_tokens(lines.readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return []
    statements = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    # A line or two of prose can be Python by accident, so one of these is asked for.
    found = [node for node in ast.walk(tree) if isinstance(node, statements)]
    if not found:
        return []
    line_starts = [0]
    for line in text.split("\n"):
        next_start = line_starts[-1] + len(line) + 1
        line_starts.append(next_start)
    docstrings = _docstring_starts(tree)
    spans: list[Span] = [("code", 0, len(text))]
    previous = ""
    for token in tokens:
        label = _label(token, docstrings, previous)
        previous = ""
        if token.type == tokenize.NAME:
            previous = token.string
        if label:
            line, column = token.start
            start = line_starts[line - 1] + column
            line, column = token.end
            end = line_starts[line - 1] + column
            spans.append((label, start, end))
    return spans


def _label(
    token: tokenize.TokenInfo, docstrings: set[tuple[int, int]], previous: str
) -> str | None:
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.NUMBER:
        return "number"
    if token.type == tokenize.STRING:
        line, column = token.start
        before = token.line[:column]
        start = line, len(before.encode())  # ast counts bytes, tokenize characters
        if start in docstrings:
            return "docstring"
        return "string"
    if token.type != tokenize.NAME:
        return None
    if keyword.iskeyword(token.string):
        return "keyword"
    if previous in ("def", "class"):
        return "defined_name"
    return None


def _docstring_starts(tree: ast.AST) -> set[tuple[int, int]]:
    """Line, and column in bytes, of each docstring."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    starts = set()
    for node in ast.walk(tree):
        if not isinstance(node, owners) or ast.get_docstring(node) is None:
            continue
        docstring = node.body[0]
        start = docstring.lineno, docstring.col_offset
        starts.add(start)
    return starts
