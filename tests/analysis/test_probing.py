"""Sparse probes against a slow twin, a planted feature, noise, and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saework.analysis import probing
from saework.analysis.probing import most_different, random_features, sparse_probe

SHAPE = (40, 12)  # rows of text, tokens


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def planted(rng):
    """Noise in ten features, and the label itself, with noise, in feature 7."""
    labels = torch.from_numpy(rng.random(SHAPE) < 0.3)
    features = torch.from_numpy(rng.standard_normal((*SHAPE, 10)).astype(np.float32))
    features[..., 7] = 3 * labels + 0.1 * features[..., 7]
    return features, labels


def test_a_planted_feature_is_found_and_told_without_error(planted):
    frame = sparse_probe(*planted, k=(1, 3))
    assert frame.columns.tolist() == ["k", "accuracy", "low", "high", "f1", "features"]
    assert frame.features[0] == [7] and frame.features[1][0] == 7
    assert frame[["accuracy", "low", "high", "f1"]].to_numpy().tolist() == [[1.0] * 4] * 2


def test_labels_that_nothing_tells_are_told_by_chance(rng, planted):
    labels = torch.from_numpy(rng.random(SHAPE) < 0.3)
    frame = sparse_probe(planted[0], labels, k=(1, 10), draws=20)
    assert (
        ((frame.accuracy - 0.5).abs() < 0.03).all()
        and (frame.low < 0.5).all()
        and (frame.high > 0.5).all()
    )
    # a coin's F1 is 2 p q / (p + q) with p = 0.3 and q about 0.5
    assert ((frame.f1 - 2 * 0.3 * 0.5 / 0.8).abs() < 0.06).all()


def slow_twin(features, labels, k, seed, draws):
    """The same in plain loops, splits included."""
    accuracies = []
    n_rows, n_pos, d = features.shape
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        with_positive = [r for r in range(n_rows) if labels[r].any()]
        without = [r for r in range(n_rows) if not labels[r].any()]
        test = []
        for part in (with_positive, without):
            if part:
                test += list(generator.permutation(part)[: max(1, round(len(part) / 4))])
        tokens = [(r, p) for r in range(n_rows) for p in range(n_pos) if r not in test]
        positive = [i for i, at in enumerate(tokens) if labels[at]]
        negative = [i for i, at in enumerate(tokens) if not labels[at]]
        n = min(len(positive), len(negative), 2000)
        kept = sorted(
            [
                *generator.choice(positive, n, replace=False),
                *generator.choice(negative, n, replace=False),
            ]
        )
        kept = [tokens[i] for i in kept]
        gaps = []
        for j in range(d):
            ups = [features[at][j] for at in kept if labels[at]]
            downs = [features[at][j] for at in kept if not labels[at]]
            gaps.append(abs(sum(map(float, ups)) / n - sum(map(float, downs)) / n))
        columns = sorted(range(d), key=lambda j: -gaps[j])[:k]
        probe = LogisticRegression(max_iter=1000).fit(
            np.array([features[at][columns] for at in kept]), [labels[at] for at in kept]
        )
        right = {True: [], False: []}
        for r in sorted(test):
            for p in range(n_pos):
                right[bool(labels[r, p])].append(
                    probe.predict(features[r, p][columns][None])[0] == labels[r, p]
                )
        accuracies.append((np.mean(right[True]) + np.mean(right[False])) / 2)
    return np.mean(accuracies)


@pytest.mark.parametrize("k", [1, 3])
def test_it_agrees_with_a_slow_twin(rng, k):
    labels = rng.random((24, 6)) < 0.3
    labels[:5] = False  # rows without a positive
    features = rng.standard_normal((24, 6, 5)).astype(np.float32)
    features[..., 2] += labels
    frame = sparse_probe(features, torch.from_numpy(labels), k=[k], seed=9, draws=3)
    assert frame.accuracy[0] == pytest.approx(slow_twin(features, labels, k, 9, 3), abs=1e-12)


def test_accuracy_and_f1_by_hand():
    # 4 positives of which 3 are found, 10 negatives of which 8 are left alone
    counts = np.array([4, 3, 10, 8])
    assert probing._accuracy(counts) == pytest.approx((0.75 + 0.8) / 2)
    assert probing._f1(counts) == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    y = np.array([True, True, False, False, False])
    right = np.array([True, False, True, True, False])
    assert probing._row_counts(right, y, np.array([4, 4, 4, 9, 9])).tolist() == [
        [2, 1, 1, 1],
        [0, 0, 2, 1],
    ]


def test_the_most_different_by_hand():
    x = np.array([[0.0, 5, 1, 0], [2, 5, 1, 0], [9, 5, 0, 0], [7, 5, 0, 0]])
    order = most_different(x, np.array([True, True, False, False]))
    assert order.tolist() == [0, 2, 1, 3]  # 7, 1, then the ties in their order


def test_no_row_of_text_is_on_both_sides():
    labels = torch.zeros(SHAPE, dtype=torch.bool)
    labels[::2] = True  # whole rows
    names_its_row = torch.eye(SHAPE[0])[:, None].expand(
        *SHAPE, SHAPE[0]
    )  # tells a row that was trained on, and no other
    frame = sparse_probe(names_its_row, labels, k=[SHAPE[0]], draws=10)
    assert abs(frame.accuracy[0] - 0.5) < 0.1


def test_the_order_of_features_and_a_scale_of_them_all_change_nothing(planted, rng):
    features, labels = planted
    features[..., 7] += 2 * torch.from_numpy(rng.standard_normal(SHAPE).astype(np.float32))
    order = rng.permutation(10)
    frame, moved = (
        sparse_probe(features, labels, k=(1, 4)),
        sparse_probe(features[..., order], labels, k=(4, 1)),
    )
    assert [order[moved.features[1][0]]] == frame.features[0] == [7]
    assert (
        np.allclose(moved.accuracy[::-1], frame.accuracy, atol=1e-12)
        and 0.6 < frame.accuracy[0] < 0.95
    )
    assert frame.low[0] < frame.accuracy[0] < frame.high[0]


def test_a_seed_gives_the_same_and_another_seed_not(planted, rng):
    features, labels = planted[0], torch.from_numpy(rng.random(SHAPE) < 0.5)
    first, again, other = (
        sparse_probe(features, labels, k=[2], seed=seed, draws=2) for seed in (0, 0, 1)
    )
    assert first.equals(again) and not first.equals(other)


def test_what_the_mask_leaves_out_is_neither_trained_on_nor_tested(planted):
    features, labels = planted
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[:, 0] = False
    spoilt = features.clone()
    spoilt[:, 0] = float("nan")
    frame = sparse_probe(spoilt, labels, k=[1], mask=mask)
    assert frame.accuracy[0] == 1
    assert frame.equals(sparse_probe(features[:, 1:], labels[:, 1:], k=[1]))


def test_labels_of_whole_texts(rng):
    labels = rng.random(60) < 0.5
    features = rng.standard_normal((60, 4))
    features[:, 1] = labels
    frame = sparse_probe(features, labels, k=[1])
    assert frame.features[0] == [1] and frame.accuracy[0] == 1


def test_a_common_label_is_trained_on_4000_tokens(rng, monkeypatch):
    sizes = []
    fitted = probing._fitted
    monkeypatch.setattr(
        probing, "_fitted", lambda x, y: sizes.append((len(y), y.sum())) or fitted(x, y)
    )
    labels = rng.random((100, 100)) < 0.5
    sparse_probe(rng.standard_normal((100, 100, 2)), torch.from_numpy(labels), k=[1], draws=1)
    assert sizes == [(4000, 2000)]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": torch.zeros(SHAPE)}, "labels are torch.float32; give bool"),
        (
            {"labels": torch.zeros(40, 11, dtype=torch.bool)},
            r"features have shape \(40, 12, 10\) and labels \(40, 11\); give \[batch, pos, d\]",
        ),
        (
            {"labels": torch.zeros(SHAPE, dtype=torch.bool)},
            "the label is True in 0 row.s. of text, and four are the least that can be split; "
            "give more text",
        ),
        ({"labels": torch.ones(SHAPE, dtype=torch.bool)}, "the label is False in 0 row"),
        (
            {"features": torch.full((*SHAPE, 10), float("inf"))},
            r"features \(leave their tokens out with mask=\) hold 4800 NaN or infinite values",
        ),
        ({"k": [11]}, r"k is \[11\]; give numbers of features in 1..10"),
        ({"k": []}, r"k is \[\]"),
        ({"k": [0]}, "k is 0; give a whole number of at least 1"),
        ({"draws": 0}, "draws is 0; give a whole number"),
        ({"mask": torch.zeros(SHAPE, dtype=torch.bool)}, "mask is False everywhere"),
    ],
)
def test_arguments_that_do_not_fit(planted, change, words):
    arguments = {"features": planted[0], "labels": planted[1], "k": [1]} | change
    with pytest.raises(ValueError, match=words):
        sparse_probe(arguments.pop("features"), arguments.pop("labels"), **arguments)


def test_a_random_dictionary_fires_as_often_as_its_twin(rng):
    x = torch.from_numpy(rng.standard_normal((6, 20, 8)).astype(np.float32))
    features = torch.relu(torch.from_numpy(rng.standard_normal((6, 20, 30)).astype(np.float32)) - 1)
    features[..., 0], features[..., 1] = 0, 1  # never, and always
    made = random_features(x, features, seed=4)
    assert made.shape == features.shape and made.dtype == torch.float32 and (made >= 0).all()
    assert torch.equal((made != 0).sum((0, 1)), (features != 0).sum((0, 1)))
    assert torch.equal(made, random_features(x, features, seed=4)) and not torch.equal(
        made, random_features(x, features, seed=5)
    )


def test_a_random_feature_is_a_direction_of_the_activations(rng):
    x = torch.from_numpy(rng.standard_normal((50, 3)).astype(np.float32))
    features = torch.relu(torch.from_numpy(rng.standard_normal((50, 2)).astype(np.float32)))
    made = random_features(x, features)
    for j in range(2):
        on = made[:, j] > 0
        inputs = torch.cat([x[on], torch.ones(int(on.sum()), 1)], 1).double()
        solution = torch.linalg.lstsq(inputs, made[on, j].double()[:, None]).solution
        assert torch.allclose(inputs @ solution, made[on, j].double()[:, None], atol=1e-5)
        assert float(solution[:3].norm()) == pytest.approx(1, abs=1e-4)  # of length 1


def test_a_random_dictionary_needs_the_same_tokens():
    with pytest.raises(
        ValueError,
        match=r"activations have shape \(4, 3\) and features \(5, 2\); give both on the same",
    ):
        random_features(torch.zeros(4, 3), torch.zeros(5, 2))
