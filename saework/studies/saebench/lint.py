"""Two results side by side, and what in a set of them does not bear the reading that it asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

L0_SLACK = 0.1
LOWER_IS_BETTER = ("final_loss", "mse", "l0", "l1", "kl_div_with_sae", "ce_loss_with_sae")
HIGHER_IS_BETTER = (
    "kl_div_score",
    "ce_loss_score",
    "explained_variance",
    "explained_variance_legacy",
    "cossim",
    "unlearning_score",
)
_PATTERNS = {
    "lower": re.compile(r"absorption"),
    "higher": re.compile(r"_test_(accuracy|auc|f1)$|^(scr|tpp)_metric_"),
}


def bfloat16_step(value: float) -> float:
    """The distance of neighbouring bfloat16 numbers at a value: ``2 ** (floor(log2 |value|) - 7)``.

    0.0039 between 0.5 and 1; 8 between 1,024 and 2,048. At 0 the least: ``2 ** -133``.
    Source: bfloat16 has 8 bits of precision, one of them implied.
    """
    if not math.isfinite(value):
        return math.nan
    return 2.0 ** max(math.frexp(value)[1] - 8, -133) if value else 2.0**-133


def compare(a, b) -> pd.DataFrame:
    """The numbers of two evaluations of one kind, side by side.

    Returns: a row a metric: ``group``, ``metric``, ``size``, ``a``, ``b``, ``difference`` (b - a),
    ``bfloat16_step`` (its resolution at that magnitude; NaN where the numbers were not in bfloat16:
    the config says so, or one of them is no bfloat16 number to the digits given), and ``neighbours``:
    at most one step apart, so that one rounding makes the difference.
    Raises: ValueError for evaluations of different kinds.
    """
    if a.kind != b.kind:
        raise ValueError(
            f"a is {a.kind!r} and b is {b.kind!r}; compare two evaluations of one kind"
        )
    keys = ["group", "metric", "size"]
    frame = a.metrics.merge(b.metrics, on=keys, how="outer", sort=False).rename(
        columns={"value_x": "a", "value_y": "b"}
    )
    order = pd.concat([a.metrics, b.metrics]).drop_duplicates(keys)[keys]
    frame = order.merge(frame, on=keys, how="left").reset_index(drop=True)
    frame["difference"] = frame.b - frame.a
    coarse = all(
        evaluation.config.get("llm_dtype", "bfloat16") == "bfloat16" for evaluation in (a, b)
    )
    frame["bfloat16_step"] = [
        _common_step(x, y) if coarse else math.nan for x, y in zip(frame.a, frame.b)
    ]
    frame["neighbours"] = [_apart(x, y) <= 1 if coarse else False for x, y in zip(frame.a, frame.b)]
    return frame


def _common_step(a: float, b: float) -> float:
    return (
        max(bfloat16_step(a), bfloat16_step(b)) if _is_bfloat16(a) and _is_bfloat16(b) else math.nan
    )


def _apart(a: float, b: float) -> float:
    """Steps between two bfloat16 numbers, each taken to its nearest (they may be printed with few digits); NaN for others."""
    step = _common_step(a, b)
    return abs(_nearest(a) - _nearest(b)) / step if step == step else math.nan


def _nearest(value: float) -> float:
    step = bfloat16_step(value)
    return round(value / step) * step


def _is_bfloat16(value: float) -> bool:
    """Whether a bfloat16 number prints as this one, to as many decimals."""
    return math.isfinite(value) and abs(value - _nearest(value)) <= 0.5 * _last_digit(value) * (
        1 + 1e-9
    )


def _last_digit(value: float) -> float:
    """The unit of the last decimal that is printed: 0.001 for 0.957."""
    digits, _, exponent = repr(float(value)).partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2].rstrip("0")))


def lint(
    evaluations: Mapping, *, target_l0: float | None = None, stated: Iterable[Mapping] = ()
) -> pd.DataFrame:
    """What a reader should know before he believes a set of results.

    Args:
        evaluations: what ``read`` returns, or several of those by name, in the order of the runs.
        target_l0: features per token that the SAEs were meant to have; by default what each training
            record says.
        stated: improvements that somebody stated: mappings with ``run``, ``metric``, ``before``,
            ``after``; ``against`` (the run that ``before`` is of) and ``better`` ("higher" or
            "lower", where the metric's name does not tell) if you like.

    Returns: a row a finding: ``run``, ``evaluation``, ``check``, ``finding`` (a sentence). The checks:
    ``L0 target`` (missed by more than a tenth), ``details`` (none), ``settings`` (a record that
    contradicts itself), ``trainer`` (another than the first run's), ``resolution`` (successive runs,
    neighbours in bfloat16), ``stated`` (the numbers do not show it), ``quoted`` (a stated number is
    not that run's). A finding is a question to ask, not a verdict.
    Raises: ValueError for a statement that lacks a name, or whose better direction is unknown.
    """
    if not isinstance(evaluations, Mapping):
        raise ValueError(
            f"evaluations are a {type(evaluations).__name__}; give what read(...) returns, or several of those by name"
        )
    several = all(isinstance(value, Mapping) for value in evaluations.values())
    runs = dict(evaluations) if several else {"": evaluations}
    rows = []
    for run, own in runs.items():
        rows += [
            (run, *row)
            for check in (_l0_target(own, target_l0), _details(own), _settings(own))
            for row in check
        ]
    rows += [*_trainers(runs), *_resolution(runs)]
    for statement in stated:
        rows += _stated(statement, runs)
    return pd.DataFrame(rows, columns=["run", "evaluation", "check", "finding"])


def _l0_target(own: Mapping, target: float | None) -> Iterator[tuple]:
    target = target or next(
        (e.config["target_l0"] for e in own.values() if "target_l0" in e.config), None
    )
    for kind, evaluation in own.items():
        for l0 in evaluation.metrics.value[evaluation.metrics.metric == "l0"]:
            if target and abs(l0 - target) > L0_SLACK * target:
                times = f"{l0 / target:.3g} times" if l0 > target else f"{l0 / target:.0%} of"
                yield (
                    kind,
                    "L0 target",
                    f"mean L0 is {l0:,.6g} features per token, {times} the target of {target:g}",
                )


def _details(own: Mapping) -> Iterator[tuple]:
    for kind, evaluation in own.items():
        if evaluation.details.empty and not kind.startswith("training"):
            yield (
                kind,
                "details",
                "there are no details, so the figures cannot be checked against their parts",
            )


def _settings(own: Mapping) -> Iterator[tuple]:
    for kind, evaluation in own.items():
        recorded = dict(zip(evaluation.metrics.metric, evaluation.metrics.value))
        for name, value in evaluation.config.items():
            if name in recorded and isinstance(value, (int, float)) and value != recorded[name]:
                yield (
                    kind,
                    "settings",
                    f"{name} is {value:g} in the settings and {recorded[name]:g} in the record of the same run",
                )


def _trainers(runs: Mapping) -> Iterator[tuple]:
    records = {
        run: e for run, own in runs.items() for e in own.values() if "trainer_class" in e.config
    }
    first = next(iter(records), None)
    for run, record in records.items():
        ours, theirs = record.config, records[first].config
        if ours["trainer_class"] != theirs["trainer_class"]:
            only = ", ".join(sorted(set(ours) ^ set(theirs)))
            yield (
                run,
                record.kind,
                "trainer",
                f"trained by {ours['trainer_class']}, and {first} by {theirs['trainer_class']}, so a difference between them may be the trainer's"
                + (f"; settings that only one of them has: {only}" if only else ""),
            )


def _resolution(runs: Mapping) -> Iterator[tuple]:
    names = list(runs)
    for before, after in zip(names, names[1:]):
        for kind in (
            kind for kind in runs[after] if kind in runs[before] and kind.startswith("core")
        ):
            frame = compare(runs[before][kind], runs[after][kind])
            for row in frame[frame.neighbours & (frame.difference != 0)].itertuples():
                yield (
                    after,
                    kind,
                    "resolution",
                    f"{row.metric} is {row.b:g}, and {row.a:g} in {before}: {_neighbours(row.a, row.b)}",
                )


def _neighbours(a: float, b: float) -> str:
    return f"neighbours in bfloat16, whose step there is {_common_step(a, b):.3g}, so one rounding makes the difference"


def _stated(statement: Mapping, runs: Mapping) -> Iterator[tuple]:
    missing = [key for key in ("run", "metric", "before", "after") if key not in statement]
    if missing:
        raise ValueError(
            f"the statement {dict(statement)} lacks {', '.join(missing)}; give run, metric, before, after"
        )
    run, metric, before, after = (statement[key] for key in ("run", "metric", "before", "after"))
    better = statement.get("better") or _better(metric)
    said = f"{metric} is said to have improved from {before:g} to {after:g}"
    kind = next(
        (kind for kind, e in runs.get(run, {}).items() if metric in set(e.metrics.metric)), ""
    )
    if before == after:
        yield run, kind, "stated", f"{said}; the two are equal"
    elif (after > before) != (better == "higher"):
        yield run, kind, "stated", f"{said}; {better} is better, so it got worse"
    elif _apart(before, after) <= 1:
        yield run, kind, "stated", f"{said}; they are {_neighbours(before, after)}"
    for name, value in ((run, after), (statement.get("against"), before)):
        own = [
            e.value(metric) for e in runs.get(name, {}).values() if metric in set(e.metrics.metric)
        ]
        if own and min(abs(value - number) for number in own) > max(
            _last_digit(value), _last_digit(own[0])
        ):
            yield (
                run,
                kind,
                "quoted",
                f"{metric} of {name} is given as {value:g}, and {name}'s own record says {own[0]:g}",
            )


def _better(metric: str) -> str:
    for better, names in (("lower", LOWER_IS_BETTER), ("higher", HIGHER_IS_BETTER)):
        if metric in names or _PATTERNS[better].search(metric):
            return better
    raise ValueError(
        f"whether higher or lower is better for {metric!r} is not known here; add better='higher' or better='lower' to the statement"
    )
