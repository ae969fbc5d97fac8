"""What a scan keeps of each feature, gathered block by block or from the results of other scans.

A feature fires where it is not zero. Features of some SAEs (AbsTopK) can be below zero: such
firings are counted and ranked by their size, and listed with their sign.

Counts are integers, and lists break ties by position. So neither depends on the order in which
blocks come. A firing is kept only as long as it may still end up in a list (``Shortlist``): that
takes 2 percent of the encoder's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

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
    """Running counts, and the firings that may still end up in a list.

    Args:
        d_sae: features of the SAE.
        top_k: strongest firings to keep of each feature; with 0 no lists are kept.
        cofiring_features: features for which to count the tokens that they share with others.
    """

    def __init__(
        self,
        d_sae: int,
        top_k: int,
        cofiring_features: Sequence[int] | ndarray = (),
    ):
        self.d_sae = d_sae
        self.top_k = top_k
        self.n_tokens = 0
        self.count = _zeros(d_sae)
        self.max_activation = np.zeros(d_sae, np.float32)
        self.l0_histogram = _zeros(d_sae + 1)
        self.histogram = _zeros(d_sae * BINS)
        self.total_activation = np.zeros(d_sae)
        self._part_total = np.zeros(d_sae)
        self.cofiring_features = np.asarray(cofiring_features, np.int64)
        self.cofiring = _zeros(len(self.cofiring_features), d_sae)
        n_bins = d_sae * BINS if top_k else 0
        self._top = Shortlist(d_sae, top_k)
        self._samples = Shortlist(n_bins, SAMPLES_PER_BIN)

    def add(self, active: Active, places: ndarray) -> None:
        """Take in the features of one block.

        Args:
            active: the features that are not zero, token by token.
            places: int64 ``[token]``: where the block's tokens lie, from ``place_of``.

        Raises:
            ValueError: a feature is NaN or infinite; it says in which rows.
        """
        token, feature, value = _firings(active, places)
        d_sae = self.d_sae
        n_tokens = len(places)
        l0 = np.bincount(token, minlength=n_tokens)
        self.n_tokens += n_tokens
        self.count += np.bincount(feature, minlength=d_sae)
        self.l0_histogram += np.bincount(l0, minlength=d_sae + 1)
        self._part_total += np.bincount(feature, weights=value, minlength=d_sae)
        if len(self.cofiring_features):
            self._add_pairs(token, feature, l0)
        self._add_sizes(token, feature, value, places)

    def _add_sizes(
        self,
        token: ndarray,
        feature: ndarray,
        value: ndarray,
        places: ndarray,
    ) -> None:
        """Take in the sizes of one block's firings, and those that may be listed."""
        size = np.abs(value)
        feature_and_bin = feature * BINS + bin_of(size)
        np.add.at(self.histogram, feature_and_bin, 1)
        np.maximum.at(self.max_activation, feature, size)
        if self.top_k:
            # a token is hashed once, for all features that fire on it
            score = hash_of(places)[token]
            place = places[token]
            self._add_to_top(feature, value, place)
            samples = Firings(feature_and_bin, score, value, place)
            self._samples.add(samples)

    def _add_to_top(self, feature: ndarray, value: ndarray, place: ndarray) -> None:
        firings = Firings(
            group=feature,
            score=weakness_of(np.abs(value)),
            value=value,
            place=place,
        )
        self._top.add(firings)

    def _add_pairs(self, token: ndarray, feature: ndarray, l0: ndarray) -> None:
        """Count, for each firing of a chosen feature, every feature that fires on its token."""
        # the row of ``cofiring`` of each feature; -1 if it was not chosen
        row_of_feature = np.full(self.d_sae, -1)
        n_chosen = len(self.cofiring_features)
        row_of_feature[self.cofiring_features] = np.arange(n_chosen)
        row = row_of_feature[feature]
        chosen = row >= 0
        row = row[chosen]
        token = token[chosen]
        # firings lie token by token, so the partners of a firing are the l0 firings of its token
        n_partners = l0[token]
        first_of_token = np.cumsum(l0) - l0
        # one entry per pair: the chosen firing, and which of its partners it is (0, 1, 2, ...)
        firing = np.repeat(np.arange(len(row)), n_partners)
        rank = rank_in_group(firing)
        partner = first_of_token[token[firing]] + rank
        pairs = row[firing], feature[partner]
        np.add.at(self.cofiring, pairs, 1)

    def end_part(self) -> None:
        """Add the part's sums to the total.

        A float64 sum depends on its order. So each part is summed by itself, and the sums of the
        parts are added in their order.
        """
        self.total_activation += self._part_total
        self._part_total[:] = 0

    def absorb(self, part: Mapping[str, Any]) -> None:
        """Take in what another collector gathered from other tokens.

        Args:
            part: the other's ``arrays``, or the fields of a ``FeatureScan``. Its ``top_k`` and
                ``cofiring_features`` must be the same.
        """
        other = {name: np.asarray(value) for name, value in part.items()}
        self.n_tokens += int(part["n_tokens"])
        self.count += other["count"]
        self.l0_histogram += other["l0_histogram"]
        self.histogram += other["histogram"].ravel()
        self.cofiring += other["cofiring"]
        self.total_activation += other["total_activation"]
        self.max_activation = np.maximum(self.max_activation, other["max_activation"])

        positions = other["top_positions"]
        filled = positions[..., 0] >= 0
        feature, _ = np.nonzero(filled)
        place = place_of(*positions[filled].T)
        self._add_to_top(feature, other["top_values"][filled], place)

        value = other["sample_value"]
        place = place_of(*other["sample_position"].T)
        samples = Firings(
            group=other["sample_feature"] * BINS + bin_of(np.abs(value)),
            score=hash_of(place),
            value=value,
            place=place,
        )
        self._samples.add(samples)

    def arrays(self) -> dict[str, int | ndarray]:
        """All that was gathered, as the fields of a ``FeatureScan``."""
        top = self._top.best()
        rank = rank_in_group(top.group)
        top_values = np.zeros((self.d_sae, self.top_k), np.float32)
        top_values[top.group, rank] = top.value
        top_positions = np.full((self.d_sae, self.top_k, 2), -1, np.int64)
        top_positions[top.group, rank] = row_and_pos(top.place)
        samples = self._samples.best()
        return {
            "n_tokens": self.n_tokens,
            "count": self.count.copy(),
            "max_activation": self.max_activation.copy(),
            "l0_histogram": self.l0_histogram.copy(),
            "histogram": self.histogram.reshape(self.d_sae, BINS).copy(),
            "top_values": top_values,
            "top_positions": top_positions,
            "sample_feature": samples.group // BINS,
            "sample_value": samples.value,
            "sample_position": row_and_pos(samples.place),
            "total_activation": self.total_activation.copy(),
            "cofiring_features": self.cofiring_features.copy(),
            "cofiring": self.cofiring.copy(),
        }


def _zeros(*shape: int) -> ndarray:
    return np.zeros(shape, np.int64)


def _firings(
    active: Active,
    places: ndarray,
) -> tuple[ndarray, ndarray, ndarray]:
    """Token, feature and value of each firing: whatever is not zero."""
    token = active.token.cpu().numpy()
    feature = active.feature.cpu().numpy()
    value = active.value.float().cpu().numpy()
    if not np.isfinite(value).all():
        rows = row_and_pos(places[token])[:, 0].tolist()
        what = "feature activations (those that are not zero)"
        check_finite(active.value, what, rows=rows)
    return token, feature, value
