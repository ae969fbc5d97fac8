"""Steering against slow references.

Hugging Face's own forward hooks, the edit written out, every token run again.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import bridged, random_sae
from stand_ins import hooks_are_clean

from saework.analysis import steering
from saework.analysis.steering import Steering, steer
from saework.analysis.steering_edit import steering_hooks
from saework.core.errors import HookError, UnknownNameError
from saework.core.formulas import repetition
from saework.engine.generation import generate

FEATURE, N_NEW = 7, 6
LAYER = 1  # whose input the SAEs of this file read, but for the model of one layer
SITE_MODES = [(site, mode) for site in ("corrected", "published") for mode in ("add", "clamp")]


def sae_at(hook: str, architecture: str = "standard", d_in: int = 16):
    return random_sae(d_in, 40, hook, torch.Generator().manual_seed(6), architecture)


SAES = {kind: sae_at(f"blocks.{LAYER}.hook_resid_pre", kind) for kind in ("standard", "jumprelu")}
SAE = SAES["standard"]


@pytest.fixture(scope="module")
def prompt(tiny):
    return tiny.tokens[:1, :6]


@pytest.fixture(params=["llama", "gemma2", "gpt2", "tiny"])
def any_model(request, tiny):
    """A model of each class, and an SAE at the input of its layer 1 (0 where there is no other)."""
    if request.param == "tiny":
        return SimpleNamespace(model=tiny.model, sae=sae_at("blocks.0.hook_resid_pre"))
    return SimpleNamespace(model=request.getfixturevalue(f"{request.param}_bridge"), sae=SAE)


def slow_edit(sae, architecture, strength, mode, error_term, direction):
    """The edit of one token's activations ``[d_in]``, one feature at a time, in float64."""
    w_enc, b_enc, w_dec, b_dec = (w.double() for w in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))

    def feature(x, i):
        before = (x - (b_dec if architecture == "standard" else 0)) @ w_enc[:, i] + b_enc[i]
        threshold = sae.threshold[i].double() if architecture == "jumprelu" else 0.0
        return before if before > threshold else torch.zeros((), dtype=torch.float64)

    def edit(x):
        x = x.double()
        base = x if error_term else b_dec + sum(feature(x, i) * w_dec[i] for i in range(len(w_dec)))
        return (
            base
            + (strength if mode == "add" else strength - feature(x, FEATURE)) * direction.double()
        )

    return edit


def slow_logits(hf, tokens, edit, site):
    """Hugging Face's logits ``[pos, d_vocab]`` with each token edited at the input of the layer."""

    def edited(x):
        return torch.stack([edit(token) for token in x[0]])[None].to(x.dtype)

    def before(module, args, kwargs):
        return (edited(args[0]), *args[1:]), kwargs

    def after(module, args, kwargs, output):
        return edited(args[0])

    layer = hf.model.layers[LAYER]
    handle = (
        layer.register_forward_pre_hook(before, with_kwargs=True)
        if site == "corrected"
        else layer.register_forward_hook(after, with_kwargs=True)
    )
    try:
        return hf(tokens, use_cache=False).logits[0].detach()
    finally:
        handle.remove()


def slow_text(logits_of, tokens, n_new=N_NEW):
    """Greedy continuation, all tokens run again for each new one."""
    for _ in range(n_new):
        tokens = torch.cat([tokens, logits_of(tokens)[-1].argmax()[None, None]], dim=1)
    return tokens


def slow_kl(plain, pushed, text, n_prompt):
    p, q = (
        logits_of(text[:, :-1])[n_prompt - 1 :].double().softmax(-1)
        for logits_of in (plain, pushed)
    )
    return [
        sum(a * math.log(a / b) for a, b in zip(row_p.tolist(), row_q.tolist()))
        for row_p, row_q in zip(p, q)
    ]


