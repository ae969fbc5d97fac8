"""Which firings are kept, against selections written as plain sorts of tuples."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.firings import BIN_EDGES, SAMPLES_PER_BIN, Firings, bin_of, hash_of, place_of, rank_in_group, row_and_pos

fast = settings(max_examples=60, deadline=None, database=None)

# Few features, few values: many ties and full bins.
values = st.sampled_from([1e-5, 0.25, 0.2500001, 0.5, 1.0, 3.0])
places = st.tuples(st.integers(0, 5), st.integers(0, 5))
tables = st.dictionaries(st.tuples(st.integers(0, 2), places), values, max_size=80).map(
    lambda table: [(feature, float(np.float32(value)), *place) for (feature, place), value in table.items()]
)


def firings(table) -> Firings:
    """From ``(feature, value, row, pos)``."""
    if not table:
        return Firings.none()
    feature, value, row, pos = zip(*table)
    return Firings(np.array(feature, np.int64), np.array(value, np.float32), place_of(np.array(row), np.array(pos)))


def table(firings: Firings) -> list[tuple]:
    return [(f, v, *p) for f, v, p in zip(firings.feature.tolist(), firings.value.tolist(), row_and_pos(firings.place).tolist())]


def first_of_each(table, order, group, k) -> list[tuple]:
    """The first k of each group."""
    ordered = sorted(table, key=lambda firing: (group(firing), order(firing)))
    return [firing for _, members in groupby(ordered, key=group) for firing in list(members)[:k]]


def slow_bin(value: float) -> int:
    return sum(edge <= value for edge in BIN_EDGES) - 1


def slow_hash(row: int, pos: int) -> int:
    """Splitmix64's finalizer, in Python's own integers."""
    x, word = row * 2**20 + pos, 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % word
    x = (x ^ x >> 27) * 0x94D049BB133111EB % word
    return x ^ x >> 31


def slow_strongest(table, k):
    return first_of_each(table, order=lambda f: (-f[1], f[2], f[3]), group=lambda f: f[0], k=k)


def slow_samples(table):
    return first_of_each(table, order=lambda f: slow_hash(f[2], f[3]), group=lambda f: (f[0], slow_bin(f[1])), k=SAMPLES_PER_BIN)


@fast
@given(table_=tables, k=st.integers(0, 7))
def test_strongest(table_, k):
    every = firings(table_)
    assert table(every[every.strongest(k)]) == slow_strongest(table_, k)


@fast
@given(table_=tables)
def test_samples(table_):
    every = firings(table_)
    assert table(every[every.samples()]) == slow_samples(table_)


@fast
@given(table_=tables, data=st.data(), k=st.integers(1, 7))
def test_choosing_from_the_chosen_of_each_part_is_choosing_from_all(table_, data, k):
    chosen = Firings.none()
    order = data.draw(st.permutations(table_))
    cut = data.draw(st.integers(0, len(order)))
    for part in (firings(order[:cut]), firings(order[cut:])):
        chosen = chosen + part[part.strongest(k)] + part[part.samples()]
    chosen = chosen.unique()
    assert table(chosen[chosen.strongest(k)]) == slow_strongest(table_, k)
    assert table(chosen[chosen.samples()]) == slow_samples(table_)


@fast
@given(table_=tables)
def test_unique_takes_each_once(table_):
    every = firings(table_)
    assert sorted(table((every + every).unique())) == sorted(table_)


@fast
@given(groups=st.lists(st.integers(0, 4)).map(sorted))
def test_rank_in_group(groups):
    assert rank_in_group(np.array(groups)).tolist() == [groups[:i].count(group) for i, group in enumerate(groups)]


def test_bins():
    assert BIN_EDGES[0] == 0 and BIN_EDGES[-1] == np.inf
    np.testing.assert_allclose(BIN_EDGES[[1, 5, 13, 29]], [1e-3, 1e-2, 1, 1e4])
    assert bin_of(np.array([1e-30, 1e-3, 1.0, 0.999999, 1e30])).tolist() == [0, 1, 13, 12, 29]
    drawn = 10 ** np.random.default_rng(0).uniform(-4, 5, 500)
    assert bin_of(drawn).tolist() == [slow_bin(value) for value in drawn]


def test_hash_is_the_finalizer_of_splitmix64():
    state, published = 0x9E3779B97F4A7C15, 0xE220A8397B1DCDAF  # first state and output for seed 0
    place = (state >> 20, state % 2**20)
    assert slow_hash(*place) == published
    assert hash_of(np.array([place[0] << 20 | place[1]])).tolist() == [published]


@pytest.mark.parametrize("axis", ["row", "pos"])
def test_samples_favour_no_place(axis):
    row, pos = np.divmod(np.arange(100_000), 200)
    rank = hash_of(place_of(row, pos)) / 2**64
    assert abs(rank.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(rank, {"row": row, "pos": pos}[axis])[0, 1]) < 0.01
