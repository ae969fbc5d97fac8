"""One run of the feature-ordering study: sae_lens's trainer over activations given as tensors, resumable to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from saework.analysis.renumbering import FEATURE_AXIS, permute_features
from saework.core.formulas import reconstruction_sums
from saework.studies.feature_ordering.variants import RECENT, Setting, Variant

RECORDS = 20
"""How often a run records rates, loss and variance, and keeps a checkpoint."""


@dataclass(frozen=True)
class TrainedRun:
    """What one run left."""

    variant: str
    seed: int
    metrics: dict[str, float]
    """Of the trained SAE on held-out activations: ``mse`` (squared activation per token), ``variance_explained``,
    ``cosine`` (fractions), ``l0`` (features per token), ``l1`` (activation per token, by unit decoder rows), ``dead``
    (features silent on all held-out tokens); and ``final_loss``, of the last steps of training: not comparable between
    variants that weigh sparsity differently."""
    reorder_steps: list[int]
    steps: torch.Tensor
    """long ``[records]``: the steps at which the next ones were recorded."""
    loss: torch.Tensor
    """``[records]``: training loss, mean since the last record."""
    variance: torch.Tensor
    """``[records]``: variance of the last ten batches' firing rates, which ``ReorderWhenVaried`` compares with its threshold."""
    rates: torch.Tensor | None = field(default=None, repr=False)
    """``[records, d_sae]``: firing rates since the last record, by position. A study's summary has them for its first seed only."""
    features: torch.Tensor | None = field(default=None, repr=False)
    """long ``[records, d_sae]``: which feature, by its number at the start, stood at each position when that was recorded."""
    sae: object = field(default=None, repr=False)
    """The trained SAE; None when read from a file."""

    def by_feature(self) -> torch.Tensor:
        """``rates`` ``[records, d_sae]`` in the order of the start, whatever order they were kept in since."""
        return torch.zeros_like(self.rates).scatter_(1, self.features, self.rates)