@pytest.mark.parametrize("architecture", SAES)
@pytest.mark.parametrize("error_term", [True, False])
@pytest.mark.parametrize(("site", "mode"), SITE_MODES)
def test_steering_is_the_slow_reference(
    llama, llama_bridge, prompt, architecture, site, mode, error_term
):
    sae = SAES[architecture]
    ours = steer(
        llama_bridge,
        sae,
        prompt,
        FEATURE,
        strength=3.0,
        mode=mode,
        error_term=error_term,
        site=site,
        max_new_tokens=N_NEW,
    )
    edit = slow_edit(sae, architecture, 3.0, mode, error_term, sae.W_dec[FEATURE])

    def plain(tokens):
        return hf_logits(llama, tokens)

    def pushed(tokens):
        return slow_logits(llama, tokens, edit, site)

    text = slow_text(plain, prompt)
    assert ours.unsteered_tokens.tolist() == text[0].tolist()
    assert ours.tokens.tolist() == slow_text(pushed, prompt)[0].tolist()
    assert ours.tokens.tolist() != ours.unsteered_tokens.tolist()
    assert ours.kl_by_position.tolist() == pytest.approx(
        slow_kl(plain, pushed, text, 6), rel=1e-3, abs=1e-5
    )
    assert ours.kl == pytest.approx(sum(ours.kl_by_position.tolist()) / N_NEW) and ours.kl > 0.01
    assert hooks_are_clean(llama_bridge)


def hf_logits(hf, tokens):
    return hf(tokens, use_cache=False).logits[0].detach()


@pytest.mark.parametrize("site", ["corrected", "published"])
def test_names_of_one_place_give_one_result(llama_bridge, prompt, site):
    own = steer(llama_bridge, SAE, prompt, FEATURE, strength=3.0, site=site, max_new_tokens=3)
    for name in ("hook_in", "hook_resid_post", "hook_out"):
        hook = f"blocks.{LAYER - name.endswith(('post', 'out'))}.{name}"
        other = steer(
            llama_bridge, SAE, prompt, FEATURE, strength=3.0, site=site, max_new_tokens=3, hook=hook
        )
        assert torch.equal(own.tokens, other.tokens) and torch.equal(
            own.kl_by_position, other.kl_by_position
        )
        assert other.hook == hook


def test_as_published_at_strength_0_is_the_model_without_that_layer(llama, llama_bridge, prompt):
    shorter = copy.deepcopy(llama)
    del shorter.model.layers[LAYER]
    shorter.config.num_hidden_layers -= 1
    ours = steer(
        llama_bridge, SAE, prompt, FEATURE, strength=0, site="published", max_new_tokens=N_NEW
    )
    assert (
        ours.tokens.tolist()
        == slow_text(lambda tokens: hf_logits(shorter, tokens), prompt)[0].tolist()
    )
    assert ours.tokens.tolist() != ours.unsteered_tokens.tolist() and ours.kl > 0.005
    with llama_bridge.hooks(
        fwd_hooks=steering_hooks(llama_bridge, SAE, FEATURE, strength=0, site="published")
    ):
        logits = llama_bridge(prompt)[0]
    torch.testing.assert_close(logits, hf_logits(shorter, prompt), rtol=0, atol=1e-5)


def test_strength_0_changes_nothing_bit_for_bit(any_model, prompt):
    model, sae = any_model.model, any_model.sae
    ours = steer(model, sae, prompt, FEATURE, strength=0, max_new_tokens=N_NEW)
    assert torch.equal(ours.tokens, ours.unsteered_tokens) and ours.steered == ours.unsteered
    assert ours.kl == 0 and not ours.kl_by_position.any()
    logits = {
        strength: edited_logits(model, sae, prompt, strength=strength) for strength in (0, 1e-3)
    }
    assert torch.equal(logits[0], model(prompt))
    assert not torch.equal(logits[1e-3], model(prompt)), "the hook does nothing"
    assert not torch.allclose(
        edited_logits(model, sae, prompt, strength=0, error_term=False), model(prompt)
    )


def edited_logits(model, sae, tokens, **edit):
    with model.hooks(fwd_hooks=steering_hooks(model, sae, FEATURE, **edit)):
        return model(tokens)


