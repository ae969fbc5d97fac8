"""Reconstruction's formulas at their known points, at values by hand, and against plain loops."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from saework.core import reconstruction_formulas as formulas

losses = st.floats(0.01, 20)


def test_loss_recovered_at_its_known_points():
    assert formulas.loss_recovered(clean=3.0, spliced=3.0, ablated=8.0) == 1
    assert formulas.loss_recovered(clean=3.0, spliced=8.0, ablated=8.0) == 0
    # 4 of the 5 nats come back
    assert formulas.loss_recovered(clean=3.0, spliced=4.0, ablated=8.0) == 0.8
    assert formulas.loss_recovered(clean=3.0, spliced=9.0, ablated=8.0) == -0.2


def test_loss_recovered_gives_the_published_score():
    assert f"{formulas.loss_recovered(3.2546, 3.7507, 8.8403):.2%}" == "91.12%"


@settings(deadline=None)
@given(losses, losses, losses, st.floats(-5, 5))
def test_loss_recovered_does_not_depend_on_where_loss_begins(clean, spliced, ablated, shift):
    assume(abs(ablated - clean) > 0.1)
    score = formulas.loss_recovered(clean, spliced, ablated)
    moved = formulas.loss_recovered(clean + shift, spliced + shift, ablated + shift)
    assert moved == pytest.approx(score, rel=1e-6, abs=1e-6)


def test_an_ablation_that_changes_nothing_is_an_error():
    words = r"ablated loss equals the clean loss \(3.25 nats per token\).*undefined. Check that the"
    with pytest.raises(ValueError, match=words):
        formulas.loss_recovered(3.25, 4.0, 3.25)


def slow_bootstrap(losses, counts, draws=4000):
    """The percentile interval with rows drawn one by one."""
    generator, n, scores = random.Random(1), len(counts), []
    for _ in range(draws):
        rows = [generator.randrange(n) for _ in range(n)]
        clean, spliced, ablated = (
            sum(part[r] for r in rows) / sum(counts[r] for r in rows) for part in losses
        )
        scores.append((ablated - spliced) / (ablated - clean))
    scores.sort()
    return scores[int(0.025 * draws)], scores[int(0.975 * draws)]


def some_rows(seed, n_rows=12):
    generator = np.random.default_rng(seed)
    counts = generator.integers(5, 60, n_rows)
    per_token = np.array([[3.0], [3.6], [8.0]]) + generator.normal(0, 0.4, (3, n_rows))
    return per_token * counts, counts


def test_bootstrap_interval_against_rows_drawn_one_by_one():
    rows, counts = some_rows(0)
    expected = slow_bootstrap(rows, counts)
    assert formulas.bootstrap_interval(rows, counts) == pytest.approx(expected, abs=0.01)
    assert expected[1] - expected[0] > 0.05  # so that 0.01 is a strict comparison


def test_times_drawn_counts_draws_with_replacement():
    drawn = formulas.times_drawn(5, 4000, np.random.default_rng(0))
    assert drawn.shape == (4000, 5) and (drawn.sum(1) == 5).all()
    assert drawn.mean(0) == pytest.approx([1] * 5, abs=0.06)
    left_out = (drawn == 0).mean()
    assert left_out == pytest.approx((4 / 5) ** 5, abs=0.02)


def test_bootstrap_interval_of_two_rows_by_hand():
    # One row scores 1, the other 0. A quarter of the draws has only the first, a quarter only the
    # second.
    rows = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert formulas.bootstrap_interval(rows, np.array([1, 1])) == (0, 1)


def test_bootstrap_interval_of_equal_rows_has_no_width():
    rows = np.outer([3.0, 4.0, 8.0], [10, 20, 30])
    assert formulas.bootstrap_interval(rows, np.array([10, 20, 30])) == pytest.approx((0.8, 0.8))


def test_bootstrap_interval_contains_the_estimate():
    def contains(seed):
        rows, counts = some_rows(seed)
        low, high = formulas.bootstrap_interval(rows, counts)
        return low <= formulas.loss_recovered(*rows.sum(1) / counts.sum()) <= high

    assert sum(map(contains, range(40))) == 40


def test_bootstrap_interval_is_set_by_its_seed():
    rows, counts = some_rows(3)
    first, again, other = (
        formulas.bootstrap_interval(rows, counts, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_bootstrap_interval_of_one_row_is_unknown():
    assert all(map(math.isnan, formulas.bootstrap_interval(np.ones((3, 1)), np.array([4]))))


def test_bootstrap_interval_leaves_out_rows_without_a_counted_token():
    rows, counts = some_rows(4)
    padded = formulas.bootstrap_interval(
        np.concatenate([rows, np.zeros((3, 2))], axis=1), np.append(counts, [0, 0])
    )
    assert padded == formulas.bootstrap_interval(rows, counts)


def slow_variance_explained(x, reconstruction):
    x, reconstruction = x.tolist(), reconstruction.tolist()
    error = total = 0.0
    for j in range(len(x[0])):
        mean = sum(row[j] for row in x) / len(x)
        error += sum((row[j] - other[j]) ** 2 for row, other in zip(x, reconstruction))
        total += sum((row[j] - mean) ** 2 for row in x)
    return 1 - error / total


def test_variance_explained_at_its_known_points():
    x = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    assert formulas.variance_explained(x, x) == 1
    assert formulas.variance_explained(x, x.mean(0).expand(2, 2)) == 0
    half = torch.tensor([[1.0, 10.0], [2.0, 10.0]])  # error 1 of 2
    assert formulas.variance_explained(x, half) == 0.5
    assert formulas.variance_explained(x, torch.zeros(2, 2)) < 0


def test_variance_explained_against_loops():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator) + 3
    reconstruction = x + 0.5 * torch.randn(30, 5, generator=generator)
    assert formulas.variance_explained(x, reconstruction) == pytest.approx(
        slow_variance_explained(x, reconstruction), abs=1e-12
    )


def test_variance_explained_is_summed_in_float64():
    x = torch.tensor([[10000.0], [10001.0], [10002.0], [10003.0]])
    assert formulas.variance_explained(x, x + 0.5) == pytest.approx(1 - 4 * 0.25 / 5, abs=1e-12)


@pytest.mark.parametrize("value, n", [(1.0, 2), (0.1, 3), (0.7, 7), (5.0, 1)])
def test_activations_that_do_not_vary_are_an_error(value, n):
    x = torch.full((n, 2), value, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"the {n} activations are all alike.*give more tokens"):
        formulas.variance_explained(x, x)


X = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
X_HAT = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
# of features (1, -2, 0), (0, 0, 0), (0, 0, 3)
L0, L1 = torch.tensor([2, 0, 1]), torch.tensor([3.0, 0.0, 3.0])
LOSSES = {
    "predictions": 2,
    "ce_clean": 6.0,
    "ce_spliced": 8.0,
    "ce_ablated": 16.0,
    "kl_spliced": 1.0,
    "kl_ablated": 4.0,
}
BY_HAND = {
    "tokens": 3,
    "predictions": 2,
    "ce_loss_clean": 3,
    "ce_loss_spliced": 4,
    "ce_loss_ablated": 8,
    "ce_loss_score": 4 / 5,
    "kl_div_spliced": 1 / 2,
    "kl_div_ablated": 2,
    "kl_div_score": 3 / 4,
    # the mean is (1, 0), so the spreads are 1, 1 and 4, and the error is 1
    "variance_explained": 5 / 6,
    "variance_explained_legacy": 2 / 3,  # 0, 1 and 1
    # around 0.5: 5 * 0.25 + 6.25 over 5; the error is 1 of 6 elements
    "variance_explained_global": 8 / 9,
    "variance_explained_squares": 5 / 9,  # 1 - (1/3) / (3 - 1.5^2)
    "mse_per_element": 1 / 6,
    "mse_per_token": 1 / 3,
    "mse_saebench": 1 / 9,
    "l0": 1,
    "l1": 2,
    "l2_ratio": 2 / 3,  # 1 over a norm of 0, which counts as 1; 0; 1
    "relative_reconstruction_bias": 10 / 9,
    "cosine_similarity": 1 / 3,
}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_reconstruction_by_hand(cut):
    total, mean = Counter(LOSSES), X.double().mean(0)
    for part in (slice(cut), slice(cut, None)):
        sums = formulas.reconstruction_sums(X[part], X_HAT[part], L0[part], L1[part], mean)
        total.update(sums)
    values = formulas.pooled_reconstruction(total, mean)
    assert values == pytest.approx(BY_HAND, rel=1e-12)
    assert list(values) == list(formulas.RECONSTRUCTION)


def test_variance_explained_of_sums_is_the_plain_ones():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 5, generator=generator) + 100
    x_hat = x + 0.5 * torch.randn(30, 5, generator=generator)
    mean = x.double().mean(0)
    sums = formulas.reconstruction_sums(x, x_hat, torch.ones(30), torch.ones(30), mean)
    values = formulas.pooled_reconstruction(Counter(LOSSES) + Counter(sums), mean)
    conventional = formulas.variance_explained(x, x_hat)
    assert values["variance_explained"] == pytest.approx(conventional, rel=1e-7)
    mean_error = (x_hat - x).double().pow(2).mean()
    over_elements = 1 - float(mean_error / x.double().var())
    assert values["variance_explained_global"] == pytest.approx(over_elements, abs=1e-7)


def test_reconstruction_of_nothing_counted_is_unknown():
    values = formulas.pooled_reconstruction(Counter(), torch.full((2,), math.nan))
    assert values.pop("tokens") == values.pop("predictions") == 0
    assert all(map(math.isnan, values.values()))


def test_reconstruction_where_ablation_changes_nothing():
    mean = X.double().mean(0)
    sums = formulas.reconstruction_sums(X, X_HAT, L0, L1, mean)
    total = Counter(LOSSES | {"ce_ablated": 6.0}) + Counter(sums)
    with pytest.raises(ValueError, match="ablating this hook changes nothing"):
        formulas.pooled_reconstruction(total, mean)
