"""Whether the numbers of a scan can be of one scan; a file or a worker may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from saework.analysis.scanning.firings import BINS

INTEGERS = (
    *("count", "l0_histogram", "histogram", "top_positions", "sample_feature"),
    *("sample_position", "cofiring_features", "cofiring"),
)
FLOATS = ("max_activation", "top_values", "sample_value", "total_activation")


def check_numbers(scanned: Mapping[str, Any]) -> None:
    """Refuse numbers that contradict each other.

    Args:
        scanned: a collector's ``arrays``, or the fields of a ``FeatureScan``.

    Raises: ValueError, which says what does not fit.
    """
    arrays = {name: np.asarray(scanned[name]) for name in (*INTEGERS, *FLOATS)}
    _check_kinds(arrays)
    n_tokens = scanned["n_tokens"]
    if not isinstance(n_tokens, (int, np.integer)) or n_tokens < 0:
        raise ValueError(f"it counts {n_tokens!r} tokens")
    count, histogram = arrays["count"], arrays["histogram"]
    l0_histogram = arrays["l0_histogram"]
    n_firings = int(count.sum())
    l0s = np.arange(len(l0_histogram))
    top_row, top_pos = np.moveaxis(arrays["top_positions"], -1, 0)
    filled = top_row >= 0
    n_listed = np.minimum(count, filled.shape[1])
    total = arrays["total_activation"]
    fits = {
        "counts outside of 0 to the number of tokens": ((count >= 0) & (count <= n_tokens)).all(),
        "a histogram whose sums are not the counts": (histogram.sum(1) == count).all(),
        "an L0 histogram whose sum is not the number of tokens": l0_histogram.sum() == n_tokens,
        "an L0 histogram whose mean is not that of the counts": (l0_histogram * l0s).sum()
        == n_firings,
        "counts below zero": min(histogram.min(initial=0), l0_histogram.min(initial=0)) >= 0,
        "a largest activation of what never fired, or none of what did": (
            (arrays["max_activation"] > 0) == (count > 0)
        ).all(),
        "positions of no token": (filled == (top_pos >= 0)).all()
        and min(top_row.min(initial=0), top_pos.min(initial=0)) >= -1
        and arrays["sample_position"].min(initial=0) >= 0,
        "another number of top activations than of firings": (filled.sum(1) == n_listed).all(),
        "top activations that are zero, or larger than the largest": (
            (np.abs(arrays["top_values"]) > 0) == filled
        ).all()
        and (np.abs(arrays["top_values"]) <= arrays["max_activation"][:, None]).all(),
        "top activations below the largest": (
            filled.shape[1] == 0
            or (np.abs(arrays["top_values"][:, 0]) == arrays["max_activation"]).all()
        ),
        "samples of no feature": _are_features(arrays["sample_feature"], len(count)),
        "co-firing of no feature": _are_features(arrays["cofiring_features"], len(count)),
        "co-firing above the counts": (
            (arrays["cofiring"] >= 0) & (arrays["cofiring"] <= count)
        ).all(),
        "sums that are not finite": np.isnan(total).all() or np.isfinite(total).all(),
    }
    wrong = [what for what, holds in fits.items() if not holds]
    if wrong:
        raise ValueError(f"its numbers contradict each other: {wrong[0]}")


def check_rows(rows: Any, scanned: Mapping[str, Any]) -> None:
    """Refuse row ranges that are none, or that the positions do not lie in.

    Args:
        rows: ``(first, past the last)`` of each, in order, apart.
        scanned: the fields of a ``FeatureScan``; ``check_numbers`` must have passed.

    Raises: ValueError, which says what does not fit.
    """
    ends = [end for pair in rows for end in pair]
    is_whole = all(type(end) is int for end in ends)
    if not ends or not is_whole or ends[0] < 0:
        raise ValueError(f"its rows are {rows!r}")
    if any(first >= end for first, end in rows) or any(
        end > first for (_, end), (first, _) in pairwise(rows)
    ):
        raise ValueError(f"its rows are {rows!r}")
    top_row = np.asarray(scanned["top_positions"])[..., 0].ravel()
    sample_row = np.asarray(scanned["sample_position"])[:, 0]
    used = np.unique(np.concatenate([top_row[top_row >= 0], sample_row]))
    # an odd number of borders lie at or below a row that is inside of a range
    if (np.searchsorted(ends, used, side="right") % 2 == 0).any():
        raise ValueError(f"its rows are {rows!r}, and it has examples in others")
    digests = np.asarray(scanned["row_digests"])
    n_digests = sum(end - first for first, end in rows) if len(used) or len(digests) else 0
    if digests.dtype != np.int64 or digests.shape != (n_digests,):
        raise ValueError(f"row_digests is {digests.dtype} of shape {digests.shape}")


def _check_kinds(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises: ValueError for another kind of number, another shape, NaN or infinity."""
    d_sae, top_k = len(arrays["count"].ravel()), arrays["top_values"].shape[-1]
    n_samples, n_chosen = arrays["sample_feature"].size, arrays["cofiring_features"].size
    shapes = {
        "count": (d_sae,),
        "max_activation": (d_sae,),
        "total_activation": (d_sae,),
        "l0_histogram": (d_sae + 1,),
        "histogram": (d_sae, BINS),
        "top_values": (d_sae, top_k),
        "top_positions": (d_sae, top_k, 2),
        "sample_feature": (n_samples,),
        "sample_value": (n_samples,),
        "sample_position": (n_samples, 2),
        "cofiring_features": (n_chosen,),
        "cofiring": (n_chosen, d_sae),
    }
    for name, array in arrays.items():
        kind = "i" if name in INTEGERS else "f"
        if array.dtype.kind != kind or array.shape != shapes[name]:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        if kind == "f" and name != "total_activation" and not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinity")


def _are_features(numbers: np.ndarray, d_sae: int) -> bool:
    return bool(((numbers >= 0) & (numbers < d_sae)).all())
