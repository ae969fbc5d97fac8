"""Rows, and scans of them, that the tests of this folder share."""

from __future__ import annotations

import pytest

import saework

TOP_K = 5


@pytest.fixture(scope="module")
def tokens(tiny):
    """With one row twice, so that there are ties."""
    tokens = tiny.tokens.clone()
    tokens[5] = tokens[2]
    return tokens


@pytest.fixture(scope="module")
def mask(tokens):
    """BOS out, and one row and a half of padding."""
    mask = tokens != 1
    mask[1] = False
    mask[4, 10:] = False
    return mask


@pytest.fixture(scope="session")
def rowwise(tiny):
    """``rowwise(tokens, **options)``: a scan row by row, unless ``batch_size`` is given.

    So no matrix product depends on how the rows are cut into parts.
    """

    def scan(tokens, **options):
        return saework.scan(
            tiny.model, tiny.sae, tokens, **{"batch_size": 1, "top_k": TOP_K, **options}
        )

    return scan


@pytest.fixture(scope="module")
def whole(rowwise, tokens):
    """The scan of all rows."""
    return rowwise(tokens)
