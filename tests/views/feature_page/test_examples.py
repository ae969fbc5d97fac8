"""Which firings are shown, against sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest

from saework import scan
from saework.views.feature_page.examples import (
    TOP_GROUP,
    choose,
    interval_bins,
    proportional_sample,
)


def test_the_top_examples_are_the_strongest(page, activations):
    values = activations[:, 1:, page.feature]
    strongest = values.flatten().sort(descending=True).values[:10]
    expected = strongest[strongest > 0].tolist()
    assert [example.activation for example in page.top] == pytest.approx(expected, abs=1e-5)


def test_each_interval_shows_a_few_different_firings_of_its_own(page):
    for interval in page.intervals:
        assert len(interval.examples) == min(3, interval.firings)
        for example in interval.examples:
            assert interval.low <= example.activation < interval.high
        places = {(example.row, example.pos) for example in interval.examples}
        assert len(places) == len(interval.examples)


def test_an_example_is_where_the_scan_saw_it(page, activations):
    in_intervals = [example for interval in page.intervals for example in interval.examples]
    for example in [*page.top, *in_intervals]:
        expected = activations[example.row, example.pos, page.feature].item()
        assert example.activation == pytest.approx(expected, abs=1e-5)


def test_places_stand_by_feature_and_group_strongest_first(book):
    places = choose(scan(book, progress=False), [7, 20])
    order = np.lexsort((places.pos, places.row, -places.activation, places.group, places.feature))
    assert order.tolist() == list(range(len(places)))
    assert set(places.feature.tolist()) == {7, 20}
    assert places.group.min() == TOP_GROUP and places.group.max() > 0
    some = places.take(np.array([3, 1]))
    assert some.row.tolist() == [places.row[3], places.row[1]] and len(some) == 2


def test_a_feature_that_never_fires_has_no_places(book):
    assert len(choose(scan(book, progress=False), [0])) == 0


def test_the_six_highest_bins_are_intervals_and_the_rest_is_one():
    histogram = np.array([2, 0, 1, 1, 1, 0, 1, 1, 5, 0, 1])
    bins = [each.tolist() for each in interval_bins(histogram)]
    assert bins == [[10], [8], [7], [6], [4], [3], [2, 0]]
    assert [each.tolist() for each in interval_bins(np.array([0, 3]))] == [[1]]
    assert interval_bins(np.array([0, 0])) == []


def test_samples_of_a_wide_interval_are_spread_as_its_firings_are():
    histogram = np.array([0, 100, 0, 50, 0, 1])
    sample_bin = np.array([1, 1, 1, 1, 3, 3, 3, 3, 5])
    assert proportional_sample(sample_bin, np.array([5, 3, 1]), histogram).tolist() == [4, 0, 1]
    assert proportional_sample(sample_bin, np.array([5]), histogram).tolist() == [8]
