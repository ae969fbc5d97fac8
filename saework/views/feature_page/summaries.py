"""Tables of one feature: histogram, ablation, co-firing, agreement with labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.formulas import precision_and_recall

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

N_COFIRING = 8


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
    changes: Float[ndarray, " example"],
    n_firings: int,
    weight: float,
) -> dict[str, object]:
    """One row of the ablation table: the changes of loss of one interval's examples.

    Args:
        interval: ``top``, or the interval's bounds.
        changes: nats; NaN where there is no next token.
        n_firings: firings in the interval; 0 for ``top``.
        weight: the interval's share of all firings; NaN for ``top``.

    Returns:
        - ``tokens``: examples with a next token.
        - ``loss_change``: their mean, nats.
        - ``variance``: of that mean, with the correction for a sample of few firings; 0 where all
          firings were measured.
        - ``raised``: share of them whose loss rises.
    """
    measured = changes[~np.isnan(changes)]
    n = len(measured)
    return {
        "interval": interval,
        "tokens": n,
        "loss_change": measured.mean() if n else math.nan,
        "variance": _variance_of_mean(measured, n_firings),
        "raised": (measured > 0).mean() if n else math.nan,
        "weight": weight,
    }


def _variance_of_mean(sample: Float[ndarray, " example"], n_all: int) -> float:
    """Variance of a sample's mean, where the sample is drawn without replacement from ``n_all``.

    With ``n_all`` 0 the sample is not of anything finite. One of several says nothing: NaN.
    """
    n = len(sample)
    if n == n_all:
        return 0.0
    if n < 2:
        return math.nan
    finite_population_correction = 1 - n / n_all if n_all else 1
    return sample.var(ddof=1) / n * finite_population_correction


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
        label); highest F1 first.
    """
    agreement = precision_and_recall(n_both, n_fires, n_label)
    frame = pd.DataFrame(
        {
            "precision": agreement.precision,
            "recall": agreement.recall,
            "f1": agreement.f1,
            "base_rate": n_label / n_tokens,
            "tokens": n_label,
        },
        index=names,
    )
    return frame.sort_values("f1", ascending=False, kind="stable")
