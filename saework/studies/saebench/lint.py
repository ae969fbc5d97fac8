"""What a reader should know before believing a set of evaluation results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, cast

import pandas as pd

from saework.core.argument_kinds import check_number, check_several, check_text, is_number
from saework.core.errors import in_words, unknown
from saework.studies.saebench.comparison import (
    better_direction,
    compare,
    last_digit,
    shared_step,
    steps_apart,
)
from saework.studies.saebench.definitions import superseded
from saework.studies.saebench.results import Evaluation, check_evaluation

L0_SLACK = 0.1
"""The share of its target by which a mean L0 may miss it."""

Run: TypeAlias = Mapping[str, Evaluation]
"""The evaluations of one run, by kind."""
Runs: TypeAlias = Mapping[str, Run]
"""Several runs by name."""


class Finding(NamedTuple):
    """One row of what ``lint`` returns."""

    run: str
    evaluation: str
    check: str
    finding: str


REQUIRED_KEYS = ("run", "metric", "after")


@dataclass(frozen=True)
class Statement:
    """An improvement that somebody stated."""

    run: str
    metric: str
    before: float
    """As stated; where no number was, that of ``against``'s own record."""
    after: float
    against: str | None = None
    """The run that ``before`` belongs to."""
    better: str | None = None
    """``higher`` or ``lower``."""


