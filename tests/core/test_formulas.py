"""Each formula at its known points, at a value by hand, and against plain loops."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.core import formulas, reconstruction_formulas


@pytest.mark.parametrize("n_tokens", [1, 2, 100, 10**6])
def test_rate_bound_is_where_silence_has_a_chance_of_five_percent(n_tokens):
    assert (1 - formulas.rate_bound(n_tokens)) ** n_tokens == pytest.approx(0.05)


def test_rate_bound_by_hand():
    assert formulas.rate_bound(1) == pytest.approx(0.95)
    assert formulas.rate_bound(10**6) == pytest.approx(3e-6, rel=0.01)  # the rule of three


def test_rate_bound_of_no_tokens():
    with pytest.raises(ValueError, match="n_tokens is 0; give a whole number of at least 1"):
        formulas.rate_bound(0)


def test_log10_rate():
    assert formulas.log10_rate(torch.tensor([0.0, 1e-3, 1.0])).tolist() == pytest.approx(
        [-6.5, -2.99986, 0.0], abs=1e-5
    )


def mean(values):
    return sum(values) / len(values) if values else math.nan


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_rule_agreement_against_counting(pairs):
    fires, rule = [f for f, _ in pairs], [r for _, r in pairs]
    found = formulas.rule_agreement(torch.tensor(fires), rule)
    where_fires, where_rule = [r for f, r in pairs if f], [f for f, r in pairs if r]
    expected = [mean(where_fires), mean(where_rule), mean(rule), len(where_fires), len(where_rule)]
    assert found.tolist() == pytest.approx(expected, nan_ok=True)


def test_rule_agreement_at_its_known_points():
    rule = np.array([[True, False], [False, False]])
    perfect = formulas.rule_agreement(rule, rule)
    assert perfect.to_dict() == {
        "precision": 1,
        "recall": 1,
        "base_rate": 0.25,
        "fires": 1,
        "rule": 1,
    }
    always = formulas.rule_agreement(np.ones((2, 2), bool), rule)
    assert always["precision"] == always["base_rate"] == 0.25 and always["recall"] == 1


def test_rule_agreement_needs_one_of_each_per_token():
    with pytest.raises(
        ValueError, match="fires has 2 values and rule 3; give one value of each per token"
    ):
        formulas.rule_agreement([True, False], [True, False, True])


def test_kl_by_hand():
    p = torch.tensor([[0.5, 0.5], [1.0, 1e-30]]).log()
    q = torch.tensor([[0.9, 0.1], [0.25, 0.75]]).log()
    expected = [0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), math.log(4)]
    assert formulas.kl_divergence(p, q).tolist() == pytest.approx(expected, abs=1e-6)
    assert formulas.kl_divergence(p + 7, q - 3).tolist() == pytest.approx(expected, abs=1e-6)
    assert formulas.kl_divergence(p, p).tolist() == [0, 0]
    assert formulas.kl_divergence(p[0], q[0]).ndim == 0


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 1, 2, 3], 0.25),
        ([5] * 5, 2 / 3),
        ([1, 2, 3, 4], 0.0),
        ([1, 2, 3], 0.0),
        ([1, 2, 1, 2, 1], 1 / 3),
    ],
)
def test_repetition_by_hand(tokens, expected):
    assert formulas.repetition(torch.tensor(tokens)) == pytest.approx(expected, abs=1e-12)


def test_repetition_of_less_than_a_trigram():
    assert math.isnan(formulas.repetition(torch.tensor([1, 2]))) and math.isnan(
        formulas.repetition([])
    )


def test_precision_and_recall_of_many_features_at_once():
    generator = np.random.default_rng(0)
    fires, rule = generator.random((40, 6)) < 0.3, generator.random(40) < 0.4
    fires[:, 2] = False
    both = (fires & rule[:, None]).sum(0)
    agreement = formulas.precision_and_recall(both, fires.sum(0), rule.sum())
    for i in range(6):
        expected = formulas.rule_agreement(fires[:, i], rule)
        assert agreement.recall[i] == expected["recall"]
        assert agreement.precision[i] == pytest.approx(expected["precision"], nan_ok=True)
    assert np.isnan(agreement.precision[2])


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1"),
    [
        ((3, 4, 12), 3 / 4, 1 / 4, 3 / 8),
        ((0, 4, 12), 0, 0, 0),
        ((4, 4, 4), 1, 1, 1),
        ((0, 0, 5), math.nan, 0, 0),
        ((0, 5, 0), 0, math.nan, 0),
        ((0, 0, 0), math.nan, math.nan, math.nan),
    ],
)
def test_precision_and_recall_by_hand(counts, precision, recall, f1):
    agreement = formulas.precision_and_recall(*counts)
    assert list(map(float, agreement)) == pytest.approx([precision, recall, f1], nan_ok=True)


@pytest.mark.parametrize(("d_in", "n_rows"), [(3, 1), (8, 1), (24, 48), (16, 500)])
def test_chance_cosine_against_random_directions(d_in, n_rows):
    drawn = np.random.default_rng(1).normal(size=(2000, n_rows, d_in))
    cosines = drawn[..., 0] / np.linalg.norm(drawn, axis=-1)
    expected = np.median(cosines.max(1))
    assert formulas.chance_cosine(d_in, n_rows) == pytest.approx(expected, abs=0.03)


def test_chance_cosine_in_three_dimensions_by_hand():
    # on a sphere the cosine is uniform in -1..1 (Archimedes), so the median of the highest is known
    for n_rows in (1, 2, 10):
        expected = 2 * 0.5 ** (1 / n_rows) - 1
        assert formulas.chance_cosine(3, n_rows) == pytest.approx(expected, abs=1e-12)


def test_reconstructions_formulas_are_among_them():
    own = {
        name
        for name, value in vars(reconstruction_formulas).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert len(own) == 6 and own < set(formulas.__all__)


@pytest.mark.parametrize("fires", [[math.nan, 1.0], ["a", "b"], [1j, 0], [0.5, 1], [2, 0]])
def test_rule_agreement_needs_truth_values(fires):
    with pytest.raises(ValueError, match="fires has values other than True and False .*give bool"):
        formulas.rule_agreement(fires, [True, False])


def test_rule_agreement_refuses_a_transposed_table():
    with pytest.raises(ValueError, match=r"fires has shape \(2, 3\) and rule \(3, 2\); give both"):
        formulas.rule_agreement(np.ones((2, 3), bool), np.ones((3, 2), bool))
    flat = formulas.rule_agreement(np.ones((2, 3), bool), np.ones(6, bool))
    assert flat["fires"] == 6


def test_a_clustered_mean():
    values = np.array([1.0, 4.0, 4.0, 7.0])
    # By hand: mean 4, and the clusters' sums of differences are -3, 0 and 3.
    found = formulas.clustered_mean(values, np.array([5, 5, 2, 9]))
    assert found.mean == 4 and found.standard_error == pytest.approx(math.sqrt(18 * 3 / 2) / 4)
    apart = formulas.clustered_mean(values, np.arange(4))
    assert apart.standard_error == pytest.approx(values.std(ddof=1) / 2)
    alike = formulas.clustered_mean(np.full(6, 3.0), np.array([0, 0, 0, 1, 1, 2]))
    assert alike == (3.0, 0.0)


def test_a_clustered_mean_of_one_cluster_or_none():
    one = formulas.clustered_mean(np.array([1.0, 3.0]), np.array([4, 4]))
    assert one.mean == 2 and math.isnan(one.standard_error)
    assert all(map(math.isnan, formulas.clustered_mean(np.zeros(0), np.zeros(0, int))))


def test_a_clustered_error_is_that_of_many_draws():
    """Clusters of five equal values: the error is that of the clusters, not of the values."""
    generator = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        values = np.repeat(generator.normal(size=30), 5)
        found = formulas.clustered_mean(values, np.repeat(np.arange(30), 5))
        means.append(found.mean)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_fishers_exact_test():
    # By counting: of the 20 choose 4 draws, 5 choose 4 have all four among the five.
    assert formulas.fisher_exact(4, 4, 5, 20) == pytest.approx(5 / math.comb(20, 4))
    assert formulas.fisher_exact(0, 4, 5, 20) == 1
    found = formulas.fisher_exact(np.array([1, 3]), 4, np.array([5, 6]), 20)
    for n_both, n_rule, chance in zip((1, 3), (5, 6), found):
        ways = [math.comb(n_rule, k) * math.comb(20 - n_rule, 4 - k) for k in range(n_both, 5)]
        assert chance == pytest.approx(sum(ways) / math.comb(20, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: formulas.kl_divergence([1.0], [1.0, 2.0]), "give both over one vocabulary"),
        (lambda: formulas.kl_divergence(None, [1.0]), "logits_p is None; give a tensor"),
        (lambda: formulas.repetition([[1, 2], [3, 4]]), "tokens have 2 rows; give one"),
        (lambda: formulas.repetition([1.5, 2, 3]), "tokens are torch.float32; give integers"),
        (lambda: formulas.log10_rate([-0.1]), "firing_rate goes down to -0.1; no rate is below 0"),
        (lambda: formulas.log10_rate("x"), "firing_rate is 'x'; give a tensor"),
        (lambda: formulas.clustered_mean(np.ones(3), np.ones(2)), "3 values and 2 clusters"),
        (lambda: formulas.precision_and_recall(3, 2, 4), "n_both is below 0, or above n_fires"),
        (lambda: formulas.precision_and_recall(-1, 2, 4), "n_both is below 0, or above n_fires"),
        (lambda: formulas.fisher_exact(3, 2, 4, 9), "n_both is below 0, or above n_fires"),
        (lambda: formulas.fisher_exact(1, 2, 4, 3), "there are 3 tokens, and more of them in a"),
        (lambda: formulas.chance_cosine(1, 5), "d_in is 1; give a whole number of at least 2"),
        (
            lambda: formulas.variance_explained(torch.ones(3, 2), torch.ones(3)),
            r"x has shape \(3, 2\) and the reconstruction \(3,\); give one for each token",
        ),
    ],
)
def test_numbers_that_cannot_be(call, words):
    with pytest.raises(ValueError, match=words):
        call()
