"""One feature on one text against the whole encoding; its direct path against the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_sae
from stand_ins import NAN, POST, RESID, PlainSAE, with_weights

from saework.analysis import features
from saework.core.errors import HookError
from saework.engine import forward
from saework.loading import models


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "plain"])
def test_feature_activations(tiny, architecture):
    sae = random_sae(
        24,
        48,
        POST,
        torch.Generator().manual_seed(2),
        architecture if architecture != "plain" else "standard",
    )
    given = PlainSAE(sae.encode, sae.decode, d_sae=48) if architecture == "plain" else sae
    every = sae.encode(forward.activations(tiny.model, tiny.tokens, POST))
    assert 0.05 < (every > 0).float().mean() < 0.95
    for feature in range(48):
        ours = features.feature_activations(tiny.model, given, tiny.tokens, feature, hook=POST)
        torch.testing.assert_close(ours, every[..., feature], rtol=0, atol=1e-5)
        assert torch.equal(ours > 0, every[..., feature] > 0)


def test_feature_activations_shapes(tiny):
    def shape(tokens):
        return tuple(features.feature_activations(tiny.model, tiny.sae, tokens, 7).shape)

    assert shape(tiny.tokens) == (6, 20) and shape(tiny.tokens[:1]) == (1, 20)
    assert shape(tiny.tokens[0]) == (20,) and shape([1, 5, 6]) == (3,)
    assert shape("two words") == (tiny.model.to_tokens("two words").shape[1],)


@pytest.mark.parametrize("pos", [-20, -3, -1, 0, 11, 19])
def test_active_features(tiny, pos):
    values = tiny.sae.encode(forward.activations(tiny.model, tiny.tokens[:1], POST))[0, pos]
    slow = sorted(((-value, index) for index, value in enumerate(values.tolist()) if value > 0))
    frame = features.active_features(tiny.model, tiny.sae, tiny.tokens[0], pos=pos, n=48)
    assert frame["index"].tolist() == [index for _, index in slow]
    np.testing.assert_allclose(frame["value"], [-value for value, _ in slow], atol=1e-5)
    assert features.active_features(tiny.model, tiny.sae, tiny.tokens[0], pos=pos, n=3).equals(
        frame[:3]
    )


def test_active_features_of_either_sign_are_ranked_by_size(tiny):
    values = torch.tensor([0.5, -3.0, 0.0, 2.0, -0.1])
    either = PlainSAE(lambda x: values.expand(1, 1, 5), None, d_sae=5)
    frame = features.active_features(tiny.model, either, "text", hook=POST)
    assert frame["index"].tolist() == [1, 3, 0, 4]
    assert frame["value"].tolist() == pytest.approx([-3.0, 2.0, 0.5, -0.1])


def test_active_features_ties_go_by_index(tiny):
    twins = PlainSAE(lambda x: torch.ones(*x.shape[:-1], 48), None, d_sae=48)
    assert features.active_features(tiny.model, twins, "text", hook=POST)["index"].tolist() == list(
        range(10)
    )


@pytest.mark.parametrize("hook", [POST, RESID])
@pytest.mark.parametrize("processed", [True, False])
def test_logit_effect_is_what_the_logits_do(tiny, hook, processed):
    """Adding a feature moves the logits by ``logit_effect`` over the final norm's (held) scale."""
    sae = tiny.sae if hook == POST else random_sae(16, 32, RESID, torch.Generator().manual_seed(3))
    model = tiny.model if processed else unprocessed(tiny)
    clean, cache = model.run_with_cache(tiny.tokens[:1])
    scale = cache["ln_final.hook_scale"]
    edits = [
        (hook, lambda x, hook: x + sae.W_dec[5]),
        ("ln_final.hook_scale", lambda x, hook: scale),
    ]
    moved = (model.run_with_hooks(tiny.tokens[:1], fwd_hooks=edits) - clean)[0, -1] * scale[0, -1]
    ours = features.logit_effect(model, sae, 5, hook=hook)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, moved, rtol=0, atol=1e-4)


def test_logit_effect_is_the_published_formula(tiny):
    ours = features.logit_effect(tiny.model, tiny.sae, 5)
    torch.testing.assert_close(
        ours, tiny.sae.W_dec[5] @ tiny.model.W_out[0] @ tiny.model.W_U, rtol=0, atol=1e-5
    )


def test_logit_effect_of_several_features(tiny):
    several = features.logit_effect(tiny.model, tiny.sae, [5, 0, 5])
    for row, feature in zip(several, (5, 0, 5)):
        one = features.logit_effect(tiny.model, tiny.sae, feature)
        torch.testing.assert_close(row, one, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="feature 99 does not exist"):
        features.logit_effect(tiny.model, tiny.sae, [5, 99])


