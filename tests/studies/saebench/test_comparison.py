"""Numbers and their neighbours in bfloat16, against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from saework import saebench
from saework.studies.saebench import bfloat16_step, compare
from saework.studies.saebench.comparison import is_bfloat16, last_digit, shared_step, steps_apart


@pytest.mark.parametrize(
    "value, step",
    [
        (1.0, 2**-7),
        (0.999, 2**-8),
        (2.0, 2**-6),
        (-3.3, 2**-6),
        (1640, 8),
        (0.0, 2**-133),
        (1e-40, 2**-133),
    ],
)
def test_the_step_of_bfloat16_by_hand_and_by_torch(value, step):
    assert bfloat16_step(value) == step
    x = torch.tensor(value, dtype=torch.bfloat16)
    up = torch.nextafter(x.abs(), torch.tensor(math.inf, dtype=torch.bfloat16))
    if abs(value) >= 1e-38 and float(x.abs()) == abs(value):
        assert float(up) - float(x.abs()) == step
    assert math.isnan(bfloat16_step(math.inf)) and math.isnan(bfloat16_step(math.nan))


def test_every_step_agrees_with_torch():
    x = torch.logspace(-30, 30, 500, dtype=torch.float64).to(torch.bfloat16)
    steps = torch.nextafter(x, torch.full_like(x, math.inf)).double() - x.double()
    assert steps.tolist() == [bfloat16_step(float(value)) for value in x]


def test_compare_knows_neighbours_from_differences(evaluations):
    a = {"cossim": 0.965, "mse": 3.281, "l0": 1652.80, "only_a": 1.0, "same": 0.5, "gone": math.nan}
    b = {"cossim": 0.961, "mse": 3.422, "l0": 1652.81, "same": 0.5, "gone": 1.0, "only_b": 2.0}
    frame = compare(*evaluations(a, b)).set_index("metric")
    assert frame.index.tolist() == ["cossim", "mse", "l0", "only_a", "same", "gone", "only_b"]
    judged = frame[["bfloat16_step", "neighbours"]]
    assert judged.loc["cossim"].tolist() == [2**-8, True], "247/256 and 246/256, as printed"
    assert judged.loc["mse"].tolist() == [2**-6, False], "nine steps"
    assert math.isnan(frame.bfloat16_step["l0"]), "1652.8 is no bfloat16 number"
    assert not frame.neighbours["l0"]
    assert frame.neighbours["same"] and frame.difference["same"] == 0
    assert frame.difference["mse"] == pytest.approx(0.141)
    assert frame.loc[["only_a", "gone", "only_b"], "difference"].isna().all()


def test_compare_of_float32_and_of_different_kinds(evaluations):
    a, b = evaluations({"x": 0.5}, {"x": 0.50390625}, config={"llm_dtype": "float32"})
    assert not compare(a, b).neighbours.any()
    assert compare(*evaluations({"x": 0.5}, {"x": 0.50390625})).neighbours.all()
    other = saebench.Evaluation("scr", {}, a.metrics, a.details)
    with pytest.raises(
        ValueError, match="a is 'core' and b is 'scr'; compare two evaluations of one kind"
    ):
        compare(a, other)


@pytest.mark.parametrize(
    "value, digit",
    [(0.957, 1e-3), (957.0, 1.0), (1640, 1.0), (1e-05, 1e-5), (1.5e22, 1e21), (-0.25, 1e-2)],
)
def test_the_last_digit_that_is_printed(value, digit):
    assert last_digit(value) == digit
    assert math.isnan(last_digit(math.nan))


def test_printed_bfloat16_numbers_are_known_as_such():
    x = torch.rand(200, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for value in x.tolist():
        assert is_bfloat16(value) and is_bfloat16(round(value, 4))
    assert not is_bfloat16(0.9631) and not is_bfloat16(math.inf)


def test_steps_between_two_numbers():
    assert steps_apart(0.965, 0.961) == 1 and shared_step(0.965, 0.961) == 2**-8
    assert steps_apart(0.99609375, 1.015625) == 2.5, "in steps of the larger number"
    assert math.isnan(steps_apart(0.9631, 0.5)) and math.isnan(shared_step(0.5, math.nan))
