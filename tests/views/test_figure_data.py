"""Numbers that a figure cannot show are refused before there is a figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saework.views.figure_data import by_step, centres, checked_limits, finite, log_ticks, points


def test_points_are_as_many_in_x_as_in_y():
    xs, ys = points(([1, 2], (3, 4)), "a")
    assert xs.tolist() == [1, 2] and ys.tolist() == [3, 4]
    with pytest.raises(
        ValueError, match=r"group 'a' has x of shape \(2,\) and y of \(1,\); give one y"
    ):
        points(([1, 2], [1]), "a")
    with pytest.raises(ValueError, match=r"group 'a' is \[1, 2, 3\]; give \(x values, y values\)"):
        points([1, 2, 3], "a")
    for kind in (np.array, torch.tensor):
        xs, ys = points(kind([[1, 2], [3, 4]]), "a")
        assert xs.tolist() == [1, 2] and ys.tolist() == [3, 4]
        with pytest.raises(ValueError, match=r"; give \(x values, y values\)$"):
            points(kind([[1, 2], [3, 4], [5, 6]]), "a")
        with pytest.raises(ValueError, match=r"; give \(x values, y values\)$"):
            points(kind([1, 2]), "a")


def test_rates_have_a_row_for_each_step():
    assert by_step([[0.1, 0.2]], [5], "rates").tolist() == [[0.1, 0.2]]
    for rates, steps in (([[0.1]], [1, 2]), ([0.1, 0.2], [1, 2]), (np.zeros((0, 3)), [])):
        with pytest.raises(ValueError, match="rates has shape .* steps; give .step, feature."):
            by_step(rates, steps, "rates")


@pytest.mark.parametrize("limits", [(3, 1), (1, 1), (math.nan, 1), (0, math.inf), (1,), 5])
def test_limits_that_are_none(limits):
    assert checked_limits(None) is None
    assert checked_limits([0, 1]) == (0, 1)
    with pytest.raises(ValueError, match="limits is .*; give two numbers, the lower one first"):
        checked_limits(limits)


def test_ticks_of_numbers_above_zero_only():
    assert log_ticks([[math.nan, 0, 2, math.inf], [-1, 10]]) == [1, 2, 5, 10, 20, 50]
    for values in ([], [[]], [[0, -1, math.nan]]):
        with pytest.raises(ValueError, match="log_x needs an x above 0, and there is none"):
            log_ticks(values)


def test_middles_and_what_is_finite():
    assert centres(np.array([0, 2, 6])).tolist() == [1, 4]
    assert finite([[1, math.nan], [math.inf, 2]]).tolist() == [1, 2]
