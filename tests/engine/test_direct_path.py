"""The direct path against what the logits of several families do, with the norms' scales held."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import draw, random_sae
from families import EXTRA, hugging_face_and_bridge

from saework.analysis.features import logit_effect
from saework.core.errors import HookError
from saework.engine.direct_path import direct_path

LAYER = 1
WIDTHS = {"mlp.hook_post": 24, "mlp.hook_out": 16, "attn.hook_out": 16, "hook_out": 16}


@pytest.fixture(scope="module")
def bridges(tiny, tmp_path_factory):
    made = {}

    def bridge(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = hugging_face_and_bridge(family, tiny, folder)[1]
        return made[family]

    return bridge


def scales_held(model, cache):
    """Hooks that leave the scale of every norm of the last block, and of the last norm, as is."""
    names = [
        name
        for name in model.hook_dict
        if name.endswith("hook_scale") and name.startswith((f"blocks.{LAYER}.ln", "ln_final"))
    ]

    def hold(value, hook):
        return cache[hook.name]

    return [(name, hold) for name in names], names


def moved_logits(model, tokens, hook, direction):
    """What a direction at a hook adds to the logits before any soft cap, by the direct path."""
    _, cache = model.run_with_cache(tokens)
    held, names = scales_held(model, cache)
    if "attn" in hook:
        held.append((f"blocks.{LAYER}.mlp.hook_out", lambda x, hook: cache[hook.name]))
    logits = []

    def keep(value, hook):
        logits.append(value)

    last = ("unembed.hook_out", keep)
    add = (hook, lambda x, hook: x + direction)
    model.run_with_hooks(tokens, fwd_hooks=[*held, last])
    model.run_with_hooks(tokens, fwd_hooks=[add, *held, last])
    clean, edited = logits
    return (edited - clean)[0, -1]


@pytest.mark.parametrize("hook", WIDTHS)
@pytest.mark.parametrize("family", EXTRA)
def test_logit_effect_is_parallel_to_what_the_logits_do(bridges, tiny, family, hook):
    model = bridges(family)
    name = f"blocks.{LAYER}.{hook}"
    sae = random_sae(WIDTHS[hook], 32, name, torch.Generator().manual_seed(4))
    effect = logit_effect(model, sae, 3)
    moved = moved_logits(model, tiny.tokens[:1], name, sae.W_dec[3])
    assert moved.std() > 1e-3
    assert torch.cosine_similarity(effect, moved, dim=0) > 1 - 1e-5


def test_a_multiplier_of_the_branch_counts(bridges):
    """Granite multiplies what a branch adds; the norm's weight alone follows."""
    model = bridges("Granite")
    w_out, norms = direct_path(model, "blocks.1.mlp.hook_out")
    assert w_out is None
    at_stream = direct_path(model, "blocks.1.hook_out")[1][-1]
    torch.testing.assert_close(norms[0].weight, torch.full((16,), 0.22), rtol=1e-4, atol=0)
    assert torch.equal(norms[1].weight, at_stream.weight)


def test_a_norm_that_stores_its_weight_otherwise(llama_bridge):
    """Qwen 3.5 keeps the weight less one under the usual name: what the norm does counts."""
    model = copy.deepcopy(llama_bridge)
    norm = model.ln_final

    def forward(x):
        scale = (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x * scale * (1 + norm.weight)

    norm.forward = forward
    (found,) = direct_path(model, "blocks.2.hook_out")[1]
    torch.testing.assert_close(found.weight, 1 + norm.weight, rtol=1e-6, atol=1e-6)
    assert not found.centres


def test_a_layer_norm_of_odd_width_with_bias():
    from types import SimpleNamespace

    norm = torch.nn.LayerNorm(7)
    norm.weight.data, norm.bias.data = draw(7, seed=1), draw(7, seed=2)
    model = SimpleNamespace(W_U=torch.zeros(7, 3), ln_final=norm, hook_dict=["hook_embed"])
    (found,) = direct_path(model, "hook_embed")[1]
    assert found.centres
    torch.testing.assert_close(found.weight, norm.weight.detach(), rtol=1e-5, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(norm, 3 * draw(7, seed=3))
    x = 3 * draw(7, seed=3)
    scale = (x - x.mean()).pow(2).mean().sqrt()
    # a direction that is orthogonal to the centred input and to ones moves no scale
    basis = torch.linalg.qr(torch.stack([torch.ones(7), x - x.mean(), draw(7, seed=4)]).T)[0]
    direction = basis[:, 2]
    torch.testing.assert_close(
        found.of_direction(direction), jacobian @ direction * scale, rtol=1e-4, atol=1e-4
    )


def test_a_last_norm_that_is_none_of_the_known_ones(llama_bridge):
    model = copy.deepcopy(llama_bridge)
    model.ln_final.forward = torch.tanh
    with pytest.raises(HookError, match="ln_final of this model is neither a LayerNorm nor an RMS"):
        direct_path(model, "blocks.2.hook_out")


def test_a_branch_that_joins_in_an_unknown_way(llama_bridge):
    model = copy.deepcopy(llama_bridge)
    model.blocks[1].mlp.register_forward_hook(lambda module, args, output: output.abs())
    with pytest.raises(HookError, match="how blocks.1.mlp.hook_post of this .* is not known"):
        direct_path(model, "blocks.1.mlp.hook_post")


def test_a_block_without_the_weights():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = dict(n_layers=1, d_model=16, d_head=8, n_heads=2, d_vocab=50, n_ctx=8)
    model = HookedTransformer(HookedTransformerConfig(**sizes, attn_only=True))
    with pytest.raises(HookError, match=r"block 0 of this model has no mlp\.W_out; use a hook of"):
        direct_path(model, "blocks.0.mlp.hook_post")
