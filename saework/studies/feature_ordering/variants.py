"""What the runs of the feature-ordering study do differently.

Each mechanism is one small class. A variant is a choice of mechanisms, and a setting is what all
runs of a study share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from saework.core.errors import in_words

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

RECENT = 10
"""The batches whose firing rates decide on a new order; published."""
PUBLISHED_STEPS = 4882
HELD = "held."
"""How names of gradients that wait for an optimiser step begin, in a run's memory."""
N_HELD = "held.n"


class RunUnderWay(Protocol):
    """What a mechanism sees of a run (``training.Training``)."""

    setting: Setting
    trainer: Any
    """sae_lens's ``SAETrainer``."""
    memory: dict[str, Tensor]
    """What must outlast an interruption, by name."""


class Mechanism:
    """One thing that a run does differently. Each subclass overrides one of these."""

    def trainer_options(self, setting: Setting) -> dict[str, Any]:
        """Options of sae_lens's ``SAETrainerConfig``."""
        return {}

    def attach(self, run: RunUnderWay) -> None:
        """Called once, before the first step."""

    def before_step(self, run: RunUnderWay, batch: Float[Tensor, "batch d_in"]) -> None:
        """Called before each step, with its batch."""

    def asks_for_order(self, step: int, recent: Float[Tensor, "recent d_sae"]) -> bool:
        """Whether to sort the features now.

        Args:
            step: steps done.
            recent: firing rates of the last batches, up to ten.
        """
        return False


@dataclass(frozen=True)
class ReorderOnce(Mechanism):
    """Sort the features by firing rate once, after a warm-up (runs 1 and 2)."""

    after: int

    def asks_for_order(self, step: int, recent: Float[Tensor, "recent d_sae"]) -> bool:
        return step == self.after


@dataclass(frozen=True)
class ReorderEvery(Mechanism):
    """Sort again every so many steps after a warm-up (run 3)."""

    after: int
    every: int

    def asks_for_order(self, step: int, recent: Float[Tensor, "recent d_sae"]) -> bool:
        steps_since = step - self.after
        return steps_since > 0 and steps_since % self.every == 0


@dataclass(frozen=True)
class ReorderWhenVaried(Mechanism):
    """Sort whenever the last ten batches' firing rates vary more than a threshold (run 4).

    The log does not say over what the variance is taken. Here it is taken over all ten batches and
    all features.
    """

    after: int
    threshold: float

    def asks_for_order(self, step: int, recent: Float[Tensor, "recent d_sae"]) -> bool:
        if step < self.after or len(recent) < RECENT:
            return False
        return float(recent.var(correction=0)) > self.threshold


