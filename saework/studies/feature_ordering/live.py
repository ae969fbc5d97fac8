"""The short runs that notebook 09 trains itself, and what they gave when they were recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saework.studies.feature_ordering.training import train
from saework.studies.feature_ordering.variants import ReorderEvery, Setting, Variant

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from saework.studies.feature_ordering.data import Batches

LIVE_STEPS = 300
LIVE_SEEDS = (0, 1, 2)
TOLERANCE = 0.01
"""Of a recorded error, as a share of it: float rounding grows in training."""


def live_variants(setting: Setting) -> dict[str, Variant]:
    """No new order; one after every step that follows the warm-up; the same with Adam's state.

    Args:
        setting: for which the published warm-up of 2,000 steps is scaled.

    >>> from saework import feature_ordering
    >>> list(feature_ordering.live_variants(feature_ordering.SMALL))
    ['plain', 'state left', 'state moved']
    """
    always = (ReorderEvery(after=setting.scaled(2000), every=1),)
    return {
        "plain": Variant("no new order"),
        "state left": Variant("a new order after every step", always),
        "state moved": Variant(
            "a new order after every step, the state too", always, state_follows=True
        ),
    }


def live_claims(
    setting: Setting, batches: Batches, held_out: Float[Tensor, "tokens d_in"]
) -> list[dict[str, Any]]:
    """Regression values of these runs: the error on held-out activations, mean over the seeds.

    Args:
        setting: its steps are replaced by ``LIVE_STEPS``.
        batches: as for ``train``.
        held_out: likewise.
    """
    short = replace(setting, steps=LIVE_STEPS)
    claims = []
    for name, variant in live_variants(short).items():
        errors = []
        for seed in LIVE_SEEDS:
            run = train(variant, short, batches, held_out, seed=seed, progress=False)
            errors.append(run.metrics["mse"])
        mean = sum(errors) / len(errors)
        claim = {
            "id": f"live/{name}/mse",
            "value": mean,
            "unit": "squared activation per token",
            "source": f"regression value: mean of {len(errors)} seeds, {LIVE_STEPS} steps each, "
            "when this study was recorded",
            "tolerance": TOLERANCE * mean,
        }
        claims.append(claim)
    return claims
