"""What SAEs are by themselves, against sae_lens's own ``encode`` and ``decode``; refusals."""

from __future__ import annotations

import copy

import pytest
import sae_lens
import torch
from conftest import draw
from sae_lens.saes.sae import SAEMetadata
from transcoders import transcoder, with_random_weights

from saework import (
    Workbook,
    active_features,
    feature_activations,
    feature_page,
    find_site,
    logit_effect,
    recons_score,
    reconstruction_metrics,
    scan,
    steer,
    steering,
)
from saework.engine import architectures
from saework.engine.encoder import Encoder

NORMED, MLP_OUT = "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"


def top_k(**options):
    config = sae_lens.TopKSAEConfig(
        d_in=24, d_sae=48, k=4, metadata=SAEMetadata(hook_name="blocks.0.mlp.hook_post"), **options
    )
    return with_random_weights(sae_lens.TopKSAE(config))


@pytest.mark.parametrize("rescaled", [False, True])
def test_one_unit_adds_what_the_decoder_adds(tiny, rescaled):
    sae = top_k(rescale_acts_by_decoder_norm=rescaled)
    one_hot = torch.eye(48)
    added = sae.decode(one_hot) - sae.decode(torch.zeros_like(one_hot))
    torch.testing.assert_close(
        architectures.decoder_rows(sae, slice(None)), added, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(architectures.decoder_rows(sae, 7), added[7], rtol=0, atol=1e-5)
    through = added[7] @ tiny.model.W_out[0]
    expected = (through - through.mean()) @ tiny.model.W_U
    torch.testing.assert_close(logit_effect(tiny.model, sae, 7), expected, rtol=1e-4, atol=1e-4)
    ((_, edit),) = steering.steering_hooks(tiny.model, sae, 7, strength=2.0)
    x = draw(1, 3, 24)
    torch.testing.assert_close(edit(x) - x, (2 * added[7]).expand(1, 3, 24), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
def test_the_scale_of_the_last_input_does_not_stay_on_the_sae(tiny, scaling):
    metadata = SAEMetadata(hook_name=tiny.hook)
    config = sae_lens.StandardSAEConfig(
        d_in=24, d_sae=48, normalize_activations=scaling, metadata=metadata
    )
    sae = with_random_weights(sae_lens.StandardSAE(config))
    before = dict(vars(sae))
    x = draw(2, 3, 24)
    expected = copy.deepcopy(sae)(x)
    torch.testing.assert_close(Encoder(sae).reconstruct(x).x_hat, expected, rtol=0, atol=1e-5)
    feature_activations(tiny.model, sae, tiny.tokens, 3)
    assert vars(sae) == before


ANALYSES = {
    "scan": lambda book: scan(book, top_k=1, progress=False),
    "recons_score": lambda book: recons_score(book, progress=False),
    "reconstruction_metrics": lambda book: reconstruction_metrics(book, progress=False),
    "feature_activations": lambda book: feature_activations(book, "import os", 3),
    "active_features": lambda book: active_features(book, "import os"),
    "logit_effect": lambda book: logit_effect(book, 3),
    "find_site": lambda book: find_site(book),
}


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_batch_top_k_in_training_form_is_refused(tiny, analysis):
    """Its features depend on the other tokens of the batch, so on ``batch_size``."""
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=24, d_sae=48, k=4)
    sae = sae_lens.BatchTopKTrainingSAE(config)
    book = Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, tiny.hook)
    with pytest.raises(ValueError, match=r"batchtopk in its training form.*save_inference_model"):
        ANALYSES[analysis](book)


@pytest.mark.parametrize("analysis", ANALYSES)
def test_an_unknown_architecture_is_refused_by_name(tiny, analysis, monkeypatch):
    sae = copy.deepcopy(tiny.sae)
    monkeypatch.setattr(type(sae.cfg), "architecture", classmethod(lambda cls: "crosscoder"))
    book = Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, tiny.hook)
    with pytest.raises(ValueError, match="the architecture 'crosscoder' is not known here"):
        ANALYSES[analysis](book)


