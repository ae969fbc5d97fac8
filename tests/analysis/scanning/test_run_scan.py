"""A scan against Python loops over single firings, and against itself cut into batches."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from conftest import random_sae, slow_features
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import RESID, assert_same, slow_bin, slow_firings, slow_samples, slow_strongest

import saework
from saework.analysis.scanning import workers
from saework.analysis.scanning.firings import BIN_EDGES
from saework.core.errors import HookError, UnknownNameError

TOP_K = 5


def assert_matches_slow(model, sae, tokens, *, hook, top_k=TOP_K, **kwargs):
    scan = saework.scan(model, sae, tokens, hook=hook, top_k=top_k, batch_size=1, **kwargs)
    table, l0 = slow_firings(model, sae, tokens, hook, **kwargs)
    d_sae, of_feature = sae.W_dec.shape[0], defaultdict(list)
    for feature, value, *_ in table:
        of_feature[feature].append(value)
    counts = [len(of_feature[f]) for f in range(d_sae)]

    assert scan.n_tokens == len(l0)
    assert scan.count.tolist() == counts
    assert scan.dead.tolist() == [count == 0 for count in counts]
    np.testing.assert_allclose(scan.firing_rate, [count / len(l0) for count in counts], rtol=1e-12)
    np.testing.assert_allclose(
        scan.max_activation, [max(of_feature[f], default=0) for f in range(d_sae)], rtol=1e-5
    )
    assert scan.mean_l0 == pytest.approx(sum(l0) / len(l0))
    assert scan.l0_histogram.tolist() == [l0.count(k) for k in range(d_sae + 1)]
    bins = Counter((feature, slow_bin(value)) for feature, value, *_ in table)
    assert scan.histogram.tolist() == [
        [bins[f, i] for i in range(len(BIN_EDGES) - 1)] for f in range(d_sae)
    ]
    assert scan.bin_edges.tolist() == BIN_EDGES.tolist()

    filled = scan.top_positions[..., 0] >= 0
    listed = zip(
        filled.nonzero()[:, 0].tolist(),
        scan.top_values[filled].tolist(),
        *scan.top_positions[filled].T.tolist(),
    )
    assert_same_firings(list(listed), slow_strongest(table, top_k))
    assert not scan.top_values[~filled].any() and (scan.top_positions[~filled] == -1).all()
    samples = zip(
        scan.sample_feature.tolist(), scan.sample_value.tolist(), *scan.sample_position.T.tolist()
    )
    assert_same_firings(list(samples), slow_samples(table))
    assert len(slow_samples(table)) < len(table), "no bin was full"
    assert 0 < sum(count == 0 for count in counts) < d_sae, (
        "some features, but not all, should be dead"
    )


def assert_same_firings(firings, expected):
    places = [(feature, *place) for feature, _, *place in firings]
    assert places == [(feature, *place) for feature, _, *place in expected]
    values = [value for _, value, *_ in firings]
    np.testing.assert_allclose(values, [value for _, value, *_ in expected], rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 5, 60])
def test_every_field(tiny, tokens, top_k):
    assert_matches_slow(tiny.model, tiny.sae, tokens, hook=tiny.hook, top_k=top_k)


def test_every_field_with_a_mask_and_a_first_row(tiny, tokens, mask):
    assert_matches_slow(tiny.model, tiny.sae, tokens, hook=tiny.hook, mask=mask, first_row=100)


def test_every_field_at_a_residual_hook(tiny, tokens):
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1), "jumprelu")
    assert_matches_slow(tiny.model, sae, tokens, hook=RESID)


@settings(max_examples=8, deadline=None, database=None)
@given(
    dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.float16]), rows=st.integers(2, 6)
)
def test_every_field_for_other_dtypes(tiny, tokens, dtype, rows):
    """In bfloat16 many activations tie."""
    sae = copy.deepcopy(tiny.sae).to(dtype=dtype)
    assert_matches_slow(tiny.model, sae, tokens[:rows], hook=tiny.hook)


def test_activations_below_zero_are_ranked_by_size_and_keep_their_sign(tiny, tokens):
    """As AbsTopK's: counted wherever they are not zero, as ``reconstruction_metrics`` counts."""

    class Signed:
        W_enc = W_dec = torch.eye(24)

        @staticmethod
        def encode(x):
            signed = x - 0.3
            signed[..., :3] = 0  # never fire
            signed[..., 3:6] = signed[..., 3:6].clamp_max(0)  # never above zero
            return signed * (signed.abs() > 0.25)

        decode = staticmethod(lambda features: features)

    sae = Signed()
    scan = saework.scan(tiny.model, sae, tokens, hook=tiny.hook, top_k=2, cofiring=[7])
    x = saework.engine.forward.activations(tiny.model, tokens, tiny.hook).flatten(0, 1)
    features = Signed.encode(x)
    fires = features != 0
    assert (features < 0).any() and not fires.all()
    assert torch.equal(scan.count, fires.sum(0))
    assert scan.dead[:3].all() and not scan.dead[3:5].any()
    assert torch.equal(scan.dead, ~fires.any(0))
    n_firing = fires.sum(1)
    assert torch.equal(scan.l0_histogram, torch.bincount(n_firing, minlength=25))
    assert torch.equal(scan.cofiring[0], (fires & fires[:, 7:8]).sum(0))
    torch.testing.assert_close(scan.total_activation, features.double().sum(0))
    torch.testing.assert_close(scan.max_activation, features.abs().amax(0))
    assert torch.equal(scan.histogram.sum(1), scan.count)
    assert (scan.top_values[3:5] < 0).all() and (scan.top_positions[3:5] >= 0).all()
    largest_first = features.abs().sort(dim=0, descending=True, stable=True).indices[:2]
    torch.testing.assert_close(scan.top_values[6:], features.gather(0, largest_first).T[6:])
    halves = [
        saework.scan(tiny.model, sae, tokens[part], hook=tiny.hook, top_k=2, first_row=part.start)
        for part in (slice(0, 2), slice(2, 6))
    ]
    merged = halves[0] + halves[1]
    assert torch.equal(merged.top_values, scan.top_values)
    assert torch.equal(merged.sample_value, scan.sample_value)
    listed = scan.top_examples(4, tokens, tiny.tokenizer, interval=(0.3, 9.0))["activation"]
    assert len(listed) and listed.between(-9.0, -0.3).all()
    metrics = saework.reconstruction_metrics(tiny.model, sae, tokens, hook=tiny.hook)
    assert scan.mean_l0 == pytest.approx(float(n_firing.double().mean()))
    assert metrics.loc["l0", "with_bos"] == pytest.approx(scan.mean_l0)


