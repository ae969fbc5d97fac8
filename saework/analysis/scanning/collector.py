"""What a scan keeps of each feature, gathered block by block, or from the results of other scans.

Counts are integers and lists break ties by position, so neither depends on the order in which blocks come. Of the
firings only those are kept that may still end up in a list (``Shortlist``): 2 percent on top of the encoding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from saework.analysis.scanning.firings import (
    BINS,
    SAMPLES_PER_BIN,
    Firings,
    Shortlist,
    bin_of,
    hash_of,
    place_of,
    rank_in_group,
    row_and_pos,
    weakness_of,
)
from saework.core.arguments import check_finite
from saework.engine.encoder import Active


class Collector:
    """Running counts, and the firings that may still end up in a list."""

    def __init__(self, d_sae: int, top_k: int, cofiring_features=()):
        self.d_sae, self.top_k, self.n_tokens = d_sae, top_k, 0
        self.count = np.zeros(d_sae, dtype=np.int64)
        self.max_activation = np.zeros(d_sae, dtype=np.float32)
        self.l0_histogram = np.zeros(d_sae + 1, dtype=np.int64)
        self.histogram = np.zeros(d_sae * BINS, dtype=np.int64)
        self.total_activation = np.zeros(d_sae)
        self._part_total = np.zeros(d_sae)
        self.cofiring_features = np.asarray(cofiring_features, dtype=np.int64)
        self.cofiring = np.zeros((len(self.cofiring_features), d_sae), dtype=np.int64)
        self._top = Shortlist(d_sae, top_k)
        self._samples = Shortlist(d_sae * BINS if top_k else 0, SAMPLES_PER_BIN)

    def add(self, active: Active, places: np.ndarray) -> None:
        """Take in the features of one block, whose tokens lie at ``places`` (as ``place_of`` gives them), in that order.

        Raises: ValueError, which says the rows, if a feature is NaN or infinite.
        """
        token, feature, value = (
            active.token.cpu().numpy(),
            active.feature.cpu().numpy(),
            active.value.float().cpu().numpy(),
        )
        if not np.isfinite(value).all():
            check_finite(
                active.value,
                "feature activations (those that are not zero)",
                rows=row_and_pos(places[token])[:, 0],
            )
        if (
            value < 0
        ).any():  # of SAEs whose features have signs, only what is above zero counts as firing
            token, feature, value = (each[value > 0] for each in (token, feature, value))
        l0 = np.bincount(token, minlength=len(places))
        self.n_tokens += len(places)
        self.count += np.bincount(feature, minlength=self.d_sae)
        self._part_total += np.bincount(feature, weights=value, minlength=self.d_sae)
        np.maximum.at(self.max_activation, feature, value)
        self.l0_histogram += np.bincount(l0, minlength=self.d_sae + 1)
        group = feature * BINS + bin_of(value)
        np.add.at(self.histogram, group, 1)
        if len(self.cofiring_features):
            self._add_pairs(token, feature, l0)
        if self.top_k:
            place = places[token]
            self._top.add(Firings(feature, weakness_of(value), value, place))
            self._samples.add(Firings(group, hash_of(places)[token], value, place))

    def end_part(self) -> None:
        """Sums in float64 hang on their order: parts of a scan are summed on their own, and then added in their order."""
        self.total_activation += self._part_total
        self._part_total[:] = 0

    def absorb(self, found: Mapping[str, object]) -> None:
        """Take in what another collector found (its ``arrays``), of other tokens, with the same ``top_k``."""
        arrays = {name: np.asarray(value) for name, value in found.items()}
        self.n_tokens += int(found["n_tokens"])
        for name in ("count", "l0_histogram", "cofiring", "total_activation"):
            setattr(self, name, getattr(self, name) + arrays[name])
        self.histogram += arrays["histogram"].ravel()
        np.maximum(self.max_activation, arrays["max_activation"], out=self.max_activation)
        feature, rank = np.nonzero(arrays["top_positions"][..., 0] >= 0)
        value, place = (
            arrays["top_values"][feature, rank],
            place_of(*arrays["top_positions"][feature, rank].T),
        )
        self._top.add(Firings(feature, weakness_of(value), value, place))
        value, place = arrays["sample_value"], place_of(*arrays["sample_position"].T)
        self._samples.add(
            Firings(arrays["sample_feature"] * BINS + bin_of(value), hash_of(place), value, place)
        )

    def arrays(self) -> dict[str, int | np.ndarray]:
        """All that was found, as the fields of a ``FeatureScan``."""
        top, samples = self._top.best(), self._samples.best()
        top_values = np.zeros((self.d_sae, self.top_k), dtype=np.float32)
        top_positions = np.full((self.d_sae, self.top_k, 2), -1, dtype=np.int64)
        rank = rank_in_group(top.group)
        top_values[top.group, rank], top_positions[top.group, rank] = (
            top.value,
            row_and_pos(top.place),
        )
        names = (
            "count",
            "max_activation",
            "l0_histogram",
            "total_activation",
            "cofiring_features",
            "cofiring",
        )
        return {name: getattr(self, name).copy() for name in names} | {
            "n_tokens": self.n_tokens,
            "histogram": self.histogram.reshape(self.d_sae, BINS).copy(),
            "top_values": top_values,
            "top_positions": top_positions,
            "sample_feature": samples.group // BINS,
            "sample_value": samples.value,
            "sample_position": row_and_pos(samples.place),
        }

    def _add_pairs(self, token: np.ndarray, feature: np.ndarray, l0: np.ndarray) -> None:
        """Count, for each firing of a chosen feature, every feature that fires on its token."""
        row_of = np.full(self.d_sae, -1)
        row_of[self.cofiring_features] = np.arange(len(self.cofiring_features))
        chosen = np.flatnonzero(row_of[feature] >= 0)
        first, lengths = (np.cumsum(l0) - l0)[token[chosen]], l0[token[chosen]]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        np.add.at(
            self.cofiring,
            (
                np.repeat(row_of[feature[chosen]], lengths),
                feature[np.repeat(first, lengths) + within],
            ),
            1,
        )
