"""Greedy generation against every token run again, and the count of what each hook saw."""

from __future__ import annotations

import copy

import pytest
import torch
from stand_ins import RESID, hooks_are_clean
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from saework.core.errors import HookError
from saework.engine.generation import generate


@pytest.fixture(params=["tiny", "gpt2_bridge", "llama_bridge"])
def model(request, tiny):
    return tiny.model if request.param == "tiny" else request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def prompt(tiny):
    return tiny.tokens[:1, :6]


@torch.no_grad()
def slow_text(model, tokens, n_new):
    for _ in range(n_new):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens[0]


@pytest.mark.parametrize("cache", [True, False])
def test_it_is_the_greedy_continuation(model, prompt, cache):
    text = generate(model, prompt, [], max_new_tokens=5, cache=cache)
    assert text.tolist() == slow_text(model, prompt, 5).tolist()
    assert text.dtype == torch.long and not text.is_inference() and text.device.type == "cpu"


def test_hooks_edit_what_is_written(tiny, prompt):
    plain = generate(tiny.model, prompt, [], max_new_tokens=5)
    push = -40 * tiny.model.W_U[:, plain[6]]  # away from the token that would come next

    def edit(x, hook):
        return x + push

    edited = generate(tiny.model, prompt, [(RESID, edit)], max_new_tokens=5)
    with tiny.model.hooks(fwd_hooks=[(RESID, edit)]):
        assert edited.tolist() == slow_text(tiny.model, prompt, 5).tolist()
    assert edited[6] != plain[6]


@pytest.mark.parametrize(("cache", "positions"), [(True, [6, 1, 1, 1]), (False, [6, 7, 8, 9])])
def test_hooks_fire_on_each_position(model, prompt, cache, positions):
    seen = []
    record = ("blocks.0.hook_resid_pre", lambda x, hook: seen.append(x.shape[1]))
    text = generate(model, prompt, [record], max_new_tokens=4, cache=cache)
    assert seen == positions and text.shape == (10,)
    assert hooks_are_clean(model)


def test_a_hook_that_misses_positions_is_refused(tiny, prompt):
    """The embedding's alias is passed by in generation."""
    with pytest.raises(HookError, match="hook 'hook_embed' saw 0 positions where generation ran 9"):
        generate(tiny.model, prompt, [("hook_embed", lambda x, hook: None)], max_new_tokens=4)
    assert hooks_are_clean(tiny.model)


def test_it_ends_at_the_end_of_text(tiny, prompt, monkeypatch):
    whole = generate(tiny.model, prompt, [], max_new_tokens=5).tolist()
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(whole[6])
    monkeypatch.setattr(tiny.model, "tokenizer", tokenizer)
    assert generate(tiny.model, prompt, [], max_new_tokens=5).tolist() == whole[:7]


def test_a_model_without_a_cache_runs_all_tokens_again(tiny, prompt):
    """TransformerLens 4 loads Neel Nanda's models so; version 3 has random ones of the kind."""
    sizes = {"d_model": 16, "n_layers": 1, "d_head": 8, "n_heads": 2, "d_mlp": 24, "n_ctx": 32}
    cfg = TransformerBridgeConfig(
        **sizes, d_vocab=4096, act_fn="gelu", architecture="TransformerLensNative", seed=0
    )
    model = TransformerBridge.boot_native(cfg, tokenizer=tiny.tokenizer, device="cpu")
    model.eval()
    seen = []
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: seen.append(x.shape[1]))]
    text = generate(model, prompt, hooks, max_new_tokens=3)
    n = prompt.shape[1]
    assert seen == list(range(n, len(text)))
