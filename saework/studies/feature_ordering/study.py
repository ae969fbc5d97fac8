"""Does it matter in which order an SAE keeps its features? The study that asks: data, all runs, summary, differences.

``mechanisms`` holds what the runs do differently, ``order_training`` one run, ``permuting`` the
permutation. ``study`` trains all variants and seeds, and goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from saework.core.errors import unknown
from saework.core.files import DATA
from saework.studies.feature_ordering.training import TrainedRun, tensor_batches, train
from saework.studies.feature_ordering.variants import REAL, SMALL, Setting, Variant, variants

__all__ = [
    "SETTINGS",
    "Setting",
    "Study",
    "TrainedRun",
    "Variant",
    "paired_differences",
    "read_study",
    "study",
    "study_data",
    "tensor_batches",
    "train",
    "variants",
]
SEEDS = (0, 1, 2, 3, 4)
SETTINGS = {"feature-ordering": SMALL, "feature-ordering-2b": REAL}
Batches = Callable[[int, int], Iterator[torch.Tensor]]


@dataclass(frozen=True)
class Study:
    """All runs of a study, by variant and seed."""

    setting: Setting
    runs: dict[tuple[str, int], TrainedRun] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row a run: ``variant``, ``seed``, ``reorders``, and the metrics."""
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
        return self.runs[variant, min(seed for name, seed in self.runs if name == variant)]


def study_data(setting: Setting, *, device: str = "cpu") -> tuple[Batches, torch.Tensor]:
    """``(batches, held_out)`` for ``train``: the model's activations at the hook, without BOS.

    With all of a mini's text they are kept in memory; with ``n_tokens`` set, the model runs along.
    The last rows are held out. Memory: 54 MB for the mini; about 5 GB of activations, and the model, for the real setting.
    """
    from saework.engine.activation_batches import activation_batches
    from saework.engine.forward import activations
    from saework.loading.workbook import load

    book = load(setting.release, n_tokens=setting.n_tokens, device=device, check=False)
    rows, last = book.tokens[: -setting.held_out_rows], book.tokens[-setting.held_out_rows :]

    def without_bos(tokens):
        x = torch.cat([activations(book.model, part, setting.hook) for part in tokens.split(64)])
        return x[(tokens != book.tokenizer.bos_token_id).to(x.device)]

    held_out = without_bos(last)
    if setting.n_tokens is not None:

        def batches(seed: int, start: int = 0) -> Iterator[torch.Tensor]:
            return activation_batches(
                book.model,
                rows,
                setting.hook,
                batch=setting.batch,
                seed=seed,
                bos=False,
                start=start,
            )

        return batches, held_out
    x = without_bos(rows)
    scale = 1.0 if setting.scale_to is None else setting.scale_to / float(x.norm(dim=-1).mean())
    return tensor_batches(x * scale, setting.batch), held_out * scale


