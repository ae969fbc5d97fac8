"""An SAE on many tokens: a block at a time, so that ``[token, d_sae]`` never exists, and into the same memory.

The first write to fresh memory takes about ten times as long as one to memory in use, and a block of features is
written once and read once. So the product goes into a buffer that is kept, and bias, ReLU and threshold are applied in
place. The steps are those of ``sae.encode``, in its order, so the results are the same to the last bit. Decoding adds up
the decoder rows of the few features that are on: the same sum as the dense product without its zeros, in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from saework.core.protocols import sae_architecture

BLOCK = 1024  # tokens
IN_CACHE = 32  # tokens, 2 MB of 16,384 features
SPARSE_BELOW = (
    1 / 32
)  # share of features on, up to which adding decoder rows beats the dense product
_PLAIN = (
    "standard",
    "jumprelu",
)  # whose features do not depend on one another, and whose encoder is one product


def _as_read(sae, x: torch.Tensor) -> torch.Tensor:
    """An SAE of attention heads puts the two last axes together itself: give it one head as wide as all of them."""
    return x[..., None, :] if getattr(sae, "hook_z_reshaping_mode", False) else x


class Active(NamedTuple):
    """The features that are not zero on some tokens, token by token: three tensors of one length."""

    token: torch.Tensor
    feature: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True)
class Reconstruction:
    """What the SAE makes of activations, and how many features it takes."""

    x_hat: torch.Tensor
    """In the activations' shape."""
    l0: torch.Tensor
    """int64 ``[batch, pos]``: features that are not zero."""
    l1: torch.Tensor
    """float64 ``[batch, pos]``: sum of their sizes."""


class Encoder:
    """An SAE, and the memory of one block's features: ``4 * 1024 * d_sae`` bytes (67 MB for 16,384), used again by each block.

    Args: ``keep``: bool ``[d_sae]``, the features left on; all by default.
    """

    def __init__(self, sae, keep: torch.Tensor | None = None):
        self.sae, self.keep = sae, keep
        self.plain = sae_architecture(sae) in _PLAIN
        self._buffer = None

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, Active]:
        """``x`` ``[token, d_in]`` to features ``[token, d_sae]``, which hold until the next call, and those that are not zero.

        After the product, a few tokens at a time: what is in the processor's cache is finished and searched at once.
        """
        sae, x = self.sae, _as_read(self.sae, x)
        if self.plain:
            x = sae.process_sae_in(x)
            if self._buffer is None or len(self._buffer) < len(x):
                self._buffer = x.new_empty(len(x), sae.W_enc.shape[1])
            features = torch.mm(x, sae.W_enc, out=self._buffer[: len(x)])
        else:
            features = sae.encode(x) if self.keep is None else sae.encode(x).clone()
        places = []
        for i, rows in enumerate(features.split(IN_CACHE)):
            if self.plain:
                _activate(rows.add_(sae.b_enc), getattr(sae, "threshold", None))
            if self.keep is not None:
                rows.mul_(self.keep.to(rows.device))
            places.append(_not_zero(rows) + i * IN_CACHE * rows.shape[1])
        place = torch.cat(places)
        token = place.div(features.shape[1], rounding_mode="floor")
        return features, Active(token, place - token * features.shape[1], features.flatten()[place])

    def decode(self, features: torch.Tensor, active: Active) -> torch.Tensor:
        """Features ``[token, d_sae]``, and what of them is active, to ``[token, d_in]``."""
        sae = self.sae
        if not self.plain or len(active.token) > SPARSE_BELOW * features.numel():
            return sae.decode(features).flatten(1)
        l0 = torch.bincount(active.token, minlength=len(features))
        rows = {"offsets": l0.cumsum(0) - l0, "per_sample_weights": active.value, "mode": "sum"}
        summed = torch.nn.functional.embedding_bag(active.feature, sae.W_dec, **rows)
        return sae.run_time_activation_norm_fn_out(summed + sae.b_dec)

    @torch.no_grad()
    def reconstruct(self, x: torch.Tensor) -> Reconstruction:
        """Encode and decode activations ``[batch, pos, ...]``; axes after ``pos`` (heads) are read as one."""
        parts = []
        for flat in x.flatten(2).flatten(0, 1).split(BLOCK):
            features, active = self(flat)
            l0 = torch.bincount(active.token, minlength=len(flat))
            l1 = torch.zeros(len(flat), dtype=torch.float64, device=flat.device).index_add_(
                0, active.token, active.value.double().abs()
            )
            parts.append((self.decode(features, active), l0, l1))
        x_hat, l0, l1 = map(torch.cat, zip(*parts))
        return Reconstruction(
            x_hat.reshape(x.shape), l0.reshape(x.shape[:2]), l1.reshape(x.shape[:2])
        )


def _activate(before: torch.Tensor, threshold: torch.Tensor | None) -> torch.Tensor:
    """Pre-activations to features, in place: ReLU, and JumpReLU where there is a threshold."""
    if threshold is None:
        return before.relu_()
    on = before > threshold
    return before.relu_().mul_(on)


def _not_zero(rows: torch.Tensor) -> torch.Tensor:
    """Flat indices of what is not zero (NaN is not)."""
    if (
        rows.device.type == "cpu" and rows.dtype.itemsize >= 4
    ):  # numpy has no bfloat16, but finds the few in a quarter of torch's time
        return torch.from_numpy(np.flatnonzero(rows.numpy() != 0))
    return rows.flatten().nonzero()[:, 0]


@torch.no_grad()
def encode_columns(sae, x: torch.Tensor, feature: int | torch.Tensor) -> torch.Tensor:
    """One feature of activations ``[batch, pos, ...]``: ``[batch, pos]``, or several: ``[batch, pos, feature]``, from their own columns.

    An SAE whose features depend on each other (TopK) is encoded whole.
    """
    x = _as_read(sae, x.flatten(2))
    if sae_architecture(sae) not in _PLAIN:
        return sae.encode(x)[..., feature]
    before = sae.process_sae_in(x) @ sae.W_enc[:, feature].contiguous() + sae.b_enc[feature]
    return _activate(before, sae.threshold[feature] if hasattr(sae, "threshold") else None)
