"""Each definition against loops in numpy, sae_lens's own evaluation, and known points."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (
    IDENTITY,
    NOTHING,
    POST,
    RESID,
    PlainSAE,
    hooks_are_clean,
    slow_losses,
    with_weights,
)

from saework import recons_score, recons_scores
from saework.analysis import reconstruction
from saework.core.errors import HookError, UnknownNameError
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.loading import models

HEADS = "blocks.0.attn.hook_z"
COLUMNS = ["with_bos", "without_bos", "unit", "formula", "source"]


@torch.no_grad()
def slow_log_probs(model, tokens, hook=None, new=None, on=None) -> np.ndarray:
    """Log-probabilities ``[batch, pos, d_vocab]``, a row at a time.

    ``new`` takes the place of the activations of the tokens that are on.
    """
    rows = []
    for b, row in enumerate(tokens):

        def replace(x, hook, b=b):
            x = x.clone()
            for p in range(x.shape[1]):
                if on[b, p]:
                    x[0, p] = new[b, p]
            return x

        logits = (
            model.run_with_hooks(row[None], fwd_hooks=[(hook, replace)] if hook else [])[0]
            .double()
            .numpy()
        )
        logits = logits - logits.max(-1, keepdims=True)
        rows.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return np.stack(rows)


@torch.no_grad()
def slow_column(model, sae, tokens, hook, on) -> dict[str, float]:
    """One column of the table, token by token."""
    x = torch.cat([model.run_with_cache(row[None], names_filter=hook)[1][hook] for row in tokens])
    flat = x.flatten(2)
    f = sae.encode(flat)
    x_hat = sae.decode(f)
    tables = [slow_log_probs(model, tokens)]
    for new in (x_hat.reshape(x.shape), torch.zeros_like(x)):
        tables.append(slow_log_probs(model, tokens, hook, new, on))
    ce, kl = [[], [], []], [[], [], []]
    for b in range(len(tokens)):
        for p in range(tokens.shape[1] - 1):
            if on[b, p] and on[b, p + 1]:
                for i, table in enumerate(tables):
                    ce[i].append(-table[b, p, tokens[b, p + 1]])
                    kl[i].append((np.exp(tables[0][b, p]) * (tables[0][b, p] - table[b, p])).sum())
    clean, spliced, ablated = map(np.mean, ce)
    _, kl_spliced, kl_ablated = map(np.mean, kl)
    seen = [(b, p) for b in range(len(tokens)) for p in range(tokens.shape[1]) if on[b, p]]
    X, Y, F = (
        np.array([part[b, p].double().numpy() for b, p in seen]) for part in (flat, x_hat, f)
    )
    n, d = X.shape
    mean = X.mean(0)
    errors = [sum((a - b) ** 2 for a, b in zip(u, v)) for u, v in zip(X, Y)]
    spreads = [sum((a - b) ** 2 for a, b in zip(u, mean)) for u in X]
    norm = np.linalg.norm
    return {
        "tokens": n,
        "predictions": len(ce[0]),
        "ce_loss_clean": clean,
        "ce_loss_spliced": spliced,
        "ce_loss_ablated": ablated,
        "ce_loss_score": (ablated - spliced) / (ablated - clean),
        "kl_div_spliced": kl_spliced,
        "kl_div_ablated": kl_ablated,
        "kl_div_score": (kl_ablated - kl_spliced) / kl_ablated,
        "variance_explained": 1 - sum(errors) / sum(spreads),
        "variance_explained_legacy": sum(1 - e / s for e, s in zip(errors, spreads)) / n,
        "variance_explained_global": 1 - ((X - Y) ** 2).mean() / torch.tensor(X).var().item(),
        "variance_explained_squares": 1
        - np.mean(errors) / ((X**2).sum(1).mean() - ((X**2).mean(0)).mean() ** 2),
        "mse_per_element": ((X - Y) ** 2).mean(),
        "mse_per_token": np.mean(errors),
        "mse_saebench": np.mean([e / n for e in errors]),
        "l0": np.mean([sum(value != 0 for value in row) for row in F]),
        "l1": np.mean([sum(abs(value) for value in row) for row in F]),
        "l2_ratio": np.mean([norm(v) / norm(u) for u, v in zip(X, Y)]),
        "relative_reconstruction_bias": np.mean([v @ v for v in Y])
        / np.mean([u @ v for u, v in zip(X, Y)]),
        "cosine_similarity": np.mean([u @ v / norm(u) / norm(v) for u, v in zip(X, Y)]),
    }


def assert_matches_slow(model, sae, tokens, hook, on=None, bos=1):
    ours = reconstruction.reconstruction_metrics(
        model, sae, tokens, hook=hook, mask=on, batch_size=4
    )
    on = torch.ones_like(tokens, dtype=torch.bool) if on is None else on
    for column, counted in (("with_bos", on), ("without_bos", on & (tokens != bos))):
        slow = slow_column(model, sae, tokens, hook, counted)
        assert list(ours.index) == list(slow)
        for name, value in slow.items():
            assert ours.loc[name, column] == pytest.approx(value, rel=1e-4, abs=2e-5), (
                name,
                column,
            )
    assert hooks_are_clean(model)
    return ours


@pytest.fixture(scope="module")
def noisy(lively):
    """An SAE that reconstructs well, so that no metric is far off its scale."""
    generator = torch.Generator().manual_seed(10)
    mix = torch.eye(24) + 0.1 * torch.randn(24, 24, generator=generator)
    return PlainSAE(
        lambda x: torch.cat([x.relu(), (-x).relu()], -1),
        lambda f: (f[..., :24] - 0.8 * f[..., 24:]) @ mix,
        d_sae=48,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("which", ["random", "noisy"])
def test_each_definition_against_loops(lively, mask, noisy, masked, which):
    sae = lively.sae if which == "random" else noisy
    tokens = lively.tokens.clone()
    tokens[4, 7] = 1  # a BOS in the middle of a row is a BOS
    ours = assert_matches_slow(lively.model, sae, tokens, POST, mask if masked else None)
    differs = (ours["with_bos"] - ours["without_bos"]).abs().drop("predictions") > 1e-4
    assert differs.sum() > 15 or masked, "BOS must matter for the columns to be told apart"


@pytest.mark.parametrize("hook", [RESID, HEADS])
def test_other_hooks(lively, hook):
    assert_matches_slow(
        lively.model,
        random_sae(16, 32, hook, torch.Generator().manual_seed(1), "jumprelu"),
        lively.tokens,
        hook,
    )


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama"])
@pytest.mark.parametrize("hook", [POST, "blocks.1.hook_resid_pre"])
def test_bridged_models(tiny, name, hook, request):
    model = request.getfixturevalue(f"{name}_bridge")
    width = 16 if "resid" in hook else 64 if name == "gpt2" else 24
    assert_matches_slow(
        model, random_sae(width, 40, hook, torch.Generator().manual_seed(4)), tiny.tokens[:3], hook
    )


@pytest.mark.parametrize("ignored", [None, [1]])
def test_activation_metrics_are_sae_lenss(lively, ignored):
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    store = SimpleNamespace(get_batch_tokens=lambda n: lively.tokens)
    switches = (
        "l2_norms",
        "sparsity_metrics",
        "variance_metrics",
        "featurewise_density_statistics",
    )
    theirs, _ = evals.get_sparsity_and_variance_metrics(
        lively.sae,
        lively.model,
        store,
        ActivationScaler(),
        1,
        **{f"compute_{name}": True for name in switches},
        eval_batch_size_prompts=6,
        model_kwargs={},
        ignore_tokens=ignored,
    )
    ours = reconstruction.reconstruction_metrics(lively.model, lively.sae, lively.tokens)[
        "without_bos" if ignored else "with_bos"
    ]
    names = {
        "mse_per_token": "mse",
        "cosine_similarity": "cossim",
        "variance_explained": "explained_variance",
    }
    names |= {
        "variance_explained_legacy": "explained_variance_legacy"
    }  # one batch, so that its mean is that of all tokens
    names |= {name: name for name in ("l0", "l1", "l2_ratio", "relative_reconstruction_bias")}
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], rel=1e-5), name


def test_losses_are_sae_lenss(lively):
    """With every token counted; theirs has a KL for each row's last token too, left out here."""
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    theirs = evals.get_recons_loss(
        lively.sae,
        lively.model,
        ActivationScaler(),
        lively.tokens,
        compute_kl=True,
        compute_ce_loss=True,
    )
    ours = reconstruction.reconstruction_metrics(lively.model, lively.sae, lively.tokens)[
        "with_bos"
    ]
    names = {
        "ce_loss_clean": "ce_loss_without_sae",
        "ce_loss_spliced": "ce_loss_with_sae",
        "ce_loss_ablated": "ce_loss_with_ablation",
    }
    names |= {"kl_div_spliced": "kl_div_with_sae", "kl_div_ablated": "kl_div_with_ablation"}
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name][:, :19].mean().item(), rel=1e-5), name


