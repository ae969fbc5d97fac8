"""One run of the feature-ordering study: sae_lens's trainer, resumable to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from saework.analysis.renumbering import FEATURE_AXIS, permute_features
from saework.core.argument_kinds import checked
from saework.core.errors import WeightsError, in_words
from saework.core.files import read_json
from saework.studies.feature_ordering.evaluation import evaluate
from saework.studies.feature_ordering.trained_run import TrainedRun
from saework.studies.feature_ordering.variants import HELD, RECENT, Setting, Variant

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.studies.feature_ordering.data import Batches

RECORDS = 20
"""How often a run records rates, loss and variance, and keeps a checkpoint."""
_STATE_BY_FEATURE = ("act_freq_scores", "n_forward_passes_since_fired")
"""What sae_lens's trainer counts for each feature."""


class Training:
    """A run under way: sae_lens's trainer, and all that must outlast an interruption."""

    def __init__(self, variant: Variant, setting: Setting, seed: int, device: str):
        self.variant = variant
        self.setting = setting
        self.trainer = _trainer(variant, setting, seed, device)
        self.memory: dict[str, Tensor] = {
            "features": torch.arange(setting.d_sae),
            "recent": torch.zeros(0, setting.d_sae),
            "rates": torch.zeros(0, setting.d_sae),
            "history": torch.zeros(0, setting.d_sae, dtype=torch.long),
        }
        self.log: dict[str, list] = {
            "losses": [],
            "reorder_steps": [],
            "steps": [],
            "loss": [],
            "variance": [],
        }
        for mechanism in variant.mechanisms:
            mechanism.attach(self)

    @property
    def done(self) -> int:
        """Steps done."""
        return self.trainer.n_training_steps

    @property
    def at_a_record(self) -> bool:
        """Whether the step just done is one of those that are recorded."""
        steps_per_record = self.trainer.cfg.feature_sampling_window
        return self.done % steps_per_record == 0

    def step(self, batch: Float[Tensor, "batch d_in"]) -> None:
        """One step of the trainer, with what the mechanisms do before and after it."""
        for mechanism in self.variant.mechanisms:
            mechanism.before_step(self, batch)
        output = self.trainer.step(batch)
        self.trainer.n_training_steps += 1
        self.log["losses"].append(output.loss.item())
        fires = output.feature_acts.detach() > 0
        self._append("recent", fires.float().mean(0).cpu())
        self.memory["recent"] = self.memory["recent"][-RECENT:]
        if self._asks_for_order():
            mean_rates = self.memory["recent"].mean(0)
            order = mean_rates.argsort(descending=True, stable=True)
            self.reorder(order)
        if self.at_a_record:
            self._record()

    def _asks_for_order(self) -> bool:
        """Whether one of the mechanisms asks for a new order now."""
        recent = self.memory["recent"]
        for mechanism in self.variant.mechanisms:
            if mechanism.asks_for_order(self.done, recent):
                return True
        return False

    def reorder(self, order: Int[Tensor, " d_sae"]) -> None:
        """Bring the features and the records of them into a new order.

        Where the variant says so, the optimiser's state moves too.
        """
        trainer = self.trainer
        optimizer = trainer.optimizer if self.variant.state_follows else None
        permute_features(trainer.sae, order, optimizer=optimizer)
        for name in ("features", "recent"):
            self.memory[name] = self.memory[name][..., order].contiguous()
        for name in _STATE_BY_FEATURE:
            counts = getattr(trainer, name)
            setattr(trainer, name, counts[order.to(trainer.cfg.device)])
        if self.variant.state_follows:
            self._reorder_held_gradients(order)
        self.log["reorder_steps"].append(self.done)

    def _reorder_held_gradients(self, order: Int[Tensor, " d_sae"]) -> None:
        """Move what ``AccumulateGradients`` holds back; it is optimiser state too."""
        for name, gradient in self.memory.items():
            parameter = name.removeprefix(HELD)
            is_held = name != parameter
            axis = FEATURE_AXIS.get(parameter)
            if is_held and axis is not None:
                order = order.to(gradient.device)
                self.memory[name] = gradient.index_select(axis, order)

    def _record(self) -> None:
        losses = self.log["losses"]
        variance = self.memory["recent"].var(correction=0)
        self.log["steps"].append(self.done)
        self.log["loss"].append(sum(losses) / len(losses))
        self.log["variance"].append(float(variance))
        losses.clear()
        self._append("rates", self.trainer.feature_sparsity.cpu())
        self._append("history", self.memory["features"])
        self.trainer.maybe_reset_sparsity()

    def _append(self, name: str, row: Tensor) -> None:
        """Add a row to a table of the memory."""
        table = self.memory[name]
        self.memory[name] = torch.cat([table, row[None]])

    def save(self, folder: Path) -> None:
        """Write a checkpoint that is either whole or not there, and remove the one before."""
        from safetensors.torch import save_file

        partial = folder / "partial"
        final = folder / f"step_{self.done}"
        shutil.rmtree(partial, ignore_errors=True)
        self.trainer.save_checkpoint("partial", base_path=folder)
        save_file(self.memory, partial / "memory.safetensors")
        (partial / "log.json").write_text(json.dumps(self.log), encoding="utf-8")
        partial.rename(final)
        for other in _checkpoints(folder):
            if other != final:
                shutil.rmtree(other)

    def restore(self, folder: Path) -> None:
        """Go back to the newest checkpoint, if there is one.

        Raises:
            WeightsError: it is damaged.
        """
        newest = max(_checkpoints(folder), key=_step_of, default=None)
        if newest is None:
            return
        try:
            self._read(newest)
        # sae_lens, torch and safetensors each have errors of their own
        except Exception as error:
            raise WeightsError(
                f"the checkpoint {newest} is damaged ({type(error).__name__}); delete that folder, "
                "and run the command again: this run is trained again, the finished ones are kept"
            ) from error

    def _read(self, checkpoint: Path) -> None:
        from safetensors.torch import load_file

        self.trainer.sae.load_weights_from_checkpoint(checkpoint)
        self.trainer.load_trainer_state(checkpoint)
        self.memory = load_file(checkpoint / "memory.safetensors")
        self.log = read_json(checkpoint / "log.json")

    def result(self, name: str, seed: int, held_out: Float[Tensor, "tokens d_in"]) -> TrainedRun:
        """What the finished run leaves."""
        metrics = evaluate(self.trainer.sae, held_out)
        metrics["final_loss"] = self.log["loss"][-1]
        return TrainedRun(
            variant=name,
            seed=seed,
            metrics=metrics,
            reorder_steps=self.log["reorder_steps"],
            steps=torch.tensor(self.log["steps"]),
            loss=torch.tensor(self.log["loss"]),
            variance=torch.tensor(self.log["variance"]),
            rates=self.memory["rates"],
            features=self.memory["history"].long(),
            sae=self.trainer.sae,
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Folders named by a step; others are left alone."""
    found = folder.glob("step_*")
    return [path for path in found if path.is_dir() and _digits(path).isdecimal()]


def _digits(checkpoint: Path) -> str:
    return checkpoint.name.removeprefix("step_")


def _step_of(checkpoint: Path) -> int:
    return int(_digits(checkpoint))


def _trainer(variant: Variant, setting: Setting, seed: int, device: str) -> Any:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options = {
        "total_training_samples": setting.steps * setting.batch,
        "train_batch_size_samples": setting.batch,
        "lr": setting.lr,
        "lr_end": setting.lr,
        "feature_sampling_window": max(1, setting.steps // RECORDS),
        "device": device,
    }
    for mechanism in variant.mechanisms:
        options |= mechanism.trainer_options(setting)
    no_batches: Iterator = iter(())  # each step is given its batch
    sae = _new_sae(variant, setting, seed, device)
    return SAETrainer(SAETrainerConfig(**options), sae, no_batches)


def _new_sae(variant: Variant, setting: Setting, seed: int, device: str) -> Any:
    """An untrained SAE; the global random generator is left alone."""
    from sae_lens import (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
    )

    shape: dict[str, Any] = {
        "d_in": setting.d_in,
        "d_sae": setting.d_sae,
        "decoder_init_norm": 0.1,
        "device": device,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not variant.jumprelu:
            config = StandardTrainingSAEConfig(**shape, l1_coefficient=setting.l1)
            return StandardTrainingSAE(config)
        jumprelu_config = JumpReLUTrainingSAEConfig(
            **shape,
            jumprelu_sparsity_loss_mode="quadratic",
            jumprelu_bandwidth=variant.bandwidth or setting.bandwidth,
            target_l0=setting.target_l0,
            l0_coefficient=setting.l0_coefficient,
        )
        return JumpReLUTrainingSAE(jumprelu_config)


@checked
def train(
    variant: Variant,
    setting: Setting,
    batches: Batches,
    held_out: Float[Tensor, "tokens d_in"],
    *,
    seed: int = 0,
    name: str | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> TrainedRun:
    """Train one variant of the study.

    The same seed gives every variant the same start and the same batches.

    Args:
        variant: what the run does, such as ``variants(setting)["run 3"]``.
        setting: sizes, steps and coefficients.
        batches: ``batches(seed, start)`` gives batches from number ``start`` on; see
            ``data``.
        held_out: activations on which the trained SAE is measured.
        seed: of the start and of the order of the batches.
        name: what the result is called; the variant's title by default.
        checkpoint: a folder to keep the state in, at each record. A run that finds one there
            continues from it, and ends with the same bits as one that was never interrupted.
        device: such as ``cpu`` or ``cuda``.
        progress: whether to show a progress bar.
    Returns: the trained SAE, its metrics and its history.
    Raises:
        ValueError: for batches of another shape than the setting's, or too few of them.

    >>> from dataclasses import replace
    >>> from itertools import repeat
    >>> import torch
    >>> from saework import feature_ordering
    >>> setting = replace(feature_ordering.SMALL, d_in=8, d_sae=16, steps=40, batch=32)
    >>> run_1 = feature_ordering.variants(setting)["run 1"]
    >>> def batches(seed, start):
    ...     return repeat(torch.ones(32, 8))
    >>> run = feature_ordering.train(run_1, setting, batches, torch.eye(8), progress=False)
    >>> run.reorder_steps, run.rates.shape
    ([8], torch.Size([20, 16]))
    """
    for what, value, kind in (("variant", variant, Variant), ("setting", setting, Setting)):
        if not isinstance(value, kind):
            raise ValueError(
                f"{what} is {in_words(value)}; give a {kind.__name__}, such as "
                "variants(feature_ordering.SMALL)['run 3'] and feature_ordering.SMALL"
            )
    run = Training(variant, setting, seed, device)
    name = name or variant.title
    if checkpoint:
        checkpoint.mkdir(parents=True, exist_ok=True)
        run.restore(checkpoint)
    stream = batches(seed, run.done)
    steps = tqdm(
        range(run.done, setting.steps),
        initial=run.done,
        total=setting.steps,
        desc=f"{name}, seed {seed}",
        disable=None if progress else True,
    )
    for _ in steps:
        batch = next(stream, None)
        if batch is None:
            raise ValueError(
                f"the batches ended after {run.done} of {setting.steps} steps; give more"
            )
        _check_shape(batch, setting)
        run.step(batch)
        if checkpoint and run.at_a_record:
            run.save(checkpoint)
    return run.result(name, seed, held_out)


def _check_shape(batch: Tensor, setting: Setting) -> None:
    expected = (setting.batch, setting.d_in)
    if batch.shape != expected:
        raise ValueError(
            f"a batch has shape {tuple(batch.shape)}; this setting needs {expected}, "
            "so give other activations, or another setting"
        )
