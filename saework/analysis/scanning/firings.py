"""Single firings of features, and which of them to keep: the strongest of each feature, and a fair sample of each bin.

Both are the best of a group by a score, which depends on the firings alone, never on their order: parts can be merged in
any way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

# Four bins a decade from 1e-3 to 1e4, and one on either side: the same for each SAE, so that scans merge.
BIN_EDGES = np.concatenate([[0.0], 10 ** np.arange(-3, 4.01, 0.25), [np.inf]])
BINS = len(BIN_EDGES) - 1
SAMPLES_PER_BIN = 4


PENDING = 500_000  # firings, 14 MB


@dataclass(frozen=True)
class Firings:
    """Firings of features, one an entry."""

    group: np.ndarray
    """int64: among which others it competes."""
    score: np.ndarray
    """uint64: the lower, the better."""
    value: np.ndarray
    """float32, above zero."""
    place: np.ndarray
    """int64: row and position in one number, see ``place_of``."""

    @classmethod
    def none(cls) -> Firings:
        """No firings."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.uint64),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
        )

    @classmethod
    def concatenate(cls, parts: list[Firings]) -> Firings:
        """All of them, one after the other."""
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    def __getitem__(self, index: np.ndarray) -> Firings:
        return Firings(*(getattr(self, f.name)[index] for f in fields(self)))

    def best_first(self) -> np.ndarray:
        """Indices in the order of group, score and place.

        The group and the score's upper bits are sorted as one number, which is several times as fast as ``lexsort`` of
        columns; those few that are alike in it are then sorted by all three.
        """
        bits = np.uint64(int(self.group.max(initial=1)).bit_length())
        key = self.group.astype(np.uint64) << np.uint64(64) - bits | self.score >> bits
        order = np.argsort(key)
        key = key[order]
        alike = key[1:] == key[:-1]
        tied = np.flatnonzero(np.r_[alike, False] | np.r_[False, alike])
        among = order[tied]
        order[tied] = among[np.lexsort((self.place[among], self.score[among], self.group[among]))]
        return order


class Shortlist:
    """The best ``size`` firings of each group, whatever the order in which firings come.

    They wait until there are many, and are then sorted at once. From there on the last of a full group bounds what comes
    in, so that a long scan turns most firings away by one comparison.
    """

    def __init__(self, n_groups: int, size: int):
        self.size = size
        self._best, self._pending = Firings.none(), []
        self._bound = np.full(n_groups, 2**64 - 1, dtype=np.uint64)

    def add(self, firings: Firings) -> None:
        """Take in those that may be among the best; none of them may be in already."""
        self._pending.append(firings[firings.score <= self._bound[firings.group]])
        if sum(len(each.value) for each in self._pending) > PENDING:
            self.best()

    def best(self) -> Firings:
        """The best of each group, in the order of group, score and place; all others are let go."""
        if self._pending:
            every = Firings.concatenate([self._best, *self._pending])
            order = every.best_first()
            rank = rank_in_group(every.group[order])
            self._best, self._pending = every[order[rank < self.size]], []
            last = order[rank == self.size - 1]
            self._bound[every.group[last]] = every.score[last]
        return self._best


def place_of(row: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """Row and position in one number that sorts as they do; for rows of up to 2**20 tokens."""
    return row.astype(np.int64) << 20 | pos


def row_and_pos(place: np.ndarray) -> np.ndarray:
    """``[firing, (row, pos)]``."""
    return np.stack([place >> 20, place & (1 << 20) - 1], axis=-1)


def rank_in_group(sorted_group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    starts = (
        np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]])
        if len(sorted_group)
        else np.zeros(0, int)
    )
    lengths = np.diff(np.r_[starts, len(sorted_group)])
    return np.arange(len(sorted_group)) - np.repeat(starts, lengths)


def bin_of(value: np.ndarray) -> np.ndarray:
    """The histogram bin of each activation."""
    return np.clip(np.searchsorted(BIN_EDGES, value, side="right") - 1, 0, BINS - 1)


def weakness_of(value: np.ndarray) -> np.ndarray:
    """uint64, lowest for the highest activation: the bits of floats above zero, as whole numbers, are in the floats' order."""
    return (~value.view(np.uint32)).astype(np.uint64) << np.uint64(32)


def hash_of(place: np.ndarray) -> np.ndarray:
    """A fixed scramble of the place, uint64, another one for each (the finalizer of splitmix64)."""
    x = place.astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