def test_the_score_is_recons_scores(lively, mask):
    ours = reconstruction.reconstruction_metrics(
        lively.model, lively.sae, lively.tokens, mask=mask
    )["with_bos"]
    score = recons_score(lively.model, lively.sae, lively.tokens, mask=mask)
    assert ours["ce_loss_score"] == pytest.approx(score.score, abs=1e-5)
    assert ours["predictions"] == score.n_tokens


def values(model, sae, tokens, **changes):
    return reconstruction.reconstruction_metrics(model, sae, tokens, hook=POST, **changes)


def test_a_perfect_reconstruction(lively):
    ours = values(lively.model, IDENTITY, lively.tokens)
    for column in ("with_bos", "without_bos"):
        ones = [
            name
            for name in ours.index
            if name.startswith("variance_explained") or name.endswith("_score")
        ]
        assert len(ones) == 6 and (ours.loc[ones, column] == 1).all()
        assert (
            ours.loc[["mse_per_element", "mse_per_token", "mse_saebench", "kl_div_spliced"], column]
            == 0
        ).all()
        for name in ("cosine_similarity", "l2_ratio", "relative_reconstruction_bias"):
            assert ours.loc[name, column] == pytest.approx(1, abs=1e-12)


def test_a_reconstruction_of_nothing(lively):
    ours = values(lively.model, NOTHING, lively.tokens)
    for column in ("with_bos", "without_bos"):
        for name in ("ce_loss_score", "kl_div_score", "cosine_similarity", "l2_ratio"):
            assert ours.loc[name, column] == 0, name
        assert math.isnan(ours.loc["relative_reconstruction_bias", column])


