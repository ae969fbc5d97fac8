"""Which firings are kept, against selections written as plain sorts of tuples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import slow_bin, slow_hash, slow_samples, slow_strongest

from saework.analysis.scanning import firings
from saework.analysis.scanning.firings import (
    BIN_EDGES,
    BINS,
    SAMPLES_PER_BIN,
    Firings,
    Shortlist,
    bin_of,
    hash_of,
    place_of,
    rank_in_group,
    row_and_pos,
    weakness_of,
)

fast = settings(max_examples=60, deadline=None, database=None)

# Few features, few values: many ties and full bins.
values = st.sampled_from([1e-5, 0.25, 0.2500001, 0.5, 1.0, 3.0])
places = st.tuples(st.integers(0, 5), st.integers(0, 5))
tables = st.dictionaries(st.tuples(st.integers(0, 2), places), values, max_size=80).map(
    lambda table: [
        (feature, float(np.float32(value)), *place) for (feature, place), value in table.items()
    ]
)


def columns(table) -> tuple[np.ndarray, ...]:
    """Feature, value and place, from ``(feature, value, row, pos)``."""
    feature, value, row, pos = zip(*table) if table else ((),) * 4
    return (
        np.array(feature, np.int64),
        np.array(value, np.float32),
        place_of(np.array(row, np.int64), np.array(pos, np.int64)),
    )


def by_strength(table) -> Firings:
    feature, value, place = columns(table)
    return Firings(feature, weakness_of(value), value, place)


def by_hash(table) -> Firings:
    feature, value, place = columns(table)
    return Firings(feature * BINS + bin_of(value), hash_of(place), value, place)


def table_of(firings: Firings, groups_of_a_feature: int = 1) -> list[tuple]:
    feature = firings.group // groups_of_a_feature
    columns = feature.tolist(), firings.value.tolist(), row_and_pos(firings.place).tolist()
    return [(f, value, *place) for f, value, place in zip(*columns)]


@fast
@given(table=tables, k=st.integers(0, 7), data=st.data(), pending=st.integers(0, 40))
def test_the_best_of_any_parts_in_any_order(table, k, data, pending):
    """Whatever comes first, and whenever the others are let go."""
    order = data.draw(st.permutations(table))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)), max_size=4)))
    top, samples = Shortlist(3, k), Shortlist(3 * BINS, SAMPLES_PER_BIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firings, "PENDING", pending)
        for start, end in zip([0, *cuts], [*cuts, len(order)]):
            top.add(by_strength(order[start:end]))
            samples.add(by_hash(order[start:end]))
            if data.draw(st.booleans()):
                top.best()
    assert table_of(top.best()) == slow_strongest(table, k)
    assert table_of(samples.best(), BINS) == slow_samples(table)


def test_a_shortlist_holds_no_more_than_its_size_and_turns_the_rest_away():
    best = [(0, 3.0, 0, 0), (0, 2.0, 0, 1), (2, 1.0, 0, 2)]
    shortlist = Shortlist(3, 2)
    shortlist.add(by_strength([*best, (0, 1.0, 0, 3)]))
    assert table_of(shortlist.best()) == best and len(shortlist.best().value) == 3
    shortlist.add(by_strength([(0, 1.9, 0, 4)]))  # below the last of a full group
    assert sum(map(len, shortlist._pending)) == 0
    tie, other = (0, 2.0, 0, 0), (2, 0.5, 5, 5)
    shortlist.add(by_strength([other, tie]))
    assert table_of(shortlist.best()) == [best[0], tie, best[2], other]


@fast
@given(
    groups=st.lists(st.integers(0, 3), max_size=60),
    largest=st.sampled_from([1, 3, 16_384, 2**20 * BINS, 2**40]),
    data=st.data(),
)
def test_best_first_is_the_order_by_all_three(groups, largest, data):
    """However few of the score's bits there is room for beside the group."""
    group = np.array([*groups, largest])
    scores = st.sampled_from([0, 1, 2, 2**20, 2**63, 2**63 + 1, 2**64 - 1])
    score = np.array([data.draw(scores) for _ in group], np.uint64)
    place = np.array(data.draw(st.permutations(range(len(group)))))
    columns = group.tolist(), score.tolist(), place.tolist()
    expected = sorted(range(len(group)), key=lambda i: [column[i] for column in columns])
    firings = Firings(group, score, np.ones(len(group), np.float32), place)
    assert firings.best_first().tolist() == expected


def test_weakness_is_the_order_of_the_values_backwards():
    info = np.finfo(np.float32)
    next_to_a_tenth = np.nextafter(np.float32(0.1), np.float32(1))
    increasing = [info.smallest_subnormal, info.tiny, 0.1, next_to_a_tenth, 1, 3, info.max]
    weakness = weakness_of(np.array(increasing, np.float32))
    assert (np.diff(weakness.astype(object)) < 0).all()


@fast
@given(groups=st.lists(st.integers(0, 4)).map(sorted))
def test_rank_in_group(groups):
    assert rank_in_group(np.array(groups)).tolist() == [
        groups[:i].count(group) for i, group in enumerate(groups)
    ]


@fast
@given(rows=st.lists(st.integers(0, 2**40)), data=st.data())
def test_places_are_row_and_position_in_their_order(rows, data):
    pos = [data.draw(st.integers(0, 2**20 - 1)) for _ in rows]
    place = place_of(np.array(rows, np.int64), np.array(pos, np.int64))
    assert [tuple(pair) for pair in row_and_pos(place).tolist()] == list(zip(rows, pos))
    assert np.argsort(place, kind="stable").tolist() == np.lexsort((pos, rows)).tolist()


def test_bins():
    assert BIN_EDGES[0] == 0 and BIN_EDGES[-1] == np.inf
    np.testing.assert_allclose(BIN_EDGES[[1, 5, 13, 29]], [1e-3, 1e-2, 1, 1e4])
    values = np.array([1e-30, 1e-3, 1.0, 0.999999, 1e30, np.inf])
    assert bin_of(values).tolist() == [0, 1, 13, 12, 29, 29]
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
