"""The permutation against plain indexing, each mechanism against a slow twin, and a study that is killed and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.training.sae_trainer import SAETrainer

import saework
from saework import permute_features
from saework.core.errors import UnknownNameError
from saework.core.files import DATA
from saework.loading.catalogue import STUDIES, claims_of
from saework.studies.feature_ordering import study
from saework.studies.feature_ordering import variants as variants_module
from saework.studies.feature_ordering.training import Training, evaluate, tensor_batches, train
from saework.studies.feature_ordering.variants import (
    REAL,
    SMALL,
    AccumulateGradients,
    ReorderEvery,
    ReorderOnce,
    ReorderWhenVaried,
    ScaleL1ByNorm,
    Setting,
    Variant,
    WarmUpThenCosine,
    variants,
)

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


def toy_data(seed: int = 0, n: int = 1024) -> torch.Tensor:
    """Sparse sums of twelve directions, of very different frequencies and of uneven norm."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(12, 8, generator=torch.Generator().manual_seed(99))
    on = torch.rand(n, 12, generator=generator) < torch.linspace(0.02, 0.6, 12)
    return (on * torch.rand(n, 12, generator=generator)) @ directions


X, HELD_OUT = toy_data(), toy_data(seed=1, n=256)


def run(variant: Variant, setting: Setting = TOY, **options):
    return train(
        variant, setting, tensor_batches(X, setting.batch), HELD_OUT, progress=False, **options
    )


def stepped(
    variant: Variant, setting: Setting = TOY, *, steps: int, each=lambda training: None
) -> Training:
    """A run of so many steps, with a look after each."""
    training, stream = Training(variant, setting, 0, "cpu"), tensor_batches(X, setting.batch)(0, 0)
    for _ in range(steps):
        training.step(next(stream))
        each(training)
    return training


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in training.trainer.sae.named_parameters()}


# ---- the permutation ----


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    d_in=st.integers(1, 12),
    d_sae=st.integers(3, 24),
    architecture=st.sampled_from(["standard", "jumprelu"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_permutation_renumbers_features_and_leaves_the_reconstruction(
    seed, d_in, d_sae, architecture, dtype
):
    generator = torch.Generator().manual_seed(seed)
    sae = random_sae(d_in, d_sae, "h", generator, architecture).to(dtype)
    sae.b_dec.data += 1  # d_in may equal d_sae: b_dec must stay where it is
    x, order = (
        torch.randn(7, d_in, generator=generator).to(dtype),
        torch.randperm(d_sae, generator=generator),
    )
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    features, x_hat = sae.encode(x), sae.decode(sae.encode(x))
    assert permute_features(sae, order) is sae
    slack = 64 * torch.finfo(dtype).eps * (1 + features.abs().sum() * sae.W_dec.abs().max())
    assert torch.allclose(
        sae.encode(x),
        features[:, order],
        atol=float(64 * torch.finfo(dtype).eps * (1 + features.abs().max())),
    )
    assert (sae.decode(features[:, order]) - x_hat).abs().max() <= slack
    assert (
        torch.equal(sae.b_dec, before["b_dec"])
        and torch.equal(sae.W_dec, before["W_dec"][order])
        and torch.equal(sae.W_enc, before["W_enc"][:, order])
    )
    permute_features(sae, order.argsort())
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items()), (
        "and back, to the bit"
    )


@pytest.mark.parametrize("jumprelu", [False, True])
@pytest.mark.parametrize("moved", [True, False])
def test_training_goes_on_unchanged_only_if_the_optimisers_state_moves_along(jumprelu, moved):
    variant, order = (
        Variant("v", jumprelu=jumprelu),
        torch.randperm(16, generator=torch.Generator().manual_seed(3)),
    )
    untouched, permuted = stepped(variant, steps=20), stepped(variant, steps=20)
    permute_features(
        permuted.trainer.sae, order, optimizer=permuted.trainer.optimizer if moved else None
    )
    stream, losses = tensor_batches(X, TOY.batch)(0, 20), []
    for _ in range(10):
        batch = next(stream)
        losses.append([t.trainer.step(batch).loss.item() for t in (untouched, permuted)])
    first, gaps = losses[0], [abs(a - b) / a for a, b in losses[1:]]
    assert first[1] == pytest.approx(first[0], rel=1e-5), (
        "the loss itself never depends on the order"
    )
    permute_features(permuted.trainer.sae, order.argsort())
    apart = max(
        float((a - b).abs().max())
        for a, b in zip(weights(untouched).values(), weights(permuted).values())
    )
    if moved:
        assert max(gaps) < 1e-5 and apart < 1e-4
    else:
        assert max(gaps) > 1e-3 and apart > 1e-2


def test_gradients_move_with_the_features():
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    sae.W_enc.requires_grad_(True).grad = torch.arange(24.0).reshape(4, 6)
    permute_features(sae, torch.tensor([5, 4, 3, 2, 1, 0]))
    assert torch.equal(sae.W_enc.grad, torch.arange(24.0).reshape(4, 6).flip(1))


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [0.0, 1, 2, 3, 4, 5], [True] * 6]
)
def test_what_is_no_permutation_is_refused(order):
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    before = sae.W_enc.clone()
    with pytest.raises(
        ValueError, match=r"no permutation; give each of 0\.\.5 once, such as rates\.argsort"
    ):
        permute_features(sae, order)
    assert torch.equal(sae.W_enc, before)


