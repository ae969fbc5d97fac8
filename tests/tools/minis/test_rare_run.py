"""The rare run's trainer: the steps of a plain loop, and a resumed run as an unbroken one."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from stand_ins import POST
from toys import published_loss

from saework.engine.activation_batches import activation_batches
from tools.minis import rare_run
from tools.minis.sae import NORM_BATCHES, SaeRecipe

RECIPE = SaeRecipe(POST, 24, 48, l1=0.3, steps=20, batch=30, lr=1e-2, seed=3)


@pytest.fixture
def short_windows(monkeypatch):
    monkeypatch.setattr(rare_run, "WINDOW_STEPS", 5)
    monkeypatch.setattr(rare_run, "WARM_UP_STEPS", 4)


def trained(tiny, folder, recipe=RECIPE):
    folder.mkdir(exist_ok=True)
    return rare_run.train(tiny.model, tiny.tokens, recipe, folder, log=lambda line: None)


def test_twenty_steps_are_those_of_a_plain_loop(tiny, tmp_path, short_windows):
    order = {"batch": 30, "seed": 3, "buffer_rows": len(tiny.tokens)}
    batches = activation_batches(tiny.model, tiny.tokens, POST, **order)
    first = list(islice(batches, NORM_BATCHES))
    scale = 24**0.5 / torch.cat(first).norm(dim=1).mean()
    torch.manual_seed(3)
    w_enc = torch.nn.init.kaiming_uniform_(torch.empty(24, 48))
    w_dec = torch.nn.init.kaiming_uniform_(torch.empty(48, 24))
    w_dec = w_dec / w_dec.norm(dim=-1, keepdim=True)
    leaves = [w_enc, torch.zeros(48), w_dec, torch.zeros(24)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    adam = torch.optim.Adam(leaves, lr=1e-2, betas=(0.9, 0.99))
    for step in range(20):
        factor = 0.25 * (step + 1) if step < 4 else 1.0 if step < 17 else (20 - step) / 4
        adam.param_groups[0]["lr"] = 1e-2 * factor
        adam.zero_grad()
        published_loss(next(batches) * scale, *leaves, l1=0.3).backward()
        w_dec = leaves[2]
        w_dec.grad -= (w_dec.grad * w_dec.data).sum(-1, keepdim=True) * w_dec.data
        adam.step()
        w_dec.data /= w_dec.data.norm(dim=-1, keepdim=True)
    found, curve = trained(tiny, tmp_path)
    expected = {
        "W_enc": leaves[0],
        "b_enc": leaves[1] / scale,
        "W_dec": leaves[2],
        "b_dec": leaves[3] / scale,
    }
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name
    assert torch.allclose(found["W_dec"].norm(dim=1), torch.ones(48))
    assert [entry["tokens"] for entry in curve] == [150, 300, 450, 600]


def test_an_interrupted_run_continues_to_the_same_weights(
    tiny, tmp_path, short_windows, monkeypatch
):
    whole, curve = trained(tiny, tmp_path / "whole")
    plain = rare_run.AutoEncoder.set_gradients
    steps = []

    def cut_off(self, x, l1):
        steps.append(x)
        if len(steps) == 13:
            raise KeyboardInterrupt
        return plain(self, x, l1)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rare_run.AutoEncoder, "set_gradients", cut_off)
        trained(tiny, tmp_path / "broken")
    resumed, resumed_curve = trained(tiny, tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert curve == resumed_curve


def test_the_learning_rate_warms_up_and_fades():
    factors = [rare_run.learning_rate_factor(step, 12_000) for step in (0, 99, 200, 9_600, 10_800)]
    assert factors == pytest.approx([1 / 200, 0.5, 1, 1, 0.5])
