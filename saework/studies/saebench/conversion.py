"""The numbers of a core evaluation in saework's own terms, where that is exact."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from saework.core.argument_kinds import is_number
from saework.core.errors import in_words
from saework.core.reconstruction_formulas import RECONSTRUCTION
from saework.studies.saebench.definitions import definitions
from saework.studies.saebench.results import check_evaluation

if TYPE_CHECKING:
    from saework.studies.saebench.results import Evaluation

FEWEST_COUNTED = 0.5
"""Of all tokens of the rows: at least so many are counted (the rest is special)."""
MOST_TOKENS = 10**7
"""Above that the number of tokens is not looked for."""
TELLING = 0.2
"""A density tells the number of tokens if its rounding is below this, in firings."""
MOST_CANDIDATES = 1000
"""If more numbers fit the densities of the first look, the details are too few to tell."""
FIRST_LOOK = 16
"""Densities with which each possible number of tokens is tried before all others are."""


def convert(evaluation: Evaluation, *, tokens_per_batch: float | None = None) -> Evaluation:
    """A core evaluation with saework's names, its MSE multiplied back by the batch's tokens.

    SAEBench divides the squared error per token once more by the tokens of its batch. So ``mse``
    times these tokens is ``mse_per_token``: the mean over batches of each batch's mean. It equals
    ``reconstruction_metrics`` of all tokens at once where all batches count equally many tokens
    (without special tokens in the text), and to about 1e-5 otherwise.

    Other metrics keep their values and get the names of their formulas. What has a name of
    SAEBench's alone is left out, and so is what has no known formula.

    Args:
        evaluation: of the core evaluation, from ``read``.
        tokens_per_batch: tokens that one batch counts, special ones left out, as a mean over
            batches. By default it is found from the densities of the features in the details:
            each is a whole number of firings divided by the tokens.
    Returns: a new evaluation. ``about["tokens_per_batch"]`` says what was used.
    Raises:
        ValueError: for another evaluation; or if the tokens are not known, or cannot be.

    >>> from saework import saebench
    >>> core = saebench.read(saebench.EXAMPLES / "core_gelu_1l_mini.json")["core"]
    >>> converted = saebench.convert(core)
    >>> converted.about["tokens_per_batch"], round(converted.value("mse_per_token"), 4)
    (2030.75, 34.6903)
    """
    check_evaluation("evaluation", evaluation)
    if evaluation.kind != "core":
        raise ValueError(
            f"this is a {evaluation.kind} evaluation; only core's numbers have saework's formulas, "
            "so give one of those"
        )
    formulas = definitions(evaluation).formula.to_numpy()
    per_batch = None
    if "mse_saebench" in formulas:
        per_batch = _tokens_per_batch(evaluation, tokens_per_batch)
    rows = []
    for row, formula in zip(evaluation.metrics.itertuples(index=False), formulas):
        if formula == "mse_saebench" and per_batch is not None:
            rows += _unbatched(row, per_batch, evaluation)
        elif formula in RECONSTRUCTION:
            rows.append((row.group, formula, row.size, row.value))
    metrics = pd.DataFrame(rows, columns=list(evaluation.metrics.columns))
    metrics = metrics.astype({"size": "Int64", "value": float})
    about = dict(evaluation.about)
    if per_batch is not None:
        about["tokens_per_batch"] = per_batch
    return dataclasses.replace(evaluation, metrics=metrics, about=about)


def _unbatched(row: Any, per_batch: float, evaluation: Evaluation) -> list[tuple]:
    """The squared error per token, and per element if the file gives the SAE's width."""
    per_token = row.value * per_batch
    rows = [(row.group, "mse_per_token", row.size, per_token)]
    sae = evaluation.about.get("sae_cfg_dict")
    d_in = sae.get("d_in") if isinstance(sae, dict) else None
    if isinstance(d_in, int) and d_in > 0:
        rows.append((row.group, "mse_per_element", row.size, per_token / d_in))
    return rows


