"""Numbers of a scan that contradict each other are refused, each by what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saework import FeatureScan
from saework.analysis.scanning.consistency import check_numbers, check_rows
from saework.core.errors import WeightsError


def shifted(scan, name, by):
    return {name: getattr(scan, name) + by}


CHANGES = {
    "n_tokens": (lambda s: {"n_tokens": s.n_tokens + 1}, "an L0 histogram whose sum"),
    "no tokens": (lambda s: {"n_tokens": -1}, "it counts -1 tokens"),
    "counts": (lambda s: {"count": s.count * 2}, "a histogram whose sums|counts outside of 0"),
    "fewer counts": (lambda s: {"count": s.count[:3]}, "max_activation is|l0_histogram is"),
    "kind": (lambda s: {"count": s.count.double()}, "count is float64"),
    "histogram": (lambda s: {"histogram": s.histogram * 2}, "a histogram whose sums"),
    "L0": (lambda s: {"l0_histogram": s.l0_histogram.flip(0)}, "an L0 histogram whose mean"),
    "largest": (lambda s: {"max_activation": s.max_activation * 2}, "below the largest"),
    "NaN": (lambda s: {"top_values": s.top_values * float("nan")}, "top_values has NaN"),
    "position": (lambda s: shifted(s, "top_positions", -7), "positions of no token"),
    "unfilled": (
        lambda s: {"top_positions": torch.full_like(s.top_positions, -1)},
        "another number of top activations than of firings",
    ),
    "sample": (lambda s: shifted(s, "sample_feature", 10**6), "samples of no feature"),
    "rows": (lambda s: {"rows": ((1000, 1001),)}, "has examples in others"),
    "words": (lambda s: {"rows": (("a", "b"),)}, "its rows are"),
    "backwards": (lambda s: {"rows": ((4, 0),)}, "its rows are"),
    "overlap": (lambda s: {"rows": ((0, 4), (2, 6))}, "its rows are"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_contradiction_is_refused(what, whole, tmp_path):
    change, words = CHANGES[what]
    path = replace(whole, **change(whole)).save(tmp_path / "scan.safetensors")
    with pytest.raises(WeightsError, match=f"is damaged .*({words}).*scan again"):
        FeatureScan.load(path)


def test_whole_scans_pass(whole):
    for scan in (whole, whole.without_positions()):
        check_numbers(vars(scan))
        check_rows(scan.rows, vars(scan))
