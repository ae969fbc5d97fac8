"""The ledger's counts come out of its rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from saework.studies.saebench import rerun_absorption, rerun_cross_check, rerun_ledger
from saework.studies.saebench.rerun import CORE


def test_the_ledger_counts_its_own_rows():
    ledger = rerun_ledger()
    rows = json.loads(CORE.read_text(encoding="utf-8"))["rows"]
    stored = [(published, rerun) for _, _, _, published, rerun, _, _ in rows if published]
    distances = [abs(rerun - published) for published, rerun in stored]
    counts = ledger.verdict.value_counts()
    assert len(ledger) == len(rows) == 252 and len(stored) == 210
    assert counts["holds"] == sum(distance <= 0.01 for distance in distances) == 205
    assert counts["differs"] == 5 and counts["not comparable"] == 42
    assert ledger.difference.abs().max() == max(distances) == pytest.approx(0.01294, abs=1e-5)


def test_each_suite_has_seven_architectures_of_six_saes():
    ledger = rerun_ledger()
    sizes = ledger.groupby(["suite", "architecture"]).size()
    assert len(sizes) == 42 and set(sizes) == {6}
    assert not ledger.duplicated(["suite", "architecture", "trainer"]).any()


def test_what_the_five_share():
    ledger = rerun_ledger()
    five = ledger[ledger.verdict == "differs"]
    assert set(five.suite) == {"gemma-2-2b_4k"}
    assert (five.difference < 0).all() and five.rerun_l0.max() < 52


def test_the_columns_and_the_source():
    ledger = rerun_ledger()
    assert ledger.columns.tolist() == [
        "suite",
        "architecture",
        "trainer",
        "published",
        "rerun",
        "difference",
        "published_l0",
        "rerun_l0",
        "l0_change",
        "verdict",
    ]
    ratio = ledger.rerun_l0 / ledger.published_l0
    np.testing.assert_allclose(ledger.l0_change.dropna(), (ratio - 1).dropna())
    assert ledger.attrs["commit"] == "eaacfce2" and ledger.attrs["date"] == "2026-07-26"
    assert set(ledger.suite) == set(ledger.attrs["models"])


def test_another_tolerance():
    assert (rerun_ledger(tolerance=0.02).verdict == "differs").sum() == 0
    assert (rerun_ledger(tolerance=0).verdict == "holds").sum() == 0
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="give 0 or more, in shares of the loss"):
            rerun_ledger(tolerance=wrong)


def test_the_cross_check_and_absorption():
    check = rerun_cross_check()
    assert len(check) == 6 and check.n.sum() == check.within.sum() == 252
    assert check.largest_l0_change.max() == pytest.approx(0.0883, abs=1e-4)
    absorption = rerun_absorption()
    ratio = absorption["fraction_0.3.2"] / absorption["fraction_0.6.0"]
    assert len(absorption) == 42 and (ratio > 1.4).all() and ratio.max() < 9.5
    full = absorption["full_0.6.0"].mean() / absorption["full_0.3.2"].mean()
    assert full == pytest.approx(0.975, abs=0.005), "full absorption hardly moved"
