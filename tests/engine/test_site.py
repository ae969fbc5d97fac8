"""What SAEs read and write, against the model run with plain hooks and ``sae.forward``."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import sae_lens
import torch
from conftest import bridged, loudly_drawn
from sae_lens.saes.sae import SAEMetadata
from transcoders import KINDS, transcoder, with_random_weights
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Olmo2Config, Olmo2ForCausalLM

from saework import (
    HookError,
    active_features,
    feature_activations,
    find_site,
    logit_effect,
    recons_score,
    reconstruction_metrics,
    scan,
    steering,
)
from saework.engine import site

NORMED, MLP_OUT = "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"
BRIDGE_IN, BRIDGE_OUT = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


def plain_losses(model, tokens, reads, writes, new) -> torch.Tensor:
    """Nats of each next token, with ``new(read, written)`` in the place of what is written."""
    kept = {}

    def read(value, hook):
        kept["x"] = value

    def write(value, hook):
        return new(kept["x"], value).reshape(value.shape)

    hooks = [(reads, read), (writes, write)] if new else []
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks).double()
    log_probs = logits.log_softmax(-1)[:, :-1]
    return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0]


@pytest.fixture(params=["HookedTransformer", "TransformerBridge"])
def case(request, lively, gpt2_bridge, tiny):
    """A model, and where its transcoders read and write."""
    if request.param == "HookedTransformer":
        return SimpleNamespace(
            model=lively.model, tokens=lively.tokens, reads=NORMED, writes=MLP_OUT
        )
    return SimpleNamespace(
        model=gpt2_bridge, tokens=tiny.tokens, reads=BRIDGE_IN, writes=BRIDGE_OUT
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_transcoder_is_spliced_where_it_writes(case, kind, ablation):
    sae = transcoder(kind, case.reads, case.writes)
    score = recons_score(case.model, sae, case.tokens, ablation=ablation, progress=False)
    _, cache = case.model.run_with_cache(case.tokens)
    mean = cache[case.writes].flatten(0, 1).mean(0) if ablation == "mean" else torch.zeros(16)
    expected = [
        plain_losses(case.model, case.tokens, case.reads, case.writes, new).mean().item()
        for new in (
            None,
            lambda x, y: sae(x),
            lambda x, y: torch.zeros_like(y) + mean,
        )
    ]
    assert [score.loss, score.recons_loss, score.ablated_loss] == pytest.approx(expected, abs=1e-4)
    assert score.hook == case.writes


def test_a_transcoder_explains_what_it_writes(case):
    sae = transcoder("jumprelu skip", case.reads, case.writes)
    table = reconstruction_metrics(case.model, sae, case.tokens, progress=False)["with_bos"]
    _, cache = case.model.run_with_cache(case.tokens)
    y = cache[case.writes].flatten(0, 1).double()
    y_hat = sae(cache[case.reads]).flatten(0, 1).double()
    error = (y - y_hat).pow(2).sum()
    assert table["variance_explained"] == pytest.approx(
        float(1 - error / (y - y.mean(0)).pow(2).sum()), abs=1e-5
    )
    features = sae.encode(cache[case.reads])
    assert table["l0"] == pytest.approx(float((features != 0).sum(-1).double().mean()))
    sites = find_site(case.model, sae, case.tokens).set_index("hook")
    without_bos = case.tokens.flatten() != 1
    kept, kept_hat = y[without_bos], y_hat[without_bos]
    unexplained = (kept - kept_hat).pow(2).sum() / (kept - kept.mean(0)).pow(2).sum()
    assert sites.loc[case.reads, "unexplained"] == pytest.approx(float(unexplained), rel=1e-4)


def test_an_output_of_another_width(lively):
    post = "blocks.0.mlp.hook_post"
    sae = transcoder("skip", NORMED, post, d_out=24)
    score = recons_score(lively.model, sae, lively.tokens, progress=False)
    plain = plain_losses(lively.model, lively.tokens, NORMED, post, lambda x, y: sae(x))
    assert score.recons_loss == pytest.approx(plain.mean().item(), abs=1e-5)
    too_wide = transcoder("skip", NORMED, MLP_OUT, d_out=24)
    with pytest.raises(HookError, match="hook_mlp_out is 16 wide, but this SAE writes 24"):
        recons_score(lively.model, too_wide, lively.tokens, progress=False)


@pytest.mark.parametrize("mode", ["add", "clamp"])
@pytest.mark.parametrize("error_term", [True, False])
def test_a_transcoder_steers_where_it_writes(case, mode, error_term):
    sae = transcoder("skip", case.reads, case.writes)
    hooks = steering.steering_hooks(
        case.model, sae, 3, strength=2.0, mode=mode, error_term=error_term
    )
    steered = case.model.run_with_hooks(case.tokens, fwd_hooks=hooks)
    kept = {}

    def read(value, hook):
        kept["x"] = value

    def write(value, hook):
        delta = 2.0 - (sae.encode(kept["x"])[..., 3] if mode == "clamp" else 0.0)
        base = value if error_term else sae(kept["x"])
        return base + torch.as_tensor(delta)[..., None] * sae.W_dec[3]

    plain = case.model.run_with_hooks(
        case.tokens, fwd_hooks=[(case.reads, read), (case.writes, write)]
    )
    torch.testing.assert_close(steered, plain, rtol=1e-4, atol=1e-4)


def test_a_transcoders_logit_effect_starts_where_it_writes(case):
    sae = transcoder("transcoder", case.reads, case.writes)
    written = copy.deepcopy(sae)
    written.cfg.metadata.hook_name = written.cfg.metadata.hook_name_out
    assert torch.equal(logit_effect(case.model, sae, 5), logit_effect(case.model, written, 5))


def test_a_transcoder_that_does_not_say_where_it_writes(lively):
    sae = transcoder("transcoder", NORMED, None)
    with pytest.raises(ValueError, match="set sae.cfg.metadata.hook_name_out"):
        recons_score(lively.model, sae, lively.tokens, progress=False)


@torch.no_grad()
def test_a_splice_in_mid_block_reaches_the_stream(gpt2, gpt2_bridge, tiny):
    """On a bridge ``hook_resid_mid`` is the second norm's input, which the stream bypasses."""
    hook = "blocks.0.hook_resid_mid"
    metadata = SAEMetadata(hook_name=hook)
    sae = with_random_weights(
        sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=16, d_sae=40, metadata=metadata))
    )
    score = recons_score(gpt2_bridge, sae, tiny.tokens, progress=False)

    def loss_with(new) -> float:
        """Hugging Face's own block, with the attention's output changed so that its sum is new."""
        kept = {}
        block = gpt2.transformer.h[0]

        def keep_input(module, arguments):
            kept["stream"] = arguments[0]

        def change(module, arguments, output):
            attended = output[0]
            mid = kept["stream"] + attended
            return (new(mid) - kept["stream"], *output[1:])

        handles = [
            block.register_forward_pre_hook(keep_input),
            block.attn.register_forward_hook(change),
        ]
        logits = gpt2(tiny.tokens).logits.double()
        for handle in handles:
            handle.remove()
        log_probs = logits.log_softmax(-1)[:, :-1]
        return float(-log_probs.gather(-1, tiny.tokens[:, 1:, None]).mean())

    assert loss_with(lambda mid: mid) == pytest.approx(score.loss, abs=1e-4)
    assert score.recons_loss == pytest.approx(loss_with(sae), abs=1e-4)
    assert score.ablated_loss == pytest.approx(loss_with(torch.zeros_like), abs=1e-4)


SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@torch.no_grad()
def test_a_splice_in_mid_block_where_norms_follow_the_branches(tiny, tmp_path):
    """OLMo 2: the middle of a block is the MLP's input; the norms read what the branches give."""
    hf = loudly_drawn(lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES, pad_token_id=0)))
    bridge = bridged(hf, tiny, tmp_path)
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_mid")
    sae = with_random_weights(
        sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=16, d_sae=40, metadata=metadata))
    )
    score = recons_score(bridge, sae, tiny.tokens, progress=False)
    layer = hf.model.layers[0]
    kept = {}

    def keep_input(module, args, kwargs):
        kept["stream"] = args[0] if args else kwargs["hidden_states"]

    def change(module, args, output):
        stream = kept["stream"]
        return sae(stream + output) - stream

    layer.register_forward_pre_hook(keep_input, with_kwargs=True)
    layer.post_attention_layernorm.register_forward_hook(change)
    log_probs = hf(tiny.tokens).logits.double().log_softmax(-1)[:, :-1]
    spliced = -log_probs.gather(-1, tiny.tokens[:, 1:, None]).mean()
    assert score.recons_loss == pytest.approx(float(spliced), abs=1e-4)
    norm_input = "blocks.0.ln1.hook_in"  # the attention's output, and no view of the stream
    assert site.carrier_of(bridge, norm_input) == (norm_input, None)