def test_predicting_the_mean_explains_nothing(lively):
    x = forward.activations(lively.model, lively.tokens, POST)
    for column, counted in (("with_bos", x), ("without_bos", x[lively.tokens != 1])):
        mean = counted.flatten(0, -2).double().mean(0)
        ours = values(
            lively.model,
            PlainSAE(lambda x: x, lambda x, mean=mean: mean.expand_as(x)),
            lively.tokens,
        )[column]
        assert ours["variance_explained"] == pytest.approx(0, abs=1e-6)
        assert ours["variance_explained_legacy"] == pytest.approx(0, abs=1e-6)
        assert ours["variance_explained_global"] > 0.01, (
            "means of single dimensions do explain some of the spread around one number"
        )
        n = counted.numel()
        scalar = PlainSAE(lambda x: x, lambda x, mean=mean: mean.mean().expand_as(x))
        assert values(lively.model, scalar, lively.tokens)[column][
            "variance_explained_global"
        ] == pytest.approx(1 / n, abs=1e-6)


@settings(max_examples=12, deadline=None, database=None)
@given(data=st.data(), batch_size=st.integers(1, 8))
def test_batches_and_row_order_change_nothing(lively, mask, data, batch_size):
    order = data.draw(st.permutations(range(6)))
    whole = values(lively.model, lively.sae, lively.tokens, mask=mask)
    parts = values(
        lively.model, lively.sae, lively.tokens[order], mask=mask[order], batch_size=batch_size
    )
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_mask_without_bos_makes_the_columns_equal(lively):
    every = values(lively.model, lively.sae, lively.tokens)
    ours = values(lively.model, lively.sae, lively.tokens, mask=lively.tokens != 1)
    assert ours["with_bos"].equals(ours["without_bos"])
    np.testing.assert_allclose(
        ours["with_bos"].astype(float), every["without_bos"].astype(float), rtol=1e-5
    )
    assert every.loc["tokens", ["with_bos", "without_bos"]].tolist() == [
        120,
        int((lively.tokens != 1).sum()),
    ]


