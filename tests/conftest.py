"""Small random models for speed, the trained mini where training matters, and what nbval must leave alone."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from saework.reproduction import ENVIRONMENT, PLOTLY_MIME
from saework.claims import LEDGER_MIME
from saework.tables import RAW_MIME

os.environ.update(ENVIRONMENT)  # the notebooks' kernels inherit it
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests that want the local Hub start a process of their own


def pytest_collection_modifyitems(items):
    """Figures and raw numbers hold last bits: the notebooks assert what matters in them instead."""
    for item in items:
        if hasattr(item.parent, "skip_compare"):
            item.parent.skip_compare = (*item.parent.skip_compare, PLOTLY_MIME, LEDGER_MIME, RAW_MIME)


@pytest.fixture(scope="session")
def tiny():
    """A random model and SAE with every trap in: norm weights, biases, decoder rows of different norms.

    ``model`` [1 layer, d_model 16, d_mlp 24, d_vocab 4096, n_ctx 32], ``sae`` 24 to 48,
    ``tokens`` [6, 20], BOS first, ``tokenizer`` (the mini's), ``hook``, ``config``, ``state`` (unprocessed).
    """
    import torch

    from saework import formats
    from saework.catalogue import DATA

    generator = torch.Generator().manual_seed(0)
    tokenizer = formats.tokenizer(DATA / "gelu-1l-mini" / "tokenizer")
    config = dict(d_model=16, n_layers=1, d_mlp=24, d_head=8, n_heads=2, n_ctx=32, d_vocab=4096, act_fn="gelu", attn_only=False)
    config |= dict(normalization="LN", shortformer_pos=False)
    state = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in formats.neel_shapes(config).items()}
    model = formats.neel_model_shell(config, tokenizer=tokenizer)
    model.load_and_process_state_dict({name: value.clone() for name, value in state.items()})
    model.eval().requires_grad_(False)
    hook = "blocks.0.mlp.hook_post"
    sae = random_sae(24, 48, hook, generator)
    tokens = torch.randint(3, 4096, (6, 20), generator=generator)
    tokens[:, 0] = tokenizer.bos_token_id
    return SimpleNamespace(model=model, sae=sae, tokens=tokens, tokenizer=tokenizer, hook=hook, config=config, state=state)


def random_sae(d_in: int, d_sae: int, hook: str, generator, architecture: str = "standard"):
    """An sae_lens SAE with random weights, a few of whose features never fire."""
    import torch
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    classes = {"standard": (StandardSAE, StandardSAEConfig), "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig)}
    cls, config = classes[architecture]
    sae = cls(config(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=architecture == "standard", metadata=SAEMetadata(hook_name=hook)))
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    state = {"W_enc": draw(d_in, d_sae), "W_dec": 0.3 * draw(d_sae, d_in), "b_enc": 0.1 * draw(d_sae), "b_dec": 0.1 * draw(d_in)}
    state["b_enc"][:3] = -100.0
    if architecture == "jumprelu":
        state["threshold"] = draw(d_sae).abs()
    sae.load_state_dict(state)
    return sae.eval().requires_grad_(False)