def test_a_norm_that_reads_the_stream_is_written_at_the_stream(gpt2_bridge, tiny, tmp_path):
    assert site.carrier_of(gpt2_bridge, "blocks.1.ln1.hook_in") == ("blocks.1.hook_in", None)
    hf = loudly_drawn(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)))
    parallel = bridged(hf, tiny, tmp_path)
    for norm in ("ln1", "ln2"):
        assert site.carrier_of(parallel, f"blocks.1.{norm}.hook_in") == ("blocks.1.hook_in", None)


def test_hooks_that_a_bridge_does_not_fire_have_a_twin(gpt2_bridge, tiny):
    sae = transcoder("transcoder", "blocks.1.hook_mlp_in", BRIDGE_OUT)
    where = site.site_of(gpt2_bridge, sae)
    assert (where.reads, where.writes) == (BRIDGE_IN, BRIDGE_OUT)
    expected = transcoder("transcoder", BRIDGE_IN, BRIDGE_OUT)
    assert torch.equal(
        feature_activations(gpt2_bridge, sae, tiny.tokens, 3),
        feature_activations(gpt2_bridge, expected, tiny.tokens, 3),
    )


def test_hook_mlp_in_of_a_hooked_transformer_is_refused(lively):
    sae = transcoder("transcoder", "blocks.0.hook_mlp_in", MLP_OUT)
    with pytest.raises(HookError, match=r"before the norm; give .* blocks.0.ln2.hook_normalized"):
        recons_score(lively.model, sae, lively.tokens, progress=False)


@pytest.fixture
def heads_sae():
    """An SAE of attention heads that joins them itself."""
    metadata = SAEMetadata(hook_name="blocks.0.attn.hook_z")
    config = sae_lens.StandardSAEConfig(
        d_in=16, d_sae=40, reshape_activations="hook_z", metadata=metadata
    )
    return with_random_weights(sae_lens.StandardSAE(config))


def test_heads_are_read_together_and_the_sae_stays_as_it_was(lively, heads_sae):
    before = dict(vars(heads_sae))
    z = lively.model.run_with_cache(lively.tokens)[1]["blocks.0.attn.hook_z"]
    centred = z.flatten(2) - heads_sae.b_dec
    features = (centred @ heads_sae.W_enc + heads_sae.b_enc).relu()
    found = active_features(lively.model, heads_sae, lively.tokens[0], pos=4, n=40)
    expected = features[0, 4]
    assert dict(zip(found["index"], found["value"])) == pytest.approx(
        {i: float(v) for i, v in enumerate(expected) if v != 0}, abs=1e-5
    )
    recons_score(lively.model, heads_sae, lively.tokens, progress=False)
    scan(lively.model, heads_sae, lively.tokens, top_k=2, progress=False)
    assert vars(heads_sae) == before


def test_heads_reach_the_logits_through_w_o(lively, heads_sae):
    row = heads_sae.W_dec[3].reshape(2, 8)
    written = torch.einsum("hd,hdm->m", row, lively.model.W_O[0])
    expected = (written - written.mean()) @ lively.model.W_U
    found = logit_effect(lively.model, heads_sae, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_skip_term_in_bfloat16(case):
    sae = transcoder("skip", case.reads, case.writes)
    half = copy.deepcopy(sae).to(dtype=torch.bfloat16)
    scores = [recons_score(case.model, each, case.tokens, progress=False) for each in (sae, half)]
    assert scores[1].recons_loss == pytest.approx(scores[0].recons_loss, rel=0.02)
    assert find_site(case.model, half, case.tokens)["unexplained"].notna().all()
