"""No device is mixed up: each public function on a GPU that is not there, and that GPU's rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from device_calls import CALLS, NO_TENSORS, ON_ALL_RELEASES, RESULTS, Given, assert_alike
from pretended_device import GPU, HOST, DeviceMixUp, GpuTensor, pretended_gpu

import saework

RELEASES = ("gelu-1l-mini", "gemma-mini", "llama-mini")
CASES = [
    (release, call)
    for release in RELEASES
    for call in CALLS
    if release == RELEASES[0] or call in ON_ALL_RELEASES
]


@pytest.fixture(scope="module")
def books() -> dict[tuple[str, torch.device], saework.Workbook]:
    """A Workbook for each release, on the host and on the GPU."""
    made = {}
    for release in RELEASES:
        made[release, HOST] = saework.load(release, n_tokens=512, device="cpu", check=False)
        with pretended_gpu() as gpu:
            made[release, GPU] = saework.load(release, n_tokens=512, device=gpu)
    return made


@pytest.mark.parametrize(("release", "call"), CASES, ids=lambda value: value)
def test_a_function_gives_on_a_gpu_what_it_gives_on_the_host(books, release, call, tmp_path):
    """With the user's own tensors on the host, and with them on the GPU."""
    expected = CALLS[call](Given(books[release, HOST], HOST, tmp_path))
    with pretended_gpu():
        for place in (HOST, GPU):
            found = CALLS[call](Given(books[release, GPU], place, tmp_path))
            assert_alike(found, expected)


def test_each_public_name_is_called():
    called = {word.partition(".")[0] for call in CALLS for word in call.split(", ")}
    assert set(saework.__all__) - called == RESULTS - called | NO_TENSORS


@pytest.mark.parametrize("release", RELEASES)
def test_a_load_is_on_the_gpu_whole(books, release):
    book = books[release, GPU]
    for part in (book.model, book.sae):
        assert {str(weight.device) for weight in part.parameters()} == {str(GPU)}


def mix_ups(monkeypatch, books, tmp_path) -> dict[str, Callable[[], Any]]:
    given = Given(books["gelu-1l-mini", GPU], GPU, tmp_path)

    def a_mask_stays_on_the_host():
        def masked(new: Any, old: Any, mask: Any) -> Any:
            return torch.where(mask[..., None], new, old)

        monkeypatch.setattr("saework.engine.forward.masked", masked)
        return CALLS["token_losses, edited"](Given(given.whole, HOST, tmp_path))

    def numbers_are_taken_as_numpy():
        monkeypatch.setattr("saework.core.token_tables.as_array", np.asarray)
        return CALLS["token_df"](given)

    return {
        "mask": a_mask_stays_on_the_host,
        "numpy": numbers_are_taken_as_numpy,
    }


@pytest.mark.parametrize("name", ["mask", "numpy"])
def test_a_deliberate_mix_up_is_caught(books, name, monkeypatch, tmp_path):
    with pretended_gpu(), pytest.raises(DeviceMixUp):
        mix_ups(monkeypatch, books, tmp_path)[name]()


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a sum": lambda x, y: x + y,
    "a host tensor beside a GPU's number": lambda x, y: y + x[0],
    "numpy": lambda x, y: x.numpy(),
    "an array": lambda x, y: np.asarray(x),
    "a list of them as an array": lambda x, y: np.asarray([x[0], x[1]]),
    "concatenation": lambda x, y: torch.cat([x, y]),
    "comparison": lambda x, y: torch.equal(x, y),
    "a choice": lambda x, y: torch.where(x > 0, x, y),
    "a host tensor indexed": lambda x, y: y[x.long()],
    "places written": lambda x, y: x.index_put_((torch.tensor([0, 1]),), y[:2]),
    "an embedding": lambda x, y: torch.nn.functional.embedding(y.long(), x[:, None]),
    "a host's generator": lambda x, y: torch.randn(
        3, device=GPU, generator=torch.Generator().manual_seed(0)
    ),
    "a host's generator for choices": lambda x, y: torch.multinomial(
        x.abs(), 1, generator=torch.Generator()
    ),
}
ALLOWED: dict[str, Callable[[Any, Any], Any]] = {
    "a copy": lambda x, y: x.clone().copy_(y),
    "a part written": lambda x, y: x.clone().__setitem__(slice(0, 2), y[:2]),
    "a host's index": lambda x, y: x[torch.tensor([2, 0])],
    "a host's mask": lambda x, y: x[y > 0],
    "one number of the host": lambda x, y: x * torch.tensor(2.0),
    "one number written": lambda x, y: x.masked_fill(x > 0, torch.tensor(2.0)),
    "numbers from a GPU": lambda x, y: torch.tensor([x[0], x[1]]),
    "a shape changed in place": lambda x, y: x[None].squeeze_(0) @ x.new_ones(3, 2),
    "quantiles": lambda x, y: x.nanquantile(torch.tensor([0.1, 0.5], device=x.device)),
    "text": lambda x, y: f"{x[0]:.2f}",
    "attention": lambda x, y: torch.nn.functional.scaled_dot_product_attention(
        *[x.reshape(1, 1, 3, 1)] * 3, is_causal=True
    ),
}


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 2.0])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_gpu_refuses(kind, pair):
    x, y = pair
    with pretended_gpu() as gpu, pytest.raises(DeviceMixUp):
        REFUSED[kind](x.to(gpu), y)


@pytest.mark.parametrize("kind", ALLOWED)
def test_what_a_gpu_allows(kind, pair):
    x, y = pair
    expected = ALLOWED[kind](x, y)
    with pretended_gpu() as gpu:
        assert_alike(ALLOWED[kind](x.to(gpu), y), expected)


def test_a_gpu_tensor_goes_and_comes_back():
    with pretended_gpu() as gpu:
        for made in (
            torch.ones(2).to(gpu),
            torch.ones(2, device=gpu),
            torch.full((2,), 1.0).to(gpu),
        ):
            assert isinstance(made, GpuTensor)
            assert made.device == gpu
        back = made.cpu()
        assert type(back) is torch.Tensor
        assert made.tolist() == back.numpy().tolist() == [1, 1]
        assert made.sum().item() == 2
        assert type(torch.ones(2)) is torch.Tensor


def test_a_module_trains_there():
    with pretended_gpu() as gpu:
        layer = torch.nn.Linear(3, 2)
        there = copy.deepcopy(layer).to(gpu)
        for module in (layer, there):
            optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                module(torch.ones(4, 3).to(module.weight.device)).pow(2).sum().backward()
                optimizer.step()
        assert there.weight.device == gpu
        assert_alike(there, layer)
        assert type(there.to("cpu").weight.data) is torch.Tensor
