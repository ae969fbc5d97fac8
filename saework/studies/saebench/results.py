"""SAEBench's result files, read without SAEBench.

A result is JSON, or the Python literal that some logs hold in its place, with any text around it.
``literals`` reads both and evaluates nothing.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from saework.core.argument_kinds import check_path
from saework.core.errors import in_words, unknown
from saework.core.files import DATA, readable
from saework.studies.saebench.layouts import (
    KINDS,
    MARKS,
    OTHER_NAMES,
    UNKNOWN,
    Record,
    plain_numbers,
    records,
)
from saework.studies.saebench.literals import ResultError, values_in

EXAMPLES = DATA / "saebench"
"""A folder: the figures that the feature-ordering study printed, as result files."""
MAX_BYTES = 256 * 2**20
_SIZE = re.compile(r"_(?:top|threshold|bins)_(\d+)(?:[_/]|$)")
_AS_TABLE: dict[str, Any] = {"index": False, "na_rep": "–", "float_format": "{:.6g}".format}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one SAE."""

    kind: str
    """One of ``layouts.KINDS``, such as ``core``; or the file's own name for it."""
    config: dict[str, Any]
    """What it was run with; empty where the file does not say."""
    metrics: pd.DataFrame
    """One row per number: ``group``, ``metric``, ``size``, ``value``. The size is k, the number of
    features, or of bins; NA where the metric's name (or its group's) has none."""
    details: pd.DataFrame
    """One row per part (a data set, a letter, a feature), with the file's own columns; empty where
    the file has none. SAEBench's core writes -1 for NaN (a feature that never fired); it stays."""
    about: dict[str, Any] = field(default_factory=dict)
    """All else that the file says: ids, date, versions, ``sae_cfg_dict``."""
    place: str = ""
    """Where it was read, such as ``run_0.json, line 1``."""

    def value(self, metric: str) -> float:
        """The number of a metric.

        Raises:
            UnknownNameError: if there is no such metric.
            ValueError: if several groups have one of that name.
        """
        names = self.metrics.metric
        values = self.metrics.value[names == metric]
        if values.empty:
            see = f"{self.kind} has {len(names)}: see .metrics."
            raise unknown("metric", metric, names, see=see)
        if len(values) > 1:
            raise ValueError(
                f"{self.kind} has {len(values)} metrics named {metric!r}, in several groups; "
                "take one from .metrics"
            )
        return float(values.iloc[0])

    def __repr__(self) -> str:
        table = self.metrics.to_string(**_AS_TABLE)
        return f"Evaluation {self._summary()}\n{table}"

    def _repr_html_(self) -> str:
        table = self.metrics.to_html(**_AS_TABLE)  # it escapes every cell
        return f"<p>{escape(self._summary())}</p>{table}"

    def _summary(self) -> str:
        return (
            f"{self.kind}: {len(self.metrics)} metrics, details of {len(self.details)} parts, "
            f"{len(self.config)} settings"
        )


def check_evaluation(name: str, value: Any) -> None:
    """Refuse what is no evaluation.

    Args:
        name: of the argument.
        value: what was given.

    Raises:
        ValueError: it is something else, such as all evaluations of a file.
    """
    if isinstance(value, Evaluation):
        return
    advice = "give one evaluation, such as read(path)['core']"
    if isinstance(value, Mapping) and value:
        advice = f"give one of it, such as [{next(iter(value))!r}]"
    raise ValueError(f"{name} is {in_words(value)}; {advice}")


def read(path: str | Path) -> dict[str, Evaluation]:
    """The evaluations of a result file, by kind.

    Args:
        path: SAEBench's own JSON; or a text that holds results as JSON objects or Python literals.
    Returns: evaluations in the order of the file. A second, different one of a kind is named
        ``core (2)``, and so on; an exact repetition is left out.
    Raises:
        ResultError: (a ValueError) with line and column where there is one. Either the file is too
            large, or no text. Or a value in it is truncated, nests too deeply, or holds a call or
            another thing that is no plain value. Or it holds no evaluation, or one without metrics.
        OSError: if the file cannot be opened.
    Memory: about 30 times a file of JSON, 100 times one of literals. Time: 3 s for 23 MB of JSON,
    15 s for as much of a literal (one core).
    Source: SAEBench 0.1.0 to 0.6.0, ``evals/base_eval_output.py``. Its older layouts of 2024 are
    read too (``core``, MDL, the template with one entry per SAE), and training records.

    An evaluation that is not known here is read as it stands, with a warning.

    >>> from saework import saebench
    >>> run_0 = saebench.read(saebench.EXAMPLES / "run_0.json")
    >>> list(run_0), run_0["core"].value("l0")
    (['training', 'absorption', 'core', 'scr', 'sparse_probing', 'unlearning'], 1639.4825439453125)
    """
    check_path("path", path)
    path = Path(path)
    evaluations: dict[str, Evaluation] = {}
    n_of_kind: Counter[str] = Counter()
    records_read: set[str] = set()
    first_refusal = ""
    for place, value in values_in(_text(path), path.name, marks=MARKS):
        if isinstance(value, ResultError):
            first_refusal = first_refusal or f". Passed over: {value}"
            continue
        for record in records(value):
            content = json.dumps(record.identity or record.content, sort_keys=True)
            if content in records_read:
                continue
            records_read.add(content)
            evaluation = _evaluation(record, place)
            key = _key(evaluation.kind, n_of_kind, evaluations)
            evaluations[key] = evaluation
    if not evaluations:
        raise ResultError(
            f"{path.name} holds no evaluation; one has eval_type_id and eval_result_metrics "
            "(or eval_cfg and metrics). Give a file that SAEBench wrote, or a text with such a "
            f"result in it{first_refusal}"
        )
    return evaluations