def test_logit_effect_does_not_depend_on_folding(tiny):
    """Folding also centres the logits, so they agree up to a constant over the vocabulary."""
    difference = features.logit_effect(tiny.model, tiny.sae, 5) - features.logit_effect(
        unprocessed(tiny), tiny.sae, 5
    )
    assert difference.std() < 1e-5
    assert (tiny.model.W_U - unprocessed(tiny).W_U).std() > 0.1, "nothing was folded"


def unprocessed(tiny):
    model = models.neel_model_shell(tiny.config, processed=False)
    model.load_state_dict({**model.state_dict(), **tiny.state})
    return model.eval().requires_grad_(False)


def test_bridged_logit_effect(gpt2, gpt2_bridge, gemma2, gemma2_bridge):
    """By the final norm's own formula: LayerNorm centres, Gemma's multiplies by 1 + weight."""
    hook = "blocks.1.hook_resid_post"
    sae = random_sae(16, 32, hook, torch.Generator().manual_seed(5))
    centred = (sae.W_dec[3] - sae.W_dec[3].mean()) * gpt2.transformer.ln_f.weight
    torch.testing.assert_close(
        features.logit_effect(gpt2_bridge, sae, 3), gpt2.lm_head.weight @ centred, rtol=0, atol=1e-5
    )
    scaled = sae.W_dec[3] * (1 + gemma2.model.norm.weight)
    torch.testing.assert_close(
        features.logit_effect(gemma2_bridge, sae, 3),
        gemma2.lm_head.weight @ scaled,
        rtol=0,
        atol=1e-5,
    )


def unscaled(norm, direction):
    """What a Hugging Face norm makes of a direction, times the scale that it divided by."""
    return norm(direction) * (direction.pow(2).mean() + 1e-6).sqrt()


MLP, POST_MLP, POST_ATTN = "mlp.down_proj", "post_feedforward_layernorm", "post_attention_layernorm"
GEMMA_PATHS = {  # from a hook to the residual stream, by Hugging Face's own modules of the block
    "blocks.1.mlp.hook_post": (MLP, POST_MLP),
    "blocks.1.mlp.out.hook_in": (MLP, POST_MLP),
    "blocks.1.mlp.hook_out": (POST_MLP,),
    "blocks.1.attn.hook_out": (POST_ATTN,),
    "blocks.1.hook_mlp_out": (),
    "blocks.1.ln1_post.hook_out": (),
    "blocks.1.hook_resid_mid": (),
    "blocks.0.hook_out": (),
    "embed.hook_out": (),
}


@pytest.mark.parametrize("hook", GEMMA_PATHS)
def test_logit_effect_goes_through_gemmas_norms(gemma2, gemma2_bridge, hook):
    path = GEMMA_PATHS[hook]
    sae = random_sae(24 if MLP in path else 16, 32, hook, torch.Generator().manual_seed(6))
    direction = sae.W_dec[3]
    for name in path:
        module = gemma2.model.layers[1].get_submodule(name)
        direction = module(direction) if name == MLP else unscaled(module, direction)
    expected = gemma2.lm_head(unscaled(gemma2.model.norm, direction))
    assert expected.std() > 0.1
    torch.testing.assert_close(
        features.logit_effect(gemma2_bridge, sae, 3), expected, rtol=1e-5, atol=1e-5
    )


def test_gemmas_norm_comes_between_the_mlp_and_the_residual_stream(gemma2, gemma2_bridge, tiny):
    inside, outside = (
        forward.activations(gemma2_bridge, tiny.tokens, f"blocks.1.{name}")
        for name in ("mlp.hook_out", "hook_mlp_out")
    )
    torch.testing.assert_close(
        gemma2.model.layers[1].post_feedforward_layernorm(inside), outside, rtol=0, atol=1e-5
    )
    assert (outside - inside).std() > 0.1


