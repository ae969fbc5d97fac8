"""Normalised views against plain loops, and the ranking of an SAE's stream above them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import sae_lens
import torch
from conftest import draw
from sae_lens.saes.sae import SAEMetadata
from stand_ins import PlainSAE

from saework import find_site
from saework.core.normalised_views import fits_better, same_directions
from saework.engine import forward

STREAM, VIEW = "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"


def test_sites_of_the_same_directions():
    x = draw(6, 8)
    scale = 0.5 + torch.arange(6.0)[:, None]
    sites = {
        "stream": x,
        "other": draw(6, 8, seed=1),
        "layer norm": (x - x.mean(-1, keepdim=True)) * scale,
        "with weights": x * torch.arange(1.0, 9.0),
        "rms norm": x * scale,
        "one token differs": torch.cat([-x[:1], x[1:]]),
    }
    assert same_directions(sites) == [
        ["stream", "layer norm", "rms norm"],
        ["other"],
        ["with weights"],
        ["one token differs"],
    ]


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.3])
def test_the_paired_test_against_drawing_rows_one_by_one(shift):
    stream, noise = draw(12).abs().double(), draw(12, seed=1).double()
    view = stream + shift + 0.3 * noise
    generator = np.random.default_rng(7)
    sums = []
    for _ in range(4000):
        rows = generator.integers(12, size=12)
        sums.append(sum(float(view[row] - stream[row]) for row in rows))
    upper = np.quantile(sums, 0.975)
    assert abs(upper) > 0.2, "far enough from zero for the draws to agree"
    assert fits_better(view, stream) == (upper < 0)


def test_one_row_tells_nothing():
    assert not fits_better(torch.tensor([0.1]), torch.tensor([0.9]))


def imperfect(model, tokens, shrink):
    """An SAE of the stream that makes its output too small, as L1 does.

    The stream's tokens of large norm are then badly explained; a view has none.
    """
    x = forward.activations(model, tokens, STREAM).flatten(0, 1)
    ways = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:12].T
    return PlainSAE(lambda x: x @ ways, lambda f: shrink * f @ ways.T, d_in=x.shape[1], d_sae=12)


def equal_norms(model):
    """The same model with a stream of about the norm that its views have."""
    x = forward.activations(model, torch.arange(3, 20)[None], STREAM)
    model.embed.W_E.mul_(4 / float(x.norm(dim=-1).mean()))
    model.pos_embed.W_pos.mul_(4 / float(x.norm(dim=-1).mean()))
    return model


@pytest.fixture(scope="module")
def near(lively):
    return equal_norms(copy.deepcopy(lively.model))


@pytest.mark.parametrize("shrink", [1.0, 0.9, 0.8])
def test_a_view_does_not_rank_above_its_stream_by_chance(near, tiny, shrink):
    sae = imperfect(near, tiny.tokens, shrink)
    table = find_site(near, sae, tiny.tokens).set_index("hook")
    place = {hook: rank for rank, hook in enumerate(table.index)}
    stream = table.loc[STREAM]
    if VIEW in place:
        assert place[VIEW] > place[STREAM]
    else:
        assert VIEW in stream["views"].split(", ")


def test_an_sae_that_scales_its_input_reads_the_same_at_both(near, tiny):
    config = sae_lens.StandardSAEConfig(
        d_in=16,
        d_sae=32,
        normalize_activations="layer_norm",
        metadata=SAEMetadata(hook_name=STREAM),
    )
    sae = sae_lens.StandardSAE(config)
    for seed, weight in enumerate(sae.parameters()):
        weight.data = draw(*weight.shape, seed=seed)
    table = find_site(near, sae.eval().requires_grad_(False), tiny.tokens).set_index("hook")
    assert VIEW in table.loc[STREAM, "views"]
    assert VIEW not in table.index


def test_a_view_that_clearly_fits_better_keeps_its_row(lively, tiny):
    model = copy.deepcopy(lively.model)
    model.embed.W_E.mul_(0.1)
    model.pos_embed.W_pos.mul_(0.1)
    norm = 4.0  # of the view: the root of its width

    def at_the_norm_of_the_view(features):
        return norm * torch.nn.functional.normalize(features, dim=-1)

    sae = PlainSAE(lambda x: x, at_the_norm_of_the_view, d_in=16, d_sae=16)
    ranked = find_site(model, sae, tiny.tokens)["hook"].tolist()
    assert ranked.index(VIEW) < ranked.index(STREAM)
