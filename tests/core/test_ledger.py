"""Ledgers: verdicts recorded, counted, merged, stored and shown."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from saework.core.claims import DIFFERS, HOLDS, NOT_COMPARABLE, NOT_RUN, Claim
from saework.core.errors import UnknownNameError
from saework.core.ledger import LEDGER_MIME, Ledger


def claim(value, *, id="a/one", tolerance=0.0, tier="full", unit="nats per token"):
    return Claim(
        id=id, value=value, unit=unit, source="the notebook", tolerance=tolerance, tier=tier
    )


def three_claims():
    return Ledger(
        [claim(1.0, id="a/one"), claim(2.0, id="a/two"), claim(9.0, id="mini/one", tier="mini")],
        tier="full",
    )


@pytest.mark.parametrize(
    "one, two, code",
    [
        (1.0, 2.0, 0),
        (1.0, 7.0, 1),
        (7.0, None, 1),
        (1.0, None, 3),
        (None, None, 3),
        (1.0, "gone", 3),
        (7.0, "gone", 1),
    ],
)
def test_exit_code(one, two, code):
    ledger = three_claims()
    for id, measured in (("a/one", one), ("a/two", two)):
        if measured == "gone":
            ledger.not_comparable(id, "the corpus is gone")
        elif measured is not None:
            ledger.record(id, measured)
    assert ledger.exit_code == code


def test_claims_of_another_tier_are_listed_and_not_counted():
    ledger = three_claims()
    assert [entry.verdict for entry in ledger.entries] == [NOT_RUN] * 3
    assert {verdict: n for verdict, n in ledger.counts.items() if n} == {NOT_RUN: 2}
    ledger.record("a/one", 1.0)
    ledger.record("a/two", 2.0)
    assert ledger.exit_code == 0
    assert ledger.summary() == (
        "Published: 2 of 3 run here, all hold. For the others: saework reproduce mini"
    )


def test_an_empty_ledger():
    assert Ledger([], tier="full").summary() == repr(Ledger([], tier="full")) == "no claims"
    assert Ledger([], tier="full").exit_code == 0


def test_entries_keep_order_value_and_note():
    ledger = three_claims()
    ledger.record("a/two", np.float64(2.5), note="another corpus")
    assert ledger.not_comparable("a/one", "the corpus is gone") == NOT_COMPARABLE
    one, two, other = ledger.entries
    assert (one.measured, one.verdict, one.note) == (None, NOT_COMPARABLE, "the corpus is gone")
    assert (two.measured, two.verdict, two.note) == (2.5, DIFFERS, "another corpus")
    assert type(two.measured) is float
    assert other.claim.id == "mini/one"


def test_html_is_escaped():
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)
    bundle = Ledger([claim("<script>", id="<b>", unit="&lt;")], tier="<i>")._repr_mimebundle_()
    parser.feed(bundle["text/html"])
    assert tags == {"table", "thead", "tbody", "tr", "th", "td", "p", "strong"}
    assert "&amp;lt;" in bundle["text/html"]
    assert "<script>" in bundle["text/plain"]


def test_a_ledger_survives_json(tmp_path):
    ledger = three_claims()
    ledger.record("a/one", 1.5, "a note with ↩")
    read = Ledger.from_dict(
        json.loads(ledger.save(tmp_path / "ledger.json").read_text(encoding="utf-8"))
    )
    assert (read.tier, read.entries) == (ledger.tier, ledger.entries)
    assert ledger._repr_mimebundle_()[LEDGER_MIME] == read.to_dict()


def test_a_save_that_fails_leaves_the_older_ledger(tmp_path):
    path = three_claims().save(tmp_path / "ledger.json")
    before = path.read_bytes()
    ledger = three_claims()
    ledger.record("a/one", 1.5, "half a character: \ud800")
    with pytest.raises(ValueError, match="ledger.json cannot be written: the text has a lone"):
        ledger.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_merge():
    one = Ledger([claim(1.0, id="a")], tier="full")
    two = Ledger([claim(2.0, id="b")], tier="full")
    one.record("a", 1.0)
    two.record("b", 3.0)
    merged = Ledger.merge([one, two])
    assert [(e.claim.id, e.verdict) for e in merged.entries] == [("a", HOLDS), ("b", DIFFERS)]
    assert merged.exit_code == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_a_run_that_speaks_against_a_claim_is_not_covered_by_another(turn):
    holds, differs = (Ledger([claim(1.0, id="a")], tier="full") for _ in range(2))
    holds.record("a", 1.0)
    differs.record("a", 3.0)
    with pytest.warns(UserWarning, match="claim 'a' disagree: 1.0 .holds. and 3.0 .differs.;"):
        merged = Ledger.merge([holds, differs][::turn])
    assert merged.to_dict() == differs.to_dict()


@pytest.mark.parametrize("turn", [1, -1])
def test_a_run_that_tells_nothing_does_not_cover_one_that_holds(turn, recwarn):
    holds, tells_nothing = (Ledger([claim(1.0, id="a")], tier="full") for _ in range(2))
    holds.record("a", 1.0)
    tells_nothing.not_comparable("a", "fewer tokens")
    assert Ledger.merge([holds, tells_nothing][::turn]).to_dict() == holds.to_dict()
    assert not recwarn.list


def test_merge_refuses_two_tiers():
    with pytest.raises(
        ValueError, match=r"ledgers of 2 tiers \(full, mini\) cannot be merged; merge those of one"
    ):
        Ledger.merge([Ledger([], tier="mini"), Ledger([], tier="full")])


def test_a_mini_and_its_sibling_may_share_an_id_but_a_tier_may_not_repeat_one():
    mini, full = (Claim("loss", 1.0, "", "", 0.1, tier) for tier in ("mini", "full"))
    ledger = Ledger([mini, full], tier="full")
    assert ledger.record("loss", 1.05) == "holds"
    assert [(entry.claim.tier, entry.verdict) for entry in ledger.entries] == [
        ("mini", "not run"),
        ("full", "holds"),
    ]
    with pytest.raises(ValueError, match="'loss' of 'mini' is given twice"):
        Ledger([mini, mini], tier="mini")


def test_merging_keeps_what_was_run():
    claim = Claim("loss", 1.0, "", "", 0.1, "mini")
    run, idle = Ledger([claim], tier="mini"), Ledger([claim], tier="mini")
    run.record("loss", float("nan"))
    assert (
        Ledger.merge([run, idle]).to_dict() == Ledger.merge([idle, run]).to_dict() == run.to_dict()
    )
    assert run.to_dict()["entries"][0]["measured"] == "nan", "strict JSON has no NaN"


@pytest.mark.parametrize(
    "enter",
    [lambda ledger: ledger.record("a/tow", 1.0), lambda ledger: ledger.not_comparable("a/tow", "")],
)
def test_an_unknown_claim_names_the_nearest(enter):
    with pytest.raises(
        UnknownNameError, match=r"no claim 'a/tow'. Did you mean 'a/two'.* This ledger has 2 claims"
    ):
        enter(three_claims())


def test_a_claim_of_another_tier_cannot_be_recorded():
    ledger = three_claims()
    with pytest.raises(
        ValueError,
        match="'mini/one' belongs to mini, and this ledger is for 'full'; record only its own",
    ):
        ledger.record("mini/one", 9.0)
    assert ledger.entries[2].verdict == NOT_RUN


def test_a_ledger_in_a_notebook_by_hand():
    """Notebooks store these bytes."""
    ledger = Ledger([claim(3.25, tolerance=0.1), claim(1, id="<b>", tier="mini")], tier="full")
    ledger.record("a/one", torch.tensor(3.5), "R&D")
    bundle = ledger._repr_mimebundle_()
    heading = "Published: 1 of 2 run here, 0 hold, 1 differ. For the others: saework reproduce mini"
    assert bundle["text/plain"] == (
        f"{heading}\n"
        "verdict   claim published measured\n"
        "✗ differs a/one 3.25      3.5\n"
        "– not run <b>   1"
    )
    assert bundle["text/html"] == (
        f"<p><strong>{heading}</strong></p>"
        "<table><thead><tr><th>verdict</th><th>claim</th><th>published</th><th>measured</th>"
        "<th>tolerance</th><th>unit</th><th>note</th><th>source</th></tr></thead><tbody>"
        "<tr><td>✗ differs</td><td>a/one</td><td>3.25</td><td>3.5</td><td>0.1</td>"
        "<td>nats per token</td><td>R&amp;D</td><td>the notebook</td></tr>"
        "<tr><td>– not run</td><td>&lt;b&gt;</td><td>1</td><td></td><td>0</td>"
        "<td>nats per token</td><td></td><td>the notebook</td></tr></tbody></table>"
    )
    assert list(bundle) == ["text/plain", "text/html", LEDGER_MIME]
    assert json.dumps(bundle[LEDGER_MIME]["entries"][1]) == (
        '{"id": "<b>", "value": 1, "unit": "nats per token", "source": "the notebook", '
        '"tolerance": 0.0, "tier": "mini", "kind": "published", '
        '"measured": null, "verdict": "not run", "note": ""}'
    )


def in_dtype(dtype, value=3.2546, tolerance=1e-3, source="a paper"):
    claim = Claim("x", value, "", source, tolerance, "r")
    return Ledger([claim], tier="r", dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("float32", 1e-3), ("bfloat16", 3.2546 / 256), ("float16", 3.2546 / 2048)],
)
def test_a_claim_is_compared_with_what_the_dtype_can_give(dtype, largest):
    ledger = in_dtype(dtype)
    assert ledger.record("x", 3.2546 + 0.99 * largest) == "holds"
    assert ledger.record("x", 3.2546 + 1.01 * largest) == "differs"
    (entry,) = ledger.entries
    assert entry.dtype == dtype and entry.tolerance == pytest.approx(largest)
    note = "" if dtype == "float32" else f"within what {dtype} can give; in float32 0.001"
    assert entry.note == note
    assert (f"(in {dtype}, within its rounding)" in ledger.summary()) == (dtype != "float32")
    again = Ledger.from_dict(ledger.to_dict())
    assert again.to_dict() == ledger.to_dict()


def test_a_tolerance_that_is_wider_than_the_dtypes_step_stays():
    ledger = in_dtype("bfloat16", tolerance=0.5)
    assert ledger.record("x", 3.7, note="ours") == "holds"
    assert ledger.record("x", 3.8, note="ours") == "differs"
    assert ledger.entries[0].note == "ours"


def test_whole_numbers_and_words_have_no_rounding():
    """A feature's number is right or wrong, in any dtype."""
    assert in_dtype("bfloat16", 8672, tolerance=0).record("x", 8673) == "differs"
    assert in_dtype("bfloat16", "cat").record("x", "cat") == "holds"
    ledger = in_dtype("bfloat16", [8672, 0.294], tolerance=0)
    assert ledger.record("x", [8672, 0.295]) == "holds"
    assert ledger.record("x", [8673, 0.294]) == "differs"
    assert ledger.record("x", [8672, 0.296]) == "differs"
    assert ledger.record("x", [8672, float("nan")]) == "differs"


