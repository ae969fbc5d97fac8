"""Two tables in text and in HTML: published claims first, recorded values apart."""

from __future__ import annotations

import pytest

from saework.core import ledger_view
from saework.core.claims import CHANGED, NOT_RUN, UNCHANGED, Claim
from saework.core.ledger import Ledger


def published(id, value=3.25, **changes):
    about = dict(unit="nats per token", source="the notebook", tolerance=0.01, tier="gelu-1l")
    return Claim(id=id, value=value, **(about | changes))


def recorded(id, value=2.0, **changes):
    about = {"tier": "gelu-1l-mini", "source": "regression value: recorded when this was made"}
    return published(id, value, **(about | changes))


@pytest.fixture
def mini():
    claims = [
        published("loss"),
        published("words", ["·the", "·a"]),
        recorded("loss"),
        recorded("l0"),
    ]
    return Ledger(claims, tier="gelu-1l-mini")


def test_a_recorded_value_never_holds(mini):
    assert mini.record("loss", 2.0) == UNCHANGED
    assert mini.record("l0", 2.5) == CHANGED
    kinds = [(row["kind"], row["verdict"]) for row in mini.to_dict()["entries"]]
    assert kinds == [
        ("published", NOT_RUN),
        ("published", NOT_RUN),
        ("recorded", UNCHANGED),
        ("recorded", CHANGED),
    ]
    assert mini.exit_code == 1


def test_published_claims_come_first_and_say_what_to_run(mini):
    mini.record("loss", 2.0)
    mini.record("l0", 2.5)
    assert repr(mini).split("\n") == [
        "Published: 0 of 2 run here. For the others: saework reproduce gelu-1l",
        "verdict   claim published measured",
        "– not run loss  3.25",
        "– not run words ·the, ·a",
        "",
        "Recorded: 1 of 2 unchanged",
        "verdict   claim recorded measured",
        "✗ changed l0    2        2.50",
    ]
    assert mini.summary() == (
        "Published: 0 of 2 run here. For the others: saework reproduce gelu-1l; "
        "Recorded: 1 of 2 unchanged"
    )


def test_unchanged_values_are_folded(mini):
    mini.record("loss", 2.0)
    mini.record("l0", 2.0)
    assert repr(mini).endswith("\n\nRecorded: 2 of 2 unchanged")
    assert "= unchanged" in mini.text(verbose=True)
    assert "<details><summary>Recorded: 2 of 2 unchanged</summary>" in ledger_view.as_html(
        mini.entries
    )
    assert "holds" not in mini.text(verbose=True)


def test_a_changed_value_is_open_in_html(mini):
    mini.record("l0", 2.5)
    assert "<details open><summary>Recorded: 0 of 2 unchanged, 1 not run</summary>" in (
        ledger_view.as_html(mini.entries)
    )


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ([3.25, 1.0], "Published: 2 of 2 run here, all hold"),
        ([3.25, 9.0], "Published: 2 of 2 run here, 1 hold, 1 differ"),
        ([3.25], "Published: 1 of 2 run here, all hold. For the others: saework reproduce gelu-1l"),
    ],
)
def test_the_published_heading_counts(measured, words):
    ledger = Ledger([published("one"), published("two", 1.0)], tier="gelu-1l")
    for id, value in zip(("one", "two"), measured):
        ledger.record(id, value)
    assert ledger.summary() == words


def test_it_fits_in_80_columns():
    long = published("card/blocks.6.hook_resid_post/registry_variance_explained", list(range(99)))
    ledger = Ledger([long, recorded("x" * 60, tier="gelu-1l")], tier="gelu-1l")
    ledger.not_comparable(long.id, "the corpus is gone")
    lines = repr(ledger).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("? not comparable card/blocks.6") and "…" in lines[2]
    details = ledger.text(verbose=True).split("\n")[3]
    assert details == (
        f"    {long.id}; tolerance 0.01; nats per token; the corpus is gone; the notebook"
    )


def test_measured_values_show_the_decimals_of_their_tolerance():
    ledger = Ledger(
        [published("loss", 3.2546, tolerance=1e-4), published("words", "no")], tier="gelu-1l"
    )
    ledger.record("loss", 3.254612345)
    ledger.record("words", "no")
    first, second = repr(ledger).split("\n")[2:]
    assert first.split() == ["✓", "holds", "loss", "3.2546", "3.2546"]
    assert second.split() == ["✓", "holds", "words", "no", "no"]
    assert "tolerance equal" in ledger.text(verbose=True)


def test_each_verdict_has_a_sign():
    assert set(ledger_view.SIGNS) == set(Ledger([], tier="full").counts)
    assert ledger_view.SIGNS["changed"] == ledger_view.SIGNS["differs"] == "✗"
    others = [sign for verdict, sign in ledger_view.SIGNS.items() if verdict != CHANGED]
    assert len(set(others)) == len(others)