def test_what_is_shared_is_computed_once(lively, monkeypatch):
    """One pass through the model, and one unembedding of each state that differs."""
    spliced, unembedded = [], []
    splice, losses = reconstruction.spliced_states, reconstruction.next_token_losses
    monkeypatch.setattr(
        reconstruction,
        "spliced_states",
        lambda *args, **kw: spliced.append(args[-1]) or splice(*args, **kw),
    )
    monkeypatch.setattr(
        reconstruction,
        "next_token_losses",
        lambda model, states, *args, **kw: (
            unembedded.append(len(states)) or losses(model, states, *args, **kw)
        ),
    )
    plain = values(lively.model, lively.sae, lively.tokens, batch_size=6)
    assert (spliced, unembedded) == ([4], [3]), (
        "no later token reads what the MLP of the only layer did to BOS"
    )
    values(lively.model, lively.sae, lively.tokens, mask=lively.tokens != 1, batch_size=6)
    assert (spliced[1:], unembedded[1:]) == ([2], [3]), "the columns are equal"
    monkeypatch.setattr(reconstruction, "_same", lambda *args: False)
    pd.testing.assert_frame_equal(
        values(lively.model, lively.sae, lively.tokens, batch_size=6), plain, rtol=1e-6
    )


def test_a_model_without_tokenizer_has_its_bos_in_the_first_column(lively):
    model = copy.copy(lively.model)
    model.tokenizer = None
    tokens = lively.tokens.clone()
    tokens[:, 0] = 9
    tokens[2, 5] = 1
    assert values(model, lively.sae, tokens)["without_bos"]["tokens"] == 6 * 19


def test_nothing_but_bos_is_nan(lively):
    ours = values(lively.model, lively.sae, torch.ones(2, 5, dtype=torch.long))
    counts = ours.loc[["tokens", "predictions"]]
    assert counts["with_bos"].tolist() == [10, 8] and counts["without_bos"].tolist() == [0, 0]
    assert ours["without_bos"].drop(["tokens", "predictions"]).astype(float).isna().all()
    assert ours["with_bos"].astype(float).notna().all()


def test_one_token_without_bos_has_no_variance_and_no_prediction(lively):
    ours = values(lively.model, lively.sae, [[1, 77]])["without_bos"].astype(float)
    assert ours["tokens"] == 1 and ours["l0"] > 0 and ours["mse_per_token"] > 0
    for name in (
        "ce_loss_clean",
        "kl_div_spliced",
        "ce_loss_score",
        "variance_explained",
        "variance_explained_legacy",
    ):
        assert math.isnan(ours[name]), name


def test_the_table_says_what_it_shows(lively):
    ours = values(lively.model, lively.sae, lively.tokens)
    assert list(ours.columns) == COLUMNS and ours.index.name == "metric"
    assert (ours["formula"].str.len() > 5).all() and (ours["unit"].str.len() > 0).all()
    assert (ours["source"].drop(["tokens", "predictions"]).str.len() > 5).all()


