"""The hook of an SAE, against the activations of each hook, and on the trained minis."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from conftest import random_sae
from stand_ins import POST, RESID, PlainSAE, hooks_are_clean, with_weights

from saework.analysis import sites
from saework.analysis.sites import find_site
from saework.core import formulas
from saework.core.errors import HookError
from saework.engine import forward

HEADS = "blocks.0.attn.hook_z"


def fitted(model, tokens, hook, rank):
    """A linear SAE of one site's leading directions (no BOS), which fits no other site as well."""
    x = forward.activations(model, tokens, hook).flatten(2)[tokens != 1]
    mean = x.mean(0)
    ways = torch.linalg.svd(x - mean, full_matrices=False)[2][:rank].T
    return PlainSAE(
        lambda x: (x - mean) @ ways, lambda f: f @ ways.T + mean, d_in=x.shape[1], d_sae=rank
    )


SITES = {
    "lively": (POST, RESID, "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out", HEADS),
    "gpt2_bridge": (
        "blocks.1.mlp.hook_post",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.1.attn.hook_z",
    ),
    "gemma2_bridge": (
        "blocks.0.mlp.hook_post",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_mlp_out",
    ),
    "llama_bridge": (
        "blocks.1.mlp.hook_post",
        "blocks.1.hook_resid_post",
        "blocks.2.hook_attn_out",
    ),
}


@pytest.mark.parametrize(
    ("name", "hook"), [(name, hook) for name, hooks in SITES.items() for hook in hooks]
)
def test_the_site_that_an_sae_was_fitted_to_comes_first(tiny, name, hook, request):
    model = (
        request.getfixturevalue("lively").model
        if name == "lively"
        else request.getfixturevalue(name)
    )
    sae = fitted(model, tiny.tokens, hook, rank=12)
    found = find_site(model, sae, tiny.tokens)
    assert found.loc[0, "hook"] == hook
    assert len(found) > 1 and found.loc[0, "unexplained"] < 0.95 * found.loc[1, "unexplained"]
    assert found["unexplained"].is_monotonic_increasing and list(found.index) == list(
        range(len(found))
    )
    assert hooks_are_clean(model)


@pytest.mark.parametrize("name", ["lively", "gpt2_bridge", "gemma2_bridge", "llama_bridge"])
def test_each_site_against_its_own_activations(tiny, mask, name, request):
    """Values by the plain formulas; names of one row are one place, those of two rows are not."""
    model = (
        request.getfixturevalue("lively").model
        if name == "lively"
        else request.getfixturevalue(name)
    )
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))
    found = find_site(model, sae, tiny.tokens, mask=mask)
    places = []
    for row in found.itertuples():
        names = row.names.split(", ")
        assert row.hook in names
        x, *others = (forward.activations(model, tiny.tokens, hook).flatten(2) for hook in names)
        assert all(torch.equal(x, other) for other in others)
        assert not any(torch.equal(x, other) for other in places)
        places.append(x)
        x = x[mask & (tiny.tokens != 1)]
        features = sae.encode(x)
        assert row.unexplained == pytest.approx(
            1 - formulas.variance_explained(x, sae.decode(features)), rel=1e-5
        )
        assert row.l0 == pytest.approx((features != 0).sum(-1).float().mean().item(), rel=1e-6)
    listed = [name for names in found["names"] for name in names.split(", ")]
    assert len(listed) == len(set(listed))
    for hook in (
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.0.hook_attn_out",
        HEADS,
        "unembed.hook_in",
    ):
        assert hook in listed


def test_names_of_one_place_share_a_row(gpt2_bridge, tiny):
    sae = random_sae(16, 32, "blocks.1.hook_resid_pre", torch.Generator().manual_seed(1))
    rows = find_site(gpt2_bridge, sae, tiny.tokens).set_index("hook")["names"]
    shared = {
        "blocks.0.hook_out",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_in",
        "blocks.1.hook_resid_pre",
        "blocks.1.ln1.hook_in",
    }
    assert shared <= set(rows["blocks.1.hook_resid_pre"].split(", ")), (
        "the SAE's own name stands for the row"
    )
    nameless = PlainSAE(sae.encode, sae.decode, d_in=16, d_sae=32)
    rows = find_site(gpt2_bridge, nameless, tiny.tokens).set_index("hook")["names"]
    assert shared <= set(rows["blocks.0.hook_resid_post"].split(", ")), "or else a usual name"