def test_an_unknown_parameter_or_state_is_refused_before_anything_moves():
    sae = random_sae(4, 6, "h", torch.Generator().manual_seed(0))
    sae.requires_grad_(True)
    optimizer = torch.optim.Adafactor(sae.parameters())
    sae.encode(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    before = sae.W_enc.detach().clone()
    with pytest.raises(
        ValueError,
        match="'row_var' of W_enc has shape .* use an optimiser with one value a weight, such as Adam",
    ):
        permute_features(sae, torch.arange(5, -1, -1), optimizer=optimizer)
    sae.extra = torch.nn.Parameter(torch.ones(6))
    with pytest.raises(
        ValueError,
        match="which axis of 'extra' counts the features is not known .*add it to saework.analysis.renumbering.FEATURE_AXIS",
    ):
        permute_features(sae, torch.arange(5, -1, -1))
    assert torch.equal(sae.W_enc, before)


# ---- the mechanisms, each against a slow twin ----


def test_reordering_once_happens_once_and_sorts_by_recent_rate():
    seen = {}

    def look(training):
        seen[training.done] = training.memory["recent"].mean(0)

    training = stepped(Variant("v", (ReorderOnce(25),)), steps=40, each=look)
    assert training.log["reorder_steps"] == [25]
    assert (seen[25].diff() <= 0).all() and not (seen[24].diff() <= 0).all()
    assert run(PLAIN).reorder_steps == []


def test_reordering_periodically_begins_after_the_warm_up():
    assert run(Variant("v", (ReorderEvery(20, 15),))).reorder_steps == [35, 50]


def slow_trigger(rates: list[np.ndarray], after: int, threshold: float) -> list[int]:
    """The steps at which the population variance of the ten last rows exceeds the threshold, by sums."""
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
        each=lambda training: rates.append(
            training.memory["recent"][-1].numpy().astype(np.float64)
        ),
    )
    threshold = middle_variance(rates, max(after, 10))
    expected = slow_trigger(rates, after, threshold)
    assert 0 < len(expected) < 51 - max(0, after - 10)
    # state_follows keeps the run itself the same, so that the rates seen without reordering are those seen with it
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
        each=lambda training: rates.append(
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


# ---- a run ----


def test_with_its_state_a_reordered_run_ends_as_the_plain_one_in_another_order():
    trigger = (ReorderEvery(10, 7),)
    plain, moved, left = (
        run(v) for v in (PLAIN, Variant("v", trigger, state_follows=True), Variant("v", trigger))
    )
    assert len(moved.reorder_steps) == len(left.reorder_steps) > 3
    assert torch.allclose(moved.sae.W_enc, plain.sae.W_enc[:, moved.features[-1]], atol=1e-4)
    assert torch.allclose(moved.by_feature(), plain.rates, atol=0.02) and not torch.equal(
        moved.rates, plain.rates
    )
    assert moved.metrics["mse"] == pytest.approx(plain.metrics["mse"], rel=1e-4)
    assert not torch.allclose(left.sae.W_enc, plain.sae.W_enc[:, left.features[-1]], atol=1e-2)


def test_gradients_that_are_held_move_with_the_state():
    held = AccumulateGradients(4)  # a new order comes in the middle of the four
    plain, moved = (
        run(Variant("v", (held,))),
        run(Variant("v", (held, ReorderEvery(11, 7)), state_follows=True)),
    )
    assert len(moved.reorder_steps) == 7 and torch.allclose(
        moved.sae.W_enc, plain.sae.W_enc[:, moved.features[-1]], atol=1e-4
    )


def test_a_seed_gives_every_variant_the_same_start_and_the_same_batches():
    starts = [
        Training(Variant("v", jumprelu=jump), TOY, 5, "cpu").trainer.sae.W_dec
        for jump in (False, True)
    ]
    assert torch.equal(*starts) and not torch.equal(
        starts[0], Training(PLAIN, TOY, 6, "cpu").trainer.sae.W_dec
    )
    state = torch.get_rng_state()
    Training(PLAIN, TOY, 7, "cpu")
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"


def test_batches_cover_an_epoch_and_can_start_anywhere():
    x = torch.arange(70.0)[:, None]
    batches = tensor_batches(x, 16)
    stream = batches(3, 0)
    first = [next(stream) for _ in range(11)]
    assert len(torch.cat(first[:4]).unique()) == 64, "no value twice in an epoch"
    for start in (1, 4, 9):
        assert torch.equal(next(batches(3, start)), first[start])
    assert not torch.equal(first[0], next(batches(4, 0)))
    with pytest.raises(
        ValueError,
        match="70 activations do not fill one batch of 71; give more of them, or a smaller batch",
    ):
        tensor_batches(x, 71)


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=r"a batch has shape \(32, 8\); this setting wants \(32, 9\), so give other activations",
    ):
        run(PLAIN, replace(TOY, d_in=9))