BAD = {
    "one token": (lambda t: {"tokens": t.tokens[:, :1]}, ValueError, "rows have one token"),
    "mask alone": (
        lambda t: {"mask": torch.arange(20).expand(6, 20) % 2 == 0},
        ValueError,
        "no two neighbouring tokens",
    ),
    "mask shape": (
        lambda t: {"mask": torch.ones(6, 19, dtype=torch.bool)},
        ValueError,
        r"mask has shape \(6, 19\)",
    ),
    "batch size": (lambda t: {"batch_size": 0}, ValueError, "batch_size is 0"),
    "unknown hook": (
        lambda t: {"hook": "blocks.0.mlp.hook_psot"},
        UnknownNameError,
        "Did you mean 'blocks.0.mlp.hook_post'",
    ),
    "wrong width": (
        lambda t: {"hook": RESID},
        HookError,
        "blocks.0.hook_resid_post is 16 wide, but this SAE reads 24",
    ),
    "no hook": (lambda t: {"sae": IDENTITY}, HookError, "does not say which hook"),
    "decoder": (
        lambda t: {"sae": with_weights(t.sae, W_dec=lambda w: w[7].fill_(math.nan))},
        ValueError,
        "the SAE's reconstructions at",
    ),
    "unembedding": (
        lambda t: {"model": with_weights(t.model, unembed__W_U=lambda w: w[:1].fill_(math.nan))},
        ValueError,
        "losses hold",
    ),
    "no effect": (
        lambda t: {"model": with_weights(t.model, blocks__0__mlp__W_out=lambda w: w.zero_())},
        ValueError,
        "ablating this hook changes nothing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(tiny, case):
    change, error, words = BAD[case]
    arguments = {"model": tiny.model, "sae": tiny.sae, "tokens": tiny.tokens, **change(tiny)}
    model, sae, tokens = (arguments.pop(name) for name in ("model", "sae", "tokens"))
    with pytest.raises(error, match=words):
        reconstruction.reconstruction_metrics(model, sae, tokens, **arguments)
    assert hooks_are_clean(model)


def test_activations_that_do_not_vary(tiny):
    with pytest.raises(
        ValueError, match="activations at hook_embed are all alike.*give more tokens"
    ):
        reconstruction.reconstruction_metrics(
            tiny.model,
            PlainSAE(lambda x: x.new_zeros(len(x), 24), lambda f: f[:, :16], d_in=16),
            torch.full((2, 5), 7),
            hook="hook_embed",
        )


def slow_score(model, sae, tokens, hook, ablation, mask=None, keep=None):
    """Three tables of losses, three pooled means, and the score."""
    on = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    x = torch.stack(
        [model.run_with_cache(row[None], names_filter=hook)[1][hook][0] for row in tokens]
    )
    seen = [x[b, p] for b in range(len(tokens)) for p in range(tokens.shape[1]) if on[b, p]]
    baseline = sum(seen) / len(seen) if ablation == "mean" else torch.zeros_like(seen[0])
    features_kept = torch.ones(sae.W_dec.shape[0]) if keep is None else keep.float()

    def splice(token):
        return sae.decode(sae.encode(token[None]) * features_kept)[0]

    tables = [
        slow_losses(model, tokens),
        slow_losses(model, tokens, hook, splice, mask),
        slow_losses(model, tokens, hook, lambda token: baseline, mask),
    ]
    counted = [
        (b, p)
        for b in range(len(tokens))
        for p in range(tokens.shape[1] - 1)
        if on[b, p] and on[b, p + 1]
    ]
    clean, spliced, ablated = (
        sum(table[b][p] for b, p in counted) / len(counted) for table in tables
    )
    return tables, (clean, spliced, ablated), (ablated - spliced) / (ablated - clean), len(counted)


def assert_score_matches_slow(
    model, sae, tokens, *, hook=POST, ablation="zero", mask=None, keep=None
):
    tables, means, score, n = slow_score(model, sae, tokens, hook, ablation, mask, keep)
    ours = recons_score(
        model, sae, tokens, hook=hook, ablation=ablation, mask=mask, keep=keep, batch_size=4
    )
    np.testing.assert_allclose(ours.token_losses, tables, atol=2e-5)
    assert [ours.loss, ours.recons_loss, ours.ablated_loss] == pytest.approx(means, abs=5e-6)
    assert ours.score == pytest.approx(
        score, abs=1e-5 / abs(means[2] - means[0]) * (1 + abs(score))
    )
    assert (ours.n_tokens, ours.ablation, ours.hook) == (n, ablation, hook)
    assert hooks_are_clean(model)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_recons_score_against_the_slow_reference(lively, mask, ablation, masked, kept):
    keep = torch.arange(48) % 3 > 0 if kept else None
    assert_score_matches_slow(
        lively.model,
        lively.sae,
        lively.tokens,
        ablation=ablation,
        mask=mask if masked else None,
        keep=keep,
    )


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_recons_score_at_a_residual_hook(lively, mask, ablation):
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1), "jumprelu")
    assert_score_matches_slow(
        lively.model, sae, lively.tokens, hook=RESID, ablation=ablation, mask=mask
    )


def test_known_points_of_the_score(lively):
    perfect = recons_score(lively.model, IDENTITY, lively.tokens, hook=POST)
    assert (perfect.score, perfect.interval) == (1, (1, 1))
    ablating = recons_score(lively.model, NOTHING, lively.tokens, hook=POST)
    assert (ablating.score, ablating.interval) == (0, (0, 0))