def test_logit_effect_of_a_hooked_gemma_is_what_the_logits_do(tiny):
    """The same norms under HookedTransformer, which stores whole weights; all scales held still."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {
        "d_model": 16,
        "n_layers": 1,
        "n_ctx": 32,
        "d_head": 8,
        "d_mlp": 24,
        "d_vocab": 50,
        "seed": 0,
    }
    config = HookedTransformerConfig(
        **sizes, act_fn="gelu", normalization_type="RMS", use_normalization_before_and_after=True
    )
    model = HookedTransformer(config)
    for name in ("blocks.0.ln2_post.w", "ln_final.w"):
        model.get_parameter(name).data.uniform_(0.5, 2)
    sae, tokens = random_sae(24, 32, POST, torch.Generator().manual_seed(7)), tiny.tokens[:1] % 50
    with torch.no_grad():
        clean, cache = model.run_with_cache(tokens)
        held = [
            (name, lambda x, hook, name=name: cache[name])
            for name in ("blocks.0.ln2_post.hook_scale", "ln_final.hook_scale")
        ]
        moved = (
            model.run_with_hooks(
                tokens, fwd_hooks=[(POST, lambda x, hook: x + sae.W_dec[5]), *held]
            )
            - clean
        )
    scales = cache["blocks.0.ln2_post.hook_scale"] * cache["ln_final.hook_scale"]
    ours = features.logit_effect(model, sae, 5)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, (moved * scales)[0, -1], rtol=0, atol=1e-4)


def test_logit_effect_on_a_llama(llama, llama_bridge):
    sae = random_sae(24, 32, "blocks.2.mlp.hook_post", torch.Generator().manual_seed(8))
    expected = llama.lm_head(
        unscaled(llama.model.norm, llama.model.layers[2].mlp.down_proj(sae.W_dec[3]))
    )
    torch.testing.assert_close(
        features.logit_effect(llama_bridge, sae, 3), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("hook", GEMMA_PATHS)
def test_token_effect_is_the_logit_effect_of_each_feature_through_gemmas_norms(gemma2_bridge, hook):
    sae = random_sae(
        gemma2_bridge.W_out.shape[1] if MLP in GEMMA_PATHS[hook] else 16,
        32,
        hook,
        torch.Generator().manual_seed(6),
    )
    each = torch.stack(
        [features.logit_effect(gemma2_bridge, sae, feature) for feature in range(32)]
    )
    for token in (0, 11, 4095):
        torch.testing.assert_close(
            features.token_effect(gemma2_bridge, sae, token), each[:, token], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("hook", [POST, RESID])
@pytest.mark.parametrize("processed", [True, False])
def test_token_effect_is_the_logit_effect_of_each_feature(tiny, hook, processed):
    sae = tiny.sae if hook == POST else random_sae(16, 32, RESID, torch.Generator().manual_seed(3))
    model = tiny.model if processed else unprocessed(tiny)
    each = torch.stack(
        [features.logit_effect(model, sae, feature, hook=hook) for feature in range(len(sae.W_dec))]
    )
    ours = features.token_effect(model, sae, 77, hook=hook)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, each[:, 77], rtol=0, atol=1e-4)


@pytest.mark.parametrize("token", [-1, 4096])
def test_a_token_that_does_not_exist(tiny, token):
    with pytest.raises(ValueError, match=rf"token {token} is out of the vocabulary \(0\.\.4095\)"):
        features.token_effect(tiny.model, tiny.sae, token)


def test_token_effect_has_no_path_from_inside_a_block(tiny):
    with pytest.raises(HookError, match="does not write to the residual stream"):
        features.token_effect(tiny.model, tiny.sae, 5, hook="blocks.0.attn.hook_q")


def test_a_decoder_that_is_not_finite(tiny):
    sae = with_weights(tiny.sae, W_dec=lambda w: w[7].fill_(NAN))
    with pytest.raises(ValueError, match="logit effect of feature 7 hold"):
        features.logit_effect(tiny.model, sae, 7)


@pytest.mark.parametrize("feature", [-1, 48, 1.5, True, None])
def test_bad_features(tiny, feature):
    for call in (
        lambda: features.feature_activations(tiny.model, tiny.sae, "text", feature),
        lambda: features.logit_effect(tiny.model, tiny.sae, feature),
    ):
        with pytest.raises(ValueError, match=rf"feature .*{feature}.*0\.\.47"):
            call()


def test_bad_arguments_of_active_features(tiny):
    for change, words in (
        (dict(pos=20), r"pos is 20; this text has 20 tokens, so give -20\.\.19"),
        (dict(pos=-21), "pos is -21"),
        (dict(n=0), "n is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            features.active_features(tiny.model, tiny.sae, tiny.tokens[0], **change)
    with pytest.raises(ValueError, match="6 rows were given"):
        features.active_features(tiny.model, tiny.sae, tiny.tokens)


@pytest.mark.parametrize(
    "hook",
    [
        "ln_final.hook_normalized",
        "blocks.0.ln1.hook_out",
        "blocks.0.attn.q.hook_out",
        "blocks.0.mlp.in.hook_out",
    ],
)
def test_hooks_without_a_direct_path(tiny, hook):
    with pytest.raises(
        HookError,
        match=f"{hook} does not write to the residual stream.*use an MLP, attention-output or ",
    ):
        features.logit_effect(tiny.model, tiny.sae, 0, hook=hook)