def _tokens_per_batch(evaluation: Evaluation, given: float | None) -> float:
    nominal = tokens_of_rows(evaluation)
    if given is not None:
        if not (is_number(given) and math.isfinite(given) and given > 0):
            raise ValueError(f"tokens_per_batch is {in_words(given)}; give a number above 0")
        if nominal and given > nominal:
            raise ValueError(
                f"tokens_per_batch is {given:,g}, and a batch has {nominal:,} tokens with special "
                "ones; give the number without them"
            )
        return float(given)
    n_batches = _setting(evaluation, "n_eval_sparsity_variance_batches")
    counted = counted_tokens(evaluation)
    if counted is not None and n_batches:
        return counted / n_batches
    at_most = f", {nominal:,} at most" if nominal else ""
    raise ValueError(
        "how many tokens a batch counts cannot be found in this file (it takes the densities of "
        f"the features, with ten decimals); give tokens_per_batch={at_most}, special tokens left "
        "out: one BOS a row, and those within the text"
    )


def tokens_of_rows(evaluation: Evaluation) -> int | None:
    """The tokens of a batch's rows, special ones too; None where the settings do not say."""
    rows = _setting(evaluation, "batch_size_prompts")
    context = _setting(evaluation, "context_size")
    return rows * context if rows and context else None


def _setting(evaluation: Evaluation, name: str) -> int | None:
    value = evaluation.config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def counted_tokens(evaluation: Evaluation) -> int | None:
    """How many tokens the core evaluation counted; None where the file does not tell.

    A feature's density is its firings divided by these tokens. So the number is known if it is the
    only one for which every density becomes a whole number.

    Args:
        evaluation: of the core evaluation.
    """
    per_batch = tokens_of_rows(evaluation)
    n_batches = _setting(evaluation, "n_eval_sparsity_variance_batches")
    if not per_batch or not n_batches or "feature_density" not in evaluation.details:
        return None
    nominal = per_batch * n_batches
    if nominal > MOST_TOKENS:
        return None
    column = pd.to_numeric(evaluation.details.feature_density, errors="coerce")
    densities = column[(column > 0) & (column <= 1)].to_numpy(float)
    # half a unit of the last of ten decimals (or of those printed), and float32's own rounding
    rounding = 0.5 * 10.0 ** -_decimals(densities) + 1e-7 * densities
    telling = rounding * nominal < TELLING
    return _common_denominator(densities[telling], rounding[telling], nominal)


def _common_denominator(densities: np.ndarray, rounding: np.ndarray, nominal: int) -> int | None:
    """The only number of tokens for which all densities are whole numbers of firings."""
    if not len(densities):
        return None
    fewest = math.ceil(FEWEST_COUNTED * nominal)
    candidates = np.arange(fewest, nominal + 1, dtype=float)
    highest_first = np.argsort(densities)[::-1]
    for position in highest_first[:FIRST_LOOK]:
        is_whole = _whole(densities[position], rounding[position], candidates)
        candidates = candidates[is_whole]
    if len(candidates) > MOST_CANDIDATES:
        return None
    kept = []
    for n_tokens in candidates:
        if _whole(densities, rounding, n_tokens).all():
            kept.append(int(n_tokens))
    return kept[0] if len(kept) == 1 else None


def _whole(density: Any, rounding: Any, n_tokens: Any) -> np.ndarray:
    """Whether a density times the tokens is a whole number of firings, within its rounding."""
    firings = density * n_tokens
    distance = np.abs(firings - np.round(firings))
    return distance <= rounding * n_tokens + 1e-9


def _decimals(densities: np.ndarray) -> int:
    """The most decimals that any of the densities has."""
    most = 0
    for value in densities:
        printed = np.format_float_positional(value, trim="-")
        _, _, decimals = printed.partition(".")
        most = max(most, len(decimals))
    return most
