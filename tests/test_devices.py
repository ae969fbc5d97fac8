from __future__ import annotations

import pytest
import torch
from device_calls import CALLS, NO_TENSORS, RESULTS, Given, assert_alike
from pretended_device import GPU, HOST, pretended_gpu

import saework

RELEASES = ("gelu-1l-mini", "gemma-mini", "llama-mini")


@pytest.fixture(scope="module")
def books():
    """``(release, device)`` to a Workbook."""
    made = {}
    for release in RELEASES:
        made[release, HOST] = saework.load(release, n_tokens=512, device="cpu", check=False)
        with pretended_gpu() as gpu:
            made[release, GPU] = saework.load(release, n_tokens=512, device=gpu)
    return made


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("call", CALLS)
def test_a_function_gives_on_a_gpu_what_it_gives_on_the_host(books, release, call, tmp_path):
    expected = CALLS[call](Given(books[release, HOST], HOST, tmp_path))
    with pretended_gpu():
        for place in (HOST, GPU):
            found = CALLS[call](Given(books[release, GPU], place, tmp_path))
            assert_alike(found, expected)
