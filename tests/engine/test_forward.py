"""Runs of a model against slow references: one row at a time, one Python loop per token."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import bridged, random_sae
from stand_ins import NAN, POST, RESID, hooks_are_clean, slow_losses, with_weights

import saework
from saework.analysis import features
from saework.core.errors import HookError, UnknownNameError
from saework.engine import forward, losses, row_memory
from saework.engine.losses import next_token_logits


@pytest.mark.parametrize("hook", [POST, RESID, "blocks.0.attn.hook_z"])
def test_activations_equal_the_cache_and_stop_there(tiny, hook):
    after = []
    with tiny.model.hooks(fwd_hooks=[("ln_final.hook_scale", lambda x, hook: after.append(x))]):
        x = forward.activations(tiny.model, tiny.tokens, hook)
    assert not after, "the model ran on"
    torch.testing.assert_close(x, tiny.model.run_with_cache(tiny.tokens)[1][hook], rtol=0, atol=0)
    assert hooks_are_clean(tiny.model)


@pytest.mark.parametrize("hook", [POST, RESID, "blocks.0.attn.hook_pattern", "hook_pos_embed"])
@pytest.mark.parametrize("rows", [1, 4, 5, 6])
def test_many_rows_run_some_at_a_time(tiny, monkeypatch, hook, rows):
    expected = tiny.model.run_with_cache(tiny.tokens)[1][hook]
    monkeypatch.setattr(row_memory, "TOKENS_AT_A_TIME", rows * tiny.tokens.shape[1])
    heights = []
    with tiny.model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: heights.append(len(x)))]):
        x = forward.activations(tiny.model, tiny.tokens, hook)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    assert sum(heights) == len(tiny.tokens) == 6
    assert max(heights) == rows


def test_a_row_that_stands_for_all_is_given_once(tiny, monkeypatch):
    monkeypatch.setattr(row_memory, "TOKENS_AT_A_TIME", 2 * tiny.tokens.shape[1])
    embed = tiny.model.hook_dict["hook_pos_embed"]
    embed.add_hook(lambda x, hook: x[:1])
    try:
        x = forward.activations(tiny.model, tiny.tokens, "hook_pos_embed")
    finally:
        embed.remove_hooks()
    expected = tiny.model.run_with_cache(tiny.tokens)[1]["hook_pos_embed"]
    assert torch.equal(x, expected[:1])


def test_text_gets_a_bos_and_is_one_row(tiny):
    tokens = tiny.model.to_tokens("a sum of two")
    assert tokens[0, 0] == 1
    torch.testing.assert_close(
        forward.activations(tiny.model, "a sum of two", POST),
        forward.activations(tiny.model, tokens[0], POST),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("hook", [POST, RESID])
def test_token_losses_with_an_edit_against_the_slow_reference(lively, mask, hook, masked):
    on = mask if masked else None
    losses = forward.token_losses(lively.model, lively.tokens, hook, lambda x: 0.5 * x + 0.1, on)
    expected = slow_losses(lively.model, lively.tokens, hook, lambda x: 0.5 * x + 0.1, on)
    assert (losses.shape, losses.dtype) == ((6, 19), torch.float32)
    np.testing.assert_allclose(losses, expected, atol=2e-5)


def test_long_losses_are_cut_in_chunks(lively, monkeypatch):
    whole = forward.token_losses(lively.model, lively.tokens)
    monkeypatch.setattr(losses, "TOKEN_BLOCK", 7)
    monkeypatch.setattr(losses, "VOCAB_BLOCK", 3)
    torch.testing.assert_close(
        forward.token_losses(lively.model, lively.tokens), whole, rtol=0, atol=1e-5
    )


def test_soft_capped_logits(lively):
    model = copy.deepcopy(lively.model)
    model.cfg.output_logits_soft_cap = 1.5
    losses = forward.token_losses(model, lively.tokens)
    assert (losses - forward.token_losses(lively.model, lively.tokens)).abs().max() > 0.1
    torch.testing.assert_close(
        losses, model(lively.tokens, return_type="loss", loss_per_token=True), rtol=0, atol=1e-5
    )


def test_final_states_and_their_logits_are_the_models(lively):
    def halve(x, hook=None):
        return x * 0.5

    for edits, fwd_hooks in (((), []), ((POST, halve), [(POST, halve)])):
        states = forward.final_states(lively.model, lively.tokens, *edits)
        logits = next_token_logits(lively.model, states.flatten(0, 1))
        assert (states.shape, logits.dtype) == ((6, 20, 16), torch.float32)
        expected = lively.model.run_with_hooks(lively.tokens, fwd_hooks=fwd_hooks)
        torch.testing.assert_close(logits, expected.flatten(0, 1), rtol=0, atol=1e-4)


def test_mean_activations_of_several_masks(lively, mask):
    nothing = torch.zeros_like(mask)
    ours = forward.mean_activations(
        lively.model,
        lively.tokens,
        "blocks.0.attn.hook_z",
        torch.stack([mask, ~mask, nothing]),
        batch_size=4,
    )
    x = forward.activations(lively.model, lively.tokens, "blocks.0.attn.hook_z").double()
    assert (ours.shape, ours.dtype) == ((3, 2, 8), torch.float64)
    torch.testing.assert_close(ours[:2], torch.stack([x[mask].mean(0), x[~mask].mean(0)]))
    assert ours[2].isnan().all()


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_bridged_losses_are_hugging_faces(tiny, name, request):
    hf, model = request.getfixturevalue(name), request.getfixturevalue(f"{name}_bridge")
    losses = forward.token_losses(model, tiny.tokens)
    assert losses.mean().item() == pytest.approx(
        hf(tiny.tokens, labels=tiny.tokens).loss.item(), abs=1e-5
    )
    log_probs = hf(tiny.tokens).logits.log_softmax(-1)[:, :-1]
    torch.testing.assert_close(
        losses, -log_probs.gather(-1, tiny.tokens[:, 1:, None])[..., 0], rtol=0, atol=1e-5
    )


def test_bridged_activations_are_hugging_faces(gpt2, gpt2_bridge, tiny):
    hidden = gpt2(tiny.tokens, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(
        forward.activations(gpt2_bridge, tiny.tokens, RESID), hidden, rtol=0, atol=1e-5
    )
    inner = []
    handle = gpt2.transformer.h[0].mlp.act.register_forward_hook(
        lambda module, args, out: inner.append(out)
    )
    gpt2(tiny.tokens)
    handle.remove()
    torch.testing.assert_close(
        forward.activations(gpt2_bridge, tiny.tokens, POST), inner[0], rtol=0, atol=1e-5
    )


def test_hooks_that_are_silently_ignored(gpt2, tiny, tmp_path):
    """sae_lens's bridge takes a hook on an alias without a word, and never calls it."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = bridged(gpt2, tiny, tmp_path, SAETransformerBridge)
    with pytest.raises(UnknownNameError, match="Did you mean 'blocks.0.hook_out'"):
        forward.token_losses(model, tiny.tokens, RESID, torch.zeros_like)
    with pytest.raises(
        HookError, match="'blocks.0.attn.qkv.hook_out' never fired.*alias names are ignored"
    ):
        forward.activations(model, tiny.tokens, "blocks.0.attn.qkv.hook_out")
    with pytest.raises(UnknownNameError, match="'blocks.0.hook_resid_post'"):
        saework.recons_score(model, random_sae(16, 32, RESID, torch.Generator()), tiny.tokens)
    assert hooks_are_clean(model)


