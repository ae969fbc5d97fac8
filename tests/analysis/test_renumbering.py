"""An SAE of some features, against the whole one.

Renumbering is tested where training needs it, in the study of feature ordering.
"""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import draw, random_sae
from sae_lens import GatedSAE, GatedSAEConfig
from stand_ins import top_k_sae

import saework
from saework import select_features

HOOK = "blocks.0.mlp.hook_post"


def gated_sae():
    sae = GatedSAE(GatedSAEConfig(d_in=24, d_sae=48)).requires_grad_(False)
    for i, weights in enumerate(sae.parameters()):
        weights.copy_(draw(*weights.shape, seed=i))
    return sae


SAES = {
    name: random_sae(24, 48, HOOK, torch.Generator().manual_seed(3), name)
    for name in ("standard", "jumprelu")
} | {"gated": gated_sae()}


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_some_features_are_those_of_the_whole(name, dtype):
    sae = copy.deepcopy(SAES[name]).to(dtype=dtype)
    before, chosen = copy.deepcopy(sae.state_dict()), [40, 7, 21]
    small = select_features(sae, chosen)
    x = draw(30, 24).to(dtype)
    features = sae.encode(x)[:, chosen]
    torch.testing.assert_close(small.encode(x), features)
    torch.testing.assert_close(small.decode(features), features @ sae.W_dec[chosen] + sae.b_dec)
    assert (small.cfg.d_sae, small.cfg.metadata.hook_name, small.W_enc.dtype) == (
        3,
        sae.cfg.metadata.hook_name,
        dtype,
    )
    torch.testing.assert_close(
        sae.state_dict(),
        before,
        rtol=0,
        atol=0,
        msg=lambda words: f"the one given is no longer as it was: {words}",
    )


def test_a_scan_of_some_features(tiny):
    whole = saework.scan(tiny.model, tiny.sae, tiny.tokens, top_k=3)
    some = saework.scan(
        tiny.model, select_features(tiny.sae, torch.tensor([7, 20])), tiny.tokens, top_k=3
    )
    assert torch.equal(some.count, whole.count[[7, 20]]) and int(some.count.sum()) > 0
    assert torch.equal(some.top_positions, whole.top_positions[[7, 20]])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([48], "feature 48 does not exist; this SAE has features 0"),
        ([1, 1], "2 features are given, 1 of them different"),
        ([], "0 features are given"),
        ([0.5], "feature is 0.5; give a whole number"),
    ],
)
def test_bad_features(tiny, features, words):
    with pytest.raises(ValueError, match=words):
        select_features(tiny.sae, features)


def test_features_that_depend_on_each_other():
    with pytest.raises(
        ValueError, match="in a topk SAE whether a feature is on depends on the others"
    ):
        select_features(top_k_sae(), [1])
