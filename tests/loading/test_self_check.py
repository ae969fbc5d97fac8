"""The check of one batch: what is warned of, and what is not."""

from __future__ import annotations

import copy
import warnings

import pytest
import sae_lens
import torch

import saework
from saework.engine.forward import activations
from saework.loading.self_check import LOWEST_VARIANCE, self_check


class Dictionary:
    """An SAE that gives back its input exactly, and says how many features fire."""

    def __init__(self, d_in: int, l0: int, error: float = 0.0):
        self.W_enc, self.W_dec, self.l0, self.error = (
            torch.zeros(d_in, 2 * d_in),
            torch.zeros(2 * d_in, d_in),
            l0,
            error,
        )

    def encode(self, x):
        self.x = x
        fires = -torch.zeros(*x.shape[:-1], self.W_enc.shape[1])  # -0.0 is not firing
        fires[..., : self.l0] = 1.0
        return fires

    def decode(self, features):
        return self.x + self.error * (self.x.mean(-2, keepdim=True) - self.x)


def checked(tiny, l0, published, error=0.0, tokens=None) -> list[str]:
    """The check's warnings."""
    tokens = tiny.tokens if tokens is None else tokens
    workbook = saework.Workbook(
        tiny.model, Dictionary(24, l0, error), tokens, tiny.tokenizer, tiny.hook
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        self_check(workbook, published_l0=published)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "l0,published,warns",
    [(4, 12, False), (3, 12, True), (12, 4, False), (13, 4, True), (0, 4, True), (40, None, False)],
)
def test_check_of_l0(tiny, l0, published, warns):
    found = checked(tiny, l0, published)
    assert len(found) == warns
    if warns:
        assert (
            f"mean L0 is {l0} on 114 tokens where {published} was published: "
            "a wrong hook, SAE, or text?" in found[0]
        )
        assert "Run saework.find_site(...) to rank the model's hooks for this SAE" in found[0]


def test_check_of_the_variance(tiny):
    share = (
        1 - LOWEST_VARIANCE
    ) ** 0.5  # leaving this share of each deviation out explains LOWEST_VARIANCE
    assert checked(tiny, 4, 4, error=share - 0.01) == []
    (found,) = checked(tiny, 4, 4, error=share + 0.05)
    assert "explains 0.43 of the variance on 114 tokens (BOS left out), below 0.5" in found


def test_check_leaves_bos_out(tiny):
    """A reconstruction that is wrong on BOS alone is not complained of."""

    class WrongOnBos(Dictionary):
        def decode(self, features):
            return torch.where((self.x == bos).all(-1, keepdim=True), self.x + 1e6, self.x)

    bos = activations(tiny.model, tiny.tokens[:1], tiny.hook)[0, 0]
    workbook = saework.Workbook(
        tiny.model, WrongOnBos(24, 4), tiny.tokens, tiny.tokenizer, tiny.hook
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        self_check(workbook)


def test_check_of_one_short_row(tiny):
    """Two tokens leave one activation, which has no variance: no warning, and no error."""
    assert checked(tiny, 4, 4, tokens=tiny.tokens[:1, :2]) == []
    assert checked(tiny, 4, 4, tokens=tiny.tokens[:1, :1]) == []


def test_check_of_attention_heads(tiny):
    """Activations of several heads are read as one."""
    workbook = saework.Workbook(
        tiny.model, Dictionary(16, 4), tiny.tokens, tiny.tokenizer, "blocks.0.attn.hook_z"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        self_check(workbook)
    workbook.sae.error = 0.9
    with pytest.warns(UserWarning, match="explains 0.19 of the variance on 114 tokens"):
        self_check(workbook)


def test_check_of_a_wide_sae_takes_fewer_tokens(tiny, monkeypatch):
    """Its memory does not grow with the width: 2^20 features on 16,384 tokens are 69 GB."""
    monkeypatch.setattr("saework.loading.self_check.CHECK_VALUES", 50 * 48)
    (found,) = checked(tiny, 4, 40)
    assert "mean L0 is 4 on 50 tokens" in found


@pytest.mark.parametrize("kind", ["temporal", "one layer of a cross-layer transcoder"])
def test_only_l0_of_what_cannot_be_spliced(tiny, kind):
    """Whole rows for a temporal SAE; no variance that is not its own for the other."""
    if kind == "temporal":
        config = sae_lens.TemporalSAEConfig(
            d_in=24, d_sae=64, n_heads=1, bottleneck_factor=8, kval_topk=4
        )
        sae = sae_lens.TemporalSAE(config)
    else:
        sae = copy.deepcopy(tiny.sae)
        sae.cfg.metadata.decoder_summed_over_layers = True
    workbook = saework.Workbook(tiny.model, sae, tiny.tokens, tiny.tokenizer, tiny.hook)
    with torch.no_grad():
        x = activations(tiny.model, tiny.tokens, tiny.hook)
        l0 = float((sae.encode(x) != 0)[:, 1:].sum(-1).double().mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        self_check(workbook, published_l0=l0)
    with pytest.warns(UserWarning, match=f"mean L0 is {l0:.3g} on 114 tokens"):
        self_check(workbook, published_l0=4 * l0)
