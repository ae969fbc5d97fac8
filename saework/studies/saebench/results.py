"""SAEBench's results, read without SAEBench: what a file says, what it cannot say, and how two differ.

A result is JSON, or the Python literal that some logs hold in its place, with any text around it;
``literals`` reads both and evaluates nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from saework.core.errors import unknown
from saework.core.files import DATA
from saework.studies.saebench.lint import bfloat16_step, compare, lint
from saework.studies.saebench.literals import ResultError, values_in

__all__ = ["Evaluation", "ResultError", "bfloat16_step", "compare", "export", "lint", "read"]
EXAMPLES = DATA / "saebench"
"""The figures that the feature-ordering study printed, as result files."""
MAX_BYTES = 256 * 2**20
KINDS = {"absorption_first_letter": "absorption"}
"""SAEBench's names for its evaluations, where another is used here."""
_SIZE = re.compile(r"_(?:top|threshold)_(\d+)(?:_|$)")
_SIX = "{:.6g}"
_LAYOUTS = {  # what marks a layout: where its metrics, config and details are
    **dict.fromkeys(
        ("eval_type_id", "eval_result_metrics"),
        ("eval_result_metrics", "eval_config", "eval_result_details"),
    ),
    "eval_cfg": ("metrics", "eval_cfg", "feature_metrics"),
    "final_info": ("final_info", "config", None),
}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one SAE."""

    kind: str
    """``core``, ``absorption``, ``scr``, ``sparse_probing``, ``unlearning``, ``training``, or the file's own name for it."""
    config: dict
    """What it was run with; empty where the file does not say."""
    metrics: pd.DataFrame
    """A row a number: ``group``, ``metric``, ``size`` (k, or the number of features; NA where the name has none), ``value``."""
    details: pd.DataFrame
    """A row a part (a data set, a letter, a feature) with the file's own columns; empty where the file holds none.
    SAEBench's core writes -1 for NaN (a feature that never fired); that is left as it is."""
    about: dict = field(default_factory=dict)
    """All else that the file says: ids, date, versions, ``sae_cfg_dict``."""
    place: str = ""
    """Where it stands, such as ``run_0.json, line 1``."""

    def value(self, metric: str) -> float:
        """The number of that name. Raises: UnknownNameError; ValueError if two groups have one."""
        found = self.metrics.value[self.metrics.metric == metric]
        if not len(found):
            raise unknown(
                "metric",
                metric,
                self.metrics.metric,
                see=f"{self.kind} has {len(self.metrics)}: see .metrics.",
            )
        if len(found) > 1:
            raise ValueError(
                f"{self.kind} has {len(found)} metrics named {metric!r}, in several groups; take one from .metrics"
            )
        return float(found.iloc[0])

    def __repr__(self) -> str:
        return f"Evaluation {self._told()}\n{self.metrics.to_string(index=False, na_rep='–', float_format=_SIX.format)}"

    def _repr_html_(self) -> str:
        table = self.metrics.to_html(
            index=False, na_rep="–", float_format=_SIX.format
        )  # it escapes every cell
        return f"<p>{escape(self._told())}</p>{table}"

    def _told(self) -> str:
        return f"{self.kind}: {len(self.metrics)} metrics, details of {len(self.details)} parts, {len(self.config)} settings"