def test_a_value_by_hand(tiny):
    """A model whose MLP alone knows the next token, at even odds: ln 2 nats; ln 4096 without.

    An SAE that keeps two of the four predicting positions recovers half.
    """
    state = {name: torch.zeros_like(value) for name, value in tiny.model.state_dict().items()}
    way = torch.tensor([1.0, -1.0]).repeat(8)
    state["blocks.0.mlp.b_in"] += 1
    state["blocks.0.mlp.W_out"] += 100 * way
    state["unembed.W_U"][:, 7] = way / 16 * math.log(4095)
    model = models.neel_model_shell(tiny.config)
    model.load_state_dict(state)
    half = PlainSAE(lambda x: x, lambda x: x * (torch.arange(len(x)) % 5 < 2)[:, None])
    result = recons_score(model, half, torch.full((3, 5), 7), hook=POST)
    assert result.loss == pytest.approx(math.log(2), abs=1e-5)
    assert result.ablated_loss == pytest.approx(math.log(4096), abs=1e-5)
    assert result.score == pytest.approx(0.5, abs=1e-5)


@settings(max_examples=15, deadline=None, database=None)
@given(data=st.data(), batch_size=st.integers(1, 8), ablation=st.sampled_from(["zero", "mean"]))
def test_batches_and_row_order_do_not_change_the_score(lively, mask, data, batch_size, ablation):
    order = data.draw(st.permutations(range(6)))
    whole = recons_score(lively.model, lively.sae, lively.tokens, ablation=ablation, mask=mask)
    parts = recons_score(
        lively.model,
        lively.sae,
        lively.tokens[order],
        ablation=ablation,
        mask=mask[order],
        batch_size=batch_size,
    )
    for name in ("loss", "recons_loss", "ablated_loss", "score"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-5)
    assert parts.n_tokens == whole.n_tokens
    torch.testing.assert_close(parts.token_losses, whole.token_losses[:, order], rtol=0, atol=2e-5)


def test_keep_all_is_no_keep_and_keep_counts(lively):
    def loss(keep=None):
        return recons_score(lively.model, lively.sae, lively.tokens, keep=keep).recons_loss

    everything = torch.ones(48, dtype=torch.bool)
    half = torch.arange(48) >= 24
    assert loss(everything) == loss()
    assert abs(loss(half) - loss()) > 0.01


def test_interval(lively):
    def interval(tokens, **options):
        return recons_score(lively.model, lively.sae, tokens, **options).interval

    low, high = interval(lively.tokens)
    assert low < recons_score(lively.model, lively.sae, lively.tokens).score < high
    assert interval(lively.tokens) == (low, high) != interval(lively.tokens, seed=1)
    one_row = torch.arange(6)[:, None].expand(6, 20) == 2
    assert np.isnan(interval(lively.tokens[:1])).all()
    assert np.isnan(interval(lively.tokens, mask=one_row)).all(), "the other rows count nothing"


def test_token_losses_shape_dtype_and_repr(lively):
    result = recons_score(lively.model, lively.sae, lively.tokens.tolist())
    assert (result.token_losses.shape, result.token_losses.dtype) == ((3, 6, 19), torch.float32)
    assert f"{result.score:.2%}" in repr(result) and "zero-ablated; 114 predictions" in repr(result)


@pytest.mark.parametrize("reshapes", [True, False])
def test_recons_score_at_the_heads(lively, reshapes):
    """Heads count as one axis, whether or not the SAE puts them together itself."""
    hook = "blocks.0.attn.hook_z"
    flat = random_sae(16, 32, hook, torch.Generator().manual_seed(9))
    sae = copy.deepcopy(flat)
    if reshapes:
        sae.cfg.reshape_activations = "hook_z"
        sae.turn_on_forward_pass_hook_z_reshaping()
    x = forward.activations(lively.model, lively.tokens, hook)
    together = flat.decode(flat.encode(x.flatten(2))).reshape(x.shape)
    spliced = slow_losses(
        lively.model,
        lively.tokens[:1],
        hook,
        lambda token: flat.decode(flat.encode(token.reshape(1, 16))).reshape(2, 8),
    )
    torch.testing.assert_close(Encoder(sae).reconstruct(x).x_hat, together, rtol=0, atol=1e-5)
    ours = recons_score(lively.model, sae, lively.tokens, ablation="mean")
    np.testing.assert_allclose(ours.token_losses[1, :1], spliced, atol=2e-5)


