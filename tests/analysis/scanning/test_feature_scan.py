"""What a scan says of itself: merging, examples, bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import RESID, assert_same, slow_firings, slow_strongest

import saework
from saework import FeatureScan
from saework.core.formulas import rate_bound

TOP_K = 5
POSITIONS = (
    *("top_values", "top_positions", "sample_feature", "sample_value", "sample_position"),
    "row_digests",
)


@settings(max_examples=20, deadline=None, database=None)
@given(data=st.data(), masked=st.booleans())
def test_any_cut_and_any_order_of_merging_gives_the_same_scan(rowwise, tokens, mask, data, masked):
    mask = mask if masked else mask | True
    # row 1 is masked, and cannot be a part of its own
    cuts = data.draw(st.sets(st.sampled_from([2, 3, 4, 5])))
    edges = [0, *sorted(cuts), 6]
    parts = [rowwise(tokens[a:b], mask=mask[a:b], first_row=a) for a, b in zip(edges, edges[1:])]
    while len(parts) > 1:
        a = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        b = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(a + b)
    (merged,) = parts
    whole = rowwise(tokens, mask=mask)
    assert_same(merged, whole, but=("total_activation",))
    # float64 rounds by order
    sums = merged.total_activation, whole.total_activation
    torch.testing.assert_close(*sums, rtol=1e-12, atol=0)


def test_a_gap_stays_a_gap(rowwise, tokens):
    ends = rowwise(tokens[:2]) + rowwise(tokens[4:], first_row=4)
    assert ends.rows == ((0, 2), (4, 6))
    assert (rowwise(tokens[2:4], first_row=2) + ends).rows == ((0, 6),)


def test_overlapping_rows_do_not_merge(rowwise, tokens, whole):
    for first_row in (0, 3, 5):
        words = rf"both scans hold row {first_row}; give each part its own first_row="
        with pytest.raises(ValueError, match=words):
            whole + rowwise(tokens, first_row=first_row)


def test_the_same_rows_under_other_numbers_are_told(rowwise, tokens, whole):
    words = "all 6 rows of one scan hold the same tokens as rows of the other, so they count twice"
    with pytest.warns(UserWarning, match=words):
        twice = whole + rowwise(tokens, first_row=6)
    assert twice.n_tokens == 240
    with pytest.warns(UserWarning, match="all 2 rows of one scan"):
        rowwise(tokens[:2], first_row=6) + whole


def test_several_scans_add_up(rowwise, tokens, whole):
    parts = [rowwise(tokens[row : row + 1], first_row=row) for row in range(6)]
    assert torch.equal(sum(parts).count, whole.count)
    with pytest.raises(TypeError):
        whole + 5


def test_scans_of_something_else_do_not_merge(rowwise, tiny, tokens, whole):
    other = random_sae(24, 48, tiny.hook, torch.Generator().manual_seed(9))
    with pytest.raises(ValueError, match="different SAEs or hooks"):
        whole + saework.scan(tiny.model, other, tokens, top_k=TOP_K, first_row=6)
    with pytest.raises(ValueError, match="top_k is 5 in one scan and 3 in the other"):
        whole + rowwise(tokens, top_k=3, first_row=6)
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))
    resid = saework.scan(tiny.model, sae, tokens, hook=RESID)
    mid = saework.scan(tiny.model, sae, tokens, hook="blocks.0.hook_resid_mid", first_row=6)
    with pytest.raises(ValueError, match="different SAEs or hooks"):
        resid + mid
    words = "cofiring= chose other features in one scan than in the other"
    with pytest.raises(ValueError, match=words):
        whole + rowwise(tokens, cofiring=[7], first_row=6)
    with pytest.raises(TypeError):
        whole + 1


def test_without_positions_holds_none(whole, tmp_path):
    bare = FeatureScan.load(whole.without_positions().save(tmp_path / "bare.safetensors"))
    for name in POSITIONS:
        assert getattr(whole, name).numel() > 0 and getattr(bare, name).numel() == 0, name
    assert_same(bare, whole, but=POSITIONS)


def test_top_examples(tiny, tokens, whole):
    table, _ = slow_firings(tiny.model, tiny.sae, tokens, tiny.hook)
    context = saework.token_df(tokens, tiny.tokenizer).set_index("label")
    examples = whole.top_examples(7, tokens, tiny.tokenizer, n=4)
    best = [firing for firing in slow_strongest(table, 4) if firing[0] == 7]
    assert examples["label"].tolist() == [f"{row}/{pos}" for *_, row, pos in best]
    np.testing.assert_allclose(examples["activation"], [value for _, value, *_ in best], rtol=1e-5)
    for name in ("str_tokens", "unique_token", "context", "batch", "pos"):
        assert examples[name].tolist() == context.loc[examples["label"], name].tolist()
    assert len(whole.top_examples(7, tokens, tiny.tokenizer)) == TOP_K
    assert whole.dead[0] and whole.top_examples(0, tokens, tiny.tokenizer).empty


def test_examples_of_an_interval_are_spread_over_it(tiny, tokens, whole):
    kept = whole.sample_value[whole.sample_feature == 7].sort(descending=True).values
    inner = kept[3].item(), kept[1].item()  # low is in, high is out
    assert kept.unique().numel() > 8

    def find(interval, n=20):
        examples = whole.top_examples(7, tokens, tiny.tokenizer, n=n, interval=interval)
        return examples["activation"].tolist()

    assert find(inner) == kept[2:4].tolist()
    assert find((0, np.inf), n=len(kept)) == kept.tolist()
    few = find((0, np.inf), n=3)
    assert (len(few), few[0], few[-1]) == (3, kept[0], kept[-1])
    assert few == sorted(few, reverse=True)
    assert find((0, np.inf), n=1) == kept[:1].tolist()
    assert find((1e6, 1e7)) == []


@pytest.mark.parametrize("interval", [None, (0.1, 100.0)])
def test_examples_after_an_offset(rowwise, tiny, tokens, interval):
    """Rows are counted from the first of all tokens, whichever part was scanned."""
    part = rowwise(tokens[4:], first_row=4)
    examples = part.top_examples(7, tokens, tiny.tokenizer, interval=interval)
    assert len(examples) >= TOP_K and set(examples["batch"]) <= {4, 5}
    acts = saework.feature_activations(tiny.model, tiny.sae, tokens, 7)
    np.testing.assert_allclose(
        examples["activation"],
        acts[examples["batch"].tolist(), examples["pos"].tolist()],
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match=r"reaches to row [45], but there are 2 rows"):
        part.top_examples(7, tokens[4:], tiny.tokenizer, interval=interval)


@pytest.mark.parametrize(
    ("feature", "change", "words"),
    [
        (48, {}, r"feature 48 does not exist; this SAE has features 0\.\.47"),
        (-1, {}, "feature -1 does not exist"),
        (7, dict(n=0), "n is 0"),
        (7, dict(interval=(2, 1)), r"interval is \(2, 1\); give \(low, high\)"),
        (7, dict(interval=(1, float("nan"))), "give .low, high."),
    ],
)
def test_bad_arguments_of_top_examples(tiny, tokens, whole, feature, change, words):
    with pytest.raises(ValueError, match=words):
        whole.top_examples(feature, tokens, tiny.tokenizer, **change)


@pytest.mark.parametrize("interval", [None, (0.1, 100.0)])
def test_other_tokens_than_those_that_were_scanned(tiny, tokens, whole, interval):
    """Of the same shape, or shorter: examples would be shown that are none."""
    words = r"row \d holds other tokens than those that were scanned; give the rows"
    for others in (tokens.flip(0), tokens.flip(1), tokens[:, :-1]):
        with pytest.raises(ValueError, match=words):
            whole.top_examples(7, others, tiny.tokenizer, interval=interval)
    # only the rows of the examples are read
    row = int(whole.top_positions[7, 0, 0])
    elsewhere = tokens.clone()
    elsewhere[[i for i in range(len(tokens)) if i != row]] = 0
    assert len(whole.top_examples(7, elsewhere, tiny.tokenizer, n=1)) == 1
    with pytest.raises(ValueError, match="holds other tokens"):
        whole.check_rows(elsewhere)
    whole.check_rows(tokens)
    whole.without_positions().check_rows(elsewhere)  # it has nothing to look up


def test_rate_bound(tiny, tokens, whole):
    one = saework.scan(tiny.model, tiny.sae, tokens[:1, :1], top_k=1)
    assert one.rate_bound == pytest.approx(0.95)
    assert rate_bound(1_000_000) == pytest.approx(3e-6, rel=2e-3)  # the rule of three
    assert (1 - whole.rate_bound) ** 120 == pytest.approx(0.05)
    n_dead = int(whole.dead.sum())
    words = f"{n_dead} did not fire (rate below {whole.rate_bound:.2g} at 95%)"
    assert words in repr(whole)
    with pytest.raises(ValueError, match="n_tokens is 0"):
        rate_bound(0)


def test_it_says_whether_tokens_were_left_out(rowwise, tokens, mask, whole):
    assert whole.n_left_out == 0
    assert "(120 tokens (all of their rows, BOS too), 48 features: " in repr(whole)
    first = rowwise(tokens[:3], mask=mask[:3])
    n_first, n_all = int((~mask[:3]).sum()), int((~mask).sum())
    assert f"({60 - n_first} tokens ({n_first} left out by mask=), " in repr(first)
    both = first + rowwise(tokens[3:], mask=mask[3:], first_row=3)
    assert (both.n_tokens, both.n_left_out) == (120 - n_all, n_all)
    unknown = replace(first, n_left_out=None)
    assert (unknown + rowwise(tokens[3:], first_row=3)).n_left_out is None
    assert (rowwise(tokens[3:], first_row=3) + unknown).n_left_out is None


@pytest.mark.parametrize(
    "interval", [5, (0,), ("a", "b"), (0, 1, 2), (None, 1), (2, 1), (0, np.nan)]
)
def test_an_interval_that_is_none(tiny, tokens, whole, interval):
    with pytest.raises(ValueError, match=r"interval is .*; give \(low, high\) with low below high"):
        whole.top_examples(7, tokens, tiny.tokenizer, interval=interval)


def test_examples_take_any_table_of_tokens(tiny, tokens, whole):
    expected = whole.top_examples(7, tokens, tiny.tokenizer)
    for given_tokens in (tokens.tolist(), tokens.numpy(), tokens.int()):
        assert whole.top_examples(7, given_tokens, tiny.tokenizer).equals(expected)
    with pytest.raises(ValueError, match="tokens are not a table of integers"):
        whole.top_examples(7, "text", tiny.tokenizer)


def test_a_note_that_no_file_can_hold(whole, tmp_path):
    with pytest.raises(ValueError, match="the note holds a lone surrogate at character 1"):
        whole.save(tmp_path / "scan.safetensors", note="a\ud800")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "none.safetensors"])
def test_a_scan_that_is_not_there(tmp_path, name):
    with pytest.raises(OSError, match="is a folder; give|there is no file"):
        FeatureScan.load(tmp_path / name)