@settings(max_examples=15, deadline=None, database=None)
@given(
    data=st.data(), batch_size=st.integers(1, 7), block=st.integers(1, 130), masked=st.booleans()
)
def test_batches_blocks_and_row_order(rowwise, tiny, mask, data, batch_size, block, masked):
    order = torch.tensor(data.draw(st.permutations(range(6))))
    tokens = tiny.tokens.flip(1)  # a BOS in front would tie in all rows, and ties go by row
    plain = rowwise(tokens, mask=mask if masked else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "BLOCK", block)
        reordered = mask[order] if masked else None
        cut = rowwise(tokens[order], mask=reordered, batch_size=batch_size)
    assert cut.n_tokens == plain.n_tokens
    for name in ("count", "histogram", "l0_histogram"):
        assert torch.equal(getattr(cut, name), getattr(plain, name)), name
    torch.testing.assert_close(cut.max_activation, plain.max_activation)
    torch.testing.assert_close(cut.top_values, plain.top_values)
    found = cut.top_positions.clone()
    found[..., 0] = torch.where(found[..., 0] < 0, -1, order[found[..., 0]])
    assert torch.equal(found, plain.top_positions)


def test_top_k_zero_keeps_counts_only(rowwise, tiny, tokens, whole):
    counts = rowwise(tokens, top_k=0)
    assert_same(counts, whole.without_positions())
    assert float(counts.total_activation.sum()) > 0
    halves = rowwise(tokens[:2], top_k=0) + rowwise(tokens[2:], top_k=0, first_row=2)
    assert halves.count.equal(counts.count)
    with pytest.raises(ValueError, match="kept no positions .*scan the tokens"):
        counts.top_examples(7, tokens, tiny.tokenizer)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(top_k=121), ValueError, "top_k is 121, but there are only 120 tokens"),
        (dict(top_k=115, mask=torch.arange(20).expand(6, 20) > 0), ValueError, "only 114 tokens"),
        (dict(top_k=-1), ValueError, "top_k is -1; give a whole number of at least 0"),
        (dict(first_row=-1), ValueError, "first_row is -1"),
        (dict(batch_size=0), ValueError, "batch_size is 0"),
        (dict(executor=object()), ValueError, "executor= and rebuild= go together"),
        (dict(rebuild=dict), ValueError, "executor= and rebuild= go together"),
        (dict(mask=torch.zeros(6, 20, dtype=torch.bool)), ValueError, "mask is False everywhere"),
        (dict(mask=torch.ones(20, 6, dtype=torch.bool)), ValueError, r"mask has shape \(20, 6\)"),
        (dict(mask=torch.ones(6, 20)), ValueError, "mask is torch.float32; give bool"),
        (
            dict(hook="blocks.1.mlp.hook_post"),
            UnknownNameError,
            "Did you mean 'blocks.0.mlp.hook_post'",
        ),
        (dict(hook=RESID), HookError, "16 wide, but this SAE reads 24"),
    ],
)
def test_bad_arguments_of_scan(tiny, tokens, change, error, words):
    with pytest.raises(error, match=words):
        saework.scan(tiny.model, tiny.sae, tokens, **change)
    assert not any(point.fwd_hooks for point in tiny.model.hook_dict.values())


