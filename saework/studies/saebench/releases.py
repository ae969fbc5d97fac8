"""Which release of SAEBench wrote a file: bounds from its date, its settings and its names.

A file gives a commit at best, and ``Unknown`` where SAEBench was installed from the package index.
So each thing that only some releases write is a mark, and the marks together give bounds.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from saework.studies.saebench.layouts import TEMPLATE, UNKNOWN

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

RELEASES = {
    "0.1.0": "2025-01-09",
    "0.2.0": "2025-01-09",
    "0.3.0": "2025-01-13",
    "0.3.1": "2025-01-14",
    "0.3.2": "2025-01-14",
    "0.4.0": "2025-02-22",
    "0.4.1": "2025-04-11",
    "0.4.2": "2025-07-15",
    "0.5.0": "2025-10-19",
    "0.5.1": "2025-12-30",
    "0.6.0": "2026-05-01",
}
"""SAEBench's releases and their dates (its CHANGELOG.md)."""
ORDER = list(RELEASES)
EARLIEST = "2024-10-25"
"""Of the files that SAEBench's own tests of January 2025 (10e0728) still expect. What is older may
have been made with formulas that no release had."""
_NO_COMMIT = ("", "unknown")
_CORE_OF_ALL = {"explained_variance", "mse", "cossim", "l0", "ce_loss_score"}
"""Metrics that every whole result of the core evaluation has."""


class Mark(NamedTuple):
    """Something in a file that only some releases write."""

    first: str | None
    last: str | None
    reason: str


class Bounds(NamedTuple):
    """The releases whose code can have written a file, both included."""

    first: str
    last: str
    reasons: list[str]
    known: bool
    """False where the file is older than all that is known, or its marks contradict each other."""

    def __str__(self) -> str:
        return between(self.first, self.last)


def between(first: str, last: str) -> str:
    """A range of releases in words.

    >>> between("0.4.1", "0.6.0"), between("0.3.2", "0.3.2")
    ('0.4.1 to 0.6.0', '0.3.2')
    """
    return first if first == last else f"{first} to {last}"


def release_bounds(evaluation: Evaluation) -> Bounds:
    """The releases that can have written an evaluation, and why.

    Code between two releases counts as the later one.

    Args:
        evaluation: from ``read``.
    """
    layout = evaluation.about.get("layout")
    if layout in (TEMPLATE, UNKNOWN):
        reason = f"its layout is {layout}, and no release's"
        return Bounds(ORDER[0], ORDER[-1], [reason], known=False)
    date = date_of(evaluation)
    if date is not None and date < EARLIEST:
        reason = f"it is of {date}, and no file before {EARLIEST} is known"
        return Bounds(ORDER[0], ORDER[0], [reason], known=False)
    first, last = 0, len(ORDER) - 1
    reasons = []
    for mark in _marks(evaluation, date):
        if mark.first:
            first = max(first, ORDER.index(mark.first))
        if mark.last:
            last = min(last, ORDER.index(mark.last))
        reasons.append(mark.reason)
    known = first <= last
    if not known:
        reasons.append("these contradict each other")
        first, last = 0, len(ORDER) - 1
    return Bounds(ORDER[first], ORDER[last], reasons, known)


def date_of(evaluation: Evaluation) -> str | None:
    """The day on which an evaluation was run, such as ``2025-01-31``; None if it does not say."""
    millis = evaluation.about.get("datetime_epoch_millis")
    if (
        isinstance(millis, (int, float))
        and not isinstance(millis, bool)
        and math.isfinite(millis)
        and 0 < millis < 1e13
    ):
        moment = datetime.datetime.fromtimestamp(millis / 1000, tz=datetime.timezone.utc)
        return moment.date().isoformat()
    text = evaluation.about.get("date_time")
    if isinstance(text, str):
        try:
            return datetime.datetime.fromisoformat(text).date().isoformat()
        except ValueError:
            return None
    return None


def _marks(evaluation: Evaluation, date: str | None) -> Iterator[Mark]:
    if date is not None:
        later = [release for release in ORDER if RELEASES[release] > date]
        if later:
            yield Mark(None, later[0], f"it is of {date}")
    version = evaluation.about.get("sae_lens_version")
    if isinstance(version, str) and version.partition(".")[0] in ("6", "7"):
        yield Mark("0.5.0", None, f"it ran with sae_lens {version}, which needs SAEBench 0.5.0")
    if evaluation.kind == "core":
        yield from _core_marks(evaluation)
    elif evaluation.kind == "absorption":
        yield from _absorption_marks(evaluation, date)
    elif evaluation.kind in ("sparse_probing", "tpp"):
        if evaluation.about.get("eval_result_unstructured"):
            yield Mark("0.4.0", None, "it has results of each class")


def _core_marks(evaluation: Evaluation) -> Iterator[Mark]:
    names = set(evaluation.metrics.metric)
    if "explained_variance_legacy" in names:
        yield Mark("0.4.1", None, "it has explained_variance_legacy")
    elif names >= _CORE_OF_ALL:
        yield Mark(None, "0.4.0", "it is whole and has no explained_variance_legacy")
    if "frac_alive" in names:
        yield Mark("0.3.0", None, "it has frac_alive")


def _absorption_marks(evaluation: Evaluation, date: str | None) -> Iterator[Mark]:
    names = set(evaluation.metrics.metric)
    config = evaluation.config
    if "mean_absorption_score" in names:
        yield Mark(None, "0.2.0", "it has mean_absorption_score")
    # the name came with a branch of 0.3.0, whose commits say an older one
    if "min_GT_probe_f1" in config:
        yield Mark("0.4.1", None, "its settings have min_GT_probe_f1")
    elif config and (_has_no_commit(evaluation) or (date or "9") <= RELEASES["0.4.0"]):
        yield Mark(None, "0.4.0", "its settings have no min_GT_probe_f1")


def _has_no_commit(evaluation: Evaluation) -> bool:
    """Whether the file says that a release wrote it, and no checkout between two of them."""
    commit: Any = evaluation.about.get("sae_bench_commit_hash")
    return isinstance(commit, str) and commit.lower() in _NO_COMMIT
