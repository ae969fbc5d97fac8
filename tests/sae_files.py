"""What tests of SAE layouts share: inputs, the published formula, sae_lens's loaders, a trap."""

from __future__ import annotations

import torch
import torch.nn.functional as F

HOOK = "blocks.0.mlp.hook_post"


def inputs(d_in: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(1))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    """To 1e-5 of the largest value."""
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def published_forward(w: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``AutoEncoder.forward`` of the gelu-1l notebook: reconstruction and activations."""
    x_cent = x - w["b_dec"]
    acts = F.relu(x_cent @ w["W_enc"] + w["b_enc"])
    return acts @ w["W_dec"] + w["b_dec"], acts


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


def sae_lens_loaders(monkeypatch, root):
    """sae_lens's loaders, reading files of this folder in place of the Hub."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def from_folder(repo_id, filename, subfolder="", **kwargs):
        return str(root / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", from_folder)
    return loaders


def as_sae(config: dict, state: dict):
    """What ``SAE.from_pretrained`` makes of what a loader returns."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    config = handle_config_defaulting(config)
    sae = SAE.from_dict(config | {"device": "meta"})
    sae.load_state_dict(state, assign=True)
    return sae.requires_grad_(False)


def assert_same_sae(a, b) -> None:
    """Class, hook and weights, to the last bit."""
    assert type(a) is type(b)
    assert a.cfg.metadata.hook_name == b.cfg.metadata.hook_name
    weights = b.state_dict()
    assert a.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in a.state_dict().items())


def rounded(sae, dtype):
    """The SAE with weights that this dtype can hold; it still computes in float32."""
    for weight in sae.parameters():
        weight.data = weight.data.to(dtype).float()
    return sae
