"""Each mechanism against a slow twin, and the published numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens.training.sae_trainer import SAETrainer
from toy_study import PLAIN, TOY, X, run, stepped

from saework.loading.catalogue import claims_of
from saework.studies.feature_ordering.data import tensor_batches
from saework.studies.feature_ordering.training import Training
from saework.studies.feature_ordering.variants import (
    REAL,
    RECENT,
    SMALL,
    AccumulateGradients,
    ReorderEvery,
    ReorderOnce,
    ReorderWhenVaried,
    ScaleL1ByNorm,
    Variant,
    WarmUpThenCosine,
    variants,
)


def test_reordering_once_happens_once_and_sorts_by_recent_rate():
    seen = {}

    def keep_rates(training):
        seen[training.done] = training.memory["recent"].mean(0)

    training = stepped(Variant("v", (ReorderOnce(25),)), steps=40, after_step=keep_rates)
    assert training.log["reorder_steps"] == [25]
    assert (seen[25].diff() <= 0).all() and not (seen[24].diff() <= 0).all()
    assert run(PLAIN).reorder_steps == []


def test_reordering_periodically_begins_after_the_warm_up():
    assert run(Variant("v", (ReorderEvery(20, 15),))).reorder_steps == [35, 50]


def slow_trigger(rates: list[np.ndarray], after: int, threshold: float) -> list[int]:
    """The steps at which the population variance of the last ten rows exceeds a threshold."""
    found = []
    for step in range(max(after, 10), len(rates) + 1):
        values = [float(value) for row in rates[step - 10 : step] for value in row]
        mean = sum(values) / len(values)
        if sum((value - mean) ** 2 for value in values) / len(values) > threshold:
            found.append(step)
    return found


def middle_variance(rates, first: int) -> float:
    """A threshold halfway between two of the variances that occur from a step on."""
    spread = sorted(np.var(rates[step - 10 : step]) for step in range(first, len(rates) + 1))
    return float(spread[len(spread) // 2] + spread[len(spread) // 2 + 1]) / 2


@pytest.mark.parametrize("after", [0, 30])
def test_reordering_adaptively_follows_the_variance_of_ten_batches(after):
    rates = []
    stepped(
        PLAIN,
        steps=60,
        after_step=lambda training: rates.append(
            training.memory["recent"][-1].numpy().astype(np.float64)
        ),
    )
    threshold = middle_variance(rates, max(after, 10))
    expected = slow_trigger(rates, after, threshold)
    assert 0 < len(expected) < 51 - max(0, after - 10)
    # With state_follows the run itself stays the same, so the rates are those without reordering.
    assert (
        run(Variant("v", (ReorderWhenVaried(after, threshold),), state_follows=True)).reorder_steps
        == expected
    )
    assert run(Variant("v", (ReorderWhenVaried(after, 0.25),))).reorder_steps == [], (
        "no variance of rates exceeds a quarter"
    )


def test_a_hybrid_is_two_mechanisms_side_by_side():
    rates = []
    stepped(
        PLAIN,
        steps=60,
        after_step=lambda training: rates.append(
            training.memory["recent"][-1].numpy().astype(np.float64)
        ),
    )
    adaptive = ReorderWhenVaried(30, middle_variance(rates, 30))
    alone = run(Variant("v", (adaptive,), state_follows=True)).reorder_steps
    both = run(Variant("v", (ReorderEvery(20, 11), adaptive), state_follows=True)).reorder_steps
    assert both == sorted({31, 42, 53, *alone}) and both not in ([31, 42, 53], alone)


def test_gradients_of_three_batches_make_one_step():
    twin = stepped(PLAIN, steps=0).trainer.sae
    adam = torch.optim.Adam(twin.parameters(), lr=TOY.lr)
    stream, seen = tensor_batches(X, TOY.batch)(0, 0), []
    training = Training(Variant("v", (AccumulateGradients(3),)), TOY, 0, "cpu")
    for i in range(9):
        batch = next(stream)
        training.step(batch)
        features = twin.encode(batch)
        loss = (twin.decode(features) - batch).pow(2).sum(1).mean() + TOY.l1 * (
            features * twin.W_dec.norm(dim=1)
        ).sum(1).mean()
        twin.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        seen.append([weight.grad.clone() for weight in twin.parameters()])
        before = [weight.detach().clone() for weight in twin.parameters()]
        if i % 3 == 2:
            for weight, grads in zip(twin.parameters(), zip(*seen[-3:])):
                weight.grad = sum(grads) / 3
            adam.step()
            assert not torch.equal(before[0], next(iter(twin.parameters())))
        for ours, theirs in zip(training.trainer.sae.parameters(), twin.parameters()):
            assert torch.allclose(ours, theirs, atol=1e-6), i
            if i >= 2:  # the mean and not the sum, which Adam's steps do not tell apart
                moments = [
                    optimizer.state[weight]["exp_avg"]
                    for optimizer, weight in ((training.trainer.optimizer, ours), (adam, theirs))
                ]
                assert torch.allclose(*moments, atol=1e-6)


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    rates, warm, steps = [], 20, TOY.steps
    training = Training(Variant("v", (WarmUpThenCosine(warm),)), TOY, 0, "cpu")
    stream = tensor_batches(X, TOY.batch)(0, 0)
    for _ in range(steps):
        rates.append(training.trainer.optimizer.param_groups[0]["lr"])
        training.step(next(stream))
    slow = [TOY.lr * (1 / warm + (1 - 1 / warm) * i / (warm - 1)) for i in range(warm)]
    slow += [TOY.lr * (1 + np.cos(np.pi * i / (steps - warm))) / 2 for i in range(steps - warm)]
    assert np.allclose(rates, slow, rtol=1e-6, atol=1e-9)
    assert stepped(PLAIN, steps=5).trainer.optimizer.param_groups[0]["lr"] == TOY.lr


def test_l1_follows_the_input_norm_over_its_moving_average(monkeypatch):
    used = []
    real_step = SAETrainer.step

    def step(self, batch):
        used.append((float(batch.norm(dim=-1).mean()), self.get_coefficients()["l1"]))
        return real_step(self, batch)

    monkeypatch.setattr(SAETrainer, "step", step)
    stepped(Variant("v", (ScaleL1ByNorm(0.9),)), steps=30)
    average = used[0][0]
    for norm, coefficient in used:
        average = 0.9 * average + 0.1 * norm
        assert coefficient == pytest.approx(TOY.l1 * norm / average, rel=1e-5)
    assert used[0][1] == pytest.approx(TOY.l1) and np.std([c for _, c in used]) > 0.01 * TOY.l1
    used.clear()
    stepped(PLAIN, steps=5)
    assert [coefficient for _, coefficient in used] == [TOY.l1] * 5


@pytest.mark.parametrize("target", [2.0, 6.0])
def test_the_jumprelu_baseline_is_drawn_to_its_target_unless_the_band_is_narrow(target):
    setting = replace(TOY, steps=400, target_l0=target, l0_coefficient=1.0, lr=1e-2)
    assert run(Variant("v", jumprelu=True), setting).metrics["l0"] == pytest.approx(target, rel=0.3)
    assert run(Variant("v", jumprelu=True, bandwidth=1e-5), setting).metrics["l0"] > 1.2 * target


def test_the_published_numbers():
    assert (
        REAL.d_in,
        REAL.d_sae,
        REAL.steps,
        REAL.lr,
        REAL.l1,
        REAL.target_l0,
        REAL.bandwidth,
    ) == (2304, 2304, 4882, 3e-4, 0.04, 20, 0.001)
    assert (
        REAL.hook == "blocks.19.hook_resid_post" and REAL.adaptive_threshold == 0.1 and RECENT == 10
    )
    runs = variants(REAL)
    assert [name for name in runs if name.startswith("run ")][:10] == [
        f"run {i}" for i in range(10)
    ]
    assert [name for name, run in runs.items() if run.jumprelu] == ["run 0", "run 0, wide band"]
    assert runs["run 1"].mechanisms == (ReorderOnce(1000),) and runs["run 2"].mechanisms == (
        ReorderOnce(2000),
    )
    assert runs["run 3"].mechanisms == (ReorderEvery(2000, 500),) and runs["run 4"].mechanisms == (
        ReorderWhenVaried(2000, 0.1),
    )
    assert (
        runs["run 5"].mechanisms
        == runs["run 3"].mechanisms + runs["run 4"].mechanisms
        == runs["run 5, state moved"].mechanisms
    )
    assert runs["run 9"].mechanisms[-2:] == (WarmUpThenCosine(3000), ScaleL1ByNorm(0.99))
    assert (
        runs["run 6"].ours
        and runs["run 7"].ours
        and not runs["run 3"].ours
        and runs["plain"].mechanisms == ()
    )
    assert variants(SMALL)["run 3"].mechanisms == (ReorderEvery(500, 125),)


def test_the_published_losses_are_claims_of_the_real_setting():
    published = {
        claim.id: claim.value
        for claim in claims_of("feature-ordering", "ordering")
        if claim.tier == "feature-ordering-2b"
    }
    expected = [
        15402.85,
        5179.69,
        5304.89,
        5196.93,
        7340.02,
        7326.97,
        None,
        6647.30,
        6933.36,
        6910.19,
    ]
    assert published == {
        f"ordering/run {i}/final_loss": value for i, value in enumerate(expected) if value
    }