def study(
    setting: Setting,
    folder: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    names: Sequence[str] | None = None,
    data: tuple[Batches, torch.Tensor] | None = None,
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
                run = train(
                    known[name],
                    setting,
                    *data,
                    seed=seed,
                    name=name,
                    checkpoint=stem,
                    device=device,
                )
                _write_runs([run], stem)
            shutil.rmtree(
                stem, ignore_errors=True
            )  # the checkpoint; also what a kill after the last write left
            (runs[name, seed],) = _read_runs(stem)
    done = Study(setting, runs)
    _write_summary(done, folder)
    return done


def read_study(folder: str | Path) -> Study:
    """A study from what ``study`` wrote: ``study.json`` and ``study.safetensors``.

    Args:
        folder: of the study, or the name of one that the package holds: ``feature-ordering``.

    Raises: FileNotFoundError for a folder without them.
    """
    folder = DATA / folder if folder in SETTINGS else Path(folder)
    if not (folder / "study.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no study.json; train one with saework reproduce feature-ordering --out OUT, and give OUT/study"
        )
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    return Study(setting, {(run.variant, run.seed): run for run in _read_runs(folder / "study")})


def paired_differences(
    table: pd.DataFrame, metric: str, *, reference: str = "plain"
) -> pd.DataFrame:
    """How each variant differs from a reference of the same seed, with a 95% interval over the seeds.

    Same seed means same start and same batches, so that the seeds' common noise drops out. Student's t.

    Returns: by variant ``difference``, ``low``, ``high`` (the metric's unit) and ``verdict``: ``none shown`` where the
    interval holds 0, else ``higher`` or ``lower``.
    Raises: ValueError for fewer than three seeds.
    """
    from scipy.stats import t

    wide = table.pivot(index="seed", columns="variant", values=metric)[
        list(dict.fromkeys(table["variant"]))
    ]
    if len(wide) < 3:
        raise ValueError(f"{len(wide)} seeds say too little about noise; train at least three")
    gaps = wide.drop(columns=reference).sub(wide[reference], axis=0)
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    found = pd.DataFrame(
        {"difference": gaps.mean(), "low": gaps.mean() - half, "high": gaps.mean() + half}
    )
    found["verdict"] = [
        "higher" if low > 0 else "lower" if high < 0 else "none shown"
        for low, high in zip(found["low"], found["high"])
    ]
    return found


def _check_same_setting(setting: Setting, path: Path) -> None:
    now = asdict(setting)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    if before != now:
        changed = ", ".join(
            f"{key} {before.get(key)!r} there, {now[key]!r} now"
            for key in now
            if before.get(key) != now[key]
        )
        raise ValueError(
            f"{path.parent} holds a study of another setting ({changed}); give an empty folder, or the same setting"
        )
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
    arrays = {
        f"{run.variant}/{run.seed}/{name}": getattr(run, name).to(small[name])
        for run in runs
        for name in _ARRAYS
        if getattr(run, name) is not None
    }
    save_file(arrays, stem.with_suffix(".safetensors.partial"))
    stem.with_suffix(".safetensors.partial").replace(stem.with_suffix(".safetensors"))
    rows = [
        {
            key: value.tolist() if torch.is_tensor(value) else value
            for key, value in vars(run).items()
            if key not in (*_ARRAYS, "sae")
        }
        for run in runs
    ]
    _write_whole(
        stem.with_suffix(".json"),
        json.dumps(rows, separators=(",", ":")).replace('{"variant"', '\n{"variant"') + "\n",
    )


def _read_runs(stem: Path) -> list[TrainedRun]:
    from safetensors.torch import load_file

    arrays = load_file(stem.with_suffix(".safetensors"))
    runs = []
    for row in json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")):
        lists = {key: torch.tensor(row.pop(key)) for key in ("steps", "loss", "variance")}
        found = {name: arrays.get(f"{row['variant']}/{row['seed']}/{name}") for name in _ARRAYS}
        found = {
            name: value.long() if name == "features" else value.float()
            for name, value in found.items()
            if value is not None
        }
        runs.append(TrainedRun(**row, **lists, **found))
    return runs


def _write_summary(done: Study, folder: Path) -> None:
    first = min(seed for _, seed in done.runs)
    _write_runs(
        [
            run if run.seed == first else replace(run, rates=None, features=None)
            for run in done.runs.values()
        ],
        folder / "study",
    )


def record(name: str, study: Study) -> Path:
    """Put a study's summary into the package, and its means as claims: regression values, held within the seeds' noise."""
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_setting(study.setting, folder / "setting.json")
    _write_summary(study, folder)
    claims = []
    for metric, unit in (("mse", "squared activation per token"), ("l0", "features per token")):
        for variant, values in study.table.groupby("variant", sort=False)[metric]:
            claims.append(_regression(f"ordering/{variant}/{metric}", values, unit))
    _write_whole(folder / "claims.json", json.dumps(claims, indent=1) + "\n")
    return folder


def _regression(id: str, values: pd.Series, unit: str) -> dict:
    source = f"regression value: mean of {len(values)} seeds when this study was recorded; tolerance: four standard errors"
    return {
        "id": id,
        "value": float(values.mean()),
        "unit": unit,
        "source": source,
        "tolerance": float(4 * values.std() / len(values) ** 0.5),
    }


def main(argv: list[str] | None = None) -> int:
    """``python -m saework.studies.feature_ordering.study NAME``: train a study, or go on with one; ``--record`` puts its summary into the package."""
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
        print(f"recorded in {record(arguments.name, done)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
