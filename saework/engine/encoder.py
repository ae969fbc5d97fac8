"""An SAE on many tokens, a block of them at a time, so that ``[token, d_sae]`` never exists.

Three tricks make it fast, and change no bit of the features:

- One buffer for all blocks. The first write to fresh memory takes about ten times as long as one
  to memory in use, and a block of features is written once and read once.
- Bias, ReLU and threshold in place, in the steps and the order of ``sae.encode``, a few tokens at
  a time, while they are in the processor's cache.
- Sparse decoding: where few features are active, their decoder rows are added up. This is the
  dense product without its zeros, in another order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from saework.engine.architectures import (
    check_output,
    check_single_tokens,
    code_of,
    encode,
    is_one_product,
    is_transcoder,
    scales_input,
    skipped,
    unchanged,
)
from saework.engine.digests import hooks_on
from saework.engine.products import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from saework.core.protocols import SparseAutoencoder

BLOCK = 1024  # tokens
IN_CACHE = 32  # tokens: 2 MB of 16,384 features
SPARSE_BELOW = 1 / 32  # share of features active, up to which adding rows beats the dense product


class Active(NamedTuple):
    """The features that are not zero on some tokens, token by token: tensors of one length."""

    token: Tensor
    feature: Tensor
    value: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """What the SAE makes of activations, and how many features it takes."""

    x_hat: Tensor
    """In the shape of what the SAE replaces: that of its input, or ``[batch, pos, d_out]``."""
    l0: Tensor
    """int64 ``[batch, pos]``: features that are not zero."""
    l1: Tensor
    """float64 ``[batch, pos]``: sum of their absolute values."""


class Encoder:
    """An SAE, and memory for one block's features, used again by each block.

    Args:
        sae: the SAE.
        keep: bool ``[d_sae]``, the features left on; all by default.

    Memory: ``4 * 1024 * d_sae`` bytes (67 MB for 16,384 features).
    """

    def __init__(self, sae: SparseAutoencoder, keep: Bool[Tensor, " d_sae"] | None = None):
        # sae_lens's own methods are used where its class is known
        self.sae: Any = sae
        self.keep = keep
        self.plain = _is_plain(sae)
        check_single_tokens(sae)
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def __call__(
        self, x: Float[Tensor, "token d_in"]
    ) -> tuple[Float[Tensor, "token d_sae"], Active]:
        """Activations to features.

        Returns:
            All features, in memory that the next call overwrites, and those that are not zero.
        """
        with unchanged(self.sae):
            return self._features(x)

    def _features(self, x: Tensor) -> tuple[Tensor, Active]:
        if self.plain:
            features = self._product(x)
        else:
            features = self._encoded(x)
        d_sae = features.shape[1]
        places = []
        # what is in the processor's cache is finished and searched at once
        for i, tokens in enumerate(features.split(IN_CACHE)):
            if self.plain:
                tokens.add_(self.sae.b_enc)
                _activate(tokens, getattr(self.sae, "threshold", None))
            if self.keep is not None:
                tokens.mul_(self.keep.to(tokens.device))
            offset = i * IN_CACHE * d_sae
            place = _not_zero(tokens)
            places.append(place + offset)
        place = torch.cat(places)
        token = place.div(d_sae, rounding_mode="floor")
        first = token * d_sae
        active = Active(
            token=token,
            feature=place - first,
            value=features.flatten()[place],
        )
        return features, active

    def _product(self, x: Tensor) -> Tensor:
        """Input times encoder weights, in the buffer; bias and activation are still missing."""
        n_tokens = len(x)
        weights = self.sae.W_enc
        x = self.sae.process_sae_in(x)
        if self._buffer is None or len(self._buffer) < n_tokens:
            d_sae = weights.shape[1]
            self._buffer = x.new_empty(n_tokens, d_sae)
        block = self._buffer[:n_tokens]
        return product(x, weights, out=block)

    def _encoded(self, x: Tensor) -> Tensor:
        features = self.sae.encode(x)
        check_output("encode", features, (len(x), self.sae.W_dec.shape[0]))
        if self.keep is None:
            return features
        # ``keep`` is applied in place, and the SAE may still use what it returned
        return features.clone()

    def decode(
        self, features: Float[Tensor, "token d_sae"], active: Active
    ) -> Float[Tensor, "token d_in"]:
        """Features, and those of them that are not zero, to activations."""
        n_active = len(active.token)
        is_sparse = n_active <= SPARSE_BELOW * features.numel()
        if not (self.plain and is_sparse):
            decoded = self.sae.decode(features)
            decoded = check_output("decode", decoded, (len(features),)).flatten(1)
            return check_output("decode", decoded, (len(features), self.sae.W_dec.shape[1]))
        l0 = torch.bincount(active.token, minlength=len(features))
        first_of_token = l0.cumsum(0) - l0  # where each token's features begin in the list
        summed = torch.nn.functional.embedding_bag(
            active.feature,
            self.sae.W_dec,
            offsets=first_of_token,
            per_sample_weights=active.value,
            mode="sum",
        )
        decoded = summed + self.sae.b_dec
        return self.sae.run_time_activation_norm_fn_out(decoded)

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "batch pos *width"]) -> Reconstruction:
        """Encode and decode activations; axes after ``pos`` (heads) are read as one."""
        one_width = x.flatten(2)
        tokens = one_width.flatten(0, 1)
        parts = []
        for block in tokens.split(BLOCK):
            with unchanged(self.sae):  # decoding needs the scale that encoding leaves on the SAE
                features, active = self._features(block)
                x_hat = self.decode(features, active)
            skip = skipped(self.sae, block)
            if skip is not None:
                x_hat = x_hat + skip
            n_tokens = len(block)
            l0 = torch.bincount(active.token, minlength=n_tokens)
            l1 = torch.zeros(n_tokens, dtype=torch.float64, device=block.device)
            value = active.value.double()
            sizes = value.abs()
            l1.index_add_(0, active.token, sizes)
            parts.append((x_hat, l0, l1))
        batch_and_pos = x.shape[:2]
        x_hat, l0, l1 = map(torch.cat, zip(*parts))
        return Reconstruction(
            x_hat=_in_place_of(x, x_hat),
            l0=l0.reshape(batch_and_pos),
            l1=l1.reshape(batch_and_pos),
        )


@torch.no_grad()
def encode_columns(
    sae: SparseAutoencoder, x: Float[Tensor, "batch pos *width"], feature: int | Tensor
) -> Float[Tensor, "batch pos *feature"]:
    """Some features of activations, from their own encoder columns.

    An SAE whose features depend on each other (TopK) is encoded whole.

    Args:
        sae: the SAE.
        x: activations.
        feature: one feature's number, or several.

    Returns:
        ``[batch, pos]`` for one feature, ``[batch, pos, feature]`` for several.
    """
    known: Any = sae
    if not _is_plain(sae):
        code_of(sae)
        return encode(sae, x)[..., feature]
    columns = known.W_enc[:, feature].contiguous()
    with unchanged(sae):
        product = known.process_sae_in(x.flatten(2)) @ columns
    before = product + known.b_enc[feature]
    if not hasattr(known, "threshold"):
        return _activate(before, None)
    return _activate(before, known.threshold[feature])


@torch.no_grad()
def token_scale(
    sae: SparseAutoencoder, x: Float[Tensor, "batch pos *width"]
) -> Float[Tensor, "batch pos 1"] | None:
    """What an SAE that rescales each token multiplies its output with; None if it does not."""
    if not scales_input(sae) or is_transcoder(sae):
        return None
    known: Any = sae
    ones = x.new_ones(*x.shape[:2], 1)
    # What zeros come back as is a shift. Both go in one call: the SAE forgets its scale after it.
    ones_and_zeros = torch.stack([ones, torch.zeros_like(ones)])
    with unchanged(sae):
        known.process_sae_in(x.flatten(2))  # leaves each token's scale on the SAE
        scaled, shift = known.run_time_activation_norm_fn_out(ones_and_zeros)
    return scaled - shift


def _is_plain(sae: SparseAutoencoder) -> bool:
    """Whether the SAE is what is written out here; a function at one of its hooks is not."""
    return is_one_product(sae) and not (isinstance(sae, torch.nn.Module) and hooks_on(sae))


def _in_place_of(x: Tensor, x_hat: Tensor) -> Tensor:
    """Outputs ``[token, d_out]`` in the shape of the input, heads apart, if they are as wide."""
    width = x[0, 0].numel()
    if x_hat.shape[1] == width:
        return x_hat.reshape(x.shape)
    return x_hat.reshape(*x.shape[:2], -1)


def _activate(before: Tensor, threshold: Tensor | None) -> Tensor:
    """Pre-activations to features, in place: ReLU, and JumpReLU where there is a threshold."""
    if threshold is None:
        return before.relu_()
    above = before > threshold
    return before.relu_().mul_(above)


def _not_zero(rows: Tensor) -> Tensor:
    """Flat indices of what is not zero (NaN is not zero)."""
    # numpy finds the few in a quarter of torch's time; it has no bfloat16
    numpy_has_dtype = rows.dtype.itemsize >= 4
    if rows.device.type == "cpu" and numpy_has_dtype:
        is_on = rows.numpy() != 0
        places = np.flatnonzero(is_on)
        return torch.from_numpy(places)
    return rows.flatten().nonzero()[:, 0]
