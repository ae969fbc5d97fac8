"""Rare features against plain loops, on SAEs whose rare features are alike, or not."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import with_weights

from saework.analysis.rare import NULL_SETS, rare_features

D_IN, D_SAE, N_RARE = 16, 60, 12


def planted(alike: float, seed: int = 0):
    """An SAE whose first 12 features are rare (five of them dead) and share some direction.

    Args: ``alike``: how much of it, against noise of size 1.
    """
    generator = torch.Generator().manual_seed(seed)
    w_enc = torch.randn(D_IN, D_SAE, generator=generator)
    w_enc[:, :N_RARE] += alike * torch.randn(D_IN, 1, generator=generator)
    rate = torch.full((D_SAE,), 0.01, dtype=torch.float64)
    rate[:N_RARE] = 5e-5
    rate[:5] = 0
    return SimpleNamespace(W_enc=w_enc, W_dec=torch.randn(D_SAE, D_IN, generator=generator)), rate


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def mean(vectors):
    return [sum(parts) / len(vectors) for parts in zip(*vectors)]


def test_directions_and_cosines_against_loops():
    sae, rate = planted(alike=1)
    found = rare_features(sae, rate)
    columns, rows = sae.W_enc.T.tolist(), sae.W_dec.tolist()
    direction, decoder_direction = mean(columns[:N_RARE]), mean(rows[:N_RARE])
    assert found.is_rare.tolist() == [True] * N_RARE + [False] * (D_SAE - N_RARE)
    assert found.direction.tolist() == pytest.approx(direction, abs=1e-6)
    assert found.cosine.tolist() == pytest.approx([cosine(c, direction) for c in columns], abs=1e-6)
    assert found.decoder_cosine.tolist() == pytest.approx(
        [cosine(r, decoder_direction) for r in rows], abs=1e-6
    )
    left_out = [
        cosine(columns[i], mean(columns[:i] + columns[i + 1 : N_RARE])) for i in range(N_RARE)
    ]
    assert found.rare_cosine.tolist() == pytest.approx(left_out, abs=1e-6)


def test_two_rare_features_by_hand():
    w_enc, w_dec = [[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]], [[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]
    sae = SimpleNamespace(W_enc=torch.tensor(w_enc), W_dec=torch.tensor(w_dec))
    found = rare_features(sae, [0.0, 0.0, 0.5])
    assert found.direction.tolist() == [0.5, 0.5]
    assert found.cosine.tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 7 / 5 * 0.5**0.5])
    assert found.decoder_cosine.tolist() == pytest.approx([0.5**0.5, 0.5**0.5, -1])
    assert found.rare_cosine.tolist() == [
        0,
        0,
    ]  # without itself, each is compared with the other alone


def test_one_direction_for_all_gives_one():
    sae, rate = planted(alike=0)
    sae.W_enc[:, :N_RARE] = torch.arange(1.0, 17)[:, None] * torch.arange(1.0, N_RARE + 1)
    found = rare_features(sae, rate)
    assert found.cosine[:N_RARE].tolist() == pytest.approx([1] * N_RARE)
    assert found.rare_cosine.tolist() == pytest.approx([1] * N_RARE)


def test_the_null_tells_alike_from_chance():
    alike = rare_features(*planted(alike=3))
    assert alike.rare_cosine.median() > 0.8 > 0.3 > alike.null_cosine.median().abs()

    by_chance = [rare_features(*planted(alike=0, seed=seed)) for seed in range(30)]

    def average(part):
        return float(np.mean([part(found).mean() for found in by_chance]))

    assert (
        abs(average(lambda found: found.rare_cosine) - average(lambda found: found.null_cosine))
        < 0.05
    )
    assert (
        average(lambda found: found.cosine[:N_RARE]) > 0.2
    )  # a mean that contains the feature itself


def test_each_null_set_is_a_leave_one_out_mean_of_features_that_are_not_rare():
    sae, rate = planted(alike=0)
    null = rare_features(sae, rate, seed=4).null_cosine
    assert len(null) == NULL_SETS * N_RARE
    columns, generator = sae.W_enc.T[N_RARE:], torch.Generator().manual_seed(4)
    chosen = columns[torch.randperm(len(columns), generator=generator)[:N_RARE]].tolist()
    expected = [cosine(chosen[i], mean(chosen[:i] + chosen[i + 1 :])) for i in range(N_RARE)]
    assert null[:N_RARE].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_null_is_set_by_its_seed():
    first, again, other = (rare_features(*planted(1), seed=seed).null_cosine for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_null_takes_all_that_are_not_rare_where_those_are_fewer():
    sae, rate = planted(alike=0)
    rate[: D_SAE - 4] = 0
    found = rare_features(sae, rate)
    others = sae.W_enc.T[-4:].tolist()
    expected = sorted(cosine(others[i], mean(others[:i] + others[i + 1 :])) for i in range(4))
    assert sorted(found.null_cosine.tolist()) == pytest.approx(expected, abs=1e-6)


def test_dead_and_rare_but_firing_are_told_apart():
    found = rare_features(*planted(alike=1))
    assert found.is_dead.tolist() == [True] * 5 + [False] * (D_SAE - 5)
    table = found.summary()
    assert table["n"].to_dict() == {
        "rare: dead": 5,
        "rare: firing": 7,
        "not rare": 48,
        "rare, leave one out": 12,
        "null: random, not rare": 240,
    }
    assert table.loc["rare: dead", "median encoder cosine"] == pytest.approx(
        np.median(found.cosine[:5])
    )
    assert table.loc["rare: firing", "median decoder cosine"] == pytest.approx(
        np.median(found.decoder_cosine[5:12])
    )
    assert repr(found).startswith("RareFeatures(12 of 60 below 0.0001, 5 of them dead)\n")
    assert "rare: firing" in found._repr_html_()


def test_a_rate_at_the_threshold_is_not_rare():
    sae, rate = planted(alike=1)
    assert not rare_features(sae, rate, threshold=0.01).is_rare[N_RARE:].any()
    assert rare_features(sae, rate, threshold=0.011).is_rare.all()


def test_none_rare_is_nan_and_a_warning():
    sae, _ = planted(alike=1)
    with pytest.warns(
        UserWarning,
        match="no feature fires on less than 0.0001 of the tokens, so the rare direction is NaN",
    ):
        found = rare_features(sae, torch.full((D_SAE,), 0.5))
    for values in (found.direction, found.cosine, found.decoder_cosine, found.null_cosine):
        assert values.isnan().all() and len(values)
    assert len(found.rare_cosine) == 0
    assert found.summary()["n"]["not rare"] == D_SAE


def test_one_rare_feature_has_no_other_to_compare_with():
    sae, rate = planted(alike=1)
    rate[:] = 0.5
    rate[3] = 0
    found = rare_features(sae, rate)
    assert found.cosine[3] == pytest.approx(1)
    assert found.rare_cosine.isnan().tolist() == [True]


@pytest.mark.parametrize(
    "rate, threshold, message",
    [
        (
            torch.zeros(D_SAE - 1),
            1e-4,
            rf"firing_rate has shape \({D_SAE - 1},\); "
            rf"this SAE has {D_SAE} features, give one rate each",
        ),
        (
            torch.full((D_SAE,), 2.0),
            1e-4,
            r"firing rates run from 2 to 2; give fractions of tokens, 0\.\.1",
        ),
        (torch.full((D_SAE,), -0.5), 1e-4, r"firing rates run from -0.5 to -0.5; give fractions"),
        (torch.full((D_SAE,), math.nan), 1e-4, f"firing rates hold {D_SAE} NaN or infinite values"),
        (
            torch.zeros(D_SAE),
            0,
            "threshold is 0; give a fraction of tokens above 0 and up to 1, such as 1e-4",
        ),
        (torch.zeros(D_SAE), 1.5, "threshold is 1.5; give a fraction"),
        (torch.zeros(D_SAE), math.nan, "threshold is nan; give a fraction"),
    ],
)
def test_bad_input(rate, threshold, message):
    with pytest.raises(ValueError, match=message):
        rare_features(planted(1)[0], rate, threshold=threshold)


@pytest.mark.parametrize("name, what", [("W_enc", "encoder"), ("W_dec", "decoder")])
def test_weights_that_are_not_finite(name, what):
    sae, rate = planted(1)
    getattr(sae, name)[2, 3] = math.nan
    with pytest.raises(
        ValueError,
        match=f"{what} weights hold 1 NaN or infinite values out of {D_IN * D_SAE}; load the",
    ):
        rare_features(sae, rate)


def test_rows_of_zeros_leave_the_medians_of_the_others(tiny):
    """As after pruning: dead features are set to zero."""
    rates = torch.full((48,), 0.5)
    rates[:12] = 0
    pruned = with_weights(
        tiny.sae, W_enc=lambda w: w[:, :5].fill_(0), W_dec=lambda w: w[:5].fill_(0)
    )
    summary = rare_features(pruned, rates).summary()
    kept_enc, kept_dec = pruned.W_enc.T[5:12], pruned.W_dec[5:12]
    for column, rows in (("encoder", kept_enc), ("decoder", kept_dec)):
        cosines = torch.cosine_similarity(rows, rows.sum(0), dim=-1)
        value = summary.loc["rare: dead", f"median {column} cosine"]
        assert value == pytest.approx(float(cosines.median()), abs=1e-5)
    others = kept_enc.sum(0) - kept_enc
    alone = torch.cosine_similarity(kept_enc, others, dim=-1)
    value = summary.loc["rare, leave one out", "median encoder cosine"]
    assert value == pytest.approx(float(alone.median()), abs=1e-5)


def test_tied_weights_read_with_their_decoder_rows(tiny):
    tied = SimpleNamespace(W_dec=tiny.sae.W_dec)
    untied = SimpleNamespace(W_dec=tiny.sae.W_dec, W_enc=tiny.sae.W_dec.T)
    rate = torch.linspace(0, 1, 48)
    found, expected = (rare_features(sae, rate, threshold=0.3) for sae in (tied, untied))
    assert torch.equal(found.cosine, expected.cosine)


def test_lengths_own_cosines_and_both_sides_at_length_one():
    sae, rate = planted(alike=3)
    sae.W_enc[:, :N_RARE] *= torch.logspace(-2, 2, N_RARE)
    found = rare_features(sae, rate)
    columns = sae.W_enc.T
    assert found.encoder_norm.tolist() == pytest.approx(columns.norm(dim=1).tolist(), rel=1e-5)
    own = [cosine(c, r) for c, r in zip(columns.tolist(), sae.W_dec.tolist())]
    assert found.own_cosine.tolist() == pytest.approx(own, abs=1e-5)
    unit = columns[:N_RARE] / columns[:N_RARE].norm(dim=1, keepdim=True)
    assert found.encoder.direction.tolist() == pytest.approx(unit.mean(0).tolist(), abs=1e-6)
    assert found.decoder.cosine.shape == (N_RARE,)


def test_the_normalised_table_stands_beside_the_published_one():
    found = rare_features(*planted(alike=3))
    table = found.normalised()
    assert table.index.tolist() == [
        "encoder",
        "encoder, shared direction projected out",
        "decoder",
        "decoder, shared direction projected out",
    ]
    assert table.loc["encoder", "rare"] == pytest.approx(float(found.encoder.cosine.median()))
    assert table.loc["encoder", "rare"] > 0.8 > 0.4 > table.loc["decoder", "rare"]
    assert (table["null 5%"] <= table["null"]).all() and (table["null"] <= table["null 95%"]).all()


def test_an_sae_that_writes_elsewhere_has_no_own_cosines():
    sae, rate = planted(alike=1)
    sae.W_dec = sae.W_dec[:, :5]
    found = rare_features(sae, rate)
    assert found.own_cosine.isnan().all()
    assert found.decoder.direction.shape == (5,)