@pytest.mark.parametrize("hook", ["blocks.0.mlp.hook_post", "blocks.0.attn.hook_z"])
def test_other_hooks_than_the_residual_stream(tiny, prompt, hook):
    """On ``HookedTransformer``; activations at ``hook_z`` are ``[batch, pos, heads, d_head]``."""
    if hook.endswith("hook_z"):
        sae = reshaping_sae(hook)
        push = sae.W_dec[FEATURE].reshape(2, 8)
    else:
        sae = tiny.sae
        push = sae.W_dec[FEATURE]
    for strength, error_term in ((40.0, True), (0.0, False)):
        ours = steer(
            tiny.model,
            sae,
            prompt,
            FEATURE,
            strength=strength,
            error_term=error_term,
            max_new_tokens=N_NEW,
        )

        def replace(x, hook, strength=strength, error_term=error_term):
            return x + strength * push if error_term else sae.decode(sae.encode(x))

        def pushed(tokens, replace=replace):
            return tiny.model.run_with_hooks(tokens, fwd_hooks=[(hook, replace)])[0]

        text = slow_text(lambda tokens: tiny.model(tokens)[0], prompt)
        assert ours.tokens.tolist() == slow_text(pushed, prompt)[0].tolist() and ours.kl > 0.01
        expected = slow_kl(lambda tokens: tiny.model(tokens)[0], pushed, text, 6)
        assert ours.kl_by_position.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def reshaping_sae(hook):
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    sae = StandardSAE(
        StandardSAEConfig(
            d_in=16, d_sae=40, reshape_activations="hook_z", metadata=SAEMetadata(hook_name=hook)
        )
    )
    sae.load_state_dict(SAE.state_dict())
    return sae.eval().requires_grad_(False)


@pytest.mark.parametrize(("site", "mode"), SITE_MODES)
def test_generation_is_the_same_with_and_without_the_cache(any_model, prompt, site, mode):
    """By what each token was predicted from: small random models soon repeat one word."""
    model = any_model.model
    hooks = steering_hooks(model, any_model.sae, FEATURE, strength=4.0, mode=mode, site=site)

    def read(hooks, cache):
        states = []
        record = ("unembed.hook_in", lambda x, hook: states.append(x[0, -1].clone()))
        return generate(
            model, prompt, [*hooks, record], max_new_tokens=10, cache=cache
        ), torch.stack(states)

    (tokens, cached), (tokens_again, again), (_, plain) = (
        read(hooks, True),
        read(hooks, False),
        read([], True),
    )
    assert tokens.shape == (16,) and torch.equal(tokens, tokens_again)
    torch.testing.assert_close(cached, again, rtol=0, atol=1e-4)
    assert (cached - plain).abs().amax(-1).min() > 0.01, "a step without an edit"
    assert (cached[1:] - cached[:-1]).abs().amax(-1).min() > 0.002, (
        "steps that cannot be told apart"
    )
    assert hooks_are_clean(model)


def test_a_hook_that_generation_passes_by(tiny, prompt):
    """``HookedTransformer.generate`` embeds the tokens itself, past ``hook_embed``."""
    with pytest.raises(
        HookError,
        match="'hook_embed' saw 0 positions where generation ran 9.*such as blocks.0.hook_resid",
    ):
        steer(tiny.model, sae_at("hook_embed"), prompt, FEATURE, strength=3.0, max_new_tokens=4)
    assert hooks_are_clean(tiny.model)


def test_a_bridge_in_compatibility_mode_edits_once(llama, llama_bridge, tiny, prompt, tmp_path):
    """There a hook point may call one hook once for each of its names."""
    model = bridged(llama, tiny, tmp_path)
    model.enable_compatibility_mode(no_processing=True)
    for site in ("corrected", "published"):
        ours = steer(model, SAE, prompt, FEATURE, strength=3.0, site=site, max_new_tokens=N_NEW)
        plain = steer(
            llama_bridge, SAE, prompt, FEATURE, strength=3.0, site=site, max_new_tokens=N_NEW
        )
        assert torch.equal(ours.tokens, plain.tokens)
        torch.testing.assert_close(ours.kl_by_position, plain.kl_by_position, rtol=1e-4, atol=1e-6)


