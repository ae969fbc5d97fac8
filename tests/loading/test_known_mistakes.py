"""Each mistake beside the formula that somebody would have written by mistake."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_sae
from every_sae import OwnSae, build
from transcoders import transcoder

from saework.loading.known_mistakes import MISTAKES, loaded_from

HOOK = "blocks.0.hook_resid_pre"
MADE = {mistake.name: mistake for mistake in MISTAKES}


@pytest.fixture
def loaded_of(tiny):
    def loaded(sae, hook=HOOK):
        return loaded_from(tiny.model, sae, tiny.tokens, hook)

    return loaded


@pytest.fixture
def jumprelu():
    generator = torch.Generator().manual_seed(1)
    return random_sae(16, 40, HOOK, generator, "jumprelu").requires_grad_(False)


@pytest.fixture
def x(tiny):
    _, cache = tiny.model.run_with_cache(tiny.tokens, names_filter=HOOK)
    return cache[HOOK]


def mutated(name, loaded):
    result = MADE[name].of(loaded)
    assert not isinstance(result, str), result
    return result


def pre(sae, x):
    return x @ sae.W_enc + sae.b_enc


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_b_dec_is_subtracted_where_it_was_not(loaded_of, jumprelu, x):
    sae = mutated("b_dec subtracted, or not", loaded_of(jumprelu)).sae
    shifted = pre(jumprelu, x - jumprelu.b_dec)
    close(sae.encode(x), shifted * (shifted > jumprelu.threshold))
    reader = transcoder("transcoder", HOOK, "blocks.0.hook_mlp_out")
    sae = mutated("b_dec subtracted, or not", loaded_of(reader)).sae
    close(sae.encode(x), pre(reader, x - reader.b_dec).relu())


def test_b_dec_is_left_out_where_it_was_subtracted(loaded_of, tmp_path, x):
    standard = build("standard", HOOK, HOOK, tmp_path)
    assert standard.cfg.apply_b_dec_to_input
    sae = mutated("b_dec subtracted, or not", loaded_of(standard)).sae
    close(sae.encode(x), pre(standard, x).relu())


def test_thresholds_and_their_absence(loaded_of, jumprelu, x):
    scale = 16**0.5 / x.norm(dim=-1).mean()
    sae = mutated("threshold off by the activation scale", loaded_of(jumprelu)).sae
    close(sae.encode(x), pre(sae, x) * (pre(sae, x) > jumprelu.threshold * scale))
    sae = mutated("threshold or TopK left out", loaded_of(jumprelu)).sae
    close(sae.encode(x), pre(jumprelu, x).relu())


def test_topk_read_as_relu(loaded_of, tmp_path, x):
    topk = build("topk", HOOK, HOOK, tmp_path)
    sae = mutated("threshold or TopK left out", loaded_of(topk)).sae
    close(sae.encode(x), pre(topk, x - topk.b_dec).relu())
    assert (topk.encode(x) != 0).sum(-1).max() == 4, "the SAE itself is as it was"


def test_a_skip_connection_transposed(loaded_of, x):
    reader = transcoder("skip", HOOK, "blocks.0.hook_mlp_out")
    sae = mutated("skip connection transposed", loaded_of(reader)).sae
    close(sae(x), reader.decode(reader.encode(x)) + x @ reader.W_skip)
    close(reader(x), reader.decode(reader.encode(x)) + x @ reader.W_skip.T)


def test_the_input_s_scale_left_out_of_the_weights(loaded_of, jumprelu, x):
    """The weights hold a scale folded in; unfolded, they expect an input that is multiplied."""
    scale = 16**0.5 / x.norm(dim=-1).mean()
    sae = mutated("input scale not folded", loaded_of(jumprelu)).sae
    close(sae.encode(scale * x), jumprelu.encode(x))
    close(sae.decode(sae.encode(scale * x)) / scale, jumprelu.decode(jumprelu.encode(x)))
    assert not torch.allclose(sae.encode(x), jumprelu.encode(x))
    sae = mutated("input scale not folded into b_dec", loaded_of(jumprelu)).sae
    features = jumprelu.encode(x)
    close(sae.decode(features), features @ jumprelu.W_dec + scale * jumprelu.b_dec)


def test_the_input_s_scale_left_out_when_the_sae_runs(loaded_of, tmp_path, x):
    normed = build("layer_norm", HOOK, HOOK, tmp_path)
    sae = mutated("input scale not folded", loaded_of(normed)).sae
    close(sae.encode(x), pre(normed, x - normed.b_dec).relu())
    close(sae.decode(sae.encode(x)), sae.encode(x) @ normed.W_dec + normed.b_dec)


def test_another_hook(loaded_of, jumprelu):
    at_the_end = loaded_of(jumprelu, "blocks.0.hook_resid_post")
    assert mutated("the block's input", at_the_end).hook == HOOK
    assert MADE["the block's input"].of(loaded_of(jumprelu)) == f"there is no other hook {HOOK}"
    last = MADE["the next block's hook"].of(at_the_end)
    assert last == "there is no other hook blocks.1.hook_resid_post"
    elsewhere = loaded_of(jumprelu, "blocks.0.hook_attn_out")
    assert "is no hook of the residual stream" in MADE["the block's input"].of(elsewhere)


def test_a_norm_s_gain(loaded_of, jumprelu, tiny, x):
    hook = "blocks.0.ln1.hook_normalized"
    name = "the norm's gain missing (or extra)"
    assert MADE[name].of(loaded_of(jumprelu)) == "the hook is not behind a norm"
    folded = MADE[name].of(loaded_of(jumprelu, hook))
    assert folded == "the norm has no gain of its own, or it is folded into what follows"

    class WithGain:
        hook_dict = tiny.model.hook_dict

        def named_parameters(self):
            return [("blocks.0.ln1.w", gain)]

    gain = torch.linspace(0.5, 2, 16)
    mistake = MADE[name].make(loaded_from(WithGain(), jumprelu, tiny.tokens, hook))
    close(mistake.sae.encode(x), jumprelu.encode(gain * x))


def test_a_decoder_stored_the_other_way_round(loaded_of, jumprelu, x):
    sae = mutated("decoder stored the other way round", loaded_of(jumprelu)).sae
    stored = jumprelu.W_dec.T.contiguous()  # [d_in, d_sae], as torch.nn.Linear has it
    close(sae.W_dec, stored.flatten().view(40, 16))


def test_bfloat16(loaded_of, jumprelu, x):
    sae = mutated("weights in bfloat16", loaded_of(jumprelu)).sae
    assert torch.equal(sae.W_enc, jumprelu.W_enc.bfloat16().float())
    again = MADE["weights in bfloat16"].of(loaded_of(sae))
    assert again == "it changes nothing here"


def test_rows_without_bos(loaded_of, jumprelu, tiny):
    loaded = mutated("BOS left out", loaded_of(jumprelu))
    assert torch.equal(loaded.tokens, tiny.tokens[:, 1:])
    assert loaded.sae.cfg.metadata.prepend_bos is False
    without = loaded_from(tiny.model, jumprelu, tiny.tokens[:, 1:], HOOK)
    assert MADE["BOS left out"].of(without) == "the rows do not begin with BOS"
    short = loaded_from(tiny.model, jumprelu, tiny.tokens[:, :2], HOOK)
    assert MADE["BOS left out"].of(short) == "the rows are too short without it"


def test_where_a_mistake_cannot_be_made(loaded_of, tmp_path):
    standard = build("standard", HOOK, HOOK, tmp_path)
    standard.b_dec.zero_()
    reasons = {name: mistake.of(loaded_of(standard)) for name, mistake in MADE.items()}
    assert reasons["b_dec subtracted, or not"] == "b_dec is zero"
    assert reasons["input scale not folded into b_dec"] == "b_dec is zero"
    assert reasons["threshold off by the activation scale"] == "the SAE has no threshold"
    assert reasons["threshold or TopK left out"].startswith("the SAE is a ReLU already")
    assert reasons["skip connection transposed"] == "the SAE has no skip connection"
    wide = transcoder("skip", HOOK, "blocks.0.hook_mlp_out", d_out=24)
    reason = MADE["skip connection transposed"].of(loaded_of(wide))
    assert reason == "W_skip is 24 x 16, so its shape would show it"
    reason = MADE["b_dec subtracted, or not"].of(loaded_of(wide))
    assert reason == "b_dec has another width than the input, so its shape would show it"


@pytest.mark.parametrize("name", MADE)
def test_the_sae_itself_stays_as_it_is(loaded_of, tmp_path, name):
    for sae in (build("layer_norm", HOOK, HOOK, tmp_path), transcoder("jumprelu skip", HOOK, HOOK)):
        before, config = copy.deepcopy(sae.state_dict()), copy.deepcopy(sae.cfg)
        MADE[name].of(loaded_of(sae))
        assert sae.cfg == config
        assert all(torch.equal(before[key], value) for key, value in sae.state_dict().items())


def test_an_object_of_one_s_own(loaded_of, tmp_path, x):
    own = OwnSae(build("standard", HOOK, HOOK, tmp_path))
    sae = mutated("b_dec subtracted, or not", loaded_of(own)).sae
    close(sae.encode(x), (pre(own, x - own.b_dec)).relu())
    sae = mutated("weights in bfloat16", loaded_of(own)).sae
    assert torch.equal(sae.W_enc, own.W_enc.bfloat16().float())
