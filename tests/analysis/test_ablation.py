"""A direction taken out, against plain runs of the whole model with the edit written out."""

from __future__ import annotations

import pytest
import torch
from conftest import draw, random_sae
from stand_ins import POST, RESID

from saework.analysis import ablation


def plain_states(model, tokens, hook, directions, amount, where):
    """``[1 + direction, row, pos, d_model]``, one run of the whole model for each."""
    found = []
    for direction in [torch.zeros_like(directions[0]), *directions]:

        def edit(value, hook, direction=direction):
            out = amount[..., None] * where[..., None] * direction
            return value - out.reshape(value.shape)

        def keep(value, hook):
            found.append(value)

        model.run_with_hooks(tokens, fwd_hooks=[(hook, edit), ("unembed.hook_in", keep)])
    return torch.stack(found)


def given(tokens, d_in, n=3):
    directions, amount = draw(n, d_in, seed=3), draw(*tokens.shape, seed=4).abs()
    where = draw(*tokens.shape, seed=5) > 0.5
    where[1] = False  # a row without a marked token
    return directions, amount, where


def assert_equal_to_plain(model, tokens, hook, d_in, name=None):
    sae = random_sae(d_in, 12, hook, torch.Generator().manual_seed(0))
    directions, amount, where = given(tokens, d_in)
    ours = ablation.states_without(model, sae, tokens, directions, amount, where, hook=hook)
    plain = plain_states(model, tokens, name or hook, directions, amount, where)[:, where]
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-5)
    assert (ours[1:] - ours[0]).abs().max() > 1e-2


@pytest.mark.parametrize("hook", [POST, RESID, "blocks.0.hook_resid_mid"])
def test_one_layer(tiny, hook):
    width = tiny.model.cfg.d_mlp if hook == POST else tiny.model.cfg.d_model
    assert_equal_to_plain(tiny.model, tiny.tokens, hook, width)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_resid_post", "mlp.hook_post"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_later_layers_read_the_edit(family, place, layer, request, tiny):
    """In Gemma 2 a norm lies between an MLP and the stream: there the hook itself is edited."""
    model = request.getfixturevalue(f"{family}_bridge")
    hook = f"blocks.{layer}.{place}"
    width = model.cfg.d_mlp if "mlp" in place else model.cfg.d_model
    on_bridge = {"hook_resid_pre": "hook_in", "hook_resid_post": "hook_out"}
    name = f"blocks.{layer}.{on_bridge.get(place, 'mlp.out.hook_in')}"
    assert_equal_to_plain(model, tiny.tokens[:3, :12], hook, width, name)


def test_log_probs_have_the_models_own_cap(gemma2_bridge, gemma2, tiny):
    hook, tokens = "blocks.0.hook_resid_post", tiny.tokens[:2, :9]
    sae = random_sae(16, 12, hook, torch.Generator().manual_seed(0))
    where = torch.ones(tokens.shape, dtype=torch.bool)
    states = ablation.states_without(
        gemma2_bridge, sae, tokens, sae.W_dec[:1], where * 1.0, where, hook=hook
    )
    ours = ablation.next_token_log_probs(gemma2_bridge, states[0]).reshape(2, 9, -1)
    plain = gemma2(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-5)


def test_many_directions_are_run_in_parts(tiny, monkeypatch):
    hook, width = "blocks.0.hook_resid_pre", tiny.model.cfg.d_model
    sae = random_sae(width, 12, hook, torch.Generator().manual_seed(0))
    arguments = (tiny.model, sae, tiny.tokens, *given(tiny.tokens, width, n=5))
    at_once = ablation.states_without(*arguments)
    monkeypatch.setattr(ablation, "TOKENS_AT_A_TIME", 2)
    torch.testing.assert_close(ablation.states_without(*arguments), at_once, rtol=0, atol=1e-5)


def test_what_is_refused(tiny, book):
    directions, amount, where = given(tiny.tokens, tiny.model.cfg.d_mlp)

    def refused(directions=directions, amount=amount, where=where):
        with pytest.raises(ValueError) as caught:
            ablation.states_without(book, tiny.tokens, directions, amount, where)
        return str(caught.value)

    assert refused(where=where & ~where).startswith("where is False everywhere")
    assert refused(where=None) == (
        "where is None; mark the tokens at which a direction is taken out"
    )
    assert refused(directions=directions[0]) == (
        f"directions have shape ({tiny.model.cfg.d_mlp},); give [direction, "
        f"{tiny.model.cfg.d_mlp}], such as sae.W_dec[[feature]]"
    )
    assert refused(amount=amount[:2]) == (
        "amount has shape (2, 20); give one number for each token, (6, 20)"
    )