def test_sae_lens_own_bridge(llama, llama_bridge, tiny, prompt, tmp_path):
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = bridged(llama, tiny, tmp_path, SAETransformerBridge)
    hook = f"blocks.{LAYER}.hook_in"
    ours = steer(
        model, SAE, prompt, FEATURE, strength=3.0, site="published", hook=hook, max_new_tokens=N_NEW
    )
    plain = steer(
        llama_bridge, SAE, prompt, FEATURE, strength=3.0, site="published", max_new_tokens=N_NEW
    )
    assert torch.equal(ours.tokens, plain.tokens)
    torch.testing.assert_close(ours.kl_by_position, plain.kl_by_position, rtol=1e-4, atol=1e-6)


def test_text_ends_where_the_tokenizer_says(llama_bridge, prompt, monkeypatch):
    plain = generate(llama_bridge, prompt, [], max_new_tokens=N_NEW).tolist()
    tokenizer = copy.deepcopy(llama_bridge.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(plain[8])
    assert plain[8] not in plain[6:8]
    monkeypatch.setattr(llama_bridge, "tokenizer", tokenizer)
    monkeypatch.setattr(
        llama_bridge.cfg, "eos_token_id", plain[6], raising=False
    )  # the model's own, which is not asked
    ours = steer(llama_bridge, SAE, prompt, FEATURE, strength=0.0, max_new_tokens=N_NEW)
    assert ours.tokens.tolist() == plain[:9]
    assert ours.steered == tokenizer.decode(plain[6:9]) and ours.steered.endswith(
        tokenizer.decode(plain[8])
    )
    assert len(ours.kl_by_position) == 3
    tokenizer._special_tokens_map["eos_token"] = None
    assert tokenizer.eos_token_id is None
    assert (
        steer(
            llama_bridge, SAE, prompt, FEATURE, strength=0.0, max_new_tokens=N_NEW
        ).tokens.tolist()
        == plain
    )


def test_text_gets_a_bos_and_tokens_are_taken_as_they_are(tiny):
    text = "def area(width)"
    tokens = tiny.model.to_tokens(text)
    assert tokens[0, 0] == 1 and tokens.shape[1] > 3
    ours = [
        steer(tiny.model, tiny.sae, given, FEATURE, strength=40.0, max_new_tokens=5)
        for given in (text, tokens, tokens[0].tolist())
    ]
    for other in ours:
        assert (
            torch.equal(other.tokens, ours[0].tokens) and other.prompt == "<|BOS|>def area(width)"
        )
    bare = steer(tiny.model, tiny.sae, tokens[:, 1:], FEATURE, strength=40.0, max_new_tokens=5)
    assert bare.prompt == text and bare.tokens[:-5].tolist() == tokens[0, 1:].tolist()


def test_the_context_may_be_filled_to_its_last_token(any_model, prompt):
    ours = steer(any_model.model, any_model.sae, prompt, FEATURE, strength=1.0, max_new_tokens=26)
    assert len(ours.tokens) == any_model.model.cfg.n_ctx == 32


def test_the_result_is_put_together_from_its_parts(llama_bridge, prompt, monkeypatch):
    ours = steer(llama_bridge, SAE, prompt, FEATURE, strength=3.0, max_new_tokens=20)
    assert ours.repetition == repetition(
        ours.tokens[6:]
    ) and ours.unsteered_repetition == repetition(ours.unsteered_tokens[6:])
    assert ours.repetition != ours.unsteered_repetition
    assert ours.steered == llama_bridge.tokenizer.decode(ours.tokens[6:]) != ours.unsteered
    assert ours.unsteered == llama_bridge.tokenizer.decode(ours.unsteered_tokens[6:])
    assert ours.prompt == llama_bridge.tokenizer.decode(prompt[0])
    assert ours.kl_by_position.dtype == torch.float32 and ours.kl_by_position.shape == (20,)
    monkeypatch.setattr(steering, "KL_CHUNK", 3)
    again = steer(llama_bridge, SAE, prompt, FEATURE, strength=3.0, max_new_tokens=8)
    torch.testing.assert_close(again.kl_by_position, ours.kl_by_position[:8])


def test_repr_is_plain_text():
    nothing = torch.zeros(0, dtype=torch.long)
    result = Steering(
        prompt="<|BOS|>a word",
        unsteered=" of\n two",
        steered=" pi\x1b[31mrate",
        tokens=nothing,
        unsteered_tokens=nothing,
        kl=0.51234,
        kl_by_position=torch.ones(4),
        repetition=0.25,
        unsteered_repetition=math.nan,
        feature=7,
        strength=3.0,
        mode="add",
        error_term=False,
        site="published",
        direction="random (seed 0)",
        hook="blocks.1.hook_resid_pre",
    )
    assert repr(result).splitlines() == [
        "Steering(feature 7, add 3, random (seed 0) direction, error term dropped, "
        "published site, blocks.1.hook_resid_pre)",
        "prompt:     <|BOS|>a word",
        "unsteered:   of↩ two",
        "steered:     pi⟨U+001B⟩[31mrate",
        "KL(unsteered || steered): 0.512 nats per token over 4 tokens; "
        "repeated trigrams: nan% unsteered, 25% steered",
    ]


BAD = {
    "strength nan": (dict(strength=math.nan), ValueError, "strength is nan; give a finite number"),
    "strength inf": (
        dict(strength=-math.inf),
        ValueError,
        "strength is -inf; give a finite number",
    ),
    "strength word": (dict(strength="3"), ValueError, "strength is '3'; give a finite number"),
    "strength none": (dict(strength=None), ValueError, "strength is None; give a finite number"),
    "strength bool": (dict(strength=True), ValueError, "strength is True; give a finite number"),
    "mode": (dict(mode="set"), ValueError, "mode is 'set'; give one of 'add', 'clamp'"),
    "mode none": (dict(mode=None), ValueError, "mode is None; give one of 'add', 'clamp'"),
    "site": (dict(site="both"), ValueError, "site is 'both'; give one of 'corrected', 'published'"),
    "error term": (
        dict(error_term="keep"),
        ValueError,
        "error_term is 'keep'; give one of True, False",
    ),
    "direction": (
        dict(direction="up"),
        ValueError,
        r"direction is 'up'; give None \(the feature's own\), 'random', or a tensor \[16\]",
    ),
    "direction shape": (
        dict(direction=torch.ones(17)),
        ValueError,
        r"direction is torch.float32 of shape \(17,\); .* shape \(16,\)",
    ),
    "direction whole": (
        dict(direction=torch.ones(16).long()),
        ValueError,
        "direction is torch.int64 of shape .* needs floats",
    ),
    "direction zero": (
        dict(direction=torch.zeros(16)),
        ValueError,
        "direction is zero everywhere, or not finite",
    ),
    "direction nan": (
        dict(direction=torch.full((16,), math.nan)),
        ValueError,
        "direction is zero everywhere, or not finite",
    ),
    "seed": (
        dict(direction="random", seed=-1),
        ValueError,
        r"seed is -1; give a whole number in 0\.\.",
    ),
    "feature": (
        dict(feature=40),
        ValueError,
        r"feature 40 does not exist; this SAE has features 0\.\.39",
    ),
    "empty": (dict(prompt=""), ValueError, "the prompt is empty; give text"),
    "no tokens": (dict(prompt=[]), ValueError, "tokens are empty"),
    "rows": (
        dict(prompt=[[1, 5], [1, 6]]),
        ValueError,
        r"2 rows were given; give one prompt: text, or tokens \[pos\] or \[1, pos\]",
    ),
    "padded left": (
        dict(prompt=[2, 1, 5]),
        ValueError,
        r"padding \(token 2\) stands before text in rows 0",
    ),
    "padded right": (
        dict(prompt=[1, 5, 2]),
        ValueError,
        r"starts or ends with padding \(token 2\)",
    ),
    "no new tokens": (
        dict(max_new_tokens=0),
        ValueError,
        "max_new_tokens is 0; give a whole number of at least 1",
    ),
    "too long": (
        dict(max_new_tokens=27),
        ValueError,
        "has 6 tokens and the model's context is 32, so 27 new .* only 26; give max_new_tokens=26",
    ),
    "full": (dict(prompt=[1] * 32), ValueError, "has 32 tokens and .* only 0; shorten the prompt"),
    "hook": (
        dict(hook="blocks.1.hook_resid_prr"),
        UnknownNameError,
        "Did you mean 'blocks.1.hook_resid_pre'",
    ),
    "width": (dict(hook="blocks.1.mlp.hook_out.x"), UnknownNameError, "there is no hook"),
    "not an input": (
        dict(site="published", hook="blocks.1.hook_mlp_out"),
        HookError,
        "hook_mlp_out is not the input of one of this model's 3",
    ),
    "no layer": (
        dict(site="published", hook="blocks.2.hook_resid_post"),
        HookError,
        r"no layer to skip; give site='corrected', or hook=",
    ),
    "embedding": (
        dict(site="published", hook="embed.hook_out"),
        HookError,
        "embed.hook_out is not the input of one of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(llama_bridge, prompt, case):
    change, error, words = BAD[case]
    given = {"prompt": prompt, "feature": FEATURE, "strength": 3.0, "max_new_tokens": 2} | change
    with pytest.raises(error, match=words):
        steer(llama_bridge, SAE, given.pop("prompt"), given.pop("feature"), **given)
    assert hooks_are_clean(llama_bridge)


def test_weights_and_widths_that_do_not_fit(tiny, prompt):
    with pytest.raises(HookError, match="blocks.0.mlp.hook_post is 24 wide, but this SAE reads 16"):
        steer(
            tiny.model,
            SAE,
            prompt,
            FEATURE,
            strength=3.0,
            hook="blocks.0.mlp.hook_post",
            max_new_tokens=2,
        )
    broken = copy.deepcopy(tiny.sae)
    broken.W_dec[FEATURE, 3] = math.nan
    with pytest.raises(ValueError, match="the decoder direction of feature 7 hold 1 NaN"):
        steer(tiny.model, broken, prompt, FEATURE, strength=3.0)


def test_a_model_without_a_tokenizer(tiny, prompt, monkeypatch):
    monkeypatch.setattr(tiny.model, "tokenizer", None)
    with pytest.raises(ValueError, match="this model has no tokenizer.*set model.tokenizer"):
        steer(tiny.model, tiny.sae, prompt, FEATURE, strength=3.0)


@pytest.mark.parametrize("any_model", ["llama", "tiny"], indirect=True)
@pytest.mark.parametrize("site", ["corrected", "published"])
@pytest.mark.parametrize("calls", [1, 3, 5])
def test_an_sae_that_fails_leaves_no_hooks(any_model, prompt, site, calls):
    """In the prompt, in a later step of generation, and in the measurement (after 4 steps)."""
    seen = []

    def fail(x):
        seen.append(x.shape[1])
        if len(seen) == calls:
            raise RuntimeError("out of memory")
        return any_model.sae.encode(x)

    sae = SimpleNamespace(
        encode=fail,
        decode=any_model.sae.decode,
        W_enc=any_model.sae.W_enc,
        W_dec=any_model.sae.W_dec,
    )
    hook = any_model.sae.cfg.metadata.hook_name
    plain = generate(any_model.model, prompt, [], max_new_tokens=4)
    with pytest.raises(RuntimeError, match="out of memory"):
        steer(
            any_model.model,
            sae,
            prompt,
            FEATURE,
            strength=3.0,
            mode="clamp",
            site=site,
            hook=hook,
            max_new_tokens=4,
        )
    assert seen == [6, 1, 1, 1, 9][:calls]
    assert hooks_are_clean(any_model.model)
    assert torch.equal(generate(any_model.model, prompt, [], max_new_tokens=4), plain)