class Training:
    """A run under way: sae_lens's trainer, and all that must outlast an interruption."""

    def __init__(self, variant: Variant, setting: Setting, seed: int, device: str):
        self.variant, self.setting = variant, setting
        self.trainer = _trainer(variant, setting, seed, device)
        self.memory: dict[str, torch.Tensor] = {
            "features": torch.arange(setting.d_sae),
            "recent": torch.zeros(0, setting.d_sae),
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

    def step(self, batch: torch.Tensor) -> None:
        """One step of the trainer, with what the mechanisms do before and after it."""
        for mechanism in self.variant.mechanisms:
            mechanism.before_step(self, batch)
        output = self.trainer.step(batch)
        self.trainer.n_training_steps += 1
        self.log["losses"].append(output.loss.item())
        rates = (output.feature_acts.detach() > 0).float().mean(0).cpu()
        self.memory["recent"] = torch.cat([self.memory["recent"], rates[None]])[-RECENT:]
        if any(
            mechanism.wants_order(self.done, self.memory["recent"])
            for mechanism in self.variant.mechanisms
        ):
            self.reorder(self.memory["recent"].mean(0).argsort(descending=True, stable=True))
        if self.done % self.trainer.cfg.feature_sampling_window == 0:
            self._record()

    def reorder(self, order: torch.Tensor) -> None:
        """Bring the features into a new order, with the records of them, and, where the variant says so, the optimiser's state."""
        trainer = self.trainer
        permute_features(
            trainer.sae, order, optimizer=trainer.optimizer if self.variant.state_follows else None
        )
        for name in ("features", "recent"):
            self.memory[name] = self.memory[name][..., order].contiguous()
        for name in ("act_freq_scores", "n_forward_passes_since_fired"):
            setattr(trainer, name, getattr(trainer, name)[order.to(trainer.cfg.device)])
        for name in [
            name for name in self.memory if name.startswith("held.") and self.variant.state_follows
        ]:
            axis = FEATURE_AXIS.get(name.removeprefix("held."))
            if axis is not None:
                self.memory[name] = self.memory[name].index_select(
                    axis, order.to(self.memory[name].device)
                )
        self.log["reorder_steps"].append(self.done)

    def _record(self) -> None:
        losses = self.log["losses"]
        self.log["steps"].append(self.done)
        self.log["loss"].append(sum(losses) / len(losses))
        losses.clear()
        self.log["variance"].append(float(self.memory["recent"].var(correction=0)))
        for name, new in (
            ("rates", self.trainer.feature_sparsity.cpu()),
            ("history", self.memory["features"]),
        ):
            before = self.memory.get(name, new[:0].reshape(0, len(new)))
            self.memory[name] = torch.cat([before, new[None]])
        self.trainer.maybe_reset_sparsity()

    def save(self, folder: Path) -> None:
        """Write a checkpoint that is either whole or not there, and remove the one before."""
        from safetensors.torch import save_file

        partial, final = folder / "partial", folder / f"step_{self.done}"
        shutil.rmtree(partial, ignore_errors=True)
        self.trainer.save_checkpoint("partial", base_path=folder)
        save_file(self.memory, partial / "memory.safetensors")
        (partial / "log.json").write_text(json.dumps(self.log))
        partial.rename(final)
        for other in folder.glob("step_*"):
            if other != final:
                shutil.rmtree(other)

    def restore(self, folder: Path) -> None:
        """Go back to the newest checkpoint, if there is one."""
        from safetensors.torch import load_file

        found = max(
            folder.glob("step_*"),
            key=lambda path: int(path.name.removeprefix("step_")),
            default=None,
        )
        if found:
            self.trainer.sae.load_weights_from_checkpoint(found)
            self.trainer.load_trainer_state(found)
            self.memory, self.log = (
                load_file(found / "memory.safetensors"),
                json.loads((found / "log.json").read_text()),
            )

    def result(self, name: str, seed: int, held_out: torch.Tensor) -> TrainedRun:
        """What the finished run leaves."""
        metrics = evaluate(self.trainer.sae, held_out) | {"final_loss": self.log["loss"][-1]}
        record = {key: torch.tensor(self.log[key]) for key in ("steps", "loss", "variance")}
        arrays = {"rates": self.memory["rates"], "features": self.memory["history"].long()}
        return TrainedRun(
            name, seed, metrics, self.log["reorder_steps"], **record, **arrays, sae=self.trainer.sae
        )


def _trainer(variant: Variant, setting: Setting, seed: int, device: str):
    from sae_lens import (
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {
        "d_in": setting.d_in,
        "d_sae": setting.d_sae,
        "decoder_init_norm": 0.1,
        "device": device,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if variant.jumprelu:
            jump = {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": setting.target_l0,
                "jumprelu_bandwidth": variant.bandwidth or setting.bandwidth,
            }
            sae = JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(**shape, **jump, l0_coefficient=setting.l0_coefficient)
            )
        else:
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shape, l1_coefficient=setting.l1))
    options = {
        "lr": setting.lr,
        "lr_end": setting.lr,
        "feature_sampling_window": max(1, setting.steps // RECORDS),
        "device": device,
    }
    for mechanism in variant.mechanisms:
        options |= mechanism.trainer_options(setting)
    samples = {
        "total_training_samples": setting.steps * setting.batch,
        "train_batch_size_samples": setting.batch,
    }
    return SAETrainer(SAETrainerConfig(**samples, **options), sae, iter(()))


def train(
    variant: Variant,
    setting: Setting,
    batches: Callable[[int, int], Iterator[torch.Tensor]],
    held_out: torch.Tensor,
    *,
    seed: int = 0,
    name: str | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> TrainedRun:
    """Train one variant. The same seed gives every variant the same start and the same batches.

    Args:
        batches: ``batches(seed, start)`` gives batches ``[batch, d_in]`` from number ``start`` on (see ``tensor_batches``).
        held_out: ``[tokens, d_in]``, on which the trained SAE is measured.
        name: what the result is called; the variant's title by default.
        checkpoint: a folder to keep the state in, at each record; a run that finds one there goes on from
            it, and ends with the same bits as one that was never interrupted.
    Raises: ValueError for batches of another shape than the setting's.
    """
    run, name = Training(variant, setting, seed, device), name or variant.title
    if checkpoint:
        checkpoint.mkdir(parents=True, exist_ok=True)
        run.restore(checkpoint)
    stream = batches(seed, run.done)
    for _ in tqdm(
        range(run.done, setting.steps),
        initial=run.done,
        total=setting.steps,
        desc=f"{name}, seed {seed}",
        disable=None if progress else True,
    ):
        batch = next(stream)
        if batch.shape != (setting.batch, setting.d_in):
            raise ValueError(
                f"a batch has shape {tuple(batch.shape)}; this setting wants {(setting.batch, setting.d_in)}, so give other activations, or another setting"
            )
        run.step(batch)
        if checkpoint and run.done % run.trainer.cfg.feature_sampling_window == 0:
            run.save(checkpoint)
    return run.result(name, seed, held_out)


def tensor_batches(x: torch.Tensor, batch: int) -> Callable[[int, int], Iterator[torch.Tensor]]:
    """``batches(seed, start)`` for ``train``: endless, each epoch of ``x`` ``[tokens, d_in]`` in an order of its own; leftovers dropped."""
    per_epoch = len(x) // batch
    if not per_epoch:
        raise ValueError(
            f"{len(x)} activations do not fill one batch of {batch}; give more of them, or a smaller batch"
        )

    def batches(seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        epoch, skip = divmod(start, per_epoch)
        while True:
            order = torch.randperm(
                len(x), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            )
            for rows in order.split(batch)[skip:per_epoch]:
                yield x[rows]
            epoch, skip = epoch + 1, 0

    return batches


@torch.no_grad()
def evaluate(sae, x: torch.Tensor) -> dict[str, float]:
    """An SAE on held-out activations ``[tokens, d_in]``: the same measures for every variant (``TrainedRun.metrics``)."""
    x = x.to(sae.W_dec.device)
    mean, total, fired = (
        x.double().mean(0),
        {},
        torch.zeros(sae.W_dec.shape[0], dtype=torch.bool, device=x.device),
    )
    for part in x.split(4096):
        features = sae.encode(part)
        fired |= (features > 0).any(0)
        l1 = (features * sae.W_dec.norm(dim=1)).double().abs().sum(-1)
        sums = reconstruction_sums(part, sae.decode(features), (features != 0).sum(-1), l1, mean)
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
    n = total["tokens"]
    means = {"mse": "error", "cosine": "cosine", "l0": "l0", "l1": "l1"}
    return {name: total[source] / n for name, source in means.items()} | {
        "variance_explained": 1 - total["error"] / total["spread"],
        "dead": int((~fired).sum()),
    }
