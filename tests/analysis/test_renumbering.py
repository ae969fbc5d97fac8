"""A permutation against plain indexing, and an SAE of some features against the whole one.

That training continues unchanged is tested with the study of feature ordering.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import draw, random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import GatedSAE, GatedSAEConfig
from stand_ins import top_k_sae

import saework
from saework import permute_features, select_features

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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    d_in=st.integers(1, 12),
    d_sae=st.integers(3, 24),
    architecture=st.sampled_from(["standard", "jumprelu"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_permutation_renumbers_features_and_leaves_the_reconstruction(
    seed, d_in, d_sae, architecture, dtype
):
    generator = torch.Generator().manual_seed(seed)
    sae = random_sae(d_in, d_sae, "h", generator, architecture).to(dtype)
    sae.b_dec.data += 1  # d_in may equal d_sae: b_dec must stay where it is
    x, order = (
        torch.randn(7, d_in, generator=generator).to(dtype),
        torch.randperm(d_sae, generator=generator),
    )
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    features, x_hat = sae.encode(x), sae.decode(sae.encode(x))
    assert permute_features(sae, order) is sae
    slack = 64 * torch.finfo(dtype).eps * (1 + features.abs().sum() * sae.W_dec.abs().max())
    assert torch.allclose(
        sae.encode(x),
        features[:, order],
        atol=float(64 * torch.finfo(dtype).eps * (1 + features.abs().max())),
    )
    assert (sae.decode(features[:, order]) - x_hat).abs().max() <= slack
    assert (
        torch.equal(sae.b_dec, before["b_dec"])
        and torch.equal(sae.W_dec, before["W_dec"][order])
        and torch.equal(sae.W_enc, before["W_enc"][:, order])
    )
    permute_features(sae, order.argsort())
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items()), (
        "and back, to the bit"
    )


def test_gradients_move_with_the_features():
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    sae.W_enc.requires_grad_(True).grad = torch.arange(24.0).reshape(4, 6)
    permute_features(sae, torch.tensor([5, 4, 3, 2, 1, 0]))
    assert torch.equal(sae.W_enc.grad, torch.arange(24.0).reshape(4, 6).flip(1))


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [0.0, 1, 2, 3, 4, 5], [True] * 6]
)
def test_what_is_no_permutation_is_refused(order):
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    before = sae.W_enc.clone()
    with pytest.raises(
        ValueError, match=r"no permutation; give each of 0\.\.5 once, such as rates\.argsort"
    ):
        permute_features(sae, order)
    assert torch.equal(sae.W_enc, before)


def test_an_unknown_parameter_or_state_is_refused_before_anything_moves():
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    sae.requires_grad_(True)
    optimizer = torch.optim.Adafactor(sae.parameters())
    sae.encode(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    before = sae.W_enc.detach().clone()
    with pytest.raises(
        ValueError,
        match="'row_var' of W_enc has shape .* use an optimiser with one value per weight",
    ):
        permute_features(sae, torch.arange(5, -1, -1), optimizer=optimizer)
    sae.extra = torch.nn.Parameter(torch.ones(6))
    with pytest.raises(
        ValueError,
        match="which axis of 'extra' counts the features is not known .*add it to "
        "saework.analysis.renumbering.FEATURE_AXIS",
    ):
        permute_features(sae, torch.arange(5, -1, -1))
    assert torch.equal(sae.W_enc, before)


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


def test_an_object_of_ones_own_is_refused(tiny):
    own = SimpleNamespace(W_enc=tiny.sae.W_enc, W_dec=tiny.sae.W_dec)
    with pytest.raises(ValueError, match="no torch module.*columns of W_enc, rows of W_dec"):
        permute_features(own, torch.arange(48))
    with pytest.raises(ValueError, match="no cfg of sae_lens.*give a sae_lens.SAE"):
        select_features(own, [3])


def test_an_sae_with_steps_of_its_own_is_not_made_smaller(tiny):
    """Its weights alone do not say what it computes."""

    class Doubled(type(tiny.sae)):
        def encode(self, x):
            return 2 * super().encode(x)

    doubled = Doubled(tiny.sae.cfg)
    replaced, other_activation = copy.deepcopy(tiny.sae), copy.deepcopy(tiny.sae)
    replaced.encode = lambda x: 2 * tiny.sae.encode(x)
    other_activation.activation_fn = torch.nn.GELU()
    for sae in (doubled, replaced, other_activation):
        with pytest.raises(ValueError, match="activation function of its own.*; use the whole SAE"):
            select_features(sae, [3])
