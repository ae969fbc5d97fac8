"""Tables of one feature, against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from page_checks import slow_clustered_error

from saework import Workbook, feature_activations, feature_page, feature_pages, load, rule_agreement
from saework.core.tokens import token_names
from saework.views.feature_page.index import IndexRow
from saework.views.feature_page.parts import percent
from saework.views.feature_page.summaries import ablation_row, agreement_of


def firings_between(values, low, high):
    return int(((values > 0) & (values >= low) & (values < high)).sum())


def test_the_histogram_holds_each_firing_once(page, activations):
    values = activations[:, 1:, page.feature]
    for row in page.histogram.itertuples():
        assert row.firings == firings_between(values, row.low, row.high)
    assert page.histogram["firings"].sum() == page.count
    assert page.histogram["firings"].iloc[[0, -1]].min() > 0


def test_the_intervals_hold_each_firing_once(page, activations):
    values = activations[:, 1:, page.feature]
    for interval in page.intervals:
        assert interval.firings == firings_between(values, interval.low, interval.high)
    assert sum(interval.firings for interval in page.intervals) == page.count
    for above, below in zip(page.intervals, page.intervals[1:]):
        assert above.low >= below.high
        assert firings_between(values, below.high, above.low) == 0


def test_the_changes_of_some_firings():
    changes, row = np.array([0.1, np.nan, -0.3, 0.5]), np.array([4, 4, 4, 9])
    found = ablation_row((1.0, 2.0), changes, row, weight=0.25)
    assert found["interval"] == (1.0, 2.0) and found["weight"] == 0.25
    assert found["tokens"] == 3
    assert found["loss_change"] == pytest.approx(0.1)
    assert found["raised"] == pytest.approx(2 / 3)
    error = slow_clustered_error([(4, 0.1), (4, -0.3), (9, 0.5)])
    assert found["standard_error"] == pytest.approx(error)
    nothing = ablation_row("all", np.array([np.nan]), np.array([0]))
    assert nothing["tokens"] == 0 and math.isnan(nothing["loss_change"])


def test_the_tokens_on_which_it_fires_most(page, activations, book):
    fires = activations[:, 1:, page.feature] > 0
    ids = book.tokens[:, 1:][fires].tolist()
    counts = {i: ids.count(i) for i in sorted(set(ids))}
    most = sorted(counts, key=lambda i: -counts[i])[:8]
    assert page.fires_on["token"].tolist() == token_names(most, book.tokenizer)
    expected = [counts[i] / len(ids) for i in most]
    assert page.fires_on["share"].tolist() == pytest.approx(expected)


def test_what_fires_with_it(page, activations):
    fires = activations[:, 1:] > 0
    own = fires[..., page.feature]
    both = (fires & own[..., None]).sum((0, 1))
    given, base = both / own.sum(), fires.double().mean((0, 1))
    frame = page.cofiring
    features = frame["feature"].tolist()
    assert 0 < len(frame) <= 8 and page.feature not in features
    assert frame["both"].tolist() == both[features].tolist()
    assert frame["given_this"].tolist() == pytest.approx(given[features].tolist())
    assert frame["base_rate"].tolist() == pytest.approx(base[features].tolist())
    rises = (given - base).double()
    rises[page.feature] = -1
    largest = rises.sort(descending=True).values[: len(frame)].tolist()
    found = (frame["given_this"] - frame["base_rate"]).tolist()
    assert found == pytest.approx(largest, abs=1e-6)


def test_agreement_from_counts():
    frame = agreement_of(
        np.array([2, 0]), 4, np.array([5, 0]), n_tokens=20, names=["often", "never"]
    )
    assert frame.loc["often"].tolist() == pytest.approx([0.5, 0.4, 4 / 9, 0.25, 5, False])
    never = frame.loc["never"]
    assert never["precision"] == 0 and math.isnan(never["recall"]) and never["tokens"] == 0


def test_which_labels_beat_their_base_rate():
    counts = np.array([4, 4, 1])
    frame = agreement_of(counts, 4, np.array([5, 18, 5]), n_tokens=20, names=["a", "b", "c"])
    # The chance of four of four among 5 of 20 is 0.001, among 18 it is 0.63.
    assert frame["beats_base_rate"].to_dict() == {"a": True, "b": False, "c": False}


@pytest.fixture
def labels(activations, monkeypatch):
    """Labels for the tiny workbook; the second one is nearly feature 20."""
    number = torch.arange(120).reshape(6, 20)
    labels = {"third": number % 3 == 0, "fires": activations[..., 20] > 0.3, "never": number < 0}
    monkeypatch.setattr(Workbook, "labels", lambda self: labels)
    return labels


def test_agreement_with_labels(book, activations, labels):
    page = feature_page(book, 20)
    # It fires at BOS too, which does not count.
    assert (activations[:, 0, 20] > 0.3).all()
    fires = activations[:, 1:, 20] > 0
    assert set(page.labels.index) == set(labels) and page.labels.index[0] == "fires"
    for name, row in page.labels.iterrows():
        label = labels[name][:, 1:]
        hits, holds = int((fires & label).sum()), int(label.sum())
        precision = hits / int(fires.sum())
        recall = hits / holds if holds else math.nan
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        found = [row.precision, row.recall, row.f1, row.base_rate, row.tokens]
        expected = [precision, recall, f1, holds / 114, holds]
        assert found == pytest.approx(expected, nan_ok=True)
    assert page.labels.loc["fires", "precision"] < 1 == page.labels.loc["fires", "recall"]
    assert "The best label is “fires”: F1" in repr(page)
    best = page.labels.loc["fires"]
    shares = f"{percent(best['precision'])} (base rate {percent(best['base_rate'])})"
    assert IndexRow.of(page).best_label == f"fires {shares}"
    assert "There are no true labels" not in repr(page)


def test_agreement_does_not_depend_on_the_other_features(book, labels):
    alone = feature_page(book, 20)
    many = {page.feature: page for page in feature_pages(book, [31, 20, 0])}
    assert repr(many[20]) == repr(alone)
    dead = many[0].labels
    assert dead["recall"]["third"] == 0 and dead["precision"].isna().all()


def test_the_minis_labels_are_the_same_as_by_rule():
    mini = load("gelu-1l-mini", "run1", n_tokens=4096, check=False)
    page = feature_page(mini, 3018)
    fires = feature_activations(mini.model, mini.sae, mini.tokens, 3018)[:, 1:] > 0
    expected = rule_agreement(fires, mini.labels()["defined_name"][:, 1:])
    assert page.labels.index[0] == "defined_name"
    best = page.labels.iloc[0]
    for name in ("precision", "recall", "base_rate"):
        assert best[name] == pytest.approx(expected[name])
    assert page.source == "gelu-1l-mini run1, at blocks.0.mlp.hook_post"
    assert page.neuronpedia is None
