"""sae_lens's transcoders, and other SAEs of its classes, with random weights."""

from __future__ import annotations

import sae_lens
from conftest import draw
from sae_lens.saes.sae import SAEMetadata

KINDS = {
    "transcoder": (sae_lens.Transcoder, sae_lens.TranscoderConfig),
    "skip": (sae_lens.SkipTranscoder, sae_lens.SkipTranscoderConfig),
    "jumprelu": (sae_lens.JumpReLUTranscoder, sae_lens.JumpReLUTranscoderConfig),
    "jumprelu skip": (sae_lens.JumpReLUSkipTranscoder, sae_lens.JumpReLUSkipTranscoderConfig),
}


def with_random_weights(sae, scale: float = 0.3):
    for seed, (name, weight) in enumerate(sorted(sae.named_parameters())):
        weight.data = scale * draw(*weight.shape, seed=seed)
        if name == "threshold":
            weight.data = weight.data.abs()
    return sae.eval().requires_grad_(False)


def transcoder(kind: str, reads: str, writes: str | None, d_out: int = 16):
    cls, config = KINDS[kind]
    metadata = SAEMetadata(hook_name=reads, hook_name_out=writes)
    about = config(d_in=16, d_out=d_out, d_sae=40, apply_b_dec_to_input=False, metadata=metadata)
    return with_random_weights(cls(about))
