"""Single firings of features, and which of them to keep: the strongest, and a fair sample of each bin.

Both choices depend on the firings alone, never on their order, so parts can be merged in any way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

# Four bins a decade from 1e-3 to 1e4, and one on either side: the same for each SAE, so that scans merge.
BIN_EDGES = np.concatenate([[0.0], 10 ** np.arange(-3, 4.01, 0.25), [np.inf]])
SAMPLES_PER_BIN = 4


@dataclass(frozen=True)
class Firings:
    """Firings of features, one an entry."""

    feature: np.ndarray
    value: np.ndarray
    place: np.ndarray

    @classmethod
    def none(cls) -> Firings:
        """No firings."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 2), np.int64))

    def __add__(self, other: Firings) -> Firings:
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Firings(*(np.concatenate(pair) for pair in pairs))

    def __getitem__(self, index: np.ndarray) -> Firings:
        return Firings(self.feature[index], self.value[index], self.place[index])

    def unique(self) -> Firings:
        """Each firing once: one that is both in a top list and a sample comes twice."""
        keys = np.column_stack([self.feature, self.place])
        return self[np.unique(keys, axis=0, return_index=True)[1]] if len(keys) else self

    def strongest(self, k: int) -> np.ndarray:
        """Indices of the k highest of each feature, highest first, ties by row and position."""
        order = np.lexsort((self.place[:, 1], self.place[:, 0], -self.value, self.feature))
        return order[rank_in_group(self.feature[order]) < k]

    def samples(self) -> np.ndarray:
        """Indices of up to 4 of each feature and bin, those whose place hashes lowest."""
        group = self.feature * len(BIN_EDGES) + bin_of(self.value)
        order = np.lexsort((self.place[:, 1], self.place[:, 0], _hash(self.place), group))
        return order[rank_in_group(group[order]) < SAMPLES_PER_BIN]


def rank_in_group(sorted_group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]]) if len(sorted_group) else np.zeros(0, int)
    lengths = np.diff(np.r_[starts, len(sorted_group)])
    return np.arange(len(sorted_group)) - np.repeat(starts, lengths)


def bin_of(value: np.ndarray) -> np.ndarray:
    """The histogram bin of each activation."""
    return np.clip(np.searchsorted(BIN_EDGES, value, side="right") - 1, 0, len(BIN_EDGES) - 2)


def _hash(place: np.ndarray) -> np.ndarray:
    """A fixed scramble of row and position (the finalizer of splitmix64)."""
    x = place[:, 0].astype(np.uint64) * np.uint64(1 << 20) + place[:, 1].astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