def test_evaluation_at_known_points():
    sae = random_sae(4, 8, "h", torch.Generator().manual_seed(0))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    identity = torch.cat([torch.eye(4), -torch.eye(4)])
    sae.load_state_dict(
        {"W_enc": identity.T, "W_dec": identity, "b_enc": torch.zeros(8), "b_dec": torch.zeros(4)}
    )
    perfect = evaluate(sae, x)
    assert (
        perfect["variance_explained"] == pytest.approx(1)
        and perfect["l0"] == 4
        and perfect["dead"] == 0
    )
    assert perfect["l1"] == pytest.approx(float(x.abs().sum(1).mean()), rel=1e-5)
    sae.load_state_dict(
        {
            "W_enc": identity.T,
            "W_dec": identity,
            "b_enc": torch.full((8,), -99.0),
            "b_dec": x.mean(0),
        }
    )
    nothing = evaluate(sae, x)
    sae.load_state_dict(
        {
            "W_enc": identity.T / 2,
            "W_dec": 2 * identity,
            "b_enc": torch.zeros(8),
            "b_dec": torch.zeros(4),
        }
    )
    assert evaluate(sae, x)["l1"] == pytest.approx(perfect["l1"]), (
        "as if decoder rows had unit norm"
    )
    assert (
        nothing["variance_explained"] == pytest.approx(0, abs=1e-6)
        and nothing["l0"] == 0
        and nothing["dead"] == 8
    )
    assert nothing["mse"] == pytest.approx(float((x - x.mean(0)).pow(2).sum(1).mean()), rel=1e-5)


# ---- interruption ----


def same(a, b) -> None:
    assert a.metrics == b.metrics and a.reorder_steps == b.reorder_steps
    assert all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("steps", "loss", "variance", "rates", "features")
    )


