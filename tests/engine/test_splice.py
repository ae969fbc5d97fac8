"""Several splices in one pass against one pass for each."""

from __future__ import annotations

import pytest
import torch
from stand_ins import hooks_are_clean

from saework.core.errors import HookError
from saework.engine import forward
from saework.engine.splice import spliced_states


def splices(x, written=None):
    """Something that differs by row, zeros, and zeros but for the first token."""
    kept = torch.zeros_like(x)
    kept[:, :1] = x[:, :1]
    return [x * 0.5 + 0.1, torch.zeros_like(x), kept]


def separate_passes(model, tokens, hook):
    states = [forward.final_states(model, tokens)]
    return states + [
        forward.final_states(model, tokens, hook, lambda x, i=i: splices(x)[i]) for i in range(3)
    ]


@pytest.fixture(scope="module")
def deep():
    """Three layers of a HookedTransformer."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = dict(
        n_layers=3,
        d_model=16,
        d_head=8,
        n_heads=2,
        d_mlp=24,
        d_vocab=50,
        n_ctx=32,
        act_fn="gelu",
        normalization_type="LN",
        seed=0,
    )
    return HookedTransformer(HookedTransformerConfig(**sizes)).requires_grad_(False)


DEEP_TOKENS = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(4))
DEEP_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "mlp.hook_pre",
    "mlp.hook_post",
    "attn.hook_z",
    "attn.hook_q",
)


@pytest.mark.parametrize(
    "hook", [*(f"blocks.1.{name}" for name in DEEP_HOOKS), "hook_embed", "blocks.0.hook_resid_pre"]
)
@pytest.mark.parametrize("n_rows", [1, 5])
def test_several_splices_in_one_pass_are_the_separate_passes(deep, hook, n_rows):
    tokens = DEEP_TOKENS[:n_rows]
    together = spliced_states(deep, tokens, hook, splices, 3)
    for ours, alone in zip(together, separate_passes(deep, tokens, hook), strict=True):
        torch.testing.assert_close(ours.expand_as(alone), alone, rtol=0, atol=1e-5)
    assert hooks_are_clean(deep)


@pytest.mark.parametrize("hook", [*(f"blocks.1.{name}" for name in DEEP_HOOKS)])
def test_what_lies_before_the_hook_runs_once(deep, hook):
    calls = []
    before = deep.blocks[0].register_forward_hook(lambda *args: calls.append("before"))
    after = deep.blocks[2].register_forward_hook(lambda *args: calls.append("after"))
    spliced_states(deep, DEEP_TOKENS, hook, splices, 3)
    before.remove()
    after.remove()
    assert calls == ["before", "after"]


def test_rows_that_are_alike_in_the_residual_stream_run_once(deep):
    def rows(hook, splice):
        n = len(splice(torch.zeros(5, 12, 16)))
        return [len(state) for state in spliced_states(deep, DEEP_TOKENS, hook, splice, n)]

    assert rows("blocks.1.hook_resid_post", splices) == [5, 5, 1, 5]
    assert rows("blocks.1.hook_resid_mid", lambda x, written=None: [torch.ones_like(x)]) == [5, 1]
    assert rows("blocks.1.hook_mlp_out", splices) == [5, 5, 5, 5], (
        "the stream past it still knows the row"
    )


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.0.hook_resid_post",
        "blocks.0.hook_out",
        "blocks.0.mlp.hook_out",
        "blocks.1.hook_in",
        "blocks.1.ln2.hook_in",
    ],
)
@pytest.mark.parametrize("n_rows", [1, 6])
@pytest.mark.parametrize("name", ["gpt2_bridge", "gemma2_bridge"])
def test_several_splices_on_a_bridge(request, tiny, hook, n_rows, name):
    bridge, tokens = request.getfixturevalue(name), tiny.tokens[:n_rows]
    together = spliced_states(bridge, tokens, hook, splices, 3)
    for ours, alone in zip(together, separate_passes(bridge, tokens, hook), strict=True):
        torch.testing.assert_close(ours.expand_as(alone), alone, rtol=0, atol=1e-4)


def test_a_splice_at_a_hook_that_does_not_fire(deep):
    with pytest.raises(HookError, match="'unembed.hook_out' never fired on the way to the output"):
        spliced_states(deep, DEEP_TOKENS, "unembed.hook_out", splices, 3)


def test_the_splice_is_called_once_and_its_caller_may_add(deep):
    seen = []

    def splice(x, written):
        seen.append(x.clone())
        return [torch.zeros_like(x)]

    for hook in ("blocks.1.mlp.hook_post", "blocks.1.hook_resid_mid"):
        spliced_states(deep, DEEP_TOKENS, hook, splice, 1)
        expected = forward.activations(deep, DEEP_TOKENS, hook)
        torch.testing.assert_close(seen.pop(), expected, rtol=0, atol=1e-6)
    assert seen == []


def test_the_mlp_does_not_run_for_copies_of_the_same_rows(deep):
    heights = []
    hook = "blocks.1.mlp.hook_pre"
    deep.add_hook(hook, lambda x, hook: heights.append(len(x)))
    try:
        spliced_states(deep, DEEP_TOKENS, "blocks.1.mlp.hook_post", splices, 3)
    finally:
        deep.reset_hooks()
    assert heights == [5]


def without_mlps(**changes):
    """Two layers of attention alone, as course exercises have them."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = dict(n_layers=2, d_model=16, d_head=8, n_heads=2, d_vocab=50, n_ctx=32, seed=0)
    config = HookedTransformerConfig(**sizes, attn_only=True, **changes)
    return HookedTransformer(config).requires_grad_(False)


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_attn_out", "attn.hook_z"])
@pytest.mark.parametrize("n_rows", [1, 5])
@pytest.mark.parametrize("norm", ["LN", None])
def test_positions_that_every_layer_adds(hook, n_rows, norm):
    model = without_mlps(positional_embedding_type="shortformer", normalization_type=norm)
    tokens, hook = DEEP_TOKENS[:n_rows], f"blocks.1.{hook}"
    together = spliced_states(model, tokens, hook, splices, 3)
    for i, ours in enumerate(together):
        plain = [(hook, lambda x, hook, i=i: splices(x)[i - 1])] if i else []
        expected = model.run_with_hooks(tokens, fwd_hooks=plain)
        logits = model.unembed(ours).expand_as(expected)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_a_tokenizer_that_pads_on_the_left(lively, monkeypatch):
    monkeypatch.setattr(lively.model.tokenizer, "padding_side", "left")
    hook = "blocks.0.hook_resid_mid"
    together = spliced_states(lively.model, lively.tokens, hook, splices, 3)
    for ours, alone in zip(together, separate_passes(lively.model, lively.tokens, hook)):
        torch.testing.assert_close(ours.expand_as(alone), alone, rtol=0, atol=1e-5)
