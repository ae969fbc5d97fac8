"""The feature-ordering study: all variants with all seeds, their summary and differences.

``variants`` holds what the runs do differently, ``training`` one run. ``study`` trains all variants
with all seeds, and continues where it was cut off. For developers,

    python -m saework.studies.feature_ordering.study feature-ordering --record

trains the study of a setting in ``build/``, and stores its summary in the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from saework.core.argument_kinds import check_seed, checked
from saework.core.errors import unknown
from saework.core.files import DATA, read_json, write_whole
from saework.core.folders import make_folder, only_writer
from saework.studies.feature_ordering.data import study_data
from saework.studies.feature_ordering.live import live_claims
from saework.studies.feature_ordering.trained_run import TrainedRun, read_runs, write_runs
from saework.studies.feature_ordering.training import train
from saework.studies.feature_ordering.variants import REAL, SMALL, Setting, variants

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from saework.studies.feature_ordering.data import Batches

SEEDS = (0, 1, 2, 3, 4)
SETTINGS = {"feature-ordering": SMALL, "feature-ordering-2b": REAL}
"""By the name for ``saework reproduce``."""
UNITS = {"mse": "squared activation per token", "l0": "features per token"}
"""The metrics whose means are recorded, with their units."""


@dataclass(frozen=True)
class Study:
    """All runs of a study, by variant and seed."""

    setting: Setting
    runs: dict[tuple[str, int], TrainedRun] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row per run: ``variant``, ``seed``, ``reorders``, and the metrics."""
        return pd.DataFrame(
            [
                {
                    "variant": run.variant,
                    "seed": run.seed,
                    "reorders": len(run.reorder_steps),
                    **run.metrics,
                }
                for run in self.runs.values()
            ]
        )

    def first(self, variant: str) -> TrainedRun:
        """A variant's run with the smallest seed, which has the firing rates."""
        seeds = [seed for name, seed in self.runs if name == variant]
        if not seeds:
            known = {name: None for name, _ in self.runs}
            raise unknown("variant", variant, known, see=f"The study has {', '.join(known)}.")
        return self.runs[variant, min(seeds)]


def study(
    setting: Setting,
    folder: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    names: Sequence[str] | None = None,
    data: tuple[Batches, Float[Tensor, "tokens d_in"]] | None = None,
    device: str = "cpu",
) -> Study:
    """Train variants with each seed, or continue a study that was cut off.

    A run that is done is read. One that was cut off continues from its checkpoint, to the same
    bits. The summary is written to ``study.json`` and ``study.safetensors``.

    Args:
        setting: what all runs share.
        folder: where the study is kept.
        seeds: of the runs.
        names: some of ``variants(setting)``; all by default.
        data: what ``study_data`` gives, which is the default; made when it is needed.
        device: such as ``cpu`` or ``cuda``.
    Returns: all runs.
    Raises:
        ValueError: for a folder that holds a study of another setting, cannot be written to, or is
            written to by another process.
        WeightsError: for damaged files of an earlier call.
        UnknownNameError: for a variant that does not exist.

    >>> import tempfile
    >>> from dataclasses import replace
    >>> from itertools import repeat
    >>> import torch
    >>> from saework import feature_ordering
    >>> setting = replace(feature_ordering.SMALL, d_in=8, d_sae=16, steps=40, batch=32)
    >>> def batches(seed, start):
    ...     return repeat(torch.ones(32, 8))
    >>> data = (batches, torch.eye(8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = feature_ordering.study(setting, folder, seeds=[0], names=["run 1"], data=data)
    >>> done.table[["variant", "seed", "reorders"]].values.tolist()
    [['run 1', 0, 1]]
    """
    seeds = list(seeds)
    for seed in seeds:  # a seed becomes a part of a path
        check_seed("a seed", seed)
    folder = Path(folder)
    known = variants(setting)
    names = list(names or known)
    for name in names:
        if name not in known:
            raise unknown("variant", name, known, see=f"There are {', '.join(known)}.")
    make_folder(folder / "runs")
    with only_writer(folder):
        return _study(setting, folder, seeds, names, data, device)