def test_sites_do_not_depend_on_batches(lively, monkeypatch):
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))
    whole = find_site(lively.model, sae, lively.tokens)
    monkeypatch.setattr(sites, "SITE_TOKENS", 40)
    pd.testing.assert_frame_equal(find_site(lively.model, sae, lively.tokens), whole, rtol=1e-5)


def test_rows_that_count_nothing_do_not_matter(lively, mask):
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))
    mask = mask.clone()
    mask[:2] = False
    alone = find_site(lively.model, sae, lively.tokens[2:], mask=mask[2:])
    pd.testing.assert_frame_equal(
        find_site(lively.model, sae, lively.tokens, mask=mask), alone, rtol=1e-5
    )


def test_sites_that_do_not_vary_are_left_out(tiny):
    sae = random_sae(16, 32, RESID, torch.Generator().manual_seed(1))

    def names(tokens):
        return ", ".join(find_site(tiny.model, sae, tokens)["names"])

    assert "hook_pos_embed" in names(tiny.tokens)
    assert "hook_pos_embed" not in names(tiny.tokens[:, :2]), "one position is left without BOS"


def test_an_sae_of_heads(lively):
    """One that puts heads together itself is read as one that does not."""
    sae = random_sae(16, 32, HEADS, torch.Generator().manual_seed(1))
    plain = find_site(lively.model, sae, lively.tokens)
    sae.cfg.reshape_activations = "hook_z"
    sae.turn_on_forward_pass_hook_z_reshaping()
    pd.testing.assert_frame_equal(find_site(lively.model, sae, lively.tokens), plain, rtol=1e-5)
    assert "blocks.0.attn.hook_z" in set(plain["hook"])


def test_what_bad_input_to_find_site_gets(tiny):
    narrow = PlainSAE(lambda x: x, lambda x: x, d_in=7, d_sae=7)
    with pytest.raises(
        HookError,
        match="no hook of this model is 7 wide, as the SAE needs; there are 1, 16, 24. Is it",
    ):
        find_site(tiny.model, narrow, tiny.tokens)
    for tokens, left in (([[1, 5]], 1), ([[1, 1]], 0)):
        with pytest.raises(
            ValueError,
            match=rf"{left} token\(s\) are left without BOS.*give more tokens, or unmask more",
        ):
            find_site(tiny.model, tiny.sae, tokens)
    with pytest.raises(ValueError, match="mask is False everywhere"):
        find_site(tiny.model, tiny.sae, tiny.tokens, mask=torch.zeros(6, 20, dtype=torch.bool))
    with pytest.raises(ValueError, match="activations at .* hold"):
        find_site(
            with_weights(tiny.model, blocks__0__mlp__b_in=lambda w: w[:1].fill_(math.nan)),
            tiny.sae,
            tiny.tokens,
        )
    assert hooks_are_clean(tiny.model)


@pytest.mark.parametrize("name", ["gelu-1l-mini", "gemma-mini", "llama-mini"])
def test_each_trained_sae_is_found_at_its_own_place(name):
    from saework import load
    from saework.loading.catalogue import release_named

    book = load(name, device="cpu", check=False)
    for sae_id in release_named(name).ids():
        own = book.with_sae(sae_id)
        sites = find_site(book.model, own.sae, book.tokens[:4])
        assert own.hook in sites.names[0].split(", "), f"{sae_id}: {sites.head(3)}"
        assert sites.unexplained[0] < sites.unexplained[1], sae_id


def test_an_sae_at_the_wrong_place_is_warned_of_with_the_ranking():
    import saework
    from saework.loading.self_check import self_check

    book = saework.load("llama-mini", device="cpu", n_tokens=1024, check=False)
    moved = saework.Workbook(
        book.model,
        book.sae,
        book.tokens,
        book.tokenizer,
        "blocks.0.hook_resid_pre",
        book.release,
        book.sae_id,
    )
    with pytest.warns(
        UserWarning, match=r"leave least unexplained: blocks\.2\.hook_resid_pre \(1\d%\), "
    ):
        self_check(moved)
