"""Single firings of features, and which of them a scan keeps.

A scan lists the strongest firings of each feature, and a random sample of each bin of its
histogram. Both lists are the best of a group by a score. A score depends on the firing alone,
never on the order in which firings come, so that parts can be merged in any way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy import ndarray

# Four bins a decade from 1e-3 to 1e4, and one on either side. They are the same for each SAE, so
# that scans merge.
_DECADES = np.arange(-3, 4.01, 0.25)
BIN_EDGES = np.concatenate([[0.0], 10**_DECADES, [np.inf]])
BINS = len(BIN_EDGES) - 1
SAMPLES_PER_BIN = 4

PENDING = 500_000  # firings, 14 MB
WEAKEST = 2**64 - 1  # no score is above it

POSITION_BITS = 20  # rows of up to a million tokens
POSITION_MASK = 2**POSITION_BITS - 1


@dataclass(frozen=True)
class Firings:
    """Firings of features: four arrays of one length."""

    group: ndarray
    """int64: among which others it competes, those of its feature or of its feature's bin."""
    score: ndarray
    """uint64: the lower, the better."""
    value: ndarray
    """float32: the activation, which is not zero."""
    place: ndarray
    """int64: row and position in one number, see ``place_of``."""

    @classmethod
    def none(cls) -> Firings:
        """No firings."""
        return cls(
            group=np.zeros(0, np.int64),
            score=np.zeros(0, np.uint64),
            value=np.zeros(0, np.float32),
            place=np.zeros(0, np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Firings]) -> Firings:
        """All of them, one after the other."""
        columns = []
        for field in fields(cls):
            of_parts = [getattr(part, field.name) for part in parts]
            columns.append(np.concatenate(of_parts))
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: ndarray) -> Firings:
        return Firings(
            group=self.group[index],
            score=self.score[index],
            value=self.value[index],
            place=self.place[index],
        )

    def best_first(self) -> ndarray:
        """Indices in the order of group, score and place.

        One sort of one number is several times as fast as ``lexsort`` of three columns. So the
        group and the upper bits of the score are sorted as one number. Only the few firings that
        are alike in it are then sorted by all three columns.
        """
        highest_group = int(self.group.max(initial=1))
        group_bits = highest_group.bit_length()
        key = self.group.astype(np.uint64)
        key <<= 64 - group_bits
        # the score gives up its lowest bits to make room for the group
        key |= self.score >> group_bits
        order = np.argsort(key)
        ranks = _equal_to_a_neighbour(key[order])
        tied = order[ranks]
        # lexsort takes the column that counts most last
        columns = (
            self.place[tied],
            self.score[tied],
            self.group[tied],
        )
        order[ranks] = tied[np.lexsort(columns)]
        return order


class Shortlist:
    """The best ``size`` firings of each group, whatever the order in which firings come.

    Firings wait until there are many, and are then sorted at once. After that, the last of a full
    group is a bound for those that come in. A long scan turns most firings away by one comparison.
    """

    def __init__(self, n_groups: int, size: int):
        self.size = size
        self._best = Firings.none()
        self._pending: list[Firings] = []
        self._bound = np.full(n_groups, WEAKEST, dtype=np.uint64)

    def add(self, firings: Firings) -> None:
        """Take in those that may be among the best; none of them may be in already."""
        bound = self._bound[firings.group]
        may_be_best = firings[firings.score <= bound]
        self._pending.append(may_be_best)
        n_pending = sum(map(len, self._pending))
        if n_pending > PENDING:
            self.best()

    def best(self) -> Firings:
        """The best of each group, by group, score and place; all others are dropped."""
        if not self._pending:
            return self._best
        candidates = Firings.concatenate([self._best, *self._pending])
        order = candidates.best_first()
        rank = rank_in_group(candidates.group[order])
        self._best = candidates[order[rank < self.size]]
        self._pending = []
        # only a full group has a last one
        last = candidates[order[rank == self.size - 1]]
        self._bound[last.group] = last.score
        return self._best


def place_of(row: ndarray, pos: ndarray) -> ndarray:
    """int64: row and position in one number that sorts as they do."""
    place = row.astype(np.int64)
    place <<= POSITION_BITS
    place |= pos
    return place


def row_and_pos(place: ndarray) -> ndarray:
    """int64 ``[firing, (row, pos)]``."""
    row = place >> POSITION_BITS
    pos = place & POSITION_MASK
    columns = [row, pos]
    return np.stack(columns, axis=-1)


def rank_in_group(sorted_group: ndarray) -> ndarray:
    """0, 1, 2, ... within each run of equal values."""
    index = np.arange(len(sorted_group))
    # groups are counted from 0, so the very first entry differs from -1
    is_first = np.diff(sorted_group, prepend=-1) != 0
    first_or_zero = np.where(is_first, index, 0)
    # zeros take the index of the first entry of their run, which is the highest so far
    first = np.maximum.accumulate(first_or_zero)
    return index - first


def _equal_to_a_neighbour(sorted_key: ndarray) -> ndarray:
    """Indices of the keys that occur more than once."""
    like_the_next = np.diff(sorted_key) == 0
    repeated = np.r_[like_the_next, False]
    repeated[1:] |= like_the_next
    return np.flatnonzero(repeated)


def bin_of(size: ndarray) -> ndarray:
    """The histogram bin of each activation's size, above zero."""
    n_edges_passed = np.searchsorted(BIN_EDGES, size, side="right")
    # an infinite size has passed the last edge too
    n_edges_passed = np.minimum(n_edges_passed, BINS)
    return n_edges_passed - 1


def weakness_of(size: ndarray) -> ndarray:
    """uint64: a score that is lowest for the largest activation, by its size above zero."""
    # the bits of floats above zero, read as whole numbers, are in the order of the floats
    bits = size.view(np.uint32)
    weakness = (~bits).astype(np.uint64)
    weakness <<= 32
    return weakness


def hash_of(place: ndarray) -> ndarray:
    """uint64: a score without favour, which scrambles the place and differs for each place.

    Source: the finalizer of splitmix64 (Steele, Lea and Flood 2014).
    """
    x = place.astype(np.uint64)
    x ^= x >> 30
    x *= 0xBF58476D1CE4E5B9
    x ^= x >> 27
    x *= 0x94D049BB133111EB
    x ^= x >> 31
    return x