def _study(
    setting: Setting,
    folder: Path,
    seeds: Sequence[int],
    names: Sequence[str],
    data: tuple[Batches, Float[Tensor, "tokens d_in"]] | None,
    device: str,
) -> Study:
    """``study``, in a folder to which no one else writes."""
    known = variants(setting)
    _write_setting(setting, folder)
    runs = {}
    for seed in seeds:
        for name in names:
            stem = folder / "runs" / _file_name(name, seed)
            if not stem.with_suffix(".json").exists():
                data = data or study_data(setting, device=device)
                batches, held_out = data
                run = train(
                    known[name],
                    setting,
                    batches,
                    held_out,
                    seed=seed,
                    name=name,
                    checkpoint=stem,
                    device=device,
                )
                write_runs([run], stem)
            # The checkpoint; also one that a kill after the last write left.
            shutil.rmtree(stem, ignore_errors=True)
            (runs[name, seed],) = read_runs(stem)
    done = Study(setting, runs)
    _write_summary(done, folder)
    return done


def _file_name(variant: str, seed: int) -> str:
    """A run's file without its ending, such as ``run-5-state-moved-seed0``."""
    words = variant.replace(",", "").split()
    return "-".join([*words, f"seed{seed}"])


@checked
def read_study(folder: str | Path) -> Study:
    """Read a study that ``study`` wrote, or the one in the package.

    Args:
        folder: of the study; or ``feature-ordering``, the one in the package.
    Returns: all runs. Those of the first seed have firing rates; none has its SAE.
    Raises:
        FileNotFoundError: for a folder without a study.

    >>> from saework import feature_ordering
    >>> study = feature_ordering.read_study("feature-ordering")
    >>> len(study.runs), study.first("plain").reorder_steps
    (65, [])
    """
    folder = DATA / folder if folder in SETTINGS else Path(folder)
    if not (folder / "study.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no study.json; train one with "
            "saework reproduce feature-ordering --out OUT, and give OUT/study"
        )
    setting = Setting(**_read_setting(folder))
    runs = read_runs(folder / "study")
    return Study(setting, {(run.variant, run.seed): run for run in runs})


def paired_differences(
    table: pd.DataFrame, metric: str, *, reference: str = "plain"
) -> pd.DataFrame:
    """How each variant differs from a reference, with a 95% interval over the seeds.

    Runs of one seed are compared with each other. They have the same start and the same batches,
    so the seeds' common noise drops out. The interval is Student's t.

    Args:
        table: ``Study.table``.
        metric: one of its columns.
        reference: the variant that the others are compared with.
    Returns: one row per variant:

        - ``difference``, ``low``, ``high``: the mean and its interval, in the metric's unit
        - ``verdict``: ``none shown`` where the interval holds 0, else ``higher`` or ``lower``
    Raises:
        UnknownNameError: for a metric or a variant that the table lacks.
        ValueError: for fewer than three seeds, or seeds that not all variants have.

    >>> from saework import feature_ordering
    >>> table = feature_ordering.read_study("feature-ordering").table
    >>> feature_ordering.paired_differences(table, "mse").loc["run 0", "verdict"]
    'lower'
    """
    from scipy.stats import t

    for column, name in (("metric", metric), ("variant", reference)):
        known = table.columns if column == "metric" else table["variant"].unique()
        if name not in known:
            raise unknown(column, name, known, see=f"The table has {', '.join(known)}.")
    if table.duplicated(["seed", "variant"]).any():
        raise ValueError("the table has two rows of one variant and seed; leave one of them out")
    by_seed = table.pivot(index="seed", columns="variant", values=metric)
    n_seeds = len(by_seed)
    if n_seeds < 3:
        raise ValueError(f"{n_seeds} seeds say too little about noise; train at least three")
    if by_seed.isna().any(axis=None):
        lacking = by_seed.columns[by_seed.isna().any()]
        raise ValueError(
            f"{', '.join(lacking)} lack a number for one seed or more; give the seeds that all "
            "variants have"
        )
    in_order = by_seed[table["variant"].unique()]
    gaps = in_order.drop(columns=reference).sub(in_order[reference], axis=0)
    mean = gaps.mean()
    half_width = t.ppf(0.975, n_seeds - 1) * gaps.std(ddof=1) / n_seeds**0.5
    frame = pd.DataFrame({"difference": mean, "low": mean - half_width, "high": mean + half_width})
    frame["verdict"] = "none shown"
    frame.loc[frame["low"] > 0, "verdict"] = "higher"
    frame.loc[frame["high"] < 0, "verdict"] = "lower"
    return frame


