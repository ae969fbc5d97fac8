"""Single firings of features, and which of them to keep: the strongest, and a fair sample of each bin.

Both choices depend on the firings alone, never on their order, so parts can be merged in any way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

# Four bins a decade from 1e-3 to 1e4, and one on either side: the same for each SAE, so that scans merge.
BIN_EDGES = np.concatenate([[0.0], 10 ** np.arange(-3, 4.01, 0.25), [np.inf]])
BINS = len(BIN_EDGES) - 1
SAMPLES_PER_BIN = 4


@dataclass(frozen=True)
class Firings:
    """Firings of features, one an entry."""

    feature: np.ndarray
    """int64."""
    value: np.ndarray
    """float32, above zero."""
    place: np.ndarray
    """int64: row and position in one number, see ``place_of``."""

    @classmethod
    def none(cls) -> Firings:
        """No firings."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def concatenate(cls, parts: list[Firings]) -> Firings:
        """All of them, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def __add__(self, other: Firings) -> Firings:
        return Firings.concatenate([self, other])

    def __getitem__(self, index: np.ndarray) -> Firings:
        return Firings(self.feature[index], self.value[index], self.place[index])

    def unique(self) -> Firings:
        """Each firing once: one that is both in a top list and a sample comes twice."""
        order = np.lexsort((self.place, self.feature))
        feature, place = self.feature[order], self.place[order]
        first = np.r_[True, (feature[1:] != feature[:-1]) | (place[1:] != place[:-1])] if len(order) else order
        return self[order[first]]

    def strongest(self, k: int) -> np.ndarray:
        """Indices of the k highest of each feature, highest first, ties by row and position."""
        # the bits of floats above zero, read as whole numbers, are in the floats' own order
        weakness = np.int64(2**31) - self.value.view(np.int32)
        order = np.lexsort((self.place, self.feature << 32 | weakness))
        return order[rank_in_group(self.feature[order]) < k]

    def samples(self) -> np.ndarray:
        """Indices of up to 4 of each feature and bin, those whose place hashes lowest."""
        group = self.group
        order = np.lexsort((hash_of(self.place), group))
        return order[rank_in_group(group[order]) < SAMPLES_PER_BIN]

    @property
    def group(self) -> np.ndarray:
        """Feature and bin in one number, ``feature * bins + bin``."""
        return self.feature * BINS + bin_of(self.value)


def place_of(row: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """Row and position in one number that sorts as they do; for rows of up to 2**20 tokens."""
    return row.astype(np.int64) << 20 | pos


def row_and_pos(place: np.ndarray) -> np.ndarray:
    """``[firing, (row, pos)]``."""
    return np.stack([place >> 20, place & (1 << 20) - 1], axis=-1)


def rank_in_group(sorted_group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]]) if len(sorted_group) else np.zeros(0, int)
    lengths = np.diff(np.r_[starts, len(sorted_group)])
    return np.arange(len(sorted_group)) - np.repeat(starts, lengths)


def bin_of(value: np.ndarray) -> np.ndarray:
    """The histogram bin of each activation."""
    return np.clip(np.searchsorted(BIN_EDGES, value, side="right") - 1, 0, BINS - 1)


def hash_of(place: np.ndarray) -> np.ndarray:
    """A fixed scramble of the place, uint64, another one for each (the finalizer of splitmix64)."""
    x = place.astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