REPLACING = {
    "recons_score": ANALYSES["recons_score"],
    "reconstruction_metrics": ANALYSES["reconstruction_metrics"],
    "find_site": ANALYSES["find_site"],
    "steer": lambda book: steer(book, "import os", 3, strength=1.0, max_new_tokens=1),
    "steering_hooks": lambda book: steering.steering_hooks(book.model, book.sae, 3, strength=1),
    "feature_page": lambda book: feature_page(book, 3),
}


@pytest.mark.parametrize("analysis", REPLACING)
def test_one_layer_of_a_cross_layer_transcoder_replaces_nothing(
    lively, tiny, analysis, monkeypatch
):
    """Its features write in every later layer: no layer's output is its own."""
    sae = transcoder("transcoder", NORMED, MLP_OUT)
    sae.cfg.metadata.decoder_summed_over_layers = True
    book = Workbook(lively.model, sae, lively.tokens, tiny.tokenizer, NORMED)
    monkeypatch.setattr(lively.model, "forward", None)  # nothing may run
    with pytest.raises(ValueError, match=r"one layer of a cross-layer transcoder.*logit_effect"):
        REPLACING[analysis](book)


def test_features_of_one_layer_of_a_cross_layer_transcoder(lively):
    sae = transcoder("transcoder", NORMED, MLP_OUT)
    plain = copy.deepcopy(sae)
    sae.cfg.metadata.decoder_summed_over_layers = True
    model, tokens = lively.model, lively.tokens
    for analysis in (feature_activations, logit_effect):
        given = (model, sae, tokens, 3) if analysis is feature_activations else (model, sae, 3)
        assert torch.equal(analysis(*given), analysis(given[0], plain, *given[2:]))
    assert torch.equal(
        scan(model, sae, tokens, progress=False).count,
        scan(model, plain, tokens, progress=False).count,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_temporal_sae_reads_whole_rows(tiny, tied):
    config = sae_lens.TemporalSAEConfig(
        d_in=24,
        d_sae=64,
        n_heads=1,
        bottleneck_factor=8,
        kval_topk=4,
        tied_weights=tied,
        metadata=SAEMetadata(hook_name=tiny.hook),
    )
    sae = with_random_weights(sae_lens.TemporalSAE(config))
    x = tiny.model.run_with_cache(tiny.tokens)[1][tiny.hook]
    expected = sae.encode(x)
    found = feature_activations(tiny.model, sae, tiny.tokens, 3)
    torch.testing.assert_close(found, expected[..., 3], rtol=0, atol=1e-5)
    active = active_features(tiny.model, sae, tiny.tokens[0], pos=-1, n=64)
    assert sorted(active["index"]) == expected[0, -1].nonzero()[:, 0].tolist()
    for refused in ("scan", "recons_score"):
        book = Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, tiny.hook)
        with pytest.raises(ValueError, match="temporal SAE depend on earlier tokens"):
            ANALYSES[refused](book)


def test_what_was_whitened_in_training_is_refused(tiny):
    config = sae_lens.StandardSAEConfig(
        d_in=24, d_sae=48, normalize_activations="covariance_whitening"
    )
    with pytest.raises(ValueError, match="trained on whitened activations.*fold_activation_white"):
        logit_effect(tiny.model, sae_lens.StandardSAE(config), 3, hook=tiny.hook)


def test_a_temporal_saes_rows_are_in_the_units_of_the_hook(tiny):
    config = sae_lens.TemporalSAEConfig(
        d_in=24,
        d_sae=64,
        n_heads=1,
        bottleneck_factor=8,
        normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=0.25,
    )
    sae = with_random_weights(sae_lens.TemporalSAE(config))
    one = torch.eye(64)[None]
    added = (sae.decode(one) - sae.decode(torch.zeros_like(one)))[0]
    torch.testing.assert_close(
        architectures.decoder_rows(sae, slice(None)), added, rtol=1e-4, atol=1e-5
    )