def _key(kind: str, n_of_kind: Counter[str], taken: Collection[str]) -> str:
    """``core``, or ``core (2)`` if that is taken, perhaps by a kind of that name."""
    while True:
        n_of_kind[kind] += 1
        number = n_of_kind[kind]
        key = f"{kind} ({number})" if number > 1 else kind
        if key not in taken:
            return key


def _text(path: Path) -> str:
    if path.is_dir():
        example = next(iter(sorted(path.glob("*.json"))), path / "eval_results.json")
        raise ResultError(f"{path} is a folder; give one of its files, such as {example.name}")
    size = readable(path).stat().st_size
    if size > MAX_BYTES:
        raise ResultError(
            f"{path.name} has {size:,} bytes, and {MAX_BYTES:,} at most are read; "
            "give one evaluation's own file"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultError(
            f"{path.name} is not UTF-8 text (byte {error.start:,}); "
            "give the JSON file itself, unpacked"
        ) from None


def _evaluation(record: Record, place: str) -> Evaluation:
    label, content, layout, _ = record
    name = layout.kind or content.get("eval_type_id")
    if not isinstance(name, str) or not name:
        raise ResultError(f"{place}: eval_type_id is {name!r}; it must be a name, such as 'core'")
    kind = OTHER_NAMES.get(name, name)
    where = f"{kind} ({label!r}, {place})" if label else f"{kind} ({place})"
    metrics = _part(content, layout.metrics, where, default=None)
    if kind == "training":
        metrics = {"training": metrics}  # such a record has no groups
    if kind not in KINDS or content.get("layout") == UNKNOWN:
        metrics = _read_as_it_stands(metrics, kind, where)
    config = _part(content, layout.config, where, default={})
    details = content.get(layout.details) if layout.details else None
    parts = (layout.metrics, layout.config, layout.details, "eval_type_id")
    return Evaluation(
        kind,
        config,
        metrics=_metrics(metrics, where),
        details=_details(details, where),
        about={key: value for key, value in content.items() if key not in parts},
        place=place,
    )


def _read_as_it_stands(metrics: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
    """The numbers of an evaluation or a layout that is not known, with a warning that says so."""
    kept, n_left_out = plain_numbers(metrics)
    what = "layout of this" if kind in KINDS else "kind of"
    left_out = f"; {n_left_out} metrics are no numbers, and left out" if n_left_out else ""
    warnings.warn(
        f"{where}: the {what} evaluation is not known here, so its numbers are read as they "
        f"stand, and no formula is known of them{left_out}. Known are {', '.join(KINDS)}",
        stacklevel=4,
    )
    return kept


def _part(
    record: dict[str, Any], key: str, where: str, *, default: dict[str, Any] | None
) -> dict[str, Any]:
    """A part that holds names with their values, or the default for an empty one."""
    given = record.get(key)
    part = given or default
    if isinstance(part, dict):
        return part
    if given is None:
        problem = f"has no {key!r}"
    else:
        problem = f"has {type(given).__name__} as {key!r}"
    raise ResultError(
        f"{where} {problem}, which must be names with their values; it has {', '.join(record)}. "
        "Is the file whole?"
    )


def _metrics(groups: dict[str, Any], where: str) -> pd.DataFrame:
    rows = []
    for group, metric, value in _leaves(groups, "", ""):
        number = _number(value, metric, where)
        rows.append((group, metric, _size(metric) or _size(group), number))
    frame = pd.DataFrame(rows, columns=["group", "metric", "size", "value"])
    return frame.astype({"size": "Int64", "value": float})


def _leaves(value: Any, group: str, metric: str) -> Iterator[tuple[str, str, Any]]:
    """Each metric as ``(group, metric, value)``. A group within a group is ``outer/inner``."""
    if not isinstance(value, dict):
        yield group, metric, value
        return
    # what was a metric's name one level up is a group's name here
    inner_group = "/".join(filter(None, (group, metric)))
    for key, part in value.items():
        yield from _leaves(part, inner_group, key)


def _size(metric: str) -> int | None:
    match = _SIZE.search(metric)
    return int(match[1]) if match else None


def _number(value: Any, metric: str, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass  # a whole number of more than 308 digits
    raise ResultError(
        f"{metric!r} of {where} is {str(value)[:40]!r}; a metric is a number, or none. "
        "Is it an evaluation's result?"
    )


def _details(details: Any, where: str) -> pd.DataFrame:
    problem = ResultError(
        f"the details of {where} are no list of parts, each with its own names; "
        "is the file SAEBench's own?"
    )
    if isinstance(details, list) and not all(isinstance(part, dict) for part in details):
        raise problem
    try:
        return pd.DataFrame(details)  # in the older layout a list for each name
    except ValueError as error:
        raise problem from error
