"""What one run of the study leaves, and the two files that hold it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import WeightsError
from saework.core.files import partial_file, write_whole

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import SparseAutoencoder

ARRAYS = {"rates": torch.float16, "features": torch.int16}
"""What goes to the tensor file, with its type there. The rates are for figures."""


@dataclass(frozen=True)
class TrainedRun:
    """What one run left."""

    variant: str
    seed: int
    metrics: dict[str, float]
    """Of the trained SAE on held-out activations:

    - ``mse``: squared activation per token
    - ``variance_explained``, ``cosine``: fractions
    - ``l0``: features per token
    - ``l1``: activation per token, as if decoder rows had unit norm
    - ``dead``: features that are silent on all held-out tokens
    - ``final_loss``: of the last steps of training. Not comparable between variants that weigh
      sparsity differently
    """
    reorder_steps: list[int]
    steps: Int[Tensor, " records"]
    """The steps at which the next ones were recorded."""
    loss: Float[Tensor, " records"]
    """Training loss, mean since the last record."""
    variance: Float[Tensor, " records"]
    """Variance of the last ten batches' firing rates; ``ReorderWhenVaried`` has a threshold."""
    rates: Float[Tensor, "records d_sae"] | None = field(default=None, repr=False)
    """Firing rates since the last record, by position. A study's summary has them for its first
    seed only."""
    features: Int[Tensor, "records d_sae"] | None = field(default=None, repr=False)
    """Which feature, by its number at the start, stood at each position of ``rates``."""
    sae: SparseAutoencoder | None = field(default=None, repr=False)
    """The trained SAE; None when read from a file."""

    def by_feature(self) -> Float[Tensor, "records d_sae"]:
        """The firing rates in the order of the start, whatever order the features have since.

        Raises:
            ValueError: if this run was stored without its rates, or its features are no
                permutation.
        """
        if self.rates is None or self.features is None:
            raise ValueError(
                f"{self.variant}, seed {self.seed} was stored without firing rates; "
                "take the study's first seed, such as study.first(variant)"
            )
        n_features = self.rates.shape[1]
        in_order = self.features.sort(dim=1).values
        if in_order.shape != self.rates.shape or (in_order != torch.arange(n_features)).any():
            raise ValueError(
                f"the features of {self.variant}, seed {self.seed} are in no order: each of "
                f"0..{n_features - 1} must stand once in each record; train the run again"
            )
        by_feature = torch.zeros_like(self.rates)
        # rates[record, position] is that of feature features[record, position]
        return by_feature.scatter_(1, self.features, self.rates)


def write_runs(runs: Sequence[TrainedRun], stem: Path) -> None:
    """Write ``stem.safetensors`` and then ``stem.json``, which says that both are whole."""
    from safetensors.torch import save_file

    arrays: dict[str, Tensor] = {}
    rows = []
    for run in runs:
        arrays |= _arrays(run)
        rows.append(_row(run))
    tensor_file = stem.with_suffix(".safetensors")
    with partial_file(tensor_file) as partial:
        save_file(arrays, partial)
    text = json.dumps(rows, separators=(",", ":"))
    one_run_per_line = text.replace('{"variant"', '\n{"variant"')
    json_file = stem.with_suffix(".json")
    write_whole(json_file, one_run_per_line + "\n")


def _arrays(run: TrainedRun) -> dict[str, Tensor]:
    """What the tensor file holds of a run."""
    arrays = {}
    for name, dtype in ARRAYS.items():
        values = getattr(run, name)
        if values is not None:
            key = _key(run.variant, run.seed, name)
            arrays[key] = values.to(dtype)
    return arrays


def _row(run: TrainedRun) -> dict[str, Any]:
    """What the JSON file holds of a run."""
    return {
        "variant": run.variant,
        "seed": run.seed,
        "metrics": run.metrics,
        "reorder_steps": run.reorder_steps,
        "steps": run.steps.tolist(),
        "loss": run.loss.tolist(),
        "variance": run.variance.tolist(),
    }


def _key(variant: str, seed: int, name: str) -> str:
    return f"{variant}/{seed}/{name}"


def read_runs(stem: Path) -> list[TrainedRun]:
    """The runs that ``write_runs`` wrote.

    Raises:
        WeightsError: one of the two files is damaged, or not there.
    """
    from safetensors.torch import load_file

    json_file = stem.with_suffix(".json")
    tensor_file = stem.with_suffix(".safetensors")
    try:
        text = json_file.read_text(encoding="utf-8")
        arrays = load_file(tensor_file)
        return [_run(row, arrays) for row in json.loads(text)]
    # safetensors has errors of its own; rows of another kind give TypeErrors and KeyErrors
    except Exception as error:
        raise WeightsError(
            f"{json_file} and {tensor_file.name} are damaged, or one is missing "
            f"({type(error).__name__}); delete both, and run the study again: this is trained "
            "again, the rest is kept"
        ) from error


def _run(row: dict[str, Any], arrays: dict[str, Tensor]) -> TrainedRun:
    variant = row["variant"]
    seed = row["seed"]
    rates_key = _key(variant, seed, "rates")
    features_key = _key(variant, seed, "features")
    rates = arrays.get(rates_key)
    features = arrays.get(features_key)
    return TrainedRun(
        variant=variant,
        seed=seed,
        metrics=row["metrics"],
        reorder_steps=row["reorder_steps"],
        steps=torch.tensor(row["steps"]),
        loss=torch.tensor(row["loss"]),
        variance=torch.tensor(row["variance"]),
        rates=None if rates is None else rates.float(),
        features=None if features is None else features.long(),
    )
