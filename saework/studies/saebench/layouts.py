"""Where a result file keeps its parts: SAEBench 0.1 to 0.6, and what came before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

KINDS = (
    "absorption",
    "autointerp",
    "core",
    "mdl",
    "meta_structure",
    "ravel",
    "scr",
    "sparse_probing",
    "sparse_probing_sae_probes",
    "tpp",
    "training",
    "unlearning",
)
"""The evaluations whose files are known. Others are read as they stand, with a warning."""
OTHER_NAMES = {
    "absorption_first_letter": "absorption",
    "meta_structure_decoder_variance": "meta_structure",
}
"""SAEBench's names of evaluations for which another name is used here."""
_PROBING = re.compile(r"(llm|sae)(_top_\d+)?_test_accuracy")
_BIN_NAMES = ("num_bins", "k")
TEMPLATE = "SAE_Bench_Template (2024)"
UNKNOWN = "not known"
"""The layout of a record whose numbers stand under names that no version of SAEBench uses."""
_SETTINGS = ("eval_config", "eval_cfg", "config", "sae_cfg_dict", "custom_eval_config")


class Layout(NamedTuple):
    """Where a record keeps its parts."""

    metrics: str
    config: str
    details: str | None
    kind: str | None
    """The evaluation's name; None where the record itself gives it."""


class Record(NamedTuple):
    """What a file says of one evaluation."""

    label: str
    """The key under which it stands; empty if it stands alone."""
    content: dict[str, Any]
    layout: Layout
    identity: Any = None
    """What is compared to find repetitions, if it is not the whole content."""


CURRENT = Layout("eval_result_metrics", "eval_config", "eval_result_details", None)
_LAYOUTS = {  # by a key that only records of this layout have
    "eval_result_metrics": CURRENT,
    "eval_result_details": CURRENT,
    "eval_cfg": Layout("metrics", "eval_cfg", "feature_metrics", "core"),
    "final_info": Layout("final_info", "config", None, "training"),
}
MARKS = ("eval_type_id", *_LAYOUTS, "custom_eval_results")
"""Words of which the text of every record holds one."""


def records(value: Any, label: str = "") -> Iterator[Record]:
    """Each evaluation's record in a value: the value itself, or those within it."""
    if isinstance(value, list):
        for part in value:
            yield from records(part, label)
    if not isinstance(value, dict):
        return
    layout = next((_LAYOUTS[mark] for mark in _LAYOUTS if mark in value), None)
    if layout:
        yield Record(label, value, layout)
    elif isinstance(value.get("custom_eval_results"), dict):
        yield from _template_records(value)
    elif "eval_type_id" in value:
        yield Record(label, _named_results(value), CURRENT)
    else:
        for key, part in value.items():
            yield from records(part, key)


def _template_records(file: dict[str, Any]) -> Iterator[Record]:
    """One record per SAE of a file of 2024's template, in the names of today's layout."""
    config = file.get("custom_eval_config", {})
    for sae, metrics in file["custom_eval_results"].items():
        content = {
            "eval_type_id": _kind_of_template(metrics),
            "eval_config": config,
            CURRENT.metrics: metrics,
            "sae_lens_id": sae,
            "layout": TEMPLATE,
        }
        yield Record(sae, content, CURRENT, identity=[sae, metrics])  # the config is the same


def _kind_of_template(metrics: Any) -> str:
    """What the template's file leaves unsaid, from the names of its metrics."""
    if isinstance(metrics, dict) and metrics and all(map(_PROBING.fullmatch, metrics)):
        return "sparse_probing"
    return "template_2024"


def _named_results(record: dict[str, Any]) -> dict[str, Any]:
    """A record that keeps its numbers elsewhere, in the names of today's layout."""
    results = record.get("eval_results")
    if isinstance(results, list) and all(isinstance(part, dict) for part in results):
        return _mdl(record, results)
    return _unknown_layout(record)


def _mdl(record: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """MDL's record: a list of results, one per number of bins."""
    content = {key: part for key, part in record.items() if key != "eval_results"}
    content[CURRENT.metrics] = {
        _bins(i, part): _bin_metrics(part) for i, part in enumerate(results)
    }
    content["eval_result_details"] = results
    return content


def _unknown_layout(record: dict[str, Any]) -> dict[str, Any]:
    """Every part of a record that holds a number, but for the settings."""
    content: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for key, part in record.items():
        may_hold_metrics = isinstance(part, dict) and key not in _SETTINGS
        found = _numbers(part) if may_hold_metrics else {}
        if found:
            metrics[key] = found
        else:
            content[key] = part
    if not metrics:
        return record  # there is nothing to read, and the reader says which part is missing
    content[CURRENT.metrics] = metrics
    content["layout"] = UNKNOWN
    return content


def _bins(position: int, result: dict[str, Any]) -> str:
    """The group of one result of MDL, such as ``num_bins_8``; or its position."""
    parts = [f"{name}_{result[name]}" for name in _BIN_NAMES if result.get(name) is not None]
    return "/".join(parts) or f"result_{position}"


def _bin_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one result of MDL; null stays."""
    missing = {key: None for key, value in result.items() if value is None}
    metrics = _numbers(result) | missing
    return {key: value for key, value in metrics.items() if key not in _BIN_NAMES}


def _numbers(part: dict[str, Any]) -> dict[str, Any]:
    """The numbers in a mapping, with those of mappings in it; truth is 1 or 0."""
    found: dict[str, Any] = {}
    for key, value in part.items():
        if isinstance(value, dict):
            inner = _numbers(value)
            if inner:
                found[key] = inner
        elif isinstance(value, bool):
            found[key] = int(value)
        elif isinstance(value, (int, float)):
            found[key] = value
    return found


def plain_numbers(metrics: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Metrics of an unknown evaluation without what is no number, and how many were left out."""
    kept: dict[str, Any] = {}
    n_left_out = 0
    for key, value in metrics.items():
        if isinstance(value, dict):
            kept[key], n_inner = plain_numbers(value)
            n_left_out += n_inner
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            kept[key] = value
        else:
            n_left_out += 1
    return kept, n_left_out
