"""The smallest difference that is shown: by hand, by its coverage, and where nothing is known."""

from __future__ import annotations

import math

import evaluation_records as records
import numpy as np
import pytest
from scipy import stats

from saework import UnknownNameError
from saework.studies.saebench import read, smallest_shown
from saework.studies.saebench.noise import parts


@pytest.fixture
def absorption(written):
    def make(values, **changes):
        mean = changes.pop("mean", float(np.mean(values)))
        record = records.old(
            "absorption",
            {"mean": {"mean_absorption_fraction_score": mean}},
            "2025-01-16",
            eval_result_details=changes.pop("details", records.letters(values)),
        )
        return read(written(record))["absorption"]

    return make


NAME = "mean_absorption_fraction_score"


def test_parts_are_the_rows_by_name(absorption):
    found = parts(absorption([0.1, 0.3]), NAME)
    assert found.to_dict() == {"a": 0.1, "b": 0.3}


def test_it_is_a_t_interval_within_the_draws_chance(absorption):
    generator = np.random.default_rng(0)
    a = generator.normal(0.2, 0.1, 26)
    differences = generator.normal(0.01, 0.05, 26)
    smallest = smallest_shown(absorption(a), absorption(a + differences), NAME)
    half_width = stats.t.ppf(0.975, 25) * differences.std(ddof=1) / math.sqrt(26)
    assert smallest == pytest.approx(half_width, rel=0.06)


def test_the_pairing_takes_out_what_the_parts_share(absorption):
    shared = np.linspace(0, 1, 10)
    a, b = absorption(shared), absorption(shared + 0.01)
    assert smallest_shown(a, b, NAME) < 1e-12, "each letter has the same difference"
    unpaired = absorption(shared[::-1])
    assert smallest_shown(a, unpaired, NAME) > 0.3


def test_the_order_of_the_parts_does_not_matter(absorption):
    a, b = [0.1, 0.2, 0.3, 0.2, 0.9], [0.2, 0.1, 0.5, 0.2, 0.8]
    mixed = records.letters(b)[::-1]
    same = smallest_shown(absorption(a), absorption(b), NAME)
    assert smallest_shown(absorption(a), absorption(b, details=mixed), NAME) == same


@pytest.mark.parametrize("n", [5, 8, 26])
def test_it_covers_the_truth_as_often_as_it_says(n):
    from saework.studies.saebench.noise import _half_width

    generator = np.random.default_rng(n)
    n_trials = 300
    misses = 0
    for trial in range(n_trials):
        differences = generator.normal(0, 1, n)
        misses += abs(differences.mean()) > _half_width(differences, seed=trial)
    # 5% of 300 is 15, with a standard deviation of 3.8
    assert 15 - 3 * 3.8 <= misses <= 15 + 3 * 3.8


@pytest.mark.parametrize(
    "change",
    [
        {"mean": 0.9},  # the metric is not the mean of its parts
        {"details": records.letters([0.1, 0.2, 0.3, 0.4])},  # four parts
        {"details": []},
        {"details": [{"first_letter": "a"}] * 5},
        {"details": [{"mean_absorption_fraction": 0.2}] * 5},
        {"details": records.letters([0.2, 0.2, 0.2, 0.2, float("nan")])},
    ],
)
def test_parts_that_say_nothing(absorption, change):
    whole = absorption([0.1, 0.2, 0.3, 0.1, 0.3])
    other = absorption([0.2] * 5, **change)
    assert math.isnan(smallest_shown(whole, other, NAME))
    assert math.isnan(smallest_shown(other, whole, NAME))


def test_other_parts_in_the_two_say_nothing(absorption):
    values = [0.1, 0.2, 0.3, 0.1, 0.3]
    others = records.letters([0.0, *values])[1:]
    a, b = absorption(values), absorption(values, details=others)
    assert parts(b, NAME).index.tolist() == list("bcdef")
    assert math.isnan(smallest_shown(a, b, NAME))


def test_seeds_of_a_data_set_are_averaged_first(written):
    details = [
        {"dataset_name": name, "seed": seed, "score": value + seed}
        for name, value in zip("abcde", (1, 2, 3, 4, 5))
        for seed in (0, 1)
    ]
    record = records.current("tpp", {"t": {"score": 3.5}}, eval_result_details=details)
    evaluation = read(written(record))["tpp"]
    assert parts(evaluation, "score").tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    seeds = [{"seed": seed, "score": seed} for seed in range(5)]
    record = records.current("tpp", {"t": {"score": 2.0}}, eval_result_details=seeds)
    assert len(parts(read(written(record))["tpp"], "score")) == 5


def test_a_metric_that_is_not_there(absorption):
    a, b = absorption([0.1] * 6), absorption([0.2] * 6)
    with pytest.raises(
        UnknownNameError, match="no metric 'mean_absorption_fraction'. Did you mean"
    ):
        smallest_shown(a, b, "mean_absorption_fraction")
    with pytest.raises(ValueError, match="b is None; give one evaluation"):
        smallest_shown(a, None, "mean_absorption_fraction_score")
    with pytest.raises(ValueError, match="seed is 'x'; give a whole number"):
        smallest_shown(a, b, "mean_absorption_fraction_score", seed="x")
