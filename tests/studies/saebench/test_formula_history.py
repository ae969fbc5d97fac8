"""The table of formulas is whole: no gap, no overlap, a meaning for each."""

from __future__ import annotations

import re

import pytest

from saework.core.reconstruction_formulas import RECONSTRUCTION
from saework.studies.saebench.formula_history import EPOCHS, MEANINGS, NOTES, SUPERSEDED
from saework.studies.saebench.layouts import KINDS
from saework.studies.saebench.releases import ORDER

ALL = [(kind, pattern) for kind, patterns in EPOCHS.items() for pattern in patterns]
FORMULAS = {epoch.formula for kind, pattern in ALL for epoch in EPOCHS[kind][pattern]}


def test_every_evaluation_has_its_metrics_but_training():
    assert {*EPOCHS, "training"} == set(KINDS)


@pytest.mark.parametrize("kind, pattern", ALL)
def test_epochs_follow_each_other_without_a_gap(kind, pattern):
    epochs = EPOCHS[kind][pattern]
    for epoch in epochs:
        assert ORDER.index(epoch.first) <= ORDER.index(epoch.last)
    for before, after in zip(epochs, epochs[1:]):
        assert ORDER.index(after.first) == ORDER.index(before.last) + 1
        assert before.formula != after.formula


@pytest.mark.parametrize("kind", EPOCHS)
def test_no_name_fits_two_patterns(kind):
    names = [re.sub(r"\\d\+|\(.*?\)\??", "top_5", pattern) for pattern in EPOCHS[kind]]
    for name in [*names, "sae_top_5_test_accuracy", "sae_test_accuracy", "mse", "l1", "l0"]:
        assert sum(bool(re.fullmatch(pattern, name)) for pattern in EPOCHS[kind]) <= 1, name


def test_each_formula_has_one_meaning():
    assert FORMULAS <= MEANINGS.keys() | RECONSTRUCTION.keys()
    assert not MEANINGS.keys() & RECONSTRUCTION.keys(), "saework's own names keep their meaning"
    assert set(MEANINGS) <= FORMULAS and set(NOTES) <= RECONSTRUCTION.keys()
    assert set(SUPERSEDED) <= FORMULAS
