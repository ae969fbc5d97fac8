"""Does it matter in which order an SAE keeps its features? A training study, and the permutation behind it.

The mechanisms of the study are small pieces (``Mechanism``), a ``Variant`` is a choice of them, and
``train`` runs one on sae_lens's trainer, over activations given as tensors. ``study`` trains all
variants and seeds, goes on where it was cut off, and writes JSON and safetensors.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from saework._checks import unknown
from saework.metrics import reconstruction_sums

FEATURE_AXIS = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "threshold": 0, "log_threshold": 0, "b_gate": 0, "b_mag": 0, "r_mag": 0, "scaling_factor": 0}
"""Which axis of a parameter counts the features. By name: where d_in equals d_sae, shapes do not tell."""
NO_FEATURE_AXIS = ("b_dec", "topk_threshold")
RECENT = 10
"""The batches whose firing rates decide on a new order; published."""
PUBLISHED_STEPS = 4882
RECORDS = 20


# ---- the permutation ----


@torch.no_grad()
def permute_features(sae: torch.nn.Module, order, *, optimizer: torch.optim.Optimizer | None = None) -> torch.nn.Module:
    """Renumber an SAE's features in place: the new feature ``i`` is the old feature ``order[i]``.

    Encoding gives the same numbers in another order, and decoding the same reconstruction up to
    float rounding (sums are taken in another order). A loss that treats features alike (L1, L0, not
    Matryoshka's) does not change. Training goes on unchanged only if the optimiser's state moves
    along: give ``optimizer``, and its state, gradients included, is renumbered too.

    Args:
        sae: any ``sae_lens.SAE``, or a module whose parameters bear the names in ``FEATURE_AXIS``.
        order: long ``[d_sae]``, each of 0..d_sae-1 once.
    Returns: the same ``sae``.
    Raises: ValueError for an order that is no permutation, for a parameter whose feature axis is not
    known, and for optimiser state of another shape than its parameter (then nothing is changed).
    Memory: a copy of the largest parameter at a time.
    """
    order = _checked_order(order, sae.W_dec.shape[0]).to(sae.W_dec.device)
    moves = []
    for name, value in [*sae.named_parameters(), *sae.named_buffers()]:
        axis = _feature_axis(name)
        if axis is None:
            continue
        moves.append((value, axis))
        if value.grad is not None:
            moves.append((value.grad, axis))
        for key, state in (optimizer.state.get(value, {}) if optimizer else {}).items():
            if not torch.is_tensor(state) or not state.ndim:
                continue  # a count of steps
            if state.shape != value.shape:
                raise ValueError(
                    f"the optimiser's {key!r} of {name} has shape {tuple(state.shape)}, not {tuple(value.shape)}, so its feature axis is unknown; "
                    "use an optimiser with one value a weight, such as Adam"
                )
            moves.append((state, axis))
    for value, axis in moves:
        value.copy_(value.index_select(axis, order))
    return sae


def _feature_axis(name: str) -> int | None:
    if name in NO_FEATURE_AXIS:
        return None
    if name not in FEATURE_AXIS:
        raise ValueError(f"which axis of {name!r} counts the features is not known (known: {', '.join(FEATURE_AXIS)}); add it to saework.ordering.FEATURE_AXIS")
    return FEATURE_AXIS[name]


def _checked_order(order, d_sae: int) -> torch.Tensor:
    order = torch.as_tensor(order)
    if order.dtype.is_floating_point or order.dtype == torch.bool or not torch.equal(order.cpu().long().flatten().sort().values, torch.arange(d_sae)):
        raise ValueError(f"order has {order.numel()} entries of {order.dtype} and is no permutation; give each of 0..{d_sae - 1} once, such as rates.argsort(descending=True)")
    return order.long().flatten()


# ---- the mechanisms ----


class Mechanism:
    """One thing that a run does differently. Each subclass overrides one of these."""

    def trainer_options(self, setting: Setting) -> dict:
        """Options of sae_lens's ``SAETrainerConfig``."""
        return {}

    def attach(self, run: Training) -> None:
        """Once, before the first step."""

    def before_step(self, run: Training, batch: torch.Tensor) -> None:
        """Before each step, with its batch ``[batch, d_in]``."""

    def wants_order(self, step: int, recent: torch.Tensor) -> bool:
        """After each step: whether to sort the features now.

        Args: ``step``: steps done; ``recent``: firing rates of the last batches ``[up to 10, d_sae]``.
        """
        return False


@dataclass(frozen=True)
class ReorderOnce(Mechanism):
    """Sort the features by firing rate once, after a warm-up (runs 1 and 2)."""

    after: int

    def wants_order(self, step, recent):
        return step == self.after


@dataclass(frozen=True)
class ReorderEvery(Mechanism):
    """Sort again every so many steps after a warm-up (run 3)."""

    after: int
    every: int

    def wants_order(self, step, recent):
        return step > self.after and (step - self.after) % self.every == 0


@dataclass(frozen=True)
class ReorderWhenVaried(Mechanism):
    """Sort whenever the variance of the last ten batches' firing rates exceeds a threshold (run 4).

    The log does not say over what the variance is taken; here over all ten batches and all features.
    """

    after: int
    threshold: float

    def wants_order(self, step, recent):
        return step >= self.after and len(recent) == RECENT and float(recent.var(correction=0)) > self.threshold


@dataclass(frozen=True)
class AccumulateGradients(Mechanism):
    """Step the optimiser once in so many batches, with the mean of their (clipped) gradients (run 7)."""

    batches: int

    def attach(self, run):
        def hold_back(optimizer, args, kwargs):
            n = int(run.memory.pop("held.n", 0)) + 1
            for name, weight in run.trainer.sae.named_parameters():
                total = weight.grad + run.memory.pop(f"held.{name}", 0)
                weight.grad = total / n if n == self.batches else None  # Adam passes over a weight without gradient
                if n < self.batches:
                    run.memory[f"held.{name}"] = total
            if n < self.batches:
                run.memory["held.n"] = torch.tensor(n)

        run.trainer.optimizer.register_step_pre_hook(hold_back)


@dataclass(frozen=True)
class WarmUpThenCosine(Mechanism):
    """Raise the learning rate linearly, then lower it to 0 along a cosine (run 8)."""

    warm_up: int

    def trainer_options(self, setting):
        return {"lr_scheduler_name": "cosineannealing", "lr_warm_up_steps": self.warm_up, "lr_end": 0.0}


@dataclass(frozen=True)
class ScaleL1ByNorm(Mechanism):
    """Multiply the L1 coefficient by the batch's mean input norm over its moving average (run 9).

    The first batch sets the average; later ones enter it before they are compared with it.
    """

    decay: float = 0.99

    def before_step(self, run, batch):
        norm = batch.norm(dim=-1).mean().double().cpu()
        average = run.memory.get("norm_average", norm)
        run.memory["norm_average"] = self.decay * average + (1 - self.decay) * norm
        run.trainer.coefficient_schedulers["l1"].current_value = run.setting.l1 * float(norm / run.memory["norm_average"])


# ---- settings and variants ----


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share."""

    release: str
    """Whose model and text are used."""
    hook: str
    d_in: int
    d_sae: int
    steps: int
    """Batches; of gradient accumulation too."""
    batch: int
    """Tokens a batch."""
    lr: float
    l1: float
    adaptive_threshold: float = 0.1
    target_l0: float = 20.0
    l0_coefficient: float = 0.025
    """Of sae_lens's ``2 / target (L0 - target)^2``; 0.025 at a target of 20 is dictionary_learning's ``(L0 / target - 1)^2``."""
    bandwidth: float = 0.001
    scale_to: float | None = None
    """Mean norm that the activations are scaled to; None leaves them as they are."""
    n_tokens: int | None = None
    """Tokens of text to load; None: all of the release's."""
    held_out_rows: int = 82

    def scaled(self, steps: int) -> int:
        """A published number of steps, as the same share of this setting's."""
        return round(steps * self.steps / PUBLISHED_STEPS)


@dataclass(frozen=True)
class Variant:
    """One run of the study: its mechanisms, and where they come from."""

    title: str
    mechanisms: tuple[Mechanism, ...] = ()
    jumprelu: bool = False
    """JumpReLU with a target L0; otherwise ReLU with an L1 penalty."""
    state_follows: bool = False
    """Whether a new order is applied to the optimiser's state too. The log does not say."""
    ours: str = ""
    """What was not published and is our choice."""


REAL = Setting("gemma-scope-2b-pt-res", "blocks.19.hook_resid_post", 2304, 2304, PUBLISHED_STEPS, 2048, 3e-4, 0.04, n_tokens=10_200_000, held_out_rows=64)
SMALL = Setting("gemma-mini", "blocks.2.hook_resid_post", 128, 512, 1220, 512, 1e-3, 1.5, adaptive_threshold=5e-4, scale_to=128**0.5)
"""Numbers of steps are the published ones over four. L1 is ours, for an L0 near the target; so is the threshold: 0.1 is never exceeded here."""
SETTINGS = {"feature-ordering": SMALL, "feature-ordering-2b": REAL}


def variants(setting: Setting) -> dict[str, Variant]:
    """The study's runs 0 to 9 with the published numbers of steps scaled to the setting, and two controls of ours."""
    early, warm, late, every = map(setting.scaled, (1000, 2000, 3000, 500))
    adaptive = lambda after: ReorderWhenVaried(after, setting.adaptive_threshold)  # noqa: E731
    hybrid = lambda after: (ReorderEvery(after, every), adaptive(after))  # noqa: E731
    held = AccumulateGradients(4)
    four = "four batches an optimiser step"
    return {
        "run 0": Variant("JumpReLU baseline, target L0", jumprelu=True),
        "run 1": Variant("reorder once", (ReorderOnce(early),)),
        "run 2": Variant("reorder once, later", (ReorderOnce(warm),)),
        "run 3": Variant("reorder periodically", (ReorderEvery(warm, every),)),
        "run 4": Variant("reorder adaptively", (adaptive(warm),)),
        "run 5": Variant("hybrid of 3 and 4", hybrid(warm)),
        "run 6": Variant("hybrid, longer warm-up", hybrid(late), ours="the warm-up, run 8's"),
        "run 7": Variant("6 with gradient accumulation", (*hybrid(late), held), ours=f"the warm-up, and {four}"),
        "run 8": Variant("7 with learning-rate schedule", (*hybrid(late), held, WarmUpThenCosine(late)), ours=four),
        "run 9": Variant("8 with L1 scaled by norm", (*hybrid(late), held, WarmUpThenCosine(late), ScaleL1ByNorm()), ours=four),
        "plain": Variant("no mechanism at all", ours="a control"),
        "run 5, state moved": Variant("5, optimiser state reordered too", hybrid(warm), state_follows=True, ours="a control"),
    }


# ---- one run ----


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
    """long ``[records, d_sae]``: which feature, by its number at the start, stands at each position."""
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
        self.memory: dict[str, torch.Tensor] = {"features": torch.arange(setting.d_sae), "recent": torch.zeros(0, setting.d_sae)}
        self.log: dict[str, list] = {"losses": [], "reorder_steps": [], "steps": [], "loss": [], "variance": []}
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
        if any(mechanism.wants_order(self.done, self.memory["recent"]) for mechanism in self.variant.mechanisms):
            self.reorder(self.memory["recent"].mean(0).argsort(descending=True, stable=True))
        if self.done % self.trainer.cfg.feature_sampling_window == 0:
            self._record()

    def reorder(self, order: torch.Tensor) -> None:
        """Bring the features into a new order, with the records of them, and, where the variant says so, the optimiser's state."""
        trainer = self.trainer
        permute_features(trainer.sae, order, optimizer=trainer.optimizer if self.variant.state_follows else None)
        for name in ("features", "recent"):
            self.memory[name] = self.memory[name][..., order].contiguous()
        for name in ("act_freq_scores", "n_forward_passes_since_fired"):
            setattr(trainer, name, getattr(trainer, name)[order.to(trainer.cfg.device)])
        for name in [name for name in self.memory if name.startswith("held.") and self.variant.state_follows]:
            axis = FEATURE_AXIS.get(name.removeprefix("held."))
            if axis is not None:
                self.memory[name] = self.memory[name].index_select(axis, order.to(self.memory[name].device))
        self.log["reorder_steps"].append(self.done)

    def _record(self) -> None:
        losses = self.log["losses"]
        self.log["steps"].append(self.done)
        self.log["loss"].append(sum(losses) / len(losses))
        losses.clear()
        self.log["variance"].append(float(self.memory["recent"].var(correction=0)))
        for name, new in (("rates", self.trainer.feature_sparsity.cpu()), ("history", self.memory["features"])):
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

        found = max(folder.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")), default=None)
        if found:
            self.trainer.sae.load_weights_from_checkpoint(found)
            self.trainer.load_trainer_state(found)
            self.memory, self.log = load_file(found / "memory.safetensors"), json.loads((found / "log.json").read_text())

    def result(self, name: str, seed: int, held_out: torch.Tensor) -> TrainedRun:
        """What the finished run leaves."""
        metrics = evaluate(self.trainer.sae, held_out) | {"final_loss": self.log["loss"][-1]}
        record = {key: torch.tensor(self.log[key]) for key in ("steps", "loss", "variance")}
        arrays = {"rates": self.memory["rates"], "features": self.memory["history"].long()}
        return TrainedRun(name, seed, metrics, self.log["reorder_steps"], **record, **arrays, sae=self.trainer.sae)


def _trainer(variant: Variant, setting: Setting, seed: int, device: str):
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    shape = {"d_in": setting.d_in, "d_sae": setting.d_sae, "decoder_init_norm": 0.1, "device": device}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if variant.jumprelu:
            jump = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": setting.target_l0, "jumprelu_bandwidth": setting.bandwidth}
            sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**shape, **jump, l0_coefficient=setting.l0_coefficient))
        else:
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shape, l1_coefficient=setting.l1))
    options = {"lr": setting.lr, "lr_end": setting.lr, "feature_sampling_window": max(1, setting.steps // RECORDS), "device": device}
    for mechanism in variant.mechanisms:
        options |= mechanism.trainer_options(setting)
    samples = {"total_training_samples": setting.steps * setting.batch, "train_batch_size_samples": setting.batch}
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
    for _ in tqdm(range(run.done, setting.steps), initial=run.done, total=setting.steps, desc=f"{name}, seed {seed}", disable=None if progress else True):
        batch = next(stream)
        if batch.shape != (setting.batch, setting.d_in):
            raise ValueError(f"a batch has shape {tuple(batch.shape)}; this setting wants {(setting.batch, setting.d_in)}, so give other activations, or another setting")
        run.step(batch)
        if checkpoint and run.done % run.trainer.cfg.feature_sampling_window == 0:
            run.save(checkpoint)
    return run.result(name, seed, held_out)


def tensor_batches(x: torch.Tensor, batch: int) -> Callable[[int, int], Iterator[torch.Tensor]]:
    """``batches(seed, start)`` for ``train``: endless, each epoch of ``x`` ``[tokens, d_in]`` in an order of its own; leftovers dropped."""
    per_epoch = len(x) // batch
    if not per_epoch:
        raise ValueError(f"{len(x)} activations do not fill one batch of {batch}; give more of them, or a smaller batch")

    def batches(seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        epoch, skip = divmod(start, per_epoch)
        while True:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            for rows in order.split(batch)[skip:per_epoch]:
                yield x[rows]
            epoch, skip = epoch + 1, 0

    return batches


@torch.no_grad()
def evaluate(sae, x: torch.Tensor) -> dict[str, float]:
    """An SAE on held-out activations ``[tokens, d_in]``: the same measures for every variant (``TrainedRun.metrics``)."""
    x = x.to(sae.W_dec.device)
    mean, total, fired = x.double().mean(0), {}, torch.zeros(sae.W_dec.shape[0], dtype=torch.bool, device=x.device)
    for part in x.split(4096):
        features = sae.encode(part)
        fired |= (features > 0).any(0)
        sums = reconstruction_sums(part, features * sae.W_dec.norm(dim=1), sae.decode(features), mean)
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
    n = total["tokens"]
    means = {"mse": "error", "cosine": "cosine", "l0": "l0", "l1": "l1"}
    return {name: total[source] / n for name, source in means.items()} | {
        "variance_explained": 1 - total["error"] / total["spread"],
        "dead": int((~fired).sum()),
    }


# ---- the study ----


@dataclass(frozen=True)
class Study:
    """All runs of a study, by variant and seed."""

    setting: Setting
    runs: dict[tuple[str, int], TrainedRun] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row a run: ``variant``, ``seed``, ``reorders``, and the metrics."""
        return pd.DataFrame([{"variant": run.variant, "seed": run.seed, "reorders": len(run.reorder_steps), **run.metrics} for run in self.runs.values()])

    def first(self, variant: str) -> TrainedRun:
        """A variant's run with the smallest seed, which has the firing rates."""
        return self.runs[variant, min(seed for name, seed in self.runs if name == variant)]


def study_data(setting: Setting, *, device: str = "cpu") -> tuple[Callable[[int, int], Iterator[torch.Tensor]], torch.Tensor]:
    """``(batches, held_out)`` for ``train``: the model's activations at the hook, without BOS.

    With all of a mini's text they are kept in memory; with ``n_tokens`` set, the model runs along.
    The last rows are held out. Memory: 54 MB for the mini; about 5 GB of activations, and the model, for the real setting.
    """
    from saework.run import activations
    from saework.sae_training import SaeRecipe, activation_batches
    from saework.shelf import load

    book = load(setting.release, n_tokens=setting.n_tokens, device=device, check=False)
    rows, last = book.tokens[: -setting.held_out_rows], book.tokens[-setting.held_out_rows :]

    def without_bos(tokens):
        x = torch.cat([activations(book.model, part, setting.hook) for part in tokens.split(64)])
        return x[(tokens != book.tokenizer.bos_token_id).to(x.device)]

    held_out = without_bos(last)
    if setting.n_tokens is not None:
        recipe = lambda seed: SaeRecipe(setting.hook, setting.d_in, setting.d_sae, bos=False, batch=setting.batch, seed=seed)  # noqa: E731
        return lambda seed, start=0: activation_batches(book.model, rows, recipe(seed), start=start), held_out
    x = without_bos(rows)
    scale = 1.0 if setting.scale_to is None else setting.scale_to / float(x.norm(dim=-1).mean())
    return tensor_batches(x * scale, setting.batch), held_out * scale


def study(
    setting: Setting,
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    names: Sequence[str] | None = None,
    data: tuple[Callable[[int, int], Iterator[torch.Tensor]], torch.Tensor] | None = None,
    device: str = "cpu",
) -> Study:
    """Train variants with each seed, and write ``study.json`` and ``study.safetensors``; or go on with a study.

    A run that is done is read, and one that was cut off goes on from its checkpoint, to the same bits.

    Args: ``names``: some of ``variants(setting)``; all by default. ``data``: what ``study_data`` gives; made when it is needed.
    Raises: ValueError for a folder that holds a study of another setting, or a name that is none.
    """
    folder, known = Path(folder), variants(setting)
    names = list(names or known)
    for name in names:
        if name not in known:
            raise unknown("variant", name, known, see=f"There are {', '.join(known)}.")
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    _check_same_setting(setting, folder / "setting.json")
    runs = {}
    for seed in seeds:
        for name in names:
            stem = folder / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            if not stem.with_suffix(".json").exists():
                data = data or study_data(setting, device=device)
                run = train(known[name], setting, *data, seed=seed, name=name, checkpoint=stem, device=device)
                _write_runs([run], stem)
                shutil.rmtree(stem)
            (runs[name, seed],) = _read_runs(stem)
    done = Study(setting, runs)
    _write_summary(done, folder)
    return done


def read_study(folder: str | Path) -> Study:
    """A study from what ``study`` wrote: ``study.json`` and ``study.safetensors``.

    Raises: FileNotFoundError for a folder without them.
    """
    folder = Path(folder)
    if not (folder / "study.json").exists():
        raise FileNotFoundError(f"{folder} holds no study.json; run saework reproduce feature-ordering --out {folder}, or give the folder of a finished study")
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    return Study(setting, {(run.variant, run.seed): run for run in _read_runs(folder / "study")})


def paired_differences(table: pd.DataFrame, metric: str, *, reference: str = "plain") -> pd.DataFrame:
    """How each variant differs from a reference of the same seed, with a 95% interval over the seeds.

    Same seed means same start and same batches, so that the seeds' common noise drops out. Student's t.

    Returns: by variant ``difference``, ``low``, ``high`` (the metric's unit) and ``verdict``: ``none shown`` where the
    interval holds 0, else ``higher`` or ``lower``.
    Raises: ValueError for fewer than three seeds.
    """
    from scipy.stats import t

    wide = table.pivot(index="seed", columns="variant", values=metric)[list(dict.fromkeys(table["variant"]))]
    if len(wide) < 3:
        raise ValueError(f"{len(wide)} seeds say too little about noise; train at least three")
    gaps = wide.drop(columns=reference).sub(wide[reference], axis=0)
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    found = pd.DataFrame({"difference": gaps.mean(), "low": gaps.mean() - half, "high": gaps.mean() + half})
    found["verdict"] = ["higher" if low > 0 else "lower" if high < 0 else "none shown" for low, high in zip(found["low"], found["high"])]
    return found


def _check_same_setting(setting: Setting, path: Path) -> None:
    now = asdict(setting)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    if before != now:
        changed = ", ".join(f"{key} {before.get(key)!r} there, {now[key]!r} now" for key in now if before.get(key) != now[key])
        raise ValueError(f"{path.parent} holds a study of another setting ({changed}); give an empty folder, or the same setting")
    _write_whole(path, json.dumps(now, indent=1) + "\n")


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


_ARRAYS = ("rates", "features")


def _write_runs(runs: Sequence[TrainedRun], stem: Path) -> None:
    """``stem.safetensors`` (rates in float16: they are for figures) and then ``stem.json``, which says that both are whole."""
    from safetensors.torch import save_file

    small = {"rates": torch.float16, "features": torch.int16}
    arrays = {f"{run.variant}/{run.seed}/{name}": getattr(run, name).to(small[name]) for run in runs for name in _ARRAYS if getattr(run, name) is not None}
    save_file(arrays, stem.with_suffix(".safetensors.partial"))
    stem.with_suffix(".safetensors.partial").replace(stem.with_suffix(".safetensors"))
    rows = [{key: value.tolist() if torch.is_tensor(value) else value for key, value in vars(run).items() if key not in (*_ARRAYS, "sae")} for run in runs]
    _write_whole(stem.with_suffix(".json"), json.dumps(rows, separators=(",", ":")).replace('{"variant"', '\n{"variant"') + "\n")


def _read_runs(stem: Path) -> list[TrainedRun]:
    from safetensors.torch import load_file

    arrays = load_file(stem.with_suffix(".safetensors"))
    runs = []
    for row in json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")):
        lists = {key: torch.tensor(row.pop(key)) for key in ("steps", "loss", "variance")}
        found = {name: arrays.get(f"{row['variant']}/{row['seed']}/{name}") for name in _ARRAYS}
        found = {name: value.long() if name == "features" else value.float() for name, value in found.items() if value is not None}
        runs.append(TrainedRun(**row, **lists, **found))
    return runs


def _write_summary(done: Study, folder: Path) -> None:
    first = min(seed for _, seed in done.runs)
    _write_runs([run if run.seed == first else replace(run, rates=None, features=None) for run in done.runs.values()], folder / "study")


def main(argv: list[str] | None = None) -> int:
    """``python -m saework.ordering NAME``: train a study, or go on with one; ``--record`` puts its summary into the package."""
    parser = argparse.ArgumentParser(prog="python -m saework.ordering", description="Train the feature-ordering study.")
    parser.add_argument("name", choices=SETTINGS)
    parser.add_argument("--out", type=Path, help="folder for the runs (by default build/NAME)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--record", action="store_true", help="for developers: commit the summary as the package's own")
    arguments = parser.parse_args(argv)
    folder = arguments.out or Path("build") / arguments.name
    print(study(SETTINGS[arguments.name], folder, seeds=arguments.seeds, device=arguments.device).table.to_string())
    if arguments.record:
        record(arguments.name, folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
