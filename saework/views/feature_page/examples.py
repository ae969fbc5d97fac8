"""Which firings a feature's page shows: the strongest, and a few of each strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.firings import bin_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

N_TOP = 10
N_PER_INTERVAL = 3
N_NARROW_INTERVALS = 6
TOP_GROUP = -1
DRAWN_GROUP = -2


@dataclass(frozen=True)
class Places:
    """Where the chosen examples are, one per entry.

    Those of one feature stand together, in the order in which they are shown.
    """

    feature: Int[ndarray, " example"]
    group: Int[ndarray, " example"]
    """``TOP_GROUP``, ``DRAWN_GROUP`` (ablated, not shown), or the number of the feature's interval,
    counted from the strongest."""
    activation: Float[ndarray, " example"]
    """As the scan recorded it, float32."""
    row: Int[ndarray, " example"]
    pos: Int[ndarray, " example"]

    def __len__(self) -> int:
        return len(self.feature)

    @classmethod
    def of_group(
        cls,
        feature: int,
        group: int,
        activation: Float[ndarray, " example"],
        row_and_pos: Int[ndarray, "example 2"],
    ) -> Places:
        """The examples of one feature in one group."""
        n_examples = len(activation)
        row, pos = row_and_pos.T
        return cls(
            np.full(n_examples, feature),
            np.full(n_examples, group),
            activation,
            row,
            pos,
        )

    def take(self, index: Int[ndarray, " some"]) -> Places:
        """Some of them."""
        return Places(
            self.feature[index],
            self.group[index],
            self.activation[index],
            self.row[index],
            self.pos[index],
        )

    @classmethod
    def concatenate(cls, parts: list[Places]) -> Places:
        """All of them, one after the other."""
        columns = []
        for column in fields(cls):
            pieces = [getattr(part, column.name) for part in parts]
            columns.append(np.concatenate(pieces))
        return cls(*columns)


def interval_bins(histogram: Int[ndarray, " bins"]) -> list[ndarray]:
    """The histogram bins of each interval of activation, strongest first.

    The six highest bins with a firing are an interval each; all bins below are one more.
    """
    filled = np.flatnonzero(histogram)[::-1]
    narrow = filled[:N_NARROW_INTERVALS]
    rest = filled[N_NARROW_INTERVALS:]
    intervals = [narrow[[i]] for i in range(len(narrow))]
    if len(rest):
        intervals.append(rest)
    return intervals


def choose(scan: FeatureScan, features: Sequence[int]) -> Places:
    """The strongest firings of each feature, and a random few of each interval.

    The samples that a scan keeps of each bin are those whose position hashes lowest, so they are a
    deterministic random sample. Where an interval has several bins, each gives its share.

    Args:
        scan: with positions.
        features: in ascending order, each once.
    """
    sample_feature = scan.sample_feature.numpy()
    by_feature = np.argsort(sample_feature, kind="stable")
    sorted_feature = sample_feature[by_feature]
    starts = np.searchsorted(sorted_feature, features, side="left")
    ends = np.searchsorted(sorted_feature, features, side="right")
    groups = []
    for feature, start, end in zip(features, starts, ends):
        groups.append(_strongest(scan, feature))
        samples = by_feature[start:end]
        groups.extend(_sampled(scan, feature, samples))
    return Places.concatenate(groups)


def _strongest(scan: FeatureScan, feature: int) -> Places:
    row_and_pos = scan.top_positions[feature].numpy()
    is_filled = row_and_pos[:, 0] >= 0
    row_and_pos = row_and_pos[is_filled][:N_TOP]
    # The filled ones come first, strongest first.
    activation = scan.top_values[feature].numpy()
    activation = activation[: len(row_and_pos)]
    return Places.of_group(feature, TOP_GROUP, activation, row_and_pos)


def _sampled(scan: FeatureScan, feature: int, samples: ndarray) -> Iterator[Places]:
    """A few of the feature's samples (their indices in the scan) for each of its intervals."""
    activation = scan.sample_value.numpy()[samples]
    row_and_pos = scan.sample_position.numpy()[samples]
    histogram = scan.histogram[feature].numpy()
    size = np.abs(activation)
    sample_bin = bin_of(size)
    for group, bins in enumerate(interval_bins(histogram)):
        picked = proportional_sample(sample_bin, bins, histogram)
        row, pos = row_and_pos[picked].T
        strongest_first = np.lexsort((pos, row, -size[picked]))
        shown = picked[strongest_first]
        yield Places.of_group(feature, group, activation[shown], row_and_pos[shown])


def proportional_sample(
    sample_bin: Int[ndarray, " sample"],
    bins: Int[ndarray, " some"],
    histogram: Int[ndarray, " bins"],
) -> Int[ndarray, " picked"]:
    """Indices of ``N_PER_INTERVAL`` samples of some bins, each bin by its share of the firings.

    Fractions are rounded by the largest remainder.

    Args:
        sample_bin: the bin of each sample.
        bins: the bins to draw from.
        histogram: firings in each bin.
    """
    firings = histogram[bins]
    quota = N_PER_INTERVAL * firings / firings.sum()
    n_samples = np.floor(quota).astype(int)
    n_left = N_PER_INTERVAL - int(n_samples.sum())
    largest_remainder_first = np.argsort(n_samples - quota, kind="stable")
    n_samples[largest_remainder_first[:n_left]] += 1
    picked = []
    for bin_number, n in zip(bins, n_samples):
        in_bin = np.flatnonzero(sample_bin == bin_number)
        picked.append(in_bin[:n])
    return np.concatenate(picked)
