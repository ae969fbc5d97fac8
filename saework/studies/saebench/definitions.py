"""The formula behind each number of an evaluation, by the releases that can have written it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from saework.core.reconstruction_formulas import RECONSTRUCTION
from saework.studies.saebench.formula_history import EPOCHS, MEANINGS, NOTES, SUPERSEDED, Epoch
from saework.studies.saebench.releases import ORDER, Bounds, between, release_bounds
from saework.studies.saebench.results import check_evaluation

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

NOT_KNOWN = "not known"
NOT_COMPUTED = "not computed"


def definitions(evaluation: Evaluation) -> pd.DataFrame:
    """The formula in force for each number of an evaluation, or that it is not known.

    Args:
        evaluation: from ``read``, or from ``convert``.
    Returns: one row per metric, in the order of ``evaluation.metrics``:

        - ``group``, ``metric``, ``size``: as there
        - ``formula``: its name, which is saework's own where saework has it (the rows of
          ``reconstruction_metrics``). Or ``not known``; or ``not computed``, since the core
          evaluation writes -1 for what it was not asked for
        - ``meaning``: the formula
        - ``releases``: of SAEBench, those in which the metric's name means this
        - ``because``: what in the file says so
    Source: SAEBench 0.1.0 to 0.6.0, each release's own code, and its CHANGELOG.md.

    >>> from saework import saebench
    >>> core = saebench.read(saebench.EXAMPLES / "core_gelu_1l_mini.json")["core"]
    >>> table = saebench.definitions(core).set_index("metric")
    >>> table.loc[["explained_variance", "mse"], "formula"].tolist()
    ['variance_explained_squares', 'mse_saebench']
    """
    check_evaluation("evaluation", evaluation)
    bounds = release_bounds(evaluation)
    not_computed = _groups_not_computed(evaluation)
    rows = []
    for row in evaluation.metrics.itertuples():
        name = str(row.metric)
        if row.group in not_computed:
            rows.append((NOT_COMPUTED, "-1 stands for what was not computed", "", ""))
        else:
            rows.append(_definition(evaluation, name, bounds))
    found = pd.DataFrame(rows, columns=["formula", "meaning", "releases", "because"])
    keys = evaluation.metrics[["group", "metric", "size"]].reset_index(drop=True)
    return pd.concat([keys, found], axis=1)


def _groups_not_computed(evaluation: Evaluation) -> set[str]:
    """The groups of a core evaluation whose values are all -1, its word for what it left out."""
    if evaluation.kind != "core":
        return set()
    is_left_out = evaluation.metrics.value == -1
    of_group = is_left_out.groupby(evaluation.metrics.group).all()
    return set(of_group.index[of_group])


def _definition(evaluation: Evaluation, metric: str, bounds: Bounds) -> tuple[str, str, str, str]:
    """Formula, meaning, releases and reason of one metric."""
    is_own_name = metric in RECONSTRUCTION and metric not in EPOCHS["core"]
    if evaluation.kind == "core" and is_own_name:
        return metric, meaning_of(metric), "", "saework's own name"
    epochs = _epochs(evaluation, metric)
    if not epochs:
        return NOT_KNOWN, "", "", f"no release has a {metric!r} in {evaluation.kind}"
    possible = epochs
    if bounds.known:
        possible = [epoch for epoch in epochs if _overlaps(epoch, bounds)]
    because = "; ".join(bounds.reasons)
    if len(possible) == 1 and bounds.known:
        (epoch,) = possible
        if len(epochs) == 1:
            because = "all releases that have it mean the same"
        return epoch.formula, meaning_of(epoch.formula), _releases(epoch), because
    candidates = [f"{epoch.formula} ({_releases(epoch)})" for epoch in possible or epochs]
    because = because or "it has neither a date nor a mark of a release"
    return NOT_KNOWN, ", or ".join(candidates), "", because


def _releases(epoch: Epoch) -> str:
    return between(epoch.first, epoch.last)


def _epochs(evaluation: Evaluation, metric: str) -> list[Epoch]:
    """What a metric of this name has meant, one after the other."""
    for pattern, epochs in EPOCHS.get(evaluation.kind, {}).items():
        if re.fullmatch(pattern, metric):
            about = evaluation.about
            if metric == "l1" and "custom_sae" in (about.get("sae_lens_id"), about.get("sae_id")):
                return [Epoch("0.1.0", "0.6.0", "l1")]  # such an SAE is taken as it is given
            return epochs
    return []


def _overlaps(epoch: Epoch, bounds: Bounds) -> bool:
    starts_in_time = ORDER.index(epoch.first) <= ORDER.index(bounds.last)
    ends_in_time = ORDER.index(epoch.last) >= ORDER.index(bounds.first)
    return starts_in_time and ends_in_time


def meaning_of(formula: str) -> str:
    """A formula in words and symbols."""
    if formula in MEANINGS:
        return MEANINGS[formula]
    _, meaning, _ = RECONSTRUCTION[formula]
    return "; ".join(filter(None, [meaning, NOTES.get(formula)]))


def superseded(evaluation: Evaluation) -> list[str]:
    """A sentence for each definition in an evaluation that was replaced, or should be.

    Args:
        evaluation: from ``read``.
    """
    table = definitions(evaluation)
    sentences = []
    for formula, metrics in table.groupby("formula", sort=False).metric:
        if formula not in SUPERSEDED:
            continue
        first, *others = metrics.unique()
        more = f" and {len(others)} more" if others else ""
        sentences.append(f"{first}{more}: {formula}, {SUPERSEDED[formula]}")
    return sentences
