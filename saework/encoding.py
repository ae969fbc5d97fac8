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

BLOCK = 1024  # tokens
SPARSE_BELOW = 1 / 32  # share of features on, up to which adding decoder rows beats the dense product
_PLAIN = ("standard", "jumprelu")  # whose features do not depend on one another, and whose encoder is one product


def _as_read(sae, x: torch.Tensor) -> torch.Tensor:
    """An SAE of attention heads puts the two last axes together itself: give it one head as wide as all of them."""
    return x[..., None, :] if getattr(sae, "hook_z_reshaping_mode", False) else x


def _architecture(sae) -> str | None:
    config = getattr(sae, "cfg", None)
    return config.architecture() if hasattr(config, "architecture") else None


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
    """An SAE, and the memory of one block's features: ``5 * 1024 * d_sae`` bytes (84 MB for 16,384), used again by each block."""

    def __init__(self, sae):
        self.sae = sae
        self.architecture = _architecture(sae)
        self._features = self._on = None

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` ``[token, d_in]`` to features ``[token, d_sae]``, which hold until the next call."""
        x = _as_read(self.sae, x)
        if self.architecture not in _PLAIN:
            return self.sae.encode(x)
        x = self.sae.process_sae_in(x)
        features = torch.mm(x, self.sae.W_enc, out=self._buffer(x)).add_(self.sae.b_enc)
        if self.architecture == "standard":
            return features.relu_()
        on = torch.gt(features, self.sae.threshold, out=self._on[: len(x)])
        return features.relu_().mul_(on)

    def _buffer(self, x: torch.Tensor) -> torch.Tensor:
        if self._features is None or len(self._features) < len(x):
            shape = (len(x), self.sae.W_enc.shape[1])
            self._features, self._on = x.new_empty(shape), torch.empty(shape, dtype=torch.bool, device=x.device)
        return self._features[: len(x)]

    def active(self, features: torch.Tensor) -> Active:
        """Where a block's features are not zero (NaN is not), and their values."""
        if features.device.type == "cpu" and features.dtype.itemsize >= 4:  # numpy finds the few places in a quarter of torch's time
            on = np.not_equal(features.numpy(), 0, out=None if self._on is None else self._on[: len(features)].numpy())
            place = torch.from_numpy(np.flatnonzero(on))
        else:
            place = features.flatten().nonzero()[:, 0]
        token = place.div(features.shape[1], rounding_mode="floor")
        return Active(token, place - token * features.shape[1], features.flatten()[place])

    def decode(self, features: torch.Tensor, active: Active) -> torch.Tensor:
        """Features ``[token, d_sae]``, and what of them is active, to ``[token, d_in]``."""
        sae = self.sae
        if self.architecture not in _PLAIN or len(active.token) > SPARSE_BELOW * features.numel():
            return sae.decode(features).flatten(1)
        l0 = torch.bincount(active.token, minlength=len(features))
        rows = {"offsets": l0.cumsum(0) - l0, "per_sample_weights": active.value, "mode": "sum"}
        summed = torch.nn.functional.embedding_bag(active.feature, sae.W_dec, **rows)
        return sae.run_time_activation_norm_fn_out(summed + sae.b_dec)

    @torch.no_grad()
    def reconstruct(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> Reconstruction:
        """Encode and decode activations ``[batch, pos, ...]``; axes after ``pos`` (heads) are read as one.

        Args: ``keep``: bool ``[d_sae]``, the features left on.
        """
        parts = []
        for flat in x.flatten(2).flatten(0, 1).split(BLOCK):
            features = self(flat)
            if keep is not None:
                features = features * keep.to(features.device)
            active = self.active(features)
            l0 = torch.bincount(active.token, minlength=len(flat))
            l1 = torch.zeros(len(flat), dtype=torch.float64, device=flat.device).index_add_(0, active.token, active.value.double().abs())
            parts.append((self.decode(features, active), l0, l1))
        x_hat, l0, l1 = map(torch.cat, zip(*parts))
        return Reconstruction(x_hat.reshape(x.shape), l0.reshape(x.shape[:2]), l1.reshape(x.shape[:2]))


@torch.no_grad()
def encode_columns(sae, x: torch.Tensor, feature: int | torch.Tensor) -> torch.Tensor:
    """One feature of activations ``[batch, pos, ...]``: ``[batch, pos]``, or several: ``[batch, pos, feature]``, from their own columns.

    An SAE whose features depend on each other (TopK) is encoded whole.
    """
    x = _as_read(sae, x.flatten(2))
    if _architecture(sae) not in _PLAIN:
        return sae.encode(x)[..., feature]
    columns, parts = sae.W_enc[:, feature].contiguous(), []
    for block in x.flatten(0, 1).split(BLOCK):
        before = sae.process_sae_in(block) @ columns + sae.b_enc[feature]
        after = torch.relu(before)
        parts.append(after * (before > sae.threshold[feature]) if hasattr(sae, "threshold") else after)
    values = torch.cat(parts)
    return values.reshape(x.shape[:2] + values.shape[1:])
