"""Training a mini's SAEs with sae_lens, on activations of its language model.

As in ``language_model``, checkpoints are kept, and a resumed run sees the batches that an unbroken
one would have seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from saework.core.formulas import log10_rate
from saework.engine.activation_batches import activation_batches

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

NORM_BATCHES = 8
CHECKPOINTS = 16


@dataclass(frozen=True)
class SaeRecipe:
    """How one SAE is trained: ReLU with an L1 penalty, or JumpReLU towards a target L0."""

    hook: str
    d_in: int
    d_sae: int
    l1: float | None = None
    target_l0: float | None = None
    subtract_b_dec: bool = True
    """Whether ``b_dec`` is subtracted from the input, as the SAE's layout has it."""
    bos: bool = True
    """Whether BOS is trained on; Gemma Scope left it out."""
    steps: int = 1920
    batch: int = 1024
    lr: float = 3e-3
    seed: int = 1

    def batches(
        self, model: HookedModel, rows: Int[Tensor, "batch pos"], *, start: int = 0
    ) -> Iterator[Float[Tensor, "token d_in"]]:
        """The activations that this SAE is trained on."""
        return activation_batches(
            model,
            rows,
            self.hook,
            batch=self.batch,
            seed=self.seed,
            bos=self.bos,
            start=start,
        )


def train_sae(
    model: HookedModel,
    rows: Int[Tensor, "batch pos"],
    recipe: SaeRecipe,
    folder: Path,
    *,
    device: str,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """One SAE through sae_lens; returns its weights as published layouts have them, and its curve.

    Activations are scaled to a mean norm of ``sqrt(d_in)`` in training; afterwards decoder rows get
    unit norm and the scale goes into biases and thresholds. The curve has one entry per checkpoint:
    variance explained, mean L0, and the histogram of log10 firing rates since the last one.
    """
    trainer = _sae_trainer(recipe, device)
    curve = _restore(trainer, folder)
    if trainer.n_training_steps == 0:
        trainer.activation_scaler.estimate_scaling_factor(
            recipe.d_in, recipe.batches(model, rows), NORM_BATCHES
        )
    batches = recipe.batches(model, rows, start=NORM_BATCHES + trainer.n_training_steps)
    done, total = trainer.n_training_steps, recipe.steps
    for step in tqdm(range(done, total), initial=done, total=total, desc=folder.name):
        output = trainer.step(next(batches))
        trainer.n_training_steps = step + 1
        if trainer.n_training_steps % trainer.cfg.feature_sampling_window == 0:
            curve.append(_curve_entry(trainer, output))
            trainer.maybe_reset_sparsity()
            _save_trainer(trainer, curve, folder)
    return _published_layout(trainer.sae, trainer.activation_scaler.scaling_factor), curve


def _sae_trainer(recipe: SaeRecipe, device: str) -> Any:
    from sae_lens import (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(recipe.seed)
    shared: dict[str, Any] = {
        "d_in": recipe.d_in,
        "d_sae": recipe.d_sae,
        "apply_b_dec_to_input": recipe.subtract_b_dec,
        "normalize_activations": "expected_average_only_in",
        "decoder_init_norm": 0.1,
        "device": device,
    }
    if recipe.target_l0 is None:
        # No warm-up of the L1: with one hardly any feature stays rare, and the notebook about
        # rare features would have nothing to show.
        sae: Any = StandardTrainingSAE(
            StandardTrainingSAEConfig(**shared, l1_coefficient=recipe.l1, l1_warm_up_steps=0)
        )
    else:
        jumprelu: dict[str, Any] = {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": recipe.target_l0,
            "l0_warm_up_steps": recipe.steps // 4,
        }
        sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**shared, **jumprelu))
    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        lr_warm_up_steps=100,
        lr_decay_steps=recipe.steps // 3,
        feature_sampling_window=recipe.steps // CHECKPOINTS,
        device=device,
    )
    return SAETrainer(config, sae, iter(()))


def _curve_entry(trainer: Any, output: Any) -> dict[str, Any]:
    log = trainer.build_train_step_log_dict(output, trainer.n_training_samples)
    rates = log10_rate(trainer.feature_sparsity.cpu())
    return {
        "tokens": trainer.n_training_samples,
        "variance_explained": log["metrics/explained_variance"],
        "l0": float(trainer.feature_sparsity.sum()),
        "log10_rate_histogram": torch.histc(rates, bins=13, min=-6.5, max=0).int().tolist(),
    }


def _save_trainer(trainer: Any, curve: list[dict[str, Any]], folder: Path) -> None:
    trainer.save_checkpoint("partial", base_path=folder)
    (folder / "partial" / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(folder / "latest", ignore_errors=True)
    (folder / "partial").rename(folder / "latest")


def _restore(trainer: Any, folder: Path) -> list[dict[str, Any]]:
    from safetensors.torch import load_file

    latest = folder / "latest"
    if not latest.exists():
        return []
    trainer.sae.load_state_dict(load_file(latest / "sae_weights.safetensors"))
    trainer.load_trainer_state(latest)
    return json.loads((latest / "curve.json").read_text())


@torch.no_grad()
def _published_layout(sae: Any, scale: float) -> dict[str, Tensor]:
    """The same function of activations that are not scaled, with decoder rows of unit norm."""
    norm = sae.W_dec.norm(dim=1)
    weights = {
        "W_enc": sae.W_enc * norm,
        "W_dec": sae.W_dec / norm[:, None],
        "b_enc": sae.b_enc * norm / scale,
        "b_dec": sae.b_dec / scale,
    }
    if hasattr(sae, "threshold"):
        weights["threshold"] = sae.threshold * norm / scale
    return {name: value.detach().cpu() for name, value in weights.items()}
