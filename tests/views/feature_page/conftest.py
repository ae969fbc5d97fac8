"""Three pages of the tiny SAE, measured once, and its activations in the slow way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import random_sae
from page_checks import RESIDUAL, slow_activations

from saework import feature_pages

FEATURES = [7, 20, 31]


@pytest.fixture(scope="package")
def other(tiny):
    """Another SAE for the same hook, of another width."""
    return random_sae(24, 40, tiny.hook, torch.Generator().manual_seed(5))


@pytest.fixture(scope="package")
def pages(book, other):
    """By feature, with the scan that is made by default: without BOS."""
    return {page.feature: page for page in feature_pages(book, FEATURES, other=other)}


@pytest.fixture(params=FEATURES)
def page(request, pages):
    """Each of them."""
    return pages[request.param]


@pytest.fixture(scope="package")
def activations(book):
    """``[batch, pos, d_sae]``, with BOS."""
    return slow_activations(book)


@pytest.fixture(scope="package")
def early(book):
    """A workbook at the first residual stream, where tokens reach later ones by attention."""
    sae = random_sae(16, 32, RESIDUAL, torch.Generator().manual_seed(2), "jumprelu")
    return replace(book, sae=sae, hook=RESIDUAL)
