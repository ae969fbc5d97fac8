"""Products in half precision, beside float64 and beside torch's own."""

from __future__ import annotations

import pytest
import torch
from conftest import draw

from saework.engine import products
from saework.engine.products import product

HALF = [torch.bfloat16, torch.float16]


def drawn(dtype, n_columns=37):
    x, weights, bias = draw(5, 24), draw(24, n_columns), draw(n_columns)
    return x.to(dtype), weights.to(dtype), bias.to(dtype)


@pytest.fixture(params=["AVX2", "AVX512"])
def processor(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    monkeypatch.setattr(products, "COLUMNS", 10)
    return request.param


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_exact_product_rounded_once(processor, dtype, has_bias):
    x, weights, bias = drawn(dtype)
    exact = x.double() @ weights.double() + (bias.double() if has_bias else 0)
    found = product(x, weights, bias if has_bias else None)
    assert found.dtype == dtype
    rounded_once = torch.finfo(dtype).eps / 2 * exact.abs()
    summed_in = torch.float64 if dtype == torch.float64 else torch.float32
    summands = x.double().abs() @ weights.double().abs() + bias.double().abs()
    bound = 1.01 * rounded_once + 25 * torch.finfo(summed_in).eps * summands
    assert ((found.double() - exact).abs() <= bound).all()
    out = torch.full((5, 37), torch.nan, dtype=dtype)
    assert product(x, weights, bias if has_bias else None, out=out) is out
    assert torch.equal(out, found)


@pytest.mark.parametrize(
    ("dtype", "capability", "columns"),
    [
        (torch.bfloat16, "AVX2", [10, 10, 10, 7]),
        (torch.bfloat16, "DEFAULT", [10, 10, 10, 7]),
        (torch.bfloat16, "AVX512", []),
        (torch.float16, "AVX512", [10, 10, 10, 7]),
        (torch.float32, "AVX2", []),
    ],
)
def test_float32_is_used_where_the_processor_has_nothing_else(
    monkeypatch, dtype, capability, columns
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "COLUMNS", 10)
    widened = []
    plain = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: widened.append(tuple(x.shape)) or plain(x))
    x, weights, _ = drawn(dtype)
    product(x, weights)
    assert [shape[1] for shape in widened if shape[0] == len(weights)] == columns
