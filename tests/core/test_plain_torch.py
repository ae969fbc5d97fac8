"""What the session has set of torch does not reach a result, and stays as it was."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import saework
from saework import Workbook
from saework.core.plain_torch import plain_torch


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device meta": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
}


def numbers(book):
    """One function of each kind, and what each draws or makes by itself."""
    scan = saework.scan(book, progress=False)
    score = saework.recons_score(book, progress=False)
    rare = saework.rare_features(book.sae, scan.firing_rate, threshold=0.9)
    labels = book.tokens % 3 == 0
    features = saework.activations(book)
    page = saework.feature_page(book, 7, scan=scan)
    steered = saework.steer(book, "a sum", 7, strength=9, direction="random", max_new_tokens=3)
    return {
        "sums": scan.total_activation.tolist(),
        "losses": score.token_losses.tolist(),
        "interval": score.interval,
        "null": rare.null_cosine.tolist(),
        "metrics": saework.reconstruction_metrics(book, progress=False)["with_bos"].tolist(),
        "probe": saework.sparse_probe(features, labels, k=[1], draws=1)["accuracy"].tolist(),
        "nearest": saework.compare(book.sae, book.sae)["cosine"].tolist(),
        "kl": steered.kl_by_position.tolist(),
        "page": [page.document()[:100], page.n_tokens],
    }


@pytest.fixture(scope="module")
def own_book(tiny):
    return Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook)


@pytest.fixture(scope="module")
def usual(own_book):
    return numbers(own_book)


@pytest.mark.parametrize("setting", SETTINGS)
def test_numbers_do_not_depend_on_the_session(own_book, usual, setting):
    with SETTINGS[setting]():
        found = numbers(own_book)
    assert found.keys() == usual.keys()
    for name, values in usual.items():
        assert str(found[name]) == str(values), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_session_keeps_what_it_has_set(setting):
    def state():
        is_autocast = torch.is_autocast_enabled("cpu")
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            is_autocast,
            torch.ones(1).dtype,
        )

    with SETTINGS[setting]():
        before = state()
        with plain_torch():
            assert torch.ones(1).dtype is torch.float32
            assert torch.ones(1).device.type == "cpu"
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype is torch.float32
        assert state() == before


def test_no_function_moves_the_sessions_random_numbers(own_book):
    torch.manual_seed(5)
    before = torch.get_rng_state().clone()
    numbers(own_book)
    assert torch.equal(torch.get_rng_state(), before)