def record(name: str, study: Study, *, live: Sequence[dict] = ()) -> Path:
    """Put a study's summary into the package, and its means as claims.

    They are regression values, which hold within the seeds' noise.

    Args:
        name: the study's.
        study: what was trained.
        live: the claims of the short runs that notebook 09 trains itself.
    """
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    _write_setting(study.setting, folder)
    _write_summary(study, folder)
    claims = []
    for metric, unit in UNITS.items():
        for variant, values in study.table.groupby("variant", sort=False)[metric]:
            standard_error = values.std() / len(values) ** 0.5
            claim = {
                "id": f"ordering/{variant}/{metric}",
                "value": float(values.mean()),
                "unit": unit,
                "source": f"regression value: mean of {len(values)} seeds when this study was "
                "recorded; tolerance: four standard errors",
                "tolerance": float(4 * standard_error),
            }
            claims.append(claim)
    claims += live
    write_whole(folder / "claims.json", json.dumps(claims, indent=1) + "\n")
    return folder


def _read_setting(folder: Path) -> dict:
    return read_json(folder / "setting.json")


def _write_setting(setting: Setting, folder: Path) -> None:
    """Write a study's setting, if there is no other one in its folder."""
    path = folder / "setting.json"
    given = asdict(setting)
    there = _read_setting(folder) if path.exists() else given
    changes = [
        f"{key} {there.get(key)!r} there, {value!r} now"
        for key, value in given.items()
        if there.get(key) != value
    ]
    if there != given:
        raise ValueError(
            f"{folder} holds a study of another setting ({', '.join(changes)}); "
            "give an empty folder, or the same setting"
        )
    write_whole(path, json.dumps(given, indent=1) + "\n")


def _write_summary(study: Study, folder: Path) -> None:
    """Write all runs to one pair of files; only those of the first seed keep firing rates."""
    first_seed = min(seed for _, seed in study.runs)
    runs = []
    for run in study.runs.values():
        if run.seed != first_seed:
            run = replace(run, rates=None, features=None)
        runs.append(run)
    write_runs(runs, folder / "study")


def _live_claims(name: str) -> list[dict]:
    """Those of the short runs, which are always the small setting's."""
    if SETTINGS[name] != SMALL:
        return []
    batches, held_out = study_data(SMALL)
    return live_claims(SMALL, batches, held_out)


def main(argv: list[str] | None = None) -> int:
    """Train a study, or continue one; ``--record`` puts its summary into the package."""
    parser = argparse.ArgumentParser(
        prog="python -m saework.studies.feature_ordering.study",
        description="Train the feature-ordering study.",
    )
    parser.add_argument("name", choices=SETTINGS)
    parser.add_argument("--out", type=Path, help="folder for the runs (by default build/NAME)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--record",
        action="store_true",
        help="for developers: commit the summary as the package's own",
    )
    arguments = parser.parse_args(argv)
    folder = arguments.out or Path("build") / arguments.name
    done = study(SETTINGS[arguments.name], folder, seeds=arguments.seeds, device=arguments.device)
    print(done.table.to_string())
    if arguments.record:
        live = _live_claims(arguments.name)
        print(f"recorded in {record(arguments.name, done, live=live)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