@pytest.mark.parametrize(
    ("hook", "width"),
    [(POST, 64), ("blocks.1.mlp.hook_post", 64), (RESID, 16), ("blocks.0.hook_out", 16)],
)
def test_bridged_recons_score(gpt2_bridge, tiny, hook, width):
    sae = random_sae(width, 40, hook, torch.Generator().manual_seed(4))
    assert forward.activations(gpt2_bridge, tiny.tokens, hook).shape == (6, 20, width)
    assert_score_matches_slow(gpt2_bridge, sae, tiny.tokens, hook=hook, ablation="mean")


def test_decoder_or_unembedding_that_is_not_finite(tiny):
    sae = with_weights(tiny.sae, W_dec=lambda w: w[7].fill_(math.nan))
    with pytest.raises(ValueError, match="losses hold"):
        recons_score(tiny.model, sae, tiny.tokens)
    with pytest.raises(ValueError, match="losses hold"):
        recons_score(
            with_weights(tiny.model, unembed__W_U=lambda w: w[:1].fill_(math.nan)),
            tiny.sae,
            tiny.tokens,
        )


RECONS = {
    "ablation": (
        dict(ablation="noise"),
        ValueError,
        "ablation is 'noise'; give one of 'zero', 'mean'",
    ),
    "mask dtype": (dict(mask=torch.ones(6, 20)), ValueError, "mask is torch.float32; give bool"),
    "mask shape": (
        dict(mask=torch.ones(6, 19, dtype=torch.bool)),
        ValueError,
        r"mask has shape \(6, 19\); it must have \(6, 20\)",
    ),
    "mask empty": (
        dict(mask=torch.zeros(6, 20, dtype=torch.bool)),
        ValueError,
        "mask is False everywhere",
    ),
    "mask alone": (
        dict(mask=torch.arange(20).expand(6, 20) % 2 == 0),
        ValueError,
        "no two neighbouring tokens",
    ),
    "keep dtype": (dict(keep=torch.arange(48)), ValueError, "keep is torch.int64; give bool"),
    "keep shape": (
        dict(keep=torch.ones(47, dtype=torch.bool)),
        ValueError,
        r"keep has shape \(47,\); it must have \(48,\)",
    ),
    "batch size": (
        dict(batch_size=0),
        ValueError,
        "batch_size is 0; give a whole number of at least 1",
    ),
    "batch fraction": (dict(batch_size=2.5), ValueError, "batch_size is 2.5"),
    "unknown hook": (
        dict(hook="blocks.0.mlp.hook_psot"),
        UnknownNameError,
        "Did you mean 'blocks.0.mlp.hook_post'",
    ),
    "wrong width": (
        dict(hook=RESID),
        HookError,
        "blocks.0.hook_resid_post is 16 wide, but this SAE reads 24",
    ),
}


@pytest.mark.parametrize("case", RECONS)
def test_bad_arguments_of_recons_score(tiny, case):
    change, error, words = RECONS[case]
    with pytest.raises(error, match=words):
        recons_score(tiny.model, tiny.sae, tiny.tokens, **change)
    assert hooks_are_clean(tiny.model)


def test_no_next_token(tiny):
    with pytest.raises(ValueError, match="rows have one token"):
        recons_score(tiny.model, tiny.sae, tiny.tokens[:, :1])


def test_ablation_that_changes_nothing(tiny):
    deaf = with_weights(tiny.model, blocks__0__mlp__W_out=lambda w: w.zero_())
    with pytest.raises(ValueError, match="ablated loss equals the clean loss .* changes nothing"):
        recons_score(deaf, tiny.sae, tiny.tokens)


