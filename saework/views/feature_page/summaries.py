"""Tables of one feature: histogram, ablation, co-firing, agreement with labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.formulas import (
    CONFIDENCE,
    clustered_mean,
    fisher_exact,
    precision_and_recall,
)
from saework.core.tokens import token_names

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from saework.core.protocols import Tokenizer

N_COFIRING = 8
N_TOKENS = 8


def histogram_of(scan: FeatureScan, feature: int) -> pd.DataFrame:
    """Firings by activation, from the lowest filled bin to the highest.

    Returns:
        Columns ``low``, ``high``, ``firings``.
    """
    counts = scan.histogram[feature].numpy()
    edges = scan.bin_edges.numpy()
    filled = np.flatnonzero(counts)
    shown = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0, 0)
    columns = {"low": edges[:-1], "high": edges[1:], "firings": counts}
    return pd.DataFrame({name: column[shown] for name, column in columns.items()})


def ablation_row(
    interval: str | tuple[float, float],
    changes: Float[ndarray, " firing"],
    row: Int[ndarray, " firing"],
    weight: float = math.nan,
) -> dict[str, object]:
    """One row of the ablation table: the changes of loss at some firings.

    Args:
        interval: ``all``, ``top``, or the interval's bounds.
        changes: nats; NaN where there is no next token.
        row: of the text, for each.
        weight: the share of all firings for which they stand.

    Returns:
        - ``tokens``: firings with a next token.
        - ``loss_change``: their mean, nats.
        - ``standard_error``: of that mean, rows of the text as clusters (``clustered_mean``).
        - ``raised``: share of them whose loss rises.
    """
    measured = ~np.isnan(changes)
    changes, row = changes[measured], row[measured]
    n = len(changes)
    effect = clustered_mean(changes, row)
    return {
        "interval": interval,
        "tokens": n,
        "loss_change": effect.mean,
        "standard_error": effect.standard_error,
        "raised": (changes > 0).mean() if n else math.nan,
        "weight": weight,
    }


def frequent_tokens(
    token: Int[ndarray, " firing"], tokenizer: Tokenizer, *, n: int = N_TOKENS
) -> pd.DataFrame:
    """The tokens on which a feature fires most often, ties by id.

    Args:
        token: the token's id at each firing.
        tokenizer: the model's.

    Returns:
        Columns ``token`` (visible) and ``share`` (of the firings).
    """
    ids, counts = np.unique(token, return_counts=True)
    most_first = np.argsort(-counts, kind="stable")[:n]
    texts = token_names(ids[most_first].tolist(), tokenizer)
    shares = counts[most_first] / max(len(token), 1)
    return pd.DataFrame({"token": texts, "share": shares})


def cofiring_of(scan: FeatureScan, feature: int) -> pd.DataFrame | None:
    """The features whose rate rises most where this feature fires.

    Returns:
        None if the scan did not count it. Otherwise the largest rise first:

        - ``feature``
        - ``both``: tokens on which both fire.
        - ``given_this``: its rate where this feature fires.
        - ``base_rate``: its rate anywhere.
    """
    counted = (scan.cofiring_features == feature).nonzero()
    if not len(counted):
        return None
    both = scan.cofiring[int(counted[0])].numpy()
    given_this = both / max(int(scan.count[feature]), 1)
    base_rate = scan.firing_rate.numpy()
    rise = given_this - base_rate
    frame = pd.DataFrame(
        {
            "feature": np.arange(len(both)),
            "both": both,
            "given_this": given_this,
            "base_rate": base_rate,
            "rise": rise,
        }
    )
    frame = frame[(rise > 0) & (frame["feature"] != feature)]
    frame = frame.sort_values("rise", ascending=False, kind="stable").head(N_COFIRING)
    return frame.drop(columns="rise").reset_index(drop=True)


def agreement_of(
    n_both: Int[ndarray, " label"],
    n_fires: int,
    n_label: Int[ndarray, " label"],
    *,
    n_tokens: int,
    names: list[str],
) -> pd.DataFrame:
    """How well "the feature fires" says "the label holds".

    Args:
        n_both: tokens on which the feature fires and the label holds.
        n_fires: tokens on which the feature fires.
        n_label: tokens on which the label holds.
        n_tokens: tokens counted.
        names: of the labels.

    Returns:
        One row per label: ``precision``, ``recall``, ``f1``, ``base_rate``, ``tokens`` (with the
        label), ``beats_base_rate`` (whether the precision is above the base rate by Fisher's exact
        test at 5%, divided by the number of labels); highest F1 first.
    """
    chance = fisher_exact(n_both, n_fires, n_label, n_tokens)
    agreement = precision_and_recall(n_both, n_fires, n_label)
    frame = pd.DataFrame(
        {
            "precision": agreement.precision,
            "recall": agreement.recall,
            "f1": agreement.f1,
            "base_rate": n_label / n_tokens,
            "tokens": n_label,
            "beats_base_rate": chance < (1 - CONFIDENCE) / len(names),
        },
        index=names,
    )
    return frame.sort_values("f1", ascending=False, kind="stable")
