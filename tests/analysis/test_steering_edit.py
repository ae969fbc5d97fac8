"""The edit by itself: what is set, in which direction, in which precision, and at which hooks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import draw, random_sae
from sae_lens import StandardSAE, StandardSAEConfig
from stand_ins import must_not_run

from saework.analysis.steering import steer
from saework.analysis.steering_edit import steering_hooks

FEATURE, N_NEW = 7, 6
SAE = random_sae(16, 40, "blocks.1.hook_resid_pre", torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def prompt(tiny):
    return tiny.tokens[:1, :6]


def edited(x, sae=SAE, feature=FEATURE, **edit):
    ((_, function),) = steering_hooks(None, sae, feature, **edit)
    return function(x, hook=None)


@pytest.mark.parametrize("error_term", [True, False])
def test_clamping_sets_the_feature(error_term):
    """With an orthonormal dictionary the SAE reads back what was set, where the feature was on."""
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    sae = SimpleNamespace(
        encode=lambda x: (x @ basis).relu(),
        decode=lambda f: f @ basis.T,
        W_enc=basis,
        W_dec=basis.T,
    )
    x = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(1))
    before = sae.encode(x)[0]
    after = sae.encode(
        edited(x, sae, strength=2.5, mode="clamp", error_term=error_term, hook="any")
    )[0]
    on = before[:, FEATURE] > 0
    assert 10 < on.sum() < 40
    torch.testing.assert_close(
        after[on, FEATURE], torch.full((int(on.sum()),), 2.5), rtol=0, atol=1e-5
    )
    others = torch.arange(16) != FEATURE
    torch.testing.assert_close(after[:, others], before[:, others], rtol=0, atol=1e-5)
    if not error_term:  # nothing is left of what the feature was negative by
        torch.testing.assert_close(after[:, FEATURE], torch.full((50,), 2.5), rtol=0, atol=1e-5)


def test_adding_with_the_error_term_encodes_nothing():
    blind = SimpleNamespace(W_dec=SAE.W_dec, encode=must_not_run, decode=must_not_run)
    x = torch.randn(1, 5, 16)
    assert torch.equal(edited(x, blind, strength=-2, hook="any"), x - 2 * SAE.W_dec[FEATURE])


def test_the_edit_is_made_in_the_saes_precision_and_given_back_in_the_models():
    x = torch.randn(1, 5, 16).bfloat16()
    ours = edited(x, strength=3)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, (x.float() + 3 * SAE.W_dec[FEATURE]).bfloat16())
    assert torch.equal(edited(x, strength=0), x)


def direction_of(**edit):
    return edited(torch.zeros(1, 1, 16), strength=1.0, **edit)[0, 0]


def test_the_random_direction_has_the_features_norm_and_depends_on_the_seed_only():
    first, again, other = (direction_of(direction="random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    for drawn in (first, other):
        assert drawn.norm().item() == pytest.approx(SAE.W_dec[FEATURE].norm().item(), rel=1e-6)
    assert abs(torch.cosine_similarity(first, other, dim=0)) < 0.9
    elsewhere = direction_of(direction="random", feature=8)
    assert (
        elsewhere.norm().item()
        == pytest.approx(SAE.W_dec[8].norm().item(), rel=1e-6)
        != pytest.approx(first.norm().item(), rel=1e-3)
    )
    torch.testing.assert_close(elsewhere / elsewhere.norm(), first / first.norm())
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert torch.equal(direction_of(direction="random"), first)
        assert torch.initial_seed() == 123


def test_a_direction_that_is_given_is_taken_as_it_is(llama_bridge, prompt):
    given = torch.arange(16.0) / 10
    assert torch.equal(direction_of(direction=given), given)
    x = torch.randn(1, 5, 16)
    amount = 2.0 - SAE.encode(x)[..., FEATURE, None]
    torch.testing.assert_close(
        edited(x, direction=given, strength=2.0, mode="clamp"), x + amount * given
    )
    twin = steer(
        llama_bridge,
        SAE,
        prompt,
        FEATURE,
        strength=3.0,
        direction=SAE.W_dec[FEATURE].double(),
        max_new_tokens=N_NEW,
    )
    own = steer(llama_bridge, SAE, prompt, FEATURE, strength=3.0, max_new_tokens=N_NEW)
    other = steer(
        llama_bridge,
        SAE,
        prompt,
        FEATURE,
        strength=3.0,
        direction="random",
        seed=4,
        max_new_tokens=N_NEW,
    )
    assert torch.equal(twin.kl_by_position, own.kl_by_position) and not torch.equal(
        other.kl_by_position, own.kl_by_position
    )
    assert (own.direction, other.direction, twin.direction) == (
        "feature",
        "random (seed 4)",
        "given",
    )


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.1.hook_resid_pre", 1),
        ("blocks.1.hook_in", 1),
        ("blocks.0.hook_resid_post", 1),
        ("blocks.0.hook_out", 1),
    ],
)
def test_the_published_site_reads_a_layers_input_and_writes_its_output(llama_bridge, hook, layer):
    hooks = steering_hooks(llama_bridge, SAE, FEATURE, strength=1.0, site="published", hook=hook)
    (reads, read), (writes, write) = hooks
    assert (reads, writes) == (hook, f"blocks.{layer}.hook_out")
    x = torch.randn(1, 3, 16)
    assert write(x, None) is None, "nothing was read yet"
    assert read(x, None) is None
    assert torch.equal(write(2 * x, None), x + SAE.W_dec[FEATURE])
    assert write(x, None) is None, "what was read is written once"


def test_the_edit_has_a_short_name():
    """TransformerLens takes the repr of each hook, and that of an SAE's weights takes long."""
    ((_, function),) = steering_hooks(None, SAE, FEATURE, strength=1.0)
    assert len(repr(function)) < 100


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
def test_clamping_where_each_token_is_rescaled(tiny, scaling):
    config = StandardSAEConfig(d_in=24, d_sae=48, normalize_activations=scaling)
    sae = StandardSAE(config)
    sae.load_state_dict(tiny.sae.state_dict())
    x = draw(2, 3, 24)
    features = sae.encode(x)
    before = sae.decode(features)
    clamped = features.clone()
    clamped[..., 7] = 5.0
    sae.encode(x)  # decoding needs the scale that it leaves
    expected = x + sae.decode(clamped) - before
    ((_, edit),) = steering_hooks(tiny.model, sae, 7, strength=5.0, mode="clamp", hook=tiny.hook)
    torch.testing.assert_close(edit(x), expected, rtol=1e-4, atol=1e-5)
