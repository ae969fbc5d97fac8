"""What the runs of the feature-ordering study do differently: each mechanism a small piece, a variant a choice of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

RECENT = 10
"""The batches whose firing rates decide on a new order; published."""
PUBLISHED_STEPS = 4882


class Mechanism:
    """One thing that a run does differently. Each subclass overrides one of these."""

    def trainer_options(self, setting) -> dict:
        """Options of sae_lens's ``SAETrainerConfig``."""
        return {}

    def attach(self, run) -> None:
        """Once, before the first step; ``run`` is an ``order_training.Training``."""

    def before_step(self, run, batch: torch.Tensor) -> None:
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
        return (
            step >= self.after
            and len(recent) == RECENT
            and float(recent.var(correction=0)) > self.threshold
        )


@dataclass(frozen=True)
class AccumulateGradients(Mechanism):
    """Step the optimiser once in so many batches, with the mean of their (clipped) gradients (run 7)."""

    batches: int

    def attach(self, run):
        def hold_back(optimizer, args, kwargs):
            n = int(run.memory.pop("held.n", 0)) + 1
            for name, weight in run.trainer.sae.named_parameters():
                total = weight.grad + run.memory.pop(f"held.{name}", torch.zeros(())).to(
                    weight.device
                )
                weight.grad = (
                    total / n if n == self.batches else None
                )  # Adam passes over a weight without gradient
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
        return {
            "lr_scheduler_name": "cosineannealing",
            "lr_warm_up_steps": self.warm_up,
            "lr_end": 0.0,
        }


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
        run.trainer.coefficient_schedulers["l1"].current_value = run.setting.l1 * float(
            norm / run.memory["norm_average"]
        )


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
    bandwidth: float | None = None
    """Of JumpReLU's gradient, instead of the setting's."""
    state_follows: bool = False
    """Whether a new order is applied to the optimiser's state too. The log does not say."""
    ours: str = ""
    """What was not published and is our choice."""


REAL = Setting(
    "gemma-scope-2b-pt-res",
    "blocks.19.hook_resid_post",
    2304,
    2304,
    PUBLISHED_STEPS,
    2048,
    3e-4,
    0.04,
    n_tokens=10_200_000,
    held_out_rows=64,
)
SMALL = Setting(
    "gemma-mini",
    "blocks.2.hook_resid_post",
    128,
    512,
    1220,
    512,
    1e-3,
    1.5,
    adaptive_threshold=5e-4,
    scale_to=128**0.5,
)
"""Numbers of steps are the published ones over four. L1 is ours, for an L0 near the target; so is the threshold: 0.1 is never exceeded here."""


def variants(setting: Setting) -> dict[str, Variant]:
    """The study's runs 0 to 9 with the published numbers of steps scaled to the setting, and three controls of ours."""
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
        "run 7": Variant(
            "6 with gradient accumulation", (*hybrid(late), held), ours=f"the warm-up, and {four}"
        ),
        "run 8": Variant(
            "7 with learning-rate schedule",
            (*hybrid(late), held, WarmUpThenCosine(late)),
            ours=four,
        ),
        "run 9": Variant(
            "8 with L1 scaled by norm",
            (*hybrid(late), held, WarmUpThenCosine(late), ScaleL1ByNorm()),
            ours=four,
        ),
        "plain": Variant("no mechanism at all", ours="a control"),
        "run 5, state moved": Variant(
            "5, optimiser state reordered too", hybrid(warm), state_follows=True, ours="a control"
        ),
        "run 0, wide band": Variant(
            "0 with a bandwidth of 0.05", jumprelu=True, bandwidth=0.05, ours="a control"
        ),
    }
