"""A tiny SAE of every architecture and scaling that sae_lens has, with random weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import sae_lens
import torch
from conftest import draw
from sae_lens.saes.sae import SAEMetadata

from saework.loading import refusals

D_SAE = 40
ARCHITECTURES = {
    "standard": "Standard",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "topk": "TopK",
    "abstopk": "AbsTopK",
    "matching_pursuit": "MatchingPursuit",
    "temporal": "Temporal",
    "batchtopk": "BatchTopKTraining",
    "matryoshka_batchtopk": "MatryoshkaBatchTopKTraining",
    "transcoder": "Transcoder",
    "skip_transcoder": "SkipTranscoder",
    "jumprelu_transcoder": "JumpReLUTranscoder",
    "jumprelu_skip_transcoder": "JumpReLUSkipTranscoder",
}
"""sae_lens's names, and its classes' without their ending."""
TEMPORAL = dict(
    n_heads=1,
    bottleneck_factor=8,
    kval_topk=4,
    normalize_activations="constant_scalar_rescale",
    activation_normalization_factor=0.5,
)
OPTIONS: dict[str, dict[str, Any]] = {
    "topk": dict(k=4, rescale_acts_by_decoder_norm=False),
    "abstopk": dict(k=4),
    "batchtopk": dict(k=4),
    "matryoshka_batchtopk": dict(k=4, matryoshka_widths=[10, D_SAE]),
    "matching_pursuit": dict(residual_threshold=1e-3, max_iterations=6),
    "temporal": TEMPORAL | dict(tied_weights=False),
    "transcoder": dict(apply_b_dec_to_input=False),
    "skip_transcoder": dict(apply_b_dec_to_input=False),
    "jumprelu_transcoder": dict(apply_b_dec_to_input=False),
    "jumprelu_skip_transcoder": dict(apply_b_dec_to_input=False),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk, rescaled by decoder norm": ("topk", dict(rescale_acts_by_decoder_norm=True)),
    "temporal, tied": ("temporal", dict(tied_weights=True)),
    "layer_norm": ("standard", dict(normalize_activations="layer_norm")),
    "constant_norm_rescale": ("standard", dict(normalize_activations="constant_norm_rescale")),
    "topk, layer_norm": ("topk", dict(normalize_activations="layer_norm")),
    "expected_average_only_in": (
        "standard",
        dict(normalize_activations="expected_average_only_in"),
    ),
    refusals.WHITENED: ("standard", dict(normalize_activations="covariance_whitening")),
    refusals.CLT_LAYER: ("transcoder", {}),
    "heads, reshaped by itself": ("standard", dict(reshape_activations="hook_z")),
}
KINDS = [*ARCHITECTURES, *VARIANTS, "batchtopk, saved", "matryoshka, saved", "own object"]


class OwnSae:
    """An object with what the README asks for, and no more."""

    def __init__(self, sae: Any):
        self.W_enc, self.W_dec = sae.W_enc.data, sae.W_dec.data
        self.b_enc, self.b_dec = sae.b_enc.data, sae.b_dec.data

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.W_dec + self.b_dec


def architecture_of(kind: str) -> str:
    """What sae_lens calls it; ``own object`` is none of its."""
    if kind.endswith(", saved"):
        return "jumprelu"
    if kind in refusals.ARCHITECTURES:
        return kind
    return VARIANTS[kind][0] if kind in VARIANTS else kind


def build(kind: str, reads: str, writes: str, folder: Path, d_in: int = 16) -> Any:
    """An SAE of a kind, whose config names these hooks."""
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    if kind == "own object":
        return OwnSae(build("standard", reads, writes, folder, d_in))
    if kind.endswith(", saved"):
        training = {"batchtopk, saved": "batchtopk", "matryoshka, saved": "matryoshka_batchtopk"}
        sae = build(training[kind], reads, writes, folder, d_in)
        sae.save_inference_model(folder)
        return sae_lens.SAE.load_from_disk(folder).eval().requires_grad_(False)
    architecture, extra = VARIANTS.get(kind, (kind, {}))
    config_class = getattr(sae_lens, f"{ARCHITECTURES[architecture]}{_ending(architecture)}Config")
    sae_class = getattr(sae_lens, f"{ARCHITECTURES[architecture]}{_ending(architecture)}")
    options = OPTIONS.get(architecture, {}) | extra
    if "transcoder" in architecture:
        options = options | dict(d_out=16)
    metadata = SAEMetadata(hook_name=reads, hook_name_out=writes)
    if kind == refusals.CLT_LAYER:
        metadata.decoder_summed_over_layers = True
    sae = sae_class(config_class(d_in=d_in, d_sae=D_SAE, metadata=metadata, **options))
    for seed, (name, weight) in enumerate(sorted(sae.named_parameters())):
        weight.data = 0.3 * draw(*weight.shape, seed=seed)
        if name.endswith("threshold"):
            weight.data = weight.data.abs()
    for name, value in sae.named_buffers():
        if name == "topk_threshold":
            value.fill_(0.4)
    if kind == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(0.7)
    return sae.eval().requires_grad_(False)


def _ending(architecture: str) -> str:
    return "" if "transcoder" in architecture else "SAE"
