"""The published ``AutoEncoder``: gradients as autograd's, and weights as the layout stores them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from toys import published_loss

from tools.minis import autoencoder


@pytest.mark.parametrize("dense_above", [0.0, 1.0], ids=["all features", "firings"])
def test_gradients_are_autograds_without_the_part_along_decoder_rows(dense_above, monkeypatch):
    monkeypatch.setattr(autoencoder, "DENSE_ABOVE", dense_above)
    sae = autoencoder.AutoEncoder(24, 48, seed=0)
    x = torch.randn(50, 24)
    sae.b_enc.data += torch.randn(48) - 1
    sae.b_enc.data[7] = -100  # never fires
    sae.b_dec.data += torch.randn(24)
    weights = (sae.encoder.T, sae.b_enc, sae.decoder, sae.b_dec)
    leaves = [w.detach().clone().requires_grad_() for w in weights]
    loss = published_loss(x, *leaves, l1=0.3)
    loss.backward()
    w_enc, b_enc, w_dec, b_dec = leaves
    output = sae.set_gradients(x, 0.3)
    assert output["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    fired = (x - b_dec) @ w_enc + b_enc > 0
    assert output["firings"].tolist() == fired.sum(0).tolist() and output["firings"][7] == 0
    for ours, leaf in (
        (sae.encoder.grad.T, w_enc),
        (sae.b_enc.grad, b_enc),
        (sae.b_dec.grad, b_dec),
    ):
        assert torch.allclose(ours, leaf.grad, atol=1e-5)
    along = (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
    assert torch.allclose(sae.decoder.grad, w_dec.grad - along, atol=1e-5)
    assert along.abs().max() > 0.01


def test_the_weights_read_activations_that_are_not_scaled():
    sae = autoencoder.AutoEncoder(24, 48, seed=0)
    sae.b_enc.data += 0.1 * torch.randn(48)
    sae.b_dec.data += 0.1 * torch.randn(24)
    sae.scale.fill_(1.7)
    x = torch.randn(50, 24)
    features = F.relu((1.7 * x - sae.b_dec) @ sae.encoder.T + sae.b_enc)
    expected = (features @ sae.decoder + sae.b_dec) / 1.7
    w = sae.published_layout()
    read = F.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(read @ w["W_dec"] + w["b_dec"], expected, atol=1e-5)
