"""A scan against Python loops over single firings, and against itself cut into parts."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from conftest import random_sae, slow_features
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stand_ins import assert_same, slow_bin, slow_samples, slow_strongest

import saework
from saework import FeatureScan
from saework.analysis.scanning import feature_scan, firings, run_scan
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import BIN_EDGES, BINS, SAMPLES_PER_BIN, place_of
from saework.core.errors import HookError, UnknownNameError, WeightsError
from saework.core.formulas import rate_bound
from saework.engine.encoder import Active

RESID = "blocks.0.hook_resid_post"
TOP_K = 5


@pytest.fixture(scope="module")
def tokens(tiny):
    """With one row twice, so that there are ties."""
    tokens = tiny.tokens.clone()
    tokens[5] = tokens[2]
    return tokens


@pytest.fixture(scope="module")
def mask(tokens):
    """BOS out, and one row and a half of padding."""
    mask = tokens != 1
    mask[1] = mask[4, 10:] = False
    return mask


@pytest.fixture(scope="module")
def whole(tiny, tokens):
    return rowwise(tiny, tokens)


def rowwise(tiny, tokens, **kwargs):
    """A scan row by row (unless told otherwise): no matrix product then hangs on how the rows are cut into parts."""
    return saework.scan(tiny.model, tiny.sae, tokens, **{"batch_size": 1, "top_k": TOP_K, **kwargs})


def slow_firings(model, sae, tokens, hook, mask=None, first_row=0):
    """``(feature, value, row, pos)`` of each firing, and how many features fire on each token."""
    table, l0 = [], []
    for b, row in enumerate(tokens):
        for p, values in enumerate(slow_features(model, sae, row[None], hook)[0].float().tolist()):
            if mask is None or mask[b, p]:
                active = [
                    (feature, value, first_row + b, p)
                    for feature, value in enumerate(values)
                    if value > 0
                ]
                table += active
                l0.append(len(active))
    return table, l0


def assert_matches_slow(model, sae, tokens, *, hook, top_k=TOP_K, **kwargs):
    ours = saework.scan(model, sae, tokens, hook=hook, top_k=top_k, batch_size=1, **kwargs)
    table, l0 = slow_firings(model, sae, tokens, hook, **kwargs)
    d_sae, of_feature = sae.W_dec.shape[0], defaultdict(list)
    for feature, value, *_ in table:
        of_feature[feature].append(value)
    counts = [len(of_feature[f]) for f in range(d_sae)]

    assert ours.n_tokens == len(l0)
    assert ours.count.tolist() == counts
    assert ours.dead.tolist() == [count == 0 for count in counts]
    np.testing.assert_allclose(ours.firing_rate, [count / len(l0) for count in counts], rtol=1e-12)
    np.testing.assert_allclose(
        ours.max_activation, [max(of_feature[f], default=0) for f in range(d_sae)], rtol=1e-5
    )
    assert ours.mean_l0 == pytest.approx(sum(l0) / len(l0))
    assert ours.l0_histogram.tolist() == [l0.count(k) for k in range(d_sae + 1)]
    bins = Counter((feature, slow_bin(value)) for feature, value, *_ in table)
    assert ours.histogram.tolist() == [
        [bins[f, i] for i in range(len(BIN_EDGES) - 1)] for f in range(d_sae)
    ]
    assert ours.bin_edges.tolist() == BIN_EDGES.tolist()

    filled = ours.top_positions[..., 0] >= 0
    listed = zip(
        filled.nonzero()[:, 0].tolist(),
        ours.top_values[filled].tolist(),
        *ours.top_positions[filled].T.tolist(),
    )
    assert_same_firings(list(listed), slow_strongest(table, top_k))
    assert not ours.top_values[~filled].any() and (ours.top_positions[~filled] == -1).all()
    samples = zip(
        ours.sample_feature.tolist(), ours.sample_value.tolist(), *ours.sample_position.T.tolist()
    )
    assert_same_firings(list(samples), slow_samples(table))
    assert len(slow_samples(table)) < len(table), "no bin was full"
    assert 0 < sum(count == 0 for count in counts) < d_sae, (
        "some features, but not all, should be dead"
    )


def assert_same_firings(ours, theirs):
    assert [(f, *place) for f, _, *place in ours] == [(f, *place) for f, _, *place in theirs]
    np.testing.assert_allclose(
        [value for _, value, *_ in ours], [value for _, value, *_ in theirs], rtol=1e-5
    )


# ---- against the slow reference ----


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


def test_negative_activations_do_not_fire(tiny, tokens):
    class Signed:
        W_enc = W_dec = torch.eye(24)
        encode = decode = staticmethod(lambda x: x - 0.3)

    scan = saework.scan(tiny.model, Signed, tokens, hook=tiny.hook, top_k=2)
    x = saework.engine.forward.activations(tiny.model, tokens, tiny.hook).flatten(0, 1) - 0.3
    assert torch.equal(scan.count, (x > 0).sum(0))
    torch.testing.assert_close(scan.max_activation, x.amax(0).clamp(min=0))
    assert scan.dead.any() and (scan.max_activation[scan.dead] == 0).all()


# ---- neither batches, blocks nor the order of rows matter ----


@settings(max_examples=15, deadline=None, database=None)
@given(
    data=st.data(), batch_size=st.integers(1, 7), block=st.integers(1, 130), masked=st.booleans()
)
def test_batches_blocks_and_row_order(tiny, mask, data, batch_size, block, masked):
    order = torch.tensor(data.draw(st.permutations(range(6))))
    tokens = tiny.tokens.flip(1)  # a BOS in front would tie in all rows, and ties go by row
    plain = rowwise(tiny, tokens, mask=mask if masked else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_scan, "BLOCK", block)
        cut = rowwise(
            tiny, tokens[order], mask=mask[order] if masked else None, batch_size=batch_size
        )
    assert cut.n_tokens == plain.n_tokens
    for name in ("count", "histogram", "l0_histogram"):
        assert torch.equal(getattr(cut, name), getattr(plain, name)), name
    torch.testing.assert_close(cut.max_activation, plain.max_activation)
    torch.testing.assert_close(cut.top_values, plain.top_values)
    found = cut.top_positions.clone()
    found[..., 0] = torch.where(found[..., 0] < 0, -1, order[found[..., 0]])
    assert torch.equal(found, plain.top_positions)


def every_firing(features: torch.Tensor) -> Active:
    token, feature = features.nonzero(as_tuple=True)
    return Active(token, feature, features[token, feature])


@pytest.mark.parametrize(("pending", "taken_in"), [(1, 0.1), (3_000, 0.1), (500_000, 1)])
def test_lists_that_are_cut_down_on_the_way(monkeypatch, pending, taken_in):
    """The collector lets go of firings that cannot be listed any more, and takes in no new ones of that kind.

    ``taken_in``: the share of a later block's firings that a list may take in; all, if nothing was cut down before.
    """
    monkeypatch.setattr(firings, "PENDING", pending)
    taken, part_of = [], firings.Firings.__getitem__
    count = lambda self, index: index.dtype == bool and taken.append(index.sum())  # noqa: E731, what comes in is chosen by a mask
    monkeypatch.setattr(
        firings.Firings,
        "__getitem__",
        lambda self, index: count(self, index) or part_of(self, index),
    )
    features = torch.rand(3, 600, 300, generator=torch.Generator().manual_seed(0)) ** 3
    features[2, 0] = features[0, 0]  # ties between the first block and the last
    places = place_of(*np.divmod(np.arange(1800), 20)).reshape(3, 600)
    together, parts = Collector(300, TOP_K), []
    for i in range(3):
        taken.clear()
        together.add(every_firing(features[i]), places[i])
        assert len(taken) == 2 and max(taken) <= features[i].numel() * (taken_in if i else 1)
        assert i or min(taken) == features[0].numel()
        together.end_part()
        alone = Collector(300, TOP_K)
        alone.add(every_firing(features[i]), places[i])
        alone.end_part()
        parts.append(FeatureScan.of(alone.arrays(), ((30 * i, 30 * i + 30),), ""))
    held = sum(
        len(part.value)
        for shortlist in (together._top, together._samples)
        for part in (shortlist._best, *shortlist._pending)
    )
    assert 0 < held <= 300 * (TOP_K + SAMPLES_PER_BIN * BINS)
    together = FeatureScan.of(together.arrays(), ((0, 90),), "")
    assert_same(together, sum(parts[1:], parts[0]))  # sums too: parts are added in their order
    assert torch.equal(together.top_values, features.flatten(0, 1).topk(TOP_K, dim=0).values.T)


# ---- merging ----


@settings(max_examples=20, deadline=None, database=None)
@given(data=st.data(), masked=st.booleans())
def test_any_cut_and_any_order_of_merging_gives_the_same_scan(tiny, tokens, mask, data, masked):
    mask = mask if masked else mask | True
    cuts = data.draw(
        st.sets(st.sampled_from([2, 3, 4, 5]))
    )  # row 1 is masked, and cannot stand alone
    edges = [0, *sorted(cuts), 6]
    parts = [
        rowwise(tiny, tokens[a:b], mask=mask[a:b], first_row=a) for a, b in zip(edges, edges[1:])
    ]
    while len(parts) > 1:
        a, b = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(2))
        parts.append(a + b)
    whole = rowwise(tiny, tokens, mask=mask)
    assert_same(parts[0], whole, but=("total_activation",))
    torch.testing.assert_close(
        parts[0].total_activation, whole.total_activation, rtol=1e-12, atol=0
    )  # float64 rounds by order


def test_a_gap_stays_a_gap(tiny, tokens):
    ends = rowwise(tiny, tokens[:2]) + rowwise(tiny, tokens[4:], first_row=4)
    assert ends.rows == ((0, 2), (4, 6))
    assert (rowwise(tiny, tokens[2:4], first_row=2) + ends).rows == ((0, 6),)


def test_overlapping_rows_do_not_merge(tiny, tokens, whole):
    for first_row in (0, 3, 5):
        with pytest.raises(
            ValueError, match=rf"both scans hold row {first_row}; give each part its own first_row="
        ):
            whole + rowwise(tiny, tokens, first_row=first_row)
    assert (whole + rowwise(tiny, tokens, first_row=6)).n_tokens == 240


def test_scans_of_something_else_do_not_merge(tiny, tokens, whole):
    other = random_sae(24, 48, tiny.hook, torch.Generator().manual_seed(9))
    with pytest.raises(ValueError, match="different SAEs or hooks"):
        whole + saework.scan(tiny.model, other, tokens, top_k=TOP_K, first_row=6)
    with pytest.raises(ValueError, match="top_k is 5 in one scan and 3 in the other"):
        whole + rowwise(tiny, tokens, top_k=3, first_row=6)
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))
    resid, mid = (
        saework.scan(tiny.model, sae, tokens, hook=h, first_row=r)
        for h, r in ((RESID, 0), ("blocks.0.hook_resid_mid", 6))
    )
    with pytest.raises(ValueError, match="different SAEs or hooks"):
        resid + mid
    with pytest.raises(TypeError):
        whole + 1


# ---- counts only ----


def test_top_k_zero_keeps_counts_only(tiny, tokens, whole):
    counts = rowwise(tiny, tokens, top_k=0)
    assert_same(counts, whole.without_positions())
    assert float(counts.total_activation.sum()) > 0
    assert (
        rowwise(tiny, tokens[:2], top_k=0) + rowwise(tiny, tokens[2:], top_k=0, first_row=2)
    ).count.equal(counts.count)
    with pytest.raises(ValueError, match="kept no positions .*scan the tokens"):
        counts.top_examples(7, tokens, tiny.tokenizer)


def test_without_positions_holds_none(whole, tmp_path):
    bare = FeatureScan.load(whole.without_positions().save(tmp_path / "bare.safetensors"))
    for name in (
        "top_values",
        "top_positions",
        "sample_feature",
        "sample_value",
        "sample_position",
    ):
        assert getattr(whole, name).numel() > 0 and getattr(bare, name).numel() == 0, name
    assert_same(
        bare,
        whole,
        but=("top_values", "top_positions", "sample_feature", "sample_value", "sample_position"),
    )


# ---- files ----


def test_save_and_load(tiny, tokens, whole, tmp_path):
    path = whole.save(tmp_path / "whole.safetensors")
    loaded = FeatureScan.load(str(path))
    assert_same(loaded, whole)
    assert_same(
        loaded + rowwise(tiny, tokens, first_row=6), whole + rowwise(tiny, tokens, first_row=6)
    )


def test_damaged_files(whole, tmp_path):
    path = whole.save(tmp_path / "scan.safetensors")
    content = path.read_bytes()
    for broken in (
        content[: len(content) // 2],
        b"",
        b"not a scan at all",
        content[:8] + b"}" + content[9:],
    ):
        path.write_bytes(broken)
        with pytest.raises(
            WeightsError,
            match=r"scan.safetensors is not a feature scan, or is damaged .*scan again",
        ):
            FeatureScan.load(path)
    save_file({"count": whole.count}, path)
    with pytest.raises(WeightsError, match="is not a feature scan"):
        FeatureScan.load(path)
    with pytest.raises(FileNotFoundError):
        FeatureScan.load(tmp_path / "missing.safetensors")


# ---- examples ----


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
    find = lambda interval, n=20: whole.top_examples(
        7, tokens, tiny.tokenizer, n=n, interval=interval
    )["activation"].tolist()  # noqa: E731
    assert find(inner) == kept[2:4].tolist()
    assert find((0, np.inf), n=len(kept)) == kept.tolist()
    few = find((0, np.inf), n=3)
    assert (len(few), few[0], few[-1]) == (3, kept[0], kept[-1]) and few == sorted(
        few, reverse=True
    )
    assert find((0, np.inf), n=1) == kept[:1].tolist()
    assert find((1e6, 1e7)) == []


@pytest.mark.parametrize("interval", [None, (0.1, 100.0)])
def test_examples_after_an_offset(tiny, tokens, interval):
    """Rows are counted from the first of all tokens, whichever part was scanned."""
    part = rowwise(tiny, tokens[4:], first_row=4)
    examples = part.top_examples(7, tokens, tiny.tokenizer, interval=interval)
    assert len(examples) >= TOP_K and set(examples["batch"]) <= {4, 5}
    acts = saework.feature_activations(tiny.model, tiny.sae, tokens, 7)
    np.testing.assert_allclose(
        examples["activation"],
        acts[examples["batch"].tolist(), examples["pos"].tolist()],
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match=r"in row [45], but only 2 rows were given"):
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


def test_rows_that_are_too_short(tiny, tokens, whole):
    with pytest.raises(ValueError, match=r"at position \d+, but rows are 3 tokens long"):
        whole.top_examples(7, tokens[:, :3], tiny.tokenizer)


# ---- what is known of a dead feature ----


def test_rate_bound(tiny, tokens, whole):
    one = saework.scan(tiny.model, tiny.sae, tokens[:1, :1], top_k=1)
    assert one.rate_bound == pytest.approx(0.95)
    assert rate_bound(1_000_000) == pytest.approx(3e-6, rel=2e-3)  # the rule of three
    assert (1 - whole.rate_bound) ** 120 == pytest.approx(0.05)
    assert (
        f"{int(whole.dead.sum())} did not fire (rate below {whole.rate_bound:.2g} at 95%)"
        in repr(whole)
    )
    with pytest.raises(ValueError, match="n_tokens is 0"):
        rate_bound(0)


# ---- what bad input gets (tokens and weights: see test_run) ----


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
    with pytest.raises(
        ValueError,
        match=r"feature activations \(those that are not zero\) hold 60 NaN or infinite values out of \d+, in rows 3, 4, 5",
    ):
        saework.scan(tiny.model, sae, tokens[3:], first_row=3, batch_size=3)


def test_activations_that_are_not_finite_say_their_rows(tiny, tokens):
    model = copy.deepcopy(tiny.model)
    model.embed.W_E[tokens[4, 10]] = float("inf")
    bad = (tokens == tokens[4, 10]).any(1).nonzero()[:, 0] + 100
    with pytest.raises(
        ValueError,
        match=rf"activations at {tiny.hook} hold \d+ NaN or infinite values out of \d+, in rows {', '.join(map(str, bad.tolist()))};",
    ):
        saework.scan(model, tiny.sae, tokens, first_row=100, batch_size=6)


# ---- sums, and features that fire together ----


def test_sums(tiny, tokens, whole):
    table, _ = slow_firings(tiny.model, tiny.sae, tokens, tiny.hook)
    expected = np.bincount(
        [feature for feature, *_ in table], weights=[value for _, value, *_ in table], minlength=48
    )
    np.testing.assert_allclose(whole.total_activation, expected, rtol=1e-6)
    assert whole.total_activation.dtype == torch.float64


def test_features_that_fire_together(tiny, tokens, mask):
    on = torch.cat(
        [slow_features(tiny.model, tiny.sae, row[None], tiny.hook) > 0 for row in tokens]
    )[mask]
    chosen = [7, 0, 33, 7]
    scan = rowwise(tiny, tokens, mask=mask, cofiring=chosen)
    assert scan.cofiring_features.tolist() == [7, 0, 33]
    expected = [[int((on[:, f] & on[:, other]).sum()) for other in range(48)] for f in (7, 0, 33)]
    assert scan.cofiring.tolist() == expected and scan.cofiring[0, 7] == scan.count[7] > 0
    halves = rowwise(tiny, tokens[:2], mask=mask[:2], cofiring=chosen) + rowwise(
        tiny, tokens[2:], mask=mask[2:], cofiring=chosen, first_row=2
    )
    assert torch.equal(halves.cofiring, scan.cofiring)
    with pytest.raises(
        ValueError, match="cofiring= chose other features in one scan than in the other"
    ):
        scan + rowwise(tiny, tokens, first_row=6)
    with pytest.raises(ValueError, match=r"feature 48 does not exist"):
        rowwise(tiny, tokens, cofiring=[48])


def test_files_of_the_first_release_have_no_sums(whole, tmp_path):
    arrays = {
        name: getattr(whole, name).contiguous()
        for name in (*feature_scan._ARRAYS, *feature_scan._SAMPLES)
    }
    metadata = {"n_tokens": "120", "rows": "[[0, 6]]", "fingerprint": whole.fingerprint}
    save_file(arrays, tmp_path / "old.safetensors", metadata=metadata)
    old = FeatureScan.load(tmp_path / "old.safetensors")
    assert_same(old, whole, but=("total_activation",))
    assert old.total_activation.isnan().all() and old.cofiring.shape == (0, 48)
