"""A run's two files, and its rates in the order of the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_study import run

from saework.core.errors import WeightsError
from saework.studies.feature_ordering.trained_run import read_runs, write_runs
from saework.studies.feature_ordering.variants import ReorderEvery, Variant


@pytest.fixture(scope="module")
def reordered():
    return run(Variant("v", (ReorderEvery(10, 7),)), name="v")


def test_runs_are_read_as_they_were_written(reordered, tmp_path):
    small = replace(reordered, seed=1, rates=None, features=None, sae=None)
    write_runs([reordered, small], tmp_path / "runs")
    large_read, small_read = read_runs(tmp_path / "runs")
    assert small_read.rates is None and small_read.features is None
    for read in (large_read, small_read):
        assert read.metrics == reordered.metrics and read.sae is None
        assert read.reorder_steps == reordered.reorder_steps
        for name in ("steps", "loss", "variance"):
            assert torch.equal(getattr(read, name), getattr(reordered, name)), name
    assert torch.equal(large_read.features, reordered.features)
    assert torch.equal(large_read.rates, reordered.rates.half().float()), "they are for figures"
    assert {path.name for path in tmp_path.iterdir()} == {"runs.json", "runs.safetensors"}


@pytest.mark.parametrize(
    "file, content",
    [
        ("runs.json", "[{"),
        ("runs.json", "[{}]"),
        ("runs.json", "7"),
        ("runs.safetensors", "short"),
        ("runs.safetensors", None),
    ],
)
def test_a_damaged_file_is_named(reordered, file, content, tmp_path):
    write_runs([reordered], tmp_path / "runs")
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    match = r"runs.json and runs.safetensors are damaged, or one is missing \(\w+\); delete both"
    with pytest.raises(WeightsError, match=match):
        read_runs(tmp_path / "runs")


def test_rates_in_the_order_of_the_start_by_a_loop(reordered):
    by_feature = reordered.by_feature()
    for record, features in enumerate(reordered.features.tolist()):
        for position, feature in enumerate(features):
            assert by_feature[record, feature] == reordered.rates[record, position]
    assert not torch.equal(by_feature, reordered.rates)


def test_a_run_without_rates_says_where_they_are(reordered):
    bare = replace(reordered, seed=3, rates=None, features=None)
    with pytest.raises(ValueError, match="v, seed 3 was stored without firing rates; take the"):
        bare.by_feature()


@pytest.mark.parametrize("change", ["twice", "beyond", "short"])
def test_features_that_are_no_permutation(reordered, change):
    features = reordered.features.clone()
    if change == "twice":
        features[3, 0] = features[3, 1]
    if change == "beyond":
        features[3, 0] = 99
    if change == "short":
        features = features[:, 1:]
    wrong = replace(reordered, features=features)
    with pytest.raises(ValueError, match=r"v, seed 0 are in no order: each of 0\.\.15 must stand"):
        wrong.by_feature()
