"""What the layouts share: an SAE from tensors and back, and hooks that are not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import random_sae
from sae_files import HOOK, assert_close, assert_same_sae, inputs

from saework.core.errors import HookError
from saework.loading.catalogue import SAE_LAYOUTS
from saework.loading.layouts.sae_layout import known_hook, sae_of, sae_shapes, tensors_of


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_an_sae_from_its_tensors_and_back(architecture):
    generator = torch.Generator().manual_seed(0)
    sae = random_sae(8, 20, HOOK, generator, architecture).eval().requires_grad_(False)
    subtract = architecture == "standard"
    state = tensors_of(sae, architecture=architecture, subtract_b_dec=subtract, dtype=torch.float32)
    assert sae_shapes(8, 20).items() <= {k: tuple(v.shape) for k, v in state.items()}.items()
    again = sae_of(architecture, state, hook=HOOK, subtract_b_dec=subtract)
    assert_same_sae(again, sae)
    x = inputs(8, 50)
    assert torch.equal(again(x), sae(x))
    assert not again.training and not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("subtract", [True, False])
def test_whether_b_dec_is_subtracted(subtract):
    generator = torch.Generator().manual_seed(0)
    w = {name: torch.randn(s, generator=generator) for name, s in sae_shapes(8, 20).items()}
    sae = sae_of("standard", w, hook=HOOK, subtract_b_dec=subtract)
    x = inputs(8, 50)
    read = x - w["b_dec"] if subtract else x
    assert_close(sae.encode(x), torch.relu(read @ w["W_enc"] + w["b_enc"]))


def test_scaled_activations_cannot_be_stored():
    sae = random_sae(8, 20, HOOK, torch.Generator().manual_seed(0))
    sae.cfg.normalize_activations = "layer_norm"
    with pytest.raises(ValueError, match="normalize_activations 'layer_norm'; the layout holds"):
        tensors_of(sae, architecture="standard", subtract_b_dec=True, dtype=torch.float32)


def test_a_hook_that_is_not_known():
    assert known_hook("h", Path("a.pt")) == "h"
    for hook in (None, ""):
        with pytest.raises(HookError, match="a.pt does not say which hook.*read_sae"):
            known_hook(hook, Path("a.pt"))


def test_each_layout_says_what_it_looks_like():
    assert [repr(layout) for layout in SAE_LAYOUTS.values()] == list(SAE_LAYOUTS)
    assert len({layout.looks_like for layout in SAE_LAYOUTS.values()}) == len(SAE_LAYOUTS)
