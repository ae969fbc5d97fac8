"""Other people's numbers: values stored beside 252 published SAEs, and an independent re-run."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from saework.core.claims import DIFFERS, HOLDS, NOT_COMPARABLE
from saework.core.files import DATA, read_json

CORE = DATA / "saebench" / "rerun_core.json"
SOURCE_NAMES = ("source", "commit", "date", "models", "settings")
ABSORPTION = DATA / "saebench" / "rerun_absorption.json"


def rerun_ledger(*, tolerance: float | None = None) -> pd.DataFrame:
    """Loss recovered of 252 published SAEs, as stored beside them and as measured again.

    Six suites of 42 SAEs (seven architectures, six sparsities each) on pythia-160m and gemma-2-2b.
    The re-run is SAEBench's core evaluation on OpenWebText, with one setting for all.

    Args:
        tolerance: the largest difference that still holds; by default the re-run's own, 0.01.
    Returns: one row per SAE:

        - ``suite``, ``architecture``, ``trainer``: which SAE
        - ``published``, ``rerun``: loss recovered (a fraction); NaN where none was stored
        - ``difference``: rerun - published
        - ``published_l0``, ``rerun_l0``: features per token
        - ``l0_change``: relative to the published
        - ``verdict``: ``holds``, ``differs``, or ``not comparable`` where none was stored

        ``attrs`` has ``source``, ``commit``, ``date``, ``models``, ``settings``.
    Raises:
        ValueError: for a tolerance below 0.
    Source: meowmaryexe/SAEBench-Reliability, eaacfce2, 2026-07-26.

    >>> from saework import saebench
    >>> ledger = saebench.rerun_ledger()
    >>> ledger.verdict.value_counts().to_dict()
    {'holds': 205, 'not comparable': 42, 'differs': 5}
    """
    content = read_json(CORE)
    if tolerance is None:
        tolerance = content["tolerance"]
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; give 0 or more, in shares of the loss")
    frame = _table(content)
    difference = frame.rerun - frame.published
    l0_ratio = frame.rerun_l0 / frame.published_l0
    verdicts = []
    for distance in difference.abs():
        if math.isnan(distance):
            verdict = NOT_COMPARABLE
        elif distance <= tolerance:
            verdict = HOLDS
        else:
            verdict = DIFFERS
        verdicts.append(verdict)
    after_rerun = frame.columns.get_loc("rerun") + 1
    frame.insert(after_rerun, "difference", difference)
    frame["l0_change"] = l0_ratio - 1
    frame["verdict"] = verdicts
    return frame


def rerun_cross_check() -> pd.DataFrame:
    """The same re-run beside SAEBench's published result files, suite by suite.

    Returns: one row per suite: ``n`` SAEs, ``largest_difference`` and ``mean_difference`` of loss
    recovered, ``pearson`` (their correlation), ``largest_l0_change`` (relative), and how many are
    ``within`` 0.01. SAEs are paired by their order of L0 within an architecture.
    Source: as for ``rerun_ledger``; the summary is the re-run's own.

    >>> from saework import saebench
    >>> check = saebench.rerun_cross_check()
    >>> check[["n", "within"]].sum().tolist(), f"{check.largest_difference.max():.4f}"
    ([252, 252], '0.0045')
    """
    content = read_json(CORE)
    return _table(content["cross_check"], about=content)


def rerun_absorption() -> pd.DataFrame:
    """First-letter absorption of the same 42 SAEs by SAEBench 0.3.2 and by 0.6.0.

    Returns: one row per SAE: ``architecture``, ``trainer``, then the absorption fraction and the
    full absorption score of each release. The fraction was redefined in 0.4.1.
    Source: as for ``rerun_ledger``.

    >>> from saework import saebench
    >>> table = saebench.rerun_absorption()
    >>> table[["fraction_0.3.2", "fraction_0.6.0"]].mean().round(3).tolist()
    [0.223, 0.096]
    """
    return _table(read_json(ABSORPTION))


def _table(content: dict[str, Any], *, about: dict[str, Any] | None = None) -> pd.DataFrame:
    """The rows of a file under its columns, with its source."""
    about = about or content
    frame = pd.DataFrame(content["rows"], columns=content["columns"])
    for name in SOURCE_NAMES:
        if name in about:
            frame.attrs[name] = about[name]
    return frame