@dataclass(frozen=True)
class AccumulateGradients(Mechanism):
    """Step the optimiser once in so many batches, with their mean gradient (run 7).

    The gradients are clipped before they are summed.
    """

    batches: int

    def attach(self, run: RunUnderWay) -> None:
        def hold_back(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
            """Before each optimiser step: keep the gradients, or hand over their mean."""
            n = int(run.memory.pop(N_HELD, 0)) + 1
            complete = n == self.batches
            for name, weight in run.trainer.sae.named_parameters():
                held = run.memory.pop(HELD + name, torch.zeros(()))
                total = weight.grad + held.to(weight.device)
                if complete:
                    weight.grad = total / n
                else:
                    weight.grad = None  # Adam passes over a weight without a gradient
                    run.memory[HELD + name] = total
            if not complete:
                run.memory[N_HELD] = torch.tensor(n)

        run.trainer.optimizer.register_step_pre_hook(hold_back)


@dataclass(frozen=True)
class WarmUpThenCosine(Mechanism):
    """Raise the learning rate linearly, then lower it to 0 along a cosine (run 8)."""

    warm_up: int

    def trainer_options(self, setting: Setting) -> dict[str, Any]:
        return {
            "lr_scheduler_name": "cosineannealing",
            "lr_warm_up_steps": self.warm_up,
            "lr_end": 0.0,
        }


@dataclass(frozen=True)
class ScaleL1ByNorm(Mechanism):
    """Scale the L1 coefficient by the batch's mean input norm (run 9).

    It is multiplied by the norm over the norm's moving average. The first batch sets the average.
    A later one enters it before it is compared with it.
    """

    decay: float = 0.99

    def before_step(self, run: RunUnderWay, batch: Float[Tensor, "batch d_in"]) -> None:
        norm = batch.norm(dim=-1).mean().double().cpu()
        previous = run.memory.get("norm_average", norm)
        average = self.decay * previous + (1 - self.decay) * norm
        run.memory["norm_average"] = average
        scheduler = run.trainer.coefficient_schedulers["l1"]
        scheduler.current_value = run.setting.l1 * float(norm / average)


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share."""

    release: str
    """Whose model and text are used."""
    hook: str
    d_in: int
    d_sae: int
    steps: int
    """Batches. A batch whose gradients are only accumulated counts too."""
    batch: int
    """Tokens per batch."""
    lr: float
    l1: float
    adaptive_threshold: float = 0.1
    target_l0: float = 20.0
    l0_coefficient: float = 0.025
    """Of sae_lens's ``2 / target (L0 - target)^2``. At a target of 20, 0.025 gives
    dictionary_learning's ``(L0 / target - 1)^2``."""
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
    release="gemma-scope-2b-pt-res",
    hook="blocks.19.hook_resid_post",
    d_in=2304,
    d_sae=2304,
    steps=PUBLISHED_STEPS,
    batch=2048,
    lr=3e-4,
    l1=0.04,
    n_tokens=10_200_000,
    held_out_rows=64,
)
"""The published setting."""
SMALL = Setting(
    release="gemma-mini",
    hook="blocks.2.hook_resid_post",
    d_in=128,
    d_sae=512,
    steps=1220,
    batch=512,
    lr=1e-3,
    l1=1.5,
    adaptive_threshold=5e-4,
    scale_to=128**0.5,
)
"""The mini's setting. Numbers of steps are a quarter of the published ones. L1 is our choice, for
an L0 near the target. So is the threshold: 0.1 is never exceeded here."""


def variants(setting: Setting) -> dict[str, Variant]:
    """The study's runs 0 to 9, and three controls of ours.

    Args:
        setting: for which the published numbers of steps are scaled.
    Returns: variants by name, such as ``run 3``.

    >>> from saework import feature_ordering
    >>> runs = feature_ordering.variants(feature_ordering.SMALL)
    >>> len(runs), runs["run 3"].title
    (13, 'reorder periodically')
    >>> runs["run 3"].mechanisms
    (ReorderEvery(after=500, every=125),)
    """
    if not isinstance(setting, Setting):
        raise ValueError(
            f"setting is {in_words(setting)}; give a Setting, such as feature_ordering.SMALL"
        )
    early, warm_up, late, period = (setting.scaled(steps) for steps in (1000, 2000, 3000, 500))
    threshold = setting.adaptive_threshold
    adaptive = ReorderWhenVaried(warm_up, threshold)
    hybrid = (ReorderEvery(warm_up, period), adaptive)
    late_hybrid = (ReorderEvery(late, period), ReorderWhenVaried(late, threshold))
    accumulated = (*late_hybrid, AccumulateGradients(4))
    scheduled = (*accumulated, WarmUpThenCosine(late))
    four_batches = "four batches an optimiser step"
    control = "a control"
    return {
        "run 0": Variant("JumpReLU baseline, target L0", jumprelu=True),
        "run 1": Variant("reorder once", (ReorderOnce(early),)),
        "run 2": Variant("reorder once, later", (ReorderOnce(warm_up),)),
        "run 3": Variant("reorder periodically", (ReorderEvery(warm_up, period),)),
        "run 4": Variant("reorder adaptively", (adaptive,)),
        "run 5": Variant("hybrid of 3 and 4", hybrid),
        "run 6": Variant("hybrid, longer warm-up", late_hybrid, ours="the warm-up, run 8's"),
        "run 7": Variant(
            "6 with gradient accumulation", accumulated, ours=f"the warm-up, and {four_batches}"
        ),
        "run 8": Variant("7 with learning-rate schedule", scheduled, ours=four_batches),
        "run 9": Variant(
            "8 with L1 scaled by norm", (*scheduled, ScaleL1ByNorm()), ours=four_batches
        ),
        "plain": Variant("no mechanism at all", ours=control),
        "run 5, state moved": Variant(
            "5, optimiser state reordered too", hybrid, state_follows=True, ours=control
        ),
        "run 0, wide band": Variant(
            "0 with a bandwidth of 0.05", jumprelu=True, bandwidth=0.05, ours=control
        ),
    }
