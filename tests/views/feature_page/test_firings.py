"""All firings of a few features, or a fair draw of them, against a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from saework.core.tokens import not_bos
from saework.views.feature_page import ablation
from saework.views.feature_page import firings as module
from saework.views.feature_page.examples import DRAWN_GROUP
from saework.views.feature_page.firings import draw_firings, row_batches

FEATURES = np.array([0, 7, 20])


def drawn_firings(book, most):
    counted = not_bos(book.tokens, book.tokenizer)
    counted[2] = False
    parts = (book.model, book.sae, book.tokens, book.hook, FEATURES, counted)
    return draw_firings(*parts, most=most, progress=False)


@pytest.fixture(scope="module")
def slow_firings(activations):
    """By feature: place and value of each firing outside BOS and row 2."""
    found = {}
    for feature in FEATURES.tolist():
        values = activations[..., feature].clone()
        values[2] = 0
        values[:, 0] = 0
        found[feature] = {
            (row, pos): float(values[row, pos]) for row, pos in values.nonzero().tolist()
        }
    return found


def test_each_firing_is_found(book, slow_firings):
    drawn = drawn_firings(book, most=10_000)
    assert drawn.n_firings == {feature: len(own) for feature, own in slow_firings.items()}
    assert drawn.n_firings[0] == 0 < drawn.n_firings[7]
    places = drawn.places
    assert set(places.group) == {DRAWN_GROUP}
    for feature, own in slow_firings.items():
        chosen = places.feature == feature
        found = zip(places.row[chosen].tolist(), places.pos[chosen].tolist())
        values = dict(zip(found, places.activation[chosen].tolist()))
        assert values == pytest.approx(own, abs=1e-5) and len(values) == int(chosen.sum())


def test_a_draw_has_its_size_and_is_the_same_each_time(book, slow_firings):
    drawn = drawn_firings(book, most=9)
    assert drawn.n_firings[7] == len(slow_firings[7])
    places = drawn.places
    assert [int((places.feature == feature).sum()) for feature in (0, 7, 20)] == [0, 9, 5]
    again = drawn_firings(book, most=9).places
    assert np.array_equal(places.row, again.row) and np.array_equal(places.pos, again.pos)
    # Not the strongest, and not the first.
    strongest = sorted(slow_firings[7].values())[-9:]
    assert sorted(places.activation[places.feature == 7].tolist()) != pytest.approx(strongest)
    assert len(set(places.row[places.feature == 7])) > 1


def test_small_batches_draw_the_same(book, monkeypatch):
    at_once = drawn_firings(book, most=9).places
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 45)
    in_batches = drawn_firings(book, most=9).places
    assert np.array_equal(at_once.row, in_batches.row)
    assert np.array_equal(at_once.pos, in_batches.pos)


def test_rows_in_batches():
    rows = np.arange(10, 30)
    batches = row_batches(rows, n_pos=ablation.TOKENS_PER_BATCH // 8)
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert np.concatenate(batches).tolist() == rows.tolist()
    assert len(row_batches(rows, n_pos=10 * ablation.TOKENS_PER_BATCH)) == 20