def test_recorded_values_are_not_comparable_in_another_dtype():
    ledger = in_dtype("bfloat16", source="regression value of this package")
    assert ledger.record("x", 3.2546) == "not comparable"
    assert ledger.entries[0].note == "recorded in float32, measured in bfloat16"
    assert ledger.entries[0].measured == 3.2546 and ledger.exit_code == 3


def test_a_dtype_without_a_step():
    with pytest.raises(ValueError, match="dtype is 'int8'; give float32, bfloat16 or float16"):
        in_dtype("int8")
    import torch

    assert in_dtype(torch.bfloat16).dtype == "bfloat16"


def test_ledgers_of_two_dtypes_are_merged_entry_by_entry():
    claims = [Claim(name, 1.0, "", "a paper", 0, "r") for name in "xy"]
    one, other = Ledger(claims, tier="r"), Ledger(claims, tier="r", dtype="bfloat16")
    one.record("x", 1.0)
    other.record("y", 1.002)
    merged = Ledger.merge([one, other])
    assert [entry.dtype for entry in merged.entries] == ["float32", "bfloat16"]
    assert merged.exit_code == 0


@pytest.mark.parametrize("claims", [5, "ab", {"a": 1}, ["x"], [None]])
def test_what_are_no_claims(claims):
    with pytest.raises(ValueError, match="claims (is|hold) .*; give .*Claim objects"):
        Ledger(claims, tier="full")