def test_an_sae_that_fails_leaves_no_hooks(tiny):
    def fail(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        recons_score(tiny.model, PlainSAE(fail, fail), tiny.tokens, hook=POST)
    assert hooks_are_clean(tiny.model)


def test_an_sae_without_a_hook(tiny):
    with pytest.raises(HookError, match="does not say which hook .* give hook="):
        recons_score(tiny.model, IDENTITY, tiny.tokens)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("hook", [POST, RESID])
def test_several_saes_have_the_scores_that_each_has_alone(lively, mask, hook, masked, ablation):
    d_in = 24 if hook == POST else 16
    generator = torch.Generator().manual_seed(5)
    saes = {name: random_sae(d_in, d, hook, generator) for name, d in (("a", 48), ("b", 20))}
    if hook == POST:
        saes["identity"] = IDENTITY
    how = {"hook": hook, "ablation": ablation, "mask": mask if masked else None}
    how |= {"seed": 3, "batch_size": 4, "progress": False}
    together = recons_scores(lively.model, saes, lively.tokens, **how)
    assert list(together) == list(saes)
    for name, sae in saes.items():
        alone = recons_score(lively.model, sae, lively.tokens, **how)
        torch.testing.assert_close(
            together[name].token_losses, alone.token_losses, rtol=0, atol=1e-5
        )
        assert together[name].score == pytest.approx(alone.score, abs=1e-4)
        assert together[name].interval == pytest.approx(alone.interval, abs=1e-3)
        own = (alone.n_tokens, alone.ablation, alone.hook)
        assert (together[name].n_tokens, together[name].ablation, together[name].hook) == own
    assert together["a"].recons_loss != together["b"].recons_loss
    if hook == POST:
        assert together["identity"].score == pytest.approx(1, abs=1e-4)


def test_clean_and_ablated_losses_are_computed_once(lively, monkeypatch):
    n_states = []
    losses_of = reconstruction.next_token_losses

    def counted(model, states, targets):
        n_states.append(len(states))
        return losses_of(model, states, targets)

    monkeypatch.setattr(reconstruction, "next_token_losses", counted)
    saes = dict.fromkeys("abc", lively.sae)
    recons_scores(lively.model, saes, lively.tokens, progress=False)
    assert n_states == [5]


@pytest.mark.parametrize(
    ("saes", "words"),
    [({}, "saes is {}; give one or more"), (None, "saes is None"), ("an SAE", "saes is a list")],
)
def test_no_saes(lively, saes, words):
    saes = [lively.sae] if saes == "an SAE" else saes
    with pytest.raises(ValueError, match=f"{words}.*SAEs by name"):
        recons_scores(lively.model, saes, lively.tokens)


def test_saes_of_different_hooks_are_not_scored_together(lively):
    generator = torch.Generator().manual_seed(5)
    saes = {"ours": lively.sae, "theirs": random_sae(16, 32, RESID, generator)}
    words = (
        f"ours reads {POST} and writes {POST}, but theirs reads {RESID} and writes {RESID}; give "
        "SAEs of one hook, or call recons_score for each"
    )
    with pytest.raises(HookError, match=words):
        recons_scores(lively.model, saes, lively.tokens)


def test_saes_that_begin_a_text_differently_are_not_scored_together(lively):
    generator = torch.Generator().manual_seed(5)
    saes = {name: random_sae(24, 48, POST, generator) for name in "ab"}
    for sae, prepends in zip(saes.values(), (True, False)):
        sae.cfg.metadata.prepend_bos = prepends
    with pytest.raises(ValueError, match="rows begin with BOS, and others' do not .*give tokens"):
        recons_scores(lively.model, saes, "a sum of two")
    assert len(recons_scores(lively.model, saes, lively.tokens, progress=False)) == 2


def test_a_score_without_a_meaning_is_warned_of(lively):
    backwards = copy.deepcopy(lively.model)
    backwards.unembed.W_U.mul_(-1)  # the likely tokens become the unlikely ones
    with pytest.warns(UserWarning, match="has no meaning here: the model's own loss") as caught:
        score = recons_score(backwards, lively.sae, lively.tokens, progress=False)
    assert score.loss >= score.ablated_loss
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="has no meaning here") as caught:
        recons_scores(backwards, dict.fromkeys("ab", lively.sae), lively.tokens, progress=False)
    assert [warning.filename for warning in caught] == [__file__]  # once for all
    with pytest.warns(UserWarning, match="zero ablation at blocks.0.mlp.hook_post") as caught:
        reconstruction.reconstruction_metrics(backwards, lively.sae, lively.tokens, progress=False)
    assert {warning.filename for warning in caught} == {__file__}