USERS = {
    "recons_score": lambda t, tokens: saework.recons_score(t.model, t.sae, tokens),
    "scan": lambda t, tokens: saework.scan(t.model, t.sae, tokens),
    "activations": lambda t, tokens: forward.activations(t.model, tokens, POST),
    "feature_activations": lambda t, tokens: features.feature_activations(
        t.model, t.sae, tokens, 7
    ),
    "active_features": lambda t, tokens: features.active_features(t.model, t.sae, tokens),
}
BAD_TOKENS = {
    "not integer": ([[1.0, 5.0]], r"torch.float\d+; give integers"),
    "bool": ([[True, False]], "torch.bool; give integers"),
    "out of vocabulary": ([[1, 4096]], r"token 4096 is out of the vocabulary \(0\.\.4095\)"),
    "negative": ([[1, -5]], "token -5 is out of the vocabulary"),
    "empty": (torch.zeros(0, 20, dtype=torch.long), r"tokens are empty \(shape \(0, 20\)\)"),
    "empty rows": ([[]], "tokens are empty"),
    "too long": ([[1] * 33], "33 tokens long, but the model's context is 32; cut"),
    "text too long": ("word " * 40, "tokens long, but the model's context is 32; cut"),
    "three axes": ([[[1, 5]]], r"shape \(1, 1, 2\); give \[batch, pos\]"),
    "lone surrogate": ("so\ud800", "lone surrogate at character 2"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_tokens(tiny, user, case):
    tokens, words = BAD_TOKENS[case]
    with pytest.raises(ValueError, match=words):
        USERS[user](tiny, tokens)
    assert hooks_are_clean(tiny.model)


BROKEN = {
    "activations": (
        "model",
        dict(blocks__0__mlp__b_in=lambda w: w[:1].fill_(NAN)),
        "activations at blocks.0.mlp.hook_post hold",
    ),
    "infinite activations": (
        "model",
        dict(blocks__0__mlp__b_in=lambda w: w[:1].fill_(math.inf)),
        "activations at",
    ),
    "encoder": ("sae", dict(W_enc=lambda w: w[:, 7].fill_(NAN)), "NaN or infinite"),
    "encoder bias": ("sae", dict(b_enc=lambda w: w[7].fill_(math.inf)), "NaN or infinite"),
}


@pytest.mark.parametrize("user", sorted(USERS.keys() - {"activations"}))
@pytest.mark.parametrize("case", BROKEN)
def test_numbers_that_are_not_finite(tiny, user, case):
    part, change, words = BROKEN[case]
    broken = SimpleNamespace(model=tiny.model, sae=tiny.sae)
    setattr(broken, part, with_weights(getattr(tiny, part), **change))
    with pytest.raises(ValueError, match=words):
        USERS[user](broken, tiny.tokens[:1])
    assert hooks_are_clean(broken.model)


def test_an_edit_at_a_hook_that_does_not_fire(tiny):
    with pytest.raises(HookError, match="never fired on the way to the output"):
        forward.token_losses(tiny.model, tiny.tokens, "unembed.hook_out", torch.zeros_like)
    assert hooks_are_clean(tiny.model)


FIVE_ROWS = torch.zeros(5, 12, dtype=torch.long)


def test_an_edit_without_a_hook(tiny):
    with pytest.raises(ValueError, match="an edit is given, but no hook"):
        forward.token_losses(tiny.model, tiny.tokens, edit=torch.zeros_like)


def test_prepared_checks_all_at_once(tiny):
    tokens, site, mask, n_rows = forward.prepared(
        tiny.model, tiny.sae, tiny.tokens.tolist(), None, tiny.tokens != 1, 3
    )
    assert torch.equal(tokens, tiny.tokens) and torch.equal(mask, tiny.tokens != 1)
    assert (site.reads, site.writes, n_rows) == (POST, POST, 3)
    with pytest.raises(ValueError, match=r"mask has shape \(6, 19\)"):
        short = torch.ones(6, 19, dtype=torch.bool)
        forward.prepared(tiny.model, tiny.sae, tiny.tokens, None, short, None)


@pytest.mark.parametrize(("n_rows", "size"), [(5, 2), (4, 4), (3, 7), (0, 2)])
def test_row_blocks_are_all_rows_once(n_rows, size):
    rows = list(range(n_rows))
    blocks = [rows[block] for block in forward.row_blocks(n_rows, size)]
    assert sum(blocks, []) == rows
    assert all(0 < len(block) <= size for block in blocks)


def test_a_progress_bar_may_be_off(monkeypatch):
    assert forward.progress_bar([1], show=False).disable
    monkeypatch.setenv("TQDM_DISABLE", "")
    assert forward.progress_bar([1], show=True).disable
    assert list(forward.progress_bar([1, 2], show=False)) == [1, 2]


@pytest.mark.parametrize(
    "bos_id,default,expected",
    [(1, True, True), (1, None, True), (1, False, False), (None, True, False)],
)
def test_bos_is_put_before_text_where_the_model_is_given_one(bos_id, default, expected):
    """By the tokenizer, and by TransformerLens's ``default_prepend_bos``."""
    asked = []

    def to_tokens(text, *, prepend_bos, truncate):
        asked.append(prepend_bos)
        return torch.tensor([[5, 6]])

    cfg = SimpleNamespace(d_vocab=10, n_ctx=8)
    if default is not None:
        cfg.default_prepend_bos = default
    model = SimpleNamespace(
        cfg=cfg,
        hook_dict={},
        hooks=None,
        tokenizer=SimpleNamespace(bos_token=bos_id and "<bos>"),
        to_tokens=to_tokens,
        parameters=lambda: iter([torch.zeros(1)]),
    )
    assert forward.as_tokens(model, "text").tolist() == [[5, 6]] and asked == [expected]


def test_text_that_brings_its_bos_gets_no_second_one(tiny):
    """As a rendered chat template does."""
    for text in ("a sum of two", "<|BOS|>a sum of two"):
        tokens = forward.as_tokens(tiny.model, text)
        assert (tokens == 1).sum() == 1 and tokens[0, 0] == 1


def test_an_edit_may_work_in_place(lively, mask):
    """What it is given is a copy, so that what the mask leaves out stays as it is."""
    at = (lively.model, lively.tokens, POST)
    in_place = forward.token_losses(*at, lambda x: x.mul_(0.5), mask)
    assert torch.equal(in_place, forward.token_losses(*at, lambda x: 0.5 * x, mask))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda x: None, r"gave None; it must give a tensor of shape \(6, 20, 24\)"),
        (lambda x: x[:1], r"gave a Tensor of shape \(1, 20, 24\); it must give a tensor"),
        (lambda x: x.numpy(), r"gave an ndarray of shape \(6, 20, 24\); it must give a tensor"),
        (5, "edit is 5; give a function of the activations"),
    ],
)
def test_an_edit_that_gives_something_else(tiny, edit, words):
    with pytest.raises(ValueError, match=words):
        forward.token_losses(tiny.model, tiny.tokens, POST, edit)
    assert hooks_are_clean(tiny.model)


@pytest.mark.parametrize("runs", ["the model", "saework"])
def test_an_edit_that_runs_the_model_is_told(tiny, runs):
    def edit(x):
        if runs == "saework":
            return saework.activations(tiny.model, tiny.tokens, POST)
        return x + tiny.model(tiny.tokens).mean()

    words = "the edit at blocks.0.mlp.hook_post runs the model, whose hook then calls the edit"
    with pytest.raises(ValueError, match=words):
        forward.token_losses(tiny.model, tiny.tokens, POST, edit)
    assert hooks_are_clean(tiny.model)


def test_a_mask_of_another_kind(tiny):
    with pytest.raises(ValueError, match="mask is torch.float32; give bool"):
        forward.token_losses(tiny.model, tiny.tokens, POST, torch.zeros_like, torch.ones(6, 20))
    with pytest.raises(UnknownNameError, match="there is no hook 'nope'"):
        forward.token_losses(tiny.model, tiny.tokens, "nope", torch.zeros_like)