@pytest.mark.parametrize("ledgers", [5, [5], [{"tier": "full"}]])
def test_what_are_no_ledgers(ledgers):
    with pytest.raises(ValueError, match="ledgers (is|hold) .*; give .*Ledger objects"):
        Ledger.merge(ledgers)


def test_a_note_is_text():
    with pytest.raises(ValueError, match="note is 5; give text"):
        three_claims().record("a/one", 1.0, 5)
    with pytest.raises(ValueError, match="reason is None; give text"):
        three_claims().not_comparable("a/one", None)


def test_what_is_no_stored_ledger():
    stored = three_claims().to_dict()
    entry = stored["entries"][0]
    for damaged in (None, 5, {}, {"tier": "full"}, {"tier": "full", "entries": [{}]}):
        with pytest.raises(
            ValueError, match="this is no ledger .*give what to_dict.. or ledger.json"
        ):
            Ledger.from_dict(damaged)
    with pytest.raises(
        ValueError, match="the verdict of 'a/one' is 'great'; there are holds, differs"
    ):
        Ledger.from_dict({**stored, "entries": [{**entry, "verdict": "great"}]})


def test_ledgers_of_other_claims_do_not_merge():
    one, other = (Ledger([claim(value)], tier="full") for value in (1.0, 2.0))
    with pytest.raises(ValueError, match="two ledgers have different claims 'a/one' of 'full'"):
        Ledger.merge([one, other])