def test_a_feature_that_is_nan_stops_the_scan(tiny, tokens):
    sae = copy.deepcopy(tiny.sae)
    sae.b_enc[7] = float("nan")
    words = (
        r"feature activations \(those that are not zero\) hold 60 NaN or infinite values "
        r"out of \d+, in rows 3, 4, 5"
    )
    with pytest.raises(ValueError, match=words):
        saework.scan(tiny.model, sae, tokens[3:], first_row=3, batch_size=3)


def test_activations_that_are_not_finite_say_their_rows(tiny, tokens):
    model = copy.deepcopy(tiny.model)
    model.embed.W_E[tokens[4, 10]] = float("inf")
    bad = (tokens == tokens[4, 10]).any(1).nonzero()[:, 0] + 100
    rows = ", ".join(map(str, bad.tolist()))
    words = (
        rf"activations at {tiny.hook} hold \d+ NaN or infinite values out of \d+, in rows {rows};"
    )
    with pytest.raises(ValueError, match=words):
        saework.scan(model, tiny.sae, tokens, first_row=100, batch_size=6)


def test_sums(tiny, tokens, whole):
    table, _ = slow_firings(tiny.model, tiny.sae, tokens, tiny.hook)
    expected = np.bincount(
        [feature for feature, *_ in table], weights=[value for _, value, *_ in table], minlength=48
    )
    np.testing.assert_allclose(whole.total_activation, expected, rtol=1e-6)
    assert whole.total_activation.dtype == torch.float64


def test_features_that_fire_together(rowwise, tiny, tokens, mask):
    on = torch.cat(
        [slow_features(tiny.model, tiny.sae, row[None], tiny.hook) > 0 for row in tokens]
    )[mask]
    chosen = [7, 0, 33, 7]
    scan = rowwise(tokens, mask=mask, cofiring=chosen)
    assert scan.cofiring_features.tolist() == [7, 0, 33]
    expected = [[int((on[:, f] & on[:, other]).sum()) for other in range(48)] for f in (7, 0, 33)]
    assert scan.cofiring.tolist() == expected and scan.cofiring[0, 7] == scan.count[7] > 0
    first_half = rowwise(tokens[:2], mask=mask[:2], cofiring=chosen)
    second_half = rowwise(tokens[2:], mask=mask[2:], cofiring=chosen, first_row=2)
    assert torch.equal((first_half + second_half).cofiring, scan.cofiring)
    with pytest.raises(ValueError, match=r"feature 48 does not exist"):
        rowwise(tokens, cofiring=[48])


def test_a_workbook_alone(book, tiny):
    parts = saework.scan(tiny.model, tiny.sae, tiny.tokens, hook=tiny.hook, top_k=3)
    assert_same(saework.scan(book, top_k=3), parts)