def read(path: str | Path) -> dict[str, Evaluation]:
    """The evaluations of a result file, by kind.

    Args:
        path: SAEBench's own JSON; or any text that holds results as JSON objects or Python literals.

    Returns: evaluations in the order of the file. A second, different one of a kind is ``core (2)``,
    and so on; an exact repetition is left out.
    Raises: ResultError (a ValueError), with line and column where there is one: the file is too large
    or no text, a value in it is truncated, holds a call or another thing that is no plain value, or
    nests too deeply; or there is no evaluation in it, or one without metrics.
    Memory: about 30 times the file. Time: 3 s for 23 MB of JSON, 11 s for as much of a literal (one core).
    Source: SAEBench 0.6.0, ``evals/base_eval_output.py``; its older ``core`` layout (``metrics``,
    ``eval_cfg``) and training records (``config``, ``final_info``) too.
    """
    path = Path(path)
    found: dict[str, Evaluation] = {}
    seen, numbers, passed_over = set(), Counter(), ""
    for place, value in values_in(_text(path), path.name, marks=_LAYOUTS):
        if isinstance(value, ResultError):
            passed_over = passed_over or f". Passed over: {value}"
            continue
        for label, record in _records(value, ""):
            same = json.dumps(record, sort_keys=True)
            if same in seen:
                continue
            seen.add(same)
            evaluation = _evaluation(label, record, place)
            found[_key(evaluation.kind, numbers, found)] = evaluation
    if not found:
        raise ResultError(
            f"{path.name} holds no evaluation; one has eval_type_id and eval_result_metrics (or eval_cfg and metrics). "
            f"Give a file that SAEBench wrote, or a text with such a result in it{passed_over}"
        )
    return found


def _key(kind: str, numbers: Counter, found: dict) -> str:
    """``core``, or ``core (2)`` if there is one already (a file may itself name a kind so)."""
    while True:
        numbers[kind] += 1
        key = f"{kind} ({numbers[kind]})" if numbers[kind] > 1 else kind
        if key not in found:
            return key