def lint(
    evaluations: Run | Runs,
    *,
    target_l0: float | None = None,
    stated: Iterable[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """What a reader should know before believing a set of results.

    A finding is a question to ask, not a verdict. The checks:

    - ``L0 target``: the mean L0 misses its target by more than a tenth
    - ``details``: there are none, so the figures cannot be checked
    - ``settings``: a record contradicts itself
    - ``definition``: a formula that was replaced since, or should be
    - ``trainer``: another than the first run's
    - ``resolution``: successive runs differ by one step of bfloat16
    - ``stated``: the numbers do not show the improvement that somebody stated
    - ``quoted``: a stated number is not that run's

    Args:
        evaluations: what ``read`` returns; or several of those by name, in the order of the runs.
        target_l0: features per token that the SAEs were meant to have; by default what each run's
            training record says.
        stated: improvements that somebody stated, each with ``run``, ``metric`` and ``after``, and
            with ``before``, or ``against`` (the run that it is compared with), or both. Where no
            ``before`` was stated, the record of ``against`` gives it. ``better`` is "higher" or
            "lower", where the metric's name does not say. ``sentence``, its words, is not read.
    Returns: one row per finding: ``run``, ``evaluation``, ``check``, ``finding`` (a sentence).
    Raises:
        ValueError: for a statement that lacks a name or a number to compare with, or whose better
            direction is unknown; a target that no L0 can be; what ``read`` did not return.
        UnknownNameError: for a part of a statement, or a run in it, that does not exist.

    >>> from saework import saebench
    >>> run_0 = saebench.read(saebench.EXAMPLES / "run_0.json")
    >>> saebench.lint(run_0, target_l0=20).finding[0]
    'mean L0 is 1,639.48 features per token, 82 times the target of 20'
    """
    runs = _by_name(evaluations)
    target_l0 = _checked_target(target_l0)
    findings: list[Finding] = []
    for name, run in runs.items():
        findings += _l0_target(name, run, target_l0)
        findings += _details(name, run)
        findings += _settings(name, run)
        findings += _definitions(name, run)
    findings += _trainers(runs)
    findings += _resolution(runs)
    for mapping in _checked_statements(stated):
        statement = _statement(mapping, runs)
        findings += _stated(statement, runs)
        findings += _quoted(statement, runs)
    return pd.DataFrame(findings, columns=list(Finding._fields))


def _by_name(evaluations: Run | Runs) -> Runs:
    """The runs by name; a single one has the name ``""``."""
    if not isinstance(evaluations, Mapping):
        raise ValueError(
            f"evaluations has type {type(evaluations).__name__}; give what read(...) returns, "
            "or several of those by name"
        )
    runs = cast("Runs", evaluations)
    if not all(isinstance(value, Mapping) for value in evaluations.values()):
        runs = {"": cast("Run", evaluations)}
    for run in runs.values():
        for kind, evaluation in run.items():
            check_evaluation(f"the evaluation {kind!r}", evaluation)
    return runs


def _l0_target(name: str, run: Run, target: float | None) -> Iterator[Finding]:
    target = target or _recorded_target(run)
    if not is_number(target) or not 0 < target < math.inf:  # the file says none, or a strange one
        return
    slack = L0_SLACK * target
    for kind, evaluation in run.items():
        for l0 in _values(evaluation, "l0"):
            if abs(l0 - target) <= slack:
                continue
            ratio = l0 / target
            times = f"{ratio:.3g} times" if ratio > 1 else f"{ratio:.0%} of"
            sentence = f"mean L0 is {l0:,.6g} features per token, {times} the target of {target:g}"
            yield Finding(name, kind, "L0 target", sentence)


def _recorded_target(run: Run) -> float | None:
    """The target L0 in the first config that has one."""
    for evaluation in run.values():
        if "target_l0" in evaluation.config:
            return evaluation.config["target_l0"]
    return None


def _details(name: str, run: Run) -> Iterator[Finding]:
    sentence = "there are no details, so the figures cannot be checked against their parts"
    for kind, evaluation in run.items():
        if kind.startswith("training"):
            continue
        # RAVEL and autointerp keep their parts under this key
        has_other_parts = bool(evaluation.about.get("eval_result_unstructured"))
        if evaluation.details.empty and not has_other_parts:
            yield Finding(name, kind, "details", sentence)


def _settings(name: str, run: Run) -> Iterator[Finding]:
    """A number that the settings and the record of one run give differently."""
    for kind, evaluation in run.items():
        for setting, value in evaluation.config.items():
            recorded = _values(evaluation, setting)
            if not recorded or not isinstance(value, (int, float)):
                continue
            last = recorded[-1]
            if value != last:
                sentence = (
                    f"{setting} is {value:g} in the settings and {last:g} in the "
                    "record of the same run"
                )
                yield Finding(name, kind, "settings", sentence)


def _definitions(name: str, run: Run) -> Iterator[Finding]:
    """Old formulas, which newer files do not have under the same name."""
    for kind, evaluation in run.items():
        for sentence in superseded(evaluation):
            yield Finding(name, kind, "definition", sentence)


def _trainers(runs: Runs) -> Iterator[Finding]:
    records = {
        name: evaluation
        for name, run in runs.items()
        for evaluation in run.values()
        if "trainer_class" in evaluation.config
    }
    if not records:
        return
    first_name, first = next(iter(records.items()))
    first_trainer = first.config["trainer_class"]
    for name, record in records.items():
        trainer = record.config["trainer_class"]
        if trainer == first_trainer:
            continue
        sentence = (
            f"trained by {trainer}, and {first_name} by {first_trainer}, "
            "so a difference between them may be the trainer's"
        )
        # the settings that are in one of the two configs and not in the other
        unshared = sorted(record.config.keys() ^ first.config.keys())
        if unshared:
            sentence += f"; settings that only one of them has: {', '.join(unshared)}"
        yield Finding(name, record.kind, "trainer", sentence)


def _resolution(runs: Runs) -> Iterator[Finding]:
    """Core metrics of successive runs that differ by one bfloat16 step."""
    for before_name, after_name in pairwise(runs):
        before, after = runs[before_name], runs[after_name]
        for kind in after:
            if not kind.startswith("core") or kind not in before:
                continue
            frame = compare(before[kind], after[kind])
            differing = frame[frame.difference != 0]
            for row in differing[differing.neighbours].itertuples():
                sentence = (
                    f"{row.metric} is {row.b:g}, and {row.a:g} in {before_name}: "
                    f"{_neighbours(row.a, row.b)}"
                )
                yield Finding(after_name, kind, "resolution", sentence)


def _neighbours(a: float, b: float) -> str:
    step = shared_step(a, b)
    return (
        f"neighbours in bfloat16, whose step there is {step:.3g}, "
        "so one rounding makes the difference"
    )


def _checked_target(target: Any) -> float | None:
    """Raises: ValueError for what no L0 can be."""
    if target is None or (is_number(target) and 0 < target < math.inf):
        return target
    raise ValueError(f"target_l0 is {in_words(target)}; give features per token, a number above 0")


def _checked_statements(stated: Any) -> list[Mapping[str, Any]]:
    """Raises: ValueError for anything but a list of mappings."""
    check_several("stated", stated)
    statements = list(stated)
    for statement in statements:
        if not isinstance(statement, Mapping):
            raise ValueError(
                f"a statement is {in_words(statement)}; give a dict with {', '.join(REQUIRED_KEYS)}"
            )
    return statements


def _statement(mapping: Mapping[str, Any], runs: Runs) -> Statement:
    missing = [key for key in REQUIRED_KEYS if key not in mapping]
    if missing:
        raise ValueError(
            f"the statement {dict(mapping)} lacks {', '.join(missing)}; "
            f"give {', '.join(REQUIRED_KEYS)}, and before or against"
        )
    keys = [*(field.name for field in fields(Statement)), "sentence"]
    for key in mapping:
        if key not in keys:
            raise unknown("part of a statement", key, keys, see=f"The parts: {', '.join(keys)}.")
    if mapping.get("better") not in (None, "higher", "lower"):
        raise ValueError(f"better is {mapping['better']!r}; give 'higher' or 'lower'")
    run, against = mapping["run"], mapping.get("against")
    has_names = any(runs)  # a single run has none
    for name in (run, against):
        if has_names and name is not None and name not in runs:
            raise unknown("run", name, map(str, runs), see="A statement names runs that are given.")
    check_text("metric", mapping["metric"])
    for key in ("before", "after"):
        if mapping.get(key) is not None:
            check_number(key, mapping[key])
    return Statement(
        run=mapping["run"],
        metric=mapping["metric"],
        before=_before(mapping, runs),
        after=mapping["after"],
        against=mapping.get("against"),
        better=mapping.get("better"),
    )


def _before(mapping: Mapping[str, Any], runs: Runs) -> float:
    """The number that a statement compares with: its own, or that of the run it names."""
    before = mapping.get("before")
    if before is not None:
        return before
    against = mapping.get("against")
    run = runs.get(against, {}) if against is not None else {}
    recorded = _recorded(mapping["metric"], run)
    if not recorded:
        raise ValueError(
            f"the statement {dict(mapping)} has no before, and no run named by against has this "
            "metric; give before, or against with such a run"
        )
    return recorded[0]


def _stated(statement: Statement, runs: Runs) -> Iterator[Finding]:
    """An improvement that its own two numbers do not show."""
    before, after = statement.before, statement.after
    better = statement.better or better_direction(statement.metric)
    if before == after:
        objection = "the two are equal"
    elif steps_apart(before, after) <= 1:
        objection = f"they are {_neighbours(before, after)}"
    elif (after > before) != (better == "higher"):
        objection = f"{better} is better, so it got worse"
    else:
        return
    sentence = (
        f"{statement.metric} is said to have improved from {before:g} to {after:g}; {objection}"
    )
    yield Finding(statement.run, _kind(statement, runs), "stated", sentence)


def _quoted(statement: Statement, runs: Runs) -> Iterator[Finding]:
    """A number that is not the one in the record of its run."""
    metric = statement.metric
    quotations = [(statement.run, statement.after), (statement.against, statement.before)]
    for name, quoted in quotations:
        run = runs.get(name, {}) if name is not None else {}
        recorded = _recorded(metric, run)
        if recorded and _is_misquoted(quoted, recorded):
            sentence = (
                f"{metric} of {name} is given as {quoted:g}, "
                f"and {name}'s own record says {recorded[0]:g}"
            )
            yield Finding(statement.run, _kind(statement, runs), "quoted", sentence)


def _kind(statement: Statement, runs: Runs) -> str:
    """The first kind of the run's evaluations that has the metric, or an empty name."""
    run = runs.get(statement.run, {})
    for kind, evaluation in run.items():
        if _values(evaluation, statement.metric):
            return kind
    return ""


def _recorded(metric: str, run: Run) -> list[float]:
    """All values of a metric in a run."""
    values: list[float] = []
    for evaluation in run.values():
        values += _values(evaluation, metric)
    return values


def _values(evaluation: Evaluation, metric: str) -> list[float]:
    """All values of a metric in an evaluation; none if it lacks it."""
    is_metric = evaluation.metrics.metric == metric
    return evaluation.metrics.value[is_metric].tolist()


def _is_misquoted(quoted: float, recorded: list[float]) -> bool:
    """Whether a number differs from all recorded ones by more than the last printed digit."""
    differences = [abs(quoted - value) for value in recorded]
    first, *_ = recorded
    slack = max(last_digit(quoted), last_digit(first))
    return min(differences) > slack