@pytest.mark.parametrize("name", ["run 0", "run 5", "run 9"])
@pytest.mark.parametrize("at", [22, 59])
def test_an_interrupted_run_goes_on_to_the_same_bits(name, at, tmp_path, monkeypatch):
    variant = variants(replace(TOY, steps=60))[name]
    whole, step = run(variant), SAETrainer.step

    def cut_off(self, batch):
        if self.n_training_steps == at:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SAETrainer, "step", cut_off)
        run(variant, checkpoint=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.name == f"step_{at // 3 * 3}"
    (tmp_path / "partial").mkdir()  # what a kill in the middle of a save leaves
    resumed = run(variant, checkpoint=tmp_path)
    same(whole, resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole.sae.parameters(), resumed.sae.parameters()))


STUDY = """
import sys, test_ordering as t
t.torch.set_num_threads(1)
t.toy_study(sys.argv[1])
"""


STUDIED = replace(TOY, steps=160)


def toy_study(folder):
    return study.study(
        STUDIED,
        folder,
        names=["run 3", "run 9", "plain"],
        seeds=(0, 1, 2),
        data=(tensor_batches(X, TOY.batch), HELD_OUT),
    )


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, toy_study(folder)


def test_a_study_that_is_killed_goes_on_to_the_same_bits(studied, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [
                str(Path(__file__).parent),
                str(Path(saework.__file__).parents[1]),
                str(Path(__file__).parents[2]),
            ]
        ),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
    )
    runs, deadline = tmp_path / "runs", time.monotonic() + 60
    while time.monotonic() < deadline and not (
        list(runs.glob("*.json")) and list(runs.glob("*/step_*"))
    ):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it was done"
    assert not (tmp_path / "study.json").exists() and len(list(runs.glob("*.json"))) < 9
    toy_study(tmp_path)
    for file in ("study.json", "study.safetensors", "setting.json"):
        assert (tmp_path / file).read_bytes() == (studied[0] / file).read_bytes()


def test_a_study_is_read_as_it_was_made(studied):
    done, read = studied[1], study.read_study(studied[0])
    assert read.setting == done.setting and read.table.equals(done.table)
    assert list(read.table["variant"].unique()) == ["run 3", "run 9", "plain"] and set(
        read.table["seed"]
    ) == {0, 1, 2}
    same(read.first("run 9"), done.first("run 9"))
    assert read.runs["plain", 1].rates is None, "the summary has the rates of the first seed only"
    assert read.first("run 3").rates.shape == (20, 16)


def test_what_a_study_refuses(studied, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"holds a study of another setting \(l1 0.3 there, 0.5 now\); give an empty folder",
    ):
        study.study(replace(STUDIED, l1=0.5), studied[0])
    with pytest.raises(
        UnknownNameError, match="there is no variant 'run 10'.*Did you mean 'run 1'"
    ):
        study.study(TOY, tmp_path / "new", names=["run 10"])
    with pytest.raises(
        FileNotFoundError,
        match="holds no study.json; train one with saework reproduce feature-ordering --out OUT, and give OUT/study",
    ):
        study.read_study(tmp_path / "nothing")


# ---- differences, data, and what is committed ----


def test_paired_differences_by_hand():
    rows = [
        {"variant": v, "seed": s, "mse": value}
        for v, values in {"plain": (10, 20, 30), "a": (11, 22, 33), "b": (10.1, 19.8, 30.1)}.items()
        for s, value in enumerate(values)
    ]
    found = study.paired_differences(pd.DataFrame(rows), "mse")
    assert list(found.index) == ["a", "b"]
    assert found.loc["a", "difference"] == pytest.approx(2) and found.loc[
        "a", "high"
    ] == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-5)
    assert list(found["verdict"]) == ["none shown", "none shown"]
    rows += [{"variant": "c", "seed": s, "mse": value} for s, value in enumerate((8, 18.1, 27.9))]
    assert study.paired_differences(pd.DataFrame(rows), "mse").loc["c", "verdict"] == "lower"
    with pytest.raises(
        ValueError, match="2 seeds say too little about noise; train at least three"
    ):
        study.paired_differences(pd.DataFrame([row for row in rows if row["seed"]]), "mse")


