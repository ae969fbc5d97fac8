"""What a page says, and in which order."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from saework import feature_page
from saework.views.feature_page.parts import decimals, percent, signed
from saework.views.feature_page.results import Interval, LogitEffect
from saework.views.feature_page.sections import (
    ablation_section,
    activations_section,
    cofiring_section,
    interval_section,
    is_clear,
    label_name,
    labels_section,
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
    change = f"by {signed(page.mean_loss_change)} nats on average"
    assert f"{change} (standard error {error}, n = {page.n_ablated})." in repr(page)


def table_of_ablation(mean, error, n):
    return pd.DataFrame(
        {
            "interval": ["all", "top", (0.1, math.inf)],
            "tokens": [n, 5, n],
            "loss_change": [mean, 0.2, mean],
            "standard_error": [error, math.nan, error],
            "raised": [0.5, 1.0, 0.5],
            "weight": [1.0, math.nan, 1.0],
        }
    )


@pytest.mark.parametrize(
    ("error", "n", "sentences", "faint"),
    [
        (
            0.01,
            2,
            "Over 2 of its 5 firings, the loss of the next token changes by +0.100 nats on average "
            "(standard error 0.010, n = 2).",
            (),
        ),
        (
            0.051,
            5,
            "Over all its 5 firings, the loss of the next token changes by +0.100 nats on average "
            "(standard error 0.051, n = 5). "
            "That is less than two standard errors: it may as well be zero.",
            (0, 2),
        ),
        (
            math.nan,
            5,
            "Over all its 5 firings, the loss of the next token changes by +0.100 nats on average. "
            "All of them stand in one row of text, so there is no standard error.",
            (0, 2),
        ),
    ],
)
def test_how_sure_the_mean_is(error, n, sentences, faint):
    section = ablation_section(table_of_ablation(0.1, error, n), 5, 5)
    assert " ".join(section.sentences) == sentences
    (grid,) = section.parts
    assert grid.faint == faint
    assert grid.rows == (
        ("any strength", "100%", str(n), "+0.100", decimals(error), "50%"),
        ("the top examples", "–", "5", "+0.200", "–", "100%"),
        ("0.1 and up", "100%", str(n), "+0.100", decimals(error), "50%"),
    )
    assert ("Grey: less than" in section.text()) == bool(faint)


def test_its_only_firing():
    section = ablation_section(table_of_ablation(0.1, math.nan, 1), 1, 1)
    expected = "Over its only firing, the loss of the next token changes by +0.100 nats."
    assert section.sentences == (expected,)


def test_a_scan_that_counted_otherwise_is_told():
    section = ablation_section(table_of_ablation(0.1, 0.01, 2), 2, 7)
    expected = "The scan counted 7 firings, and the tokens read here 2."
    assert section.notes[-1] == expected


def test_what_makes_an_effect_clear():
    assert is_clear(0.2, 0.1) and is_clear(-0.2, 0.1)
    assert not is_clear(0.199, 0.1) and not is_clear(0.2, math.nan)


def test_nothing_to_ablate_where_rows_end():
    table = pd.DataFrame({"interval": ["all", "top"], "tokens": [0, 0]})
    section = ablation_section(table, 1, 1)
    assert section.parts == ()
    assert section.sentences[0].startswith("Each firing stands at the end of a row")


def test_only_labels_above_their_base_rate_are_listed():
    frame = pd.DataFrame(
        {
            "precision": [0.5, 0.4],
            "recall": [0.5, 0.1],
            "f1": [0.5, 0.16],
            "base_rate": [0.6, 0.1],
            "tokens": [9, 3],
            "beats_base_rate": [False, True],
        },
        index=["often", "a_comment"],
    )
    section = labels_section(frame, "")
    assert section.sentences[0].startswith("The best label is “a comment”: F1 16%")
    assert [row[0] for row in section.parts[0].rows] == ["a comment"]
    section = labels_section(frame.iloc[:1], "")
    assert section.parts == ()
    expected = "It fires no more often with a label than by chance; one label compared."
    assert section.sentences == (expected,)


def test_the_logit_histogram_is_split_at_zero():
    histogram = pd.DataFrame(
        {"low": [-0.2, -0.1, 0.0], "high": [-0.1, 0.0, 0.1], "tokens": [1, 5, 3]}
    )
    empty = pd.DataFrame({"token": [], "logit": []})
    bars, _, _ = logits_section(LogitEffect(empty, empty, histogram, 0.0, 0.0), "").parts
    assert bars.edges == ("-0.2", "-0.1", "0", "0.1") and bars.counts == (1, 5, 3)
    assert (bars.n_below, bars.label_from) == (2, 2)


def test_intervals_in_words():
    intervals = (
        Interval(2.0, math.inf, 1, ()),
        Interval(1.0, 2.0, 2, ()),
        Interval(0.0, 1.0, 5, ()),
    )
    (examples,) = interval_section(intervals, 8, 1.0).parts
    headings = [group.heading for group in examples.groups]
    assert headings == [
        "2 and up: one firing (12.5%)",
        "1 to 2: 0 of 2 firings (25%)",
        "below 1: 0 of 5 firings (62.5%)",
    ]


def test_labels_of_the_histogram_start_at_a_power_of_ten():
    histogram = pd.DataFrame({"low": [0.562, 1.0], "high": [1.0, math.inf], "firings": [1, 2]})
    tokens = pd.DataFrame({"token": ["·a", ""], "share": [0.6, 0.2]})
    bars, grid = activations_section(histogram, tokens).parts
    assert bars.edges == ("0.562", "1", "∞") and bars.label_from == 1
    assert grid.rows == (("·a", "60%"), ("(empty)", "20%"))
    bars, _ = activations_section(histogram.iloc[:0], tokens).parts
    assert bars.counts == () and bars.label_from == 0


def test_why_a_section_is_empty():
    assert logits_section(None, "No path.").sentences == ("No path.",)
    assert cofiring_section(None, "Not counted.").sentences == ("Not counted.",)
    nothing = cofiring_section(pd.DataFrame(), "")
    assert nothing.sentences == ("No other feature fires more often where it fires.",)


def test_words_of_labels_and_shares(pages):
    assert label_name("defined_name") == "defined name"
    assert percent(pages[7].firing_rate) in pages[7].headline
