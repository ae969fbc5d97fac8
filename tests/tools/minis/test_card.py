"""The committed model cards are what the card writer makes of the committed numbers."""

from __future__ import annotations

import pytest

from saework.core.files import DATA
from saework.loading.sae_ids import card_of
from tools.minis.card import _curve, _sparkline, model_card
from tools.minis.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_committed_card_is_that_of_its_numbers(name):
    card = (DATA / name / "README.md").read_text(encoding="utf-8")
    assert card == model_card(name, card_of(name))


def test_a_bar_rounds_up_so_that_one_feature_is_seen():
    assert _sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert _sparkline([0, 0]) == "  "


@pytest.mark.parametrize("n,shown", [(1, [0]), (3, [0, 1, 2]), (16, [3, 7, 11, 15])])
def test_four_checkpoints_are_shown_and_the_last_is_among_them(n, shown):
    entry = {"variance_explained": 0.5, "l0": 1.0, "log10_rate_histogram": [1]}
    curve = [{"tokens": i, **entry} for i in range(n)]
    assert [int(line.split("|")[2]) for line in _curve("run1", curve)] == shown
