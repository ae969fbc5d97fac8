"""Neel Nanda's published ``AutoEncoder``, with the gradients of its loss written out.

Once few features fire, sums run over firings only: the same sums, with the zeros left out, in about
a third of the time.

Source: https://github.com/neelnanda-io/1L-Sparse-Autoencoder.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import nn

import saework.core.torch_setup  # noqa: F401, before the first work with torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

DENSE_ABOVE = 0.06  # share of (token, feature) pairs: with more, dense products are faster


class AutoEncoder(nn.Module):
    """The published ``AutoEncoder``; both matrices have one row per feature.

    ``features = relu((x - b_dec) encoder^T + b_enc)``; ``x_hat = features decoder + b_dec``.
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        # Drawn as the published code draws it, [d_in, d_sae]: the bound depends on the shape.
        encoder = nn.init.kaiming_uniform_(torch.empty(d_in, d_sae))
        decoder = nn.init.kaiming_uniform_(torch.empty(d_sae, d_in))
        self.encoder = nn.Parameter(encoder.T.contiguous())
        self.decoder = nn.Parameter(F.normalize(decoder, dim=1))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()))
        """What activations are multiplied by before they come here."""

    @torch.no_grad()
    def set_gradients(self, x: Float[Tensor, "token d_in"], l1: float) -> dict[str, Tensor]:
        """Gradients of the published loss, without the decoder's part along its own rows.

        The loss is the squared error, summed over the width, plus ``l1`` times the sum of the
        features; both are means over tokens.

        Returns:
            ``loss``, ``x_hat`` ``[token, d_in]`` and ``firings`` ``[d_sae]``.
        """
        n_tokens = len(x)
        centred = x - self.b_dec
        features = torch.mm(self.encoder, centred.T).add_(self.b_enc[:, None]).relu_()
        fired = torch.from_numpy(np.flatnonzero(features.numpy()))
        few = len(fired) <= DENSE_ABOVE * features.numel()
        products: Any = _Firings(features, fired) if few else _Dense(features)
        x_hat = products.decode(self.decoder) + self.b_dec
        error = x_hat - x
        d_x_hat = error * (2 / n_tokens)
        products.backward(self.decoder, d_x_hat, l1 / n_tokens)
        d_decoder = products.times_features(d_x_hat)
        along = (d_decoder * self.decoder).sum(1, keepdim=True)
        self.decoder.grad = d_decoder - along * self.decoder
        self.encoder.grad = products.times_gradient(centred)
        self.b_enc.grad = products.gradient_sum()
        self.b_dec.grad = d_x_hat.sum(0) - self.b_enc.grad @ self.encoder
        penalty = l1 * products.total()
        loss = (error.square().sum() + penalty) / n_tokens
        return {"loss": loss, "x_hat": x_hat, "firings": products.firings()}

    @torch.no_grad()
    def renormalise(self) -> None:
        """Give decoder rows unit norm."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def published_layout(self) -> dict[str, Tensor]:
        """The same function of activations that are not scaled."""
        weights = {
            "W_enc": self.encoder.T,
            "W_dec": self.decoder,
            "b_enc": self.b_enc / self.scale,
            "b_dec": self.b_dec / self.scale,
        }
        return {name: value.detach().clone().contiguous() for name, value in weights.items()}


class _Dense:
    """Products with all features ``[d_sae, token]``, zeros included."""

    def __init__(self, features: Float[Tensor, "d_sae token"]) -> None:
        self.features = features

    def decode(self, decoder: Tensor) -> Float[Tensor, "token d_in"]:
        return self.features.T @ decoder

    def backward(self, decoder: Tensor, d_x_hat: Tensor, l1: float) -> None:
        """The loss's gradient by the encoder's sums, where a feature fires."""
        self.gradient = (decoder @ d_x_hat.T).add_(l1).mul_(self.features > 0)

    def times_features(self, by_token: Tensor) -> Float[Tensor, "d_sae d_in"]:
        return self.features @ by_token

    def times_gradient(self, by_token: Tensor) -> Float[Tensor, "d_sae d_in"]:
        return self.gradient @ by_token

    def gradient_sum(self) -> Float[Tensor, " d_sae"]:
        return self.gradient.sum(1)

    def total(self) -> Float[Tensor, ""]:
        return self.features.sum()

    def firings(self) -> Int[Tensor, " d_sae"]:
        return (self.features > 0).sum(1)


class _Firings:
    """The same products over firings alone, in the order of features, then of tokens."""

    def __init__(self, features: Float[Tensor, "d_sae token"], fired: Int[Tensor, " n"]) -> None:
        """``fired`` are the places of the features that fire, in the flat array."""
        self.shape = tuple(features.shape)
        feature, self.token = fired // self.shape[1], fired % self.shape[1]
        self.values = features.flatten()[fired]
        self.counts = torch.bincount(feature, minlength=self.shape[0])
        self.start = F.pad(self.counts.cumsum(0), (1, 0))
        self.feature = feature

    def decode(self, decoder: Tensor) -> Float[Tensor, "token d_in"]:
        parts = (self.values.numpy(), self.token.numpy(), self.start.numpy())
        by_token = scipy.sparse.csr_matrix(parts, shape=self.shape).tocsc()
        start, feature, values = map(
            torch.from_numpy, (by_token.indptr, by_token.indices, by_token.data)
        )
        return _weighted_sums(feature, values, start, decoder)

    def backward(self, decoder: Tensor, d_x_hat: Tensor, l1: float) -> None:
        zeros = torch.zeros_like(self.values)
        with warnings.catch_warnings():  # "sparse CSR is in beta state"
            warnings.simplefilter("ignore", UserWarning)
            places = torch.sparse_csr_tensor(
                self.start, self.token, zeros, self.shape, check_invariants=False
            )
            sampled = torch.sparse.sampled_addmm(places, decoder.detach(), d_x_hat.T)
        self.gradient = sampled.values() + l1

    def times_features(self, by_token: Tensor) -> Float[Tensor, "d_sae d_in"]:
        return _weighted_sums(self.token, self.values, self.start, by_token)

    def times_gradient(self, by_token: Tensor) -> Float[Tensor, "d_sae d_in"]:
        return _weighted_sums(self.token, self.gradient, self.start, by_token)

    def gradient_sum(self) -> Float[Tensor, " d_sae"]:
        return torch.bincount(self.feature, self.gradient, minlength=self.shape[0])

    def total(self) -> Float[Tensor, ""]:
        return self.values.sum()

    def firings(self) -> Int[Tensor, " d_sae"]:
        return self.counts


def _weighted_sums(index: Tensor, weights: Tensor, start: Tensor, rows: Tensor) -> Tensor:
    """For each group, which begins at ``start``, the weighted sum of the rows it names."""
    return F.embedding_bag(index, rows.detach(), start[:-1], mode="sum", per_sample_weights=weights)
