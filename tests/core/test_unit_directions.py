"""Directions at length one against plain loops, and against what is planted."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from saework.core.unit_directions import NULL_SETS, leave_one_out, unit_directions, without

D, N_RARE, N_OTHERS = 16, 6, 40


def planted(*, own: float, seed: int = 0):
    """Vectors that share one direction; the first six share a second, ``own`` times as strong.

    Each vector has a length of its own, from 0.01 to 100.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(N_RARE + N_OTHERS, D, generator=generator) / D**0.5
    vectors[:, 0] += 1
    vectors[:N_RARE, 1] += own
    lengths = 10 ** (4 * torch.rand(len(vectors), 1, generator=generator) - 2)
    return vectors * lengths, torch.arange(len(vectors)) < N_RARE


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_directions_and_cosines_against_loops():
    vectors, is_rare = planted(own=1)
    found = unit_directions(vectors, is_rare)
    unit = [v / v.norm() for v in vectors]
    direction = sum(unit[:N_RARE]) / N_RARE
    shared = sum(unit[N_RARE:]) / N_OTHERS
    assert found.direction.tolist() == pytest.approx(direction.tolist(), abs=1e-6)
    assert found.shared.tolist() == pytest.approx(shared.tolist(), abs=1e-6)
    left_out = [cosine(unit[i], direction * N_RARE - unit[i]) for i in range(N_RARE)]
    assert found.cosine.tolist() == pytest.approx(left_out, abs=1e-5)
    cleared = [u - (u @ shared) * shared / (shared @ shared) for u in unit[:N_RARE]]
    cleared = [c / c.norm() for c in cleared]
    left_out = [cosine(cleared[i], sum(cleared) - cleared[i]) for i in range(N_RARE)]
    assert found.projected_cosine.tolist() == pytest.approx(left_out, abs=1e-5)


def test_own_is_orthogonal_to_the_shared_direction():
    found = unit_directions(*planted(own=1))
    assert float(found.own @ found.shared) == pytest.approx(0, abs=1e-6)
    along = found.direction - found.own
    assert cosine(along, found.shared) == pytest.approx(1, abs=1e-5)


def test_lengths_do_not_matter():
    vectors, is_rare = planted(own=1)
    found = unit_directions(vectors, is_rare)
    same = unit_directions(normalize(vectors, dim=-1), is_rare)
    assert found.direction.tolist() == pytest.approx(same.direction.tolist(), abs=1e-6)
    assert found.cosine.tolist() == pytest.approx(same.cosine.tolist(), abs=1e-5)


def test_a_direction_that_all_share_is_not_one_of_the_rare_features():
    """Before the projection the null is high too; after it, only what is the rare ones' own."""
    alike, not_alike = (unit_directions(*planted(own=own)) for own in (2, 0))
    for found in (alike, not_alike):
        assert found.null.median() > 0.6
        assert abs(found.projected_null.median()) < 0.15
    assert alike.projected_cosine.median() > 0.8
    assert abs(not_alike.projected_cosine.median()) < 0.4


def test_the_first_null_set_by_hand():
    vectors, is_rare = planted(own=0)
    found = unit_directions(vectors, is_rare, seed=3)
    others = normalize(vectors[N_RARE:], dim=-1)
    assert len(found.null) == len(found.projected_null) == NULL_SETS * N_RARE
    order = torch.randperm(N_OTHERS, generator=torch.Generator().manual_seed(3))
    chosen, rest = others[order[:N_RARE]], others[order[N_RARE:]]
    assert found.null[:N_RARE].tolist() == pytest.approx(leave_one_out(chosen).tolist(), abs=1e-6)
    cleared = normalize(without(chosen, rest.mean(0)), dim=-1)
    expected = leave_one_out(cleared).tolist()
    assert found.projected_null[:N_RARE].tolist() == pytest.approx(expected, abs=1e-5)


def test_null_sets_are_half_of_what_is_not_rare_where_that_is_fewer():
    vectors, is_rare = planted(own=0)
    found = unit_directions(vectors, ~is_rare)
    assert len(found.null) == NULL_SETS * N_RARE // 2


def test_nothing_to_compare_is_nan():
    vectors, is_rare = planted(own=0)
    all_rare = unit_directions(vectors, torch.ones_like(is_rare))
    assert all_rare.null.isnan().all() and all_rare.projected_null.isnan().all()
    one_rare = unit_directions(vectors, torch.arange(len(vectors)) == 2)
    assert one_rare.cosine.isnan().all()


def test_a_vector_of_zeros_has_no_cosine_and_spoils_no_other():
    vectors, is_rare = planted(own=1)
    vectors[0] = 0
    found = unit_directions(vectors, is_rare)
    assert found.cosine[0].isnan() and not found.cosine[1:].isnan().any()
    assert found.projected_cosine[0].isnan() and not found.projected_cosine[1:].isnan().any()