@pytest.mark.parametrize("n_tokens", [None, 6000])
def test_activations_leave_bos_and_the_held_out_rows_out(tiny, monkeypatch, n_tokens):
    from saework.engine.forward import activations
    from saework.loading import workbook

    tokens = torch.randint(3, 4096, (300, 20), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tiny.tokenizer.bos_token_id
    monkeypatch.setattr(
        workbook,
        "load",
        lambda *_, **__: SimpleNamespace(model=tiny.model, tokens=tokens, tokenizer=tiny.tokenizer),
    )
    setting = Setting(
        "toy",
        tiny.hook,
        24,
        32,
        40,
        64,
        1e-3,
        0.1,
        scale_to=None if n_tokens else 5.0,
        n_tokens=n_tokens,
        held_out_rows=8,
    )
    batches, held_out = study.study_data(setting)
    x = activations(tiny.model, tokens[-8:], tiny.hook)[:, 1:].flatten(0, 1)
    assert held_out.shape == x.shape == (8 * 19, 24)
    assert torch.allclose(held_out / held_out.norm() * x.norm(), x, atol=1e-4)
    stream = batches(0, 0)
    first = [next(stream) for _ in range(5)]
    assert first[0].shape == (64, 24) and torch.equal(first[3], next(batches(0, 3)))
    if n_tokens is None:
        everything = torch.cat([next(batches(1, i)) for i in range(292 * 19 // 64)])
        assert float(everything.norm(dim=-1).mean()) == pytest.approx(5, rel=1e-2)
    assert torch.cdist(torch.cat(first), held_out).min() > 1e-4


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
        REAL.hook == "blocks.19.hook_resid_post"
        and REAL.adaptive_threshold == 0.1
        and variants_module.RECENT == 10
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


def test_the_catalogue_names_the_release_that_a_study_loads():
    for name, setting in study.SETTINGS.items():
        assert setting.release == STUDIES[name].release


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


def test_the_committed_study_is_whole_and_small():
    committed = study.read_study(DATA / "feature-ordering")
    assert committed.setting == SMALL
    table = committed.table
    assert (
        set(table["variant"]) == set(variants(SMALL))
        and (table.groupby("variant")["seed"].nunique() >= 3).all()
    )
    assert sum(path.stat().st_size for path in (DATA / "feature-ordering").iterdir()) < 1e6
    assert all(committed.first(name).rates.shape == (20, 512) for name in variants(SMALL))
    claims = {
        claim.id: claim.value
        for claim in claims_of("feature-ordering")
        if claim.tier == "feature-ordering"
    }
    assert claims["ordering/plain/mse"] == pytest.approx(
        table[table.variant == "plain"]["mse"].mean()
    )


def test_recording_writes_claims_that_the_study_holds(studied, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DATA", tmp_path)
    done = studied[1]
    folder = study.record("feature-ordering", done)
    assert {path.name for path in folder.iterdir()} == {
        "claims.json",
        "setting.json",
        "study.json",
        "study.safetensors",
    }
    assert study.read_study(folder).table.equals(done.table)


def test_reproduce_trains_first_and_hands_the_study_to_the_notebook(tmp_path, monkeypatch, capsys):
    from saework import cli
    from saework.core.ledger import Ledger
    from saework.reproduction import run

    asked = {}
    monkeypatch.setattr(
        study, "study", lambda setting, folder, **_: asked.update(setting=setting, folder=folder)
    )
    monkeypatch.setattr(
        run,
        "reproduce",
        lambda name, out, *, parameters: asked.update(parameters) or Ledger([], tier=name),
    )
    assert cli.main(["reproduce", "feature-ordering", "--out", str(tmp_path)]) == 0
    assert asked == {
        "setting": SMALL,
        "folder": tmp_path / "study",
        "STUDY": str(tmp_path / "study"),
    }
    assert "gemma-mini: ready" in capsys.readouterr().out
