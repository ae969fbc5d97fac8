"""What a page says, and in which order."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from saework import feature_page
from saework.views.feature_page.parts import decimals, percent, signed
from saework.views.feature_page.results import Interval
from saework.views.feature_page.sections import (
    ablation_section,
    activations_section,
    cofiring_section,
    interval_section,
    label_name,
    logits_section,
)


def titles(text):
    return re.findall(r"^[A-Z ]{8,}$", text, re.M)


def test_the_page_as_text(pages):
    text = repr(pages[7])
    assert text.startswith(f"Feature 7\nan SAE, at blocks.0.mlp.hook_post\n{pages[7].headline}\n")
    assert titles(text) == [
        "ACTIVATIONS",
        "TOP EXAMPLES",
        "EXAMPLES BY ACTIVATION",
        "DIRECT EFFECT ON THE LOGITS",
        "EFFECT OF ABLATING IT",
        "NEAREST FEATURES",
        "FEATURES THAT FIRE WITH IT",
        "AGREEMENT WITH TRUE LABELS",
    ]
    assert pages[7].top[0].context in text
    assert "There are no true labels for this text." in text


def test_a_dead_features_page_says_what_its_weights_say(book):
    text = repr(feature_page(book, 0))
    assert titles(text) == ["ACTIVATIONS", "DIRECT EFFECT ON THE LOGITS", "NEAREST FEATURES"]
    assert "It never fired in these tokens, so there is nothing to show." in text


def test_the_sentence_on_ablation(pages):
    page = pages[7]
    error = decimals(page.loss_change_error)
    change = f"by {signed(page.mean_loss_change)} nats on average (standard error {error}), as"
    assert change in repr(page)


@pytest.mark.parametrize(
    ("error", "n_sampled", "ends"),
    [
        (math.nan, 2, "on average, as 2 tokens drawn by lot estimate it."),
        (0.01, 2, "on average (standard error 0.010), as 2 tokens drawn by lot estimate it."),
        (0.0, 5, "on average, as measured on each of them."),
    ],
)
def test_how_sure_the_mean_is(error, n_sampled, ends):
    table = pd.DataFrame(
        {
            "interval": ["top", (0.1, math.inf)],
            "tokens": [5, n_sampled],
            "loss_change": [0.2, 0.1],
            "raised": [1.0, 0.5],
            "weight": [math.nan, 1.0],
        }
    )
    section = ablation_section(table, 0.1, error, count=5)
    assert section.sentences[0].endswith(ends)
    (grid,) = section.parts
    assert grid.rows == (
        ("the top examples", "–", "5", "+0.200", "100%"),
        ("0.1 and up", "100%", str(n_sampled), "+0.100", "50%"),
    )


def test_nothing_to_ablate_where_rows_end():
    table = pd.DataFrame({"interval": ["top"], "tokens": [0]})
    section = ablation_section(table, math.nan, math.nan, count=1)
    assert section.parts == ()
    assert section.sentences[0].startswith("Each firing stands at the end of a row")


def test_intervals_in_words():
    intervals = (Interval(1.0, math.inf, 2, ()), Interval(0.0, 1.0, 6, ()))
    (examples,) = interval_section(intervals, 8, 1.0).parts
    headings = [group.heading for group in examples.groups]
    assert headings == ["1 and up: 0 of 2 firings (25%)", "below 1: 0 of 6 firings (75%)"]


def test_labels_of_the_histogram_start_at_a_power_of_ten():
    histogram = pd.DataFrame({"low": [0.562, 1.0], "high": [1.0, math.inf], "firings": [1, 2]})
    (bars,) = activations_section(histogram).parts
    assert bars.edges == ("0.562", "1", "∞") and bars.label_from == 1
    (bars,) = activations_section(histogram.iloc[:0]).parts
    assert bars.counts == () and bars.label_from == 0


def test_why_a_section_is_empty():
    assert logits_section(None, "No path.").sentences == ("No path.",)
    assert cofiring_section(None, "Not counted.").sentences == ("Not counted.",)
    nothing = cofiring_section(pd.DataFrame(), "")
    assert nothing.sentences == ("No other feature fires more often where it fires.",)


def test_words_of_labels_and_shares(pages):
    assert label_name("defined_name") == "defined name"
    assert percent(pages[7].firing_rate) in pages[7].headline
