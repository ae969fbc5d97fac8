"""A run: what a new order changes, what a seed fixes, and how it continues when cut off."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from sae_lens.training.sae_trainer import SAETrainer
from toy_study import PLAIN, TOY, X, assert_same_run, run, stepped, weights

from saework import permute_features
from saework.core.errors import WeightsError
from saework.studies.feature_ordering.data import tensor_batches
from saework.studies.feature_ordering.training import Training, train
from saework.studies.feature_ordering.variants import (
    AccumulateGradients,
    ReorderEvery,
    Variant,
    variants,
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


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=r"a batch has shape \(32, 8\); this setting needs \(32, 9\), so give other",
    ):
        run(PLAIN, replace(TOY, d_in=9))


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
    assert_same_run(whole, resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole.sae.parameters(), resumed.sae.parameters()))


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """The folder of a run that was cut off."""
    folder = tmp_path_factory.mktemp("cut")

    def at_twenty(training):
        if training.done == 20:
            training.save(folder)

    stepped(PLAIN, steps=20, after_step=at_twenty)
    return folder


@pytest.mark.parametrize(
    "file",
    ["log.json", "trainer_state.pt", "memory.safetensors", "sae_weights.safetensors"],
)
def test_a_damaged_checkpoint_is_named(cut_off, file, tmp_path):
    shutil.copytree(cut_off / "step_20", tmp_path / "step_20")
    damaged = tmp_path / "step_20" / file
    damaged.write_bytes(damaged.read_bytes()[:40])
    match = r"the checkpoint .*step_20 is damaged \(\w+\); delete that folder, and run the"
    with pytest.raises(WeightsError, match=match):
        run(PLAIN, checkpoint=tmp_path)


def test_a_folder_of_another_name_is_left_alone(cut_off, tmp_path):
    shutil.copytree(cut_off / "step_20", tmp_path / "step_20")
    (tmp_path / "step_x").mkdir()
    assert run(PLAIN, checkpoint=tmp_path).steps[-1] == TOY.steps
    assert (tmp_path / "step_x").is_dir()


def test_batches_that_end_early():
    def batches(seed, start):
        return iter([X[: TOY.batch]] * 3)

    with pytest.raises(ValueError, match="the batches ended after 3 of 60 steps; give more"):
        train(PLAIN, TOY, batches, X, progress=False)


@pytest.mark.parametrize(("variant", "setting"), [("run 3", TOY), (PLAIN, "small")])
def test_what_is_no_variant_or_setting(variant, setting):
    words = "(variant|setting) is '.*'; give a (Variant|Setting), such as"
    with pytest.raises(ValueError, match=words):
        train(variant, setting, None, X)