def _text(path: Path) -> str:
    if path.is_dir():
        example = next(iter(sorted(path.glob("*.json"))), path / "eval_results.json")
        raise ResultError(f"{path} is a folder; give one of its files, such as {example.name}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ResultError(
            f"{path.name} has {size:,} bytes, and {MAX_BYTES:,} at most are read; give one evaluation's own file"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultError(
            f"{path.name} is not UTF-8 text (byte {error.start:,}); give the JSON file itself, unpacked"
        ) from None


def _records(value, label: str) -> Iterator[tuple[str, dict]]:
    """``(label, record)`` of each evaluation in a value: itself, or those within it."""
    if isinstance(value, dict) and _layout(value):
        yield label, value
    elif isinstance(value, (dict, list)):
        for key, inner in (
            value.items() if isinstance(value, dict) else ((label, inner) for inner in value)
        ):
            yield from _records(inner, key)


def _layout(record: dict) -> tuple | None:
    return next((keys for mark, keys in _LAYOUTS.items() if mark in record), None)


def _evaluation(label: str, record: dict, place: str) -> Evaluation:
    metrics_key, config_key, details_key = _layout(record)
    name = {"metrics": "core", "final_info": "training"}.get(
        metrics_key, record.get("eval_type_id")
    )
    if not isinstance(name, str) or not name:
        raise ResultError(f"{place}: eval_type_id is {name!r}; it must be a name, such as 'core'")
    where = f"{KINDS.get(name, name)} ({label!r}, {place})" if label else f"{name} ({place})"
    for key, empty in ((metrics_key, None), (config_key, {})):
        if not isinstance(record.get(key) or empty, dict):
            got = (
                f"has {type(record[key]).__name__} as {key!r}"
                if record.get(key) is not None
                else f"has no {key!r}"
            )
            raise ResultError(
                f"{where} {got}, which must be names with their values; it has {', '.join(record)}. Is the file whole?"
            )
    groups = {"training": record[metrics_key]} if name == "training" else record[metrics_key]
    about = {
        key: value
        for key, value in record.items()
        if key not in (metrics_key, config_key, details_key, "eval_type_id")
    }
    details = _details(record.get(details_key), where)
    return Evaluation(
        KINDS.get(name, name),
        record.get(config_key) or {},
        _metrics(groups, where),
        details,
        about,
        place,
    )


def _metrics(groups: dict, where: str) -> pd.DataFrame:
    rows = [
        (group, metric, _size(metric), _number(value, metric, where))
        for group, metric, value in _numbers(groups, "", "")
    ]
    frame = pd.DataFrame(rows, columns=["group", "metric", "size", "value"])
    return frame.astype({"size": "Int64", "value": float})


def _numbers(value, group: str, metric: str) -> Iterator[tuple[str, str, object]]:
    """``(group, metric, number)`` of metrics in groups, or in groups of groups."""
    if not isinstance(value, dict):
        yield group, metric, value
    else:
        for key, inner in value.items():
            yield from _numbers(inner, "/".join(filter(None, (group, metric))), key)


def _size(metric: str) -> int | None:
    found = _SIZE.search(metric)
    return int(found[1]) if found else None


def _number(value, metric: str, where: str) -> float:
    try:
        if not isinstance(value, (bool, str, list)):
            return math.nan if value is None else float(value)
    except OverflowError:
        pass
    raise ResultError(
        f"{metric!r} of {where} is {str(value)[:40]!r}; a metric is a number, or none. Is it an evaluation's result?"
    )


def _details(details, where: str) -> pd.DataFrame:
    problem = f"the details of {where} are no list of parts, each with its own names; is the file SAEBench's own?"
    try:
        if isinstance(details, list) and not all(isinstance(part, dict) for part in details):
            raise ResultError(problem)
        return pd.DataFrame(details)  # a list of parts; in the older layout a list for each name
    except ValueError as error:
        raise ResultError(problem) from error


_RUN = '''"""SAEBench's core evaluation of the SAE in this folder (written by saework).

python3 -m venv saebench && saebench/bin/pip install {packages}
saebench/bin/python {script}
"""

from pathlib import Path

import torch
from sae_bench.evals.core.main import multiple_evals
from sae_lens import SAE

folder = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
multiple_evals(
    selected_saes=[({name!r}, SAE.load_from_disk(folder, device=device))],
    n_eval_reconstruction_batches={batches},
    n_eval_sparsity_variance_batches={batches},
    eval_batch_size_prompts=16,
    exclude_special_tokens_from_reconstruction=True,
    compute_featurewise_density_statistics=True,
    compute_featurewise_weight_based_metrics=True,
    dataset={dataset!r},
    context_size={context},
    output_folder=str(folder / "eval_results" / "core"),
    dtype="float32",
    device=device,
    verbose=True,
)
'''
PACKAGES = '"sae-bench==0.6.0" "pyarrow<20"'
"""What to install in SAEBench's own environment: it forces numpy below 2, which a newer pyarrow refuses."""


def export(
    sae,
    folder: str | Path,
    *,
    name: str,
    model_name: str,
    hook: str | None = None,
    dataset: str = "Skylion007/openwebtext",
    context_size: int = 128,
    batches: int = 200,
) -> Path:
    """Write an SAE as SAEBench takes it, with the script that runs its core evaluation.

    SAEBench wants packages that saework's environment cannot have (numpy below 2), so the script is
    for an environment of its own. Its first lines are the commands that make one and run it there.

    Args:
        sae: an ``sae_lens.SAE``.
        name: of the SAE in the result, which is written to ``folder/eval_results/core``.
        model_name: TransformerLens's name of the model, such as ``google/gemma-2-2b``.
        hook: the SAE's own by default.
        dataset: of the Hub, or a folder with parquet files of a ``text`` column.
        batches: of 16 rows of ``context_size`` tokens, for each half of the evaluation.

    Returns: the script. Raises: ValueError if the SAE cannot be saved or knows no hook.
    Source: sae_lens 6 ``SAE.save_model``; SAEBench 0.6.0, ``evals/core/main.py``.
    """
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
    hook = hook or getattr(metadata, "hook_name", None)
    if metadata is None or not hasattr(sae, "save_model"):
        raise ValueError(
            f"a {type(sae).__name__} cannot be written; give an sae_lens.SAE, such as load(...).sae"
        )
    if not hook:
        raise ValueError(
            "the SAE does not say its hook; give hook='blocks.0.hook_resid_post' or the like"
        )
    folder = Path(folder)
    sae.save_model(folder)
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    ours = {
        "hook_name": hook,
        "model_name": model_name,
        "context_size": context_size,
        "prepend_bos": True,
    }
    config["metadata"] = {**(config.get("metadata") or {}), **ours}
    (folder / "cfg.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    script = folder / "run_core.py"
    filled = _RUN.format(
        packages=PACKAGES,
        script=script.name,
        name=name,
        batches=batches,
        dataset=str(dataset),
        context=context_size,
    )
    script.write_text(filled, encoding="utf-8")
    return script
