"""A feature-ordering study that is small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace

import torch

from saework import feature_ordering
from saework.studies.feature_ordering.data import tensor_batches
from saework.studies.feature_ordering.training import Training, train
from saework.studies.feature_ordering.variants import Setting, Variant

TOY = Setting(
    "none",
    "none",
    d_in=8,
    d_sae=16,
    steps=60,
    batch=32,
    lr=3e-3,
    l1=0.3,
    adaptive_threshold=0.02,
    target_l0=4.0,
    bandwidth=0.5,
)
PLAIN = Variant("plain")
STUDIED = replace(TOY, steps=160)


def toy_data(seed: int = 0, n: int = 1024) -> torch.Tensor:
    """Sparse sums of twelve directions, of very different frequencies and of uneven norm."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(12, 8, generator=torch.Generator().manual_seed(99))
    on = torch.rand(n, 12, generator=generator) < torch.linspace(0.02, 0.6, 12)
    return (on * torch.rand(n, 12, generator=generator)) @ directions


X, HELD_OUT = toy_data(), toy_data(seed=1, n=256)


def run(variant: Variant, setting: Setting = TOY, **options):
    """A whole run on the toy data."""
    batches = tensor_batches(X, setting.batch)
    return train(variant, setting, batches, HELD_OUT, progress=False, **options)


def stepped(variant: Variant, setting: Setting = TOY, *, steps: int, after_step=None) -> Training:
    """A run of so many steps; ``after_step(training)`` is called after each."""
    training = Training(variant, setting, 0, "cpu")
    stream = tensor_batches(X, setting.batch)(0, 0)
    for _ in range(steps):
        training.step(next(stream))
        if after_step:
            after_step(training)
    return training


def weights(training: Training) -> dict[str, torch.Tensor]:
    """A copy of the SAE's parameters."""
    parameters = training.trainer.sae.named_parameters()
    return {name: value.detach().clone() for name, value in parameters}


def toy_study(folder):
    """Three variants with three seeds."""
    return feature_ordering.study(
        STUDIED,
        folder,
        names=["run 3", "run 9", "plain"],
        seeds=(0, 1, 2),
        data=(tensor_batches(X, TOY.batch), HELD_OUT),
    )


def assert_same_run(a, b) -> None:
    """Two runs are equal to the last bit."""
    assert a.metrics == b.metrics and a.reorder_steps == b.reorder_steps
    assert all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("steps", "loss", "variance", "rates", "features")
    )
