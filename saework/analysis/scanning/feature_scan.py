"""What a scan found of each feature: counts, histograms, the strongest activations; to read, merge and keep as a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import BIN_EDGES
from saework.core.arguments import check_feature, check_positive
from saework.core.errors import WeightsError
from saework.core.formulas import rate_bound
from saework.core.tokens import token_df

_ARRAYS = ("count", "max_activation", "l0_histogram", "histogram", "top_values", "top_positions")
_SAMPLES = ("sample_feature", "sample_value", "sample_position")
_COUNTS = ("histogram", "l0_histogram", "cofiring")  # int32 in the file where that is enough
_LATER = (
    "total_activation",
    "cofiring_features",
    "cofiring",
)  # not in files written before they were kept


@dataclass(frozen=True)
class FeatureScan:
    """What one pass over tokens found of each feature. ``a + b`` merges scans of different rows."""

    n_tokens: int
    """Tokens counted."""
    count: torch.Tensor
    """int64 ``[d_sae]``: tokens on which the feature is above zero."""
    max_activation: torch.Tensor
    """float32 ``[d_sae]``: 0 where it never fired."""
    l0_histogram: torch.Tensor
    """int64 ``[d_sae + 1]``: tokens by the number of features that fire on them."""
    histogram: torch.Tensor
    """int64 ``[d_sae, bins]``: firings by activation."""
    top_values: torch.Tensor
    """float32 ``[d_sae, top_k]``: the highest activations, ties by row and position; 0 where unfilled."""
    top_positions: torch.Tensor
    """int64 ``[d_sae, top_k, 2]``: row and position; -1 where unfilled."""
    sample_feature: torch.Tensor
    """int64 ``[sample]``: up to 4 firings of each feature in each bin, chosen by a hash of row and position."""
    sample_value: torch.Tensor
    """float32 ``[sample]``."""
    sample_position: torch.Tensor
    """int64 ``[sample, 2]``."""
    total_activation: torch.Tensor
    """float64 ``[d_sae]``: sum over the tokens; NaN in files written before it was kept."""
    cofiring_features: torch.Tensor
    """int64 ``[c]``: the features chosen for ``cofiring``."""
    cofiring: torch.Tensor
    """int64 ``[c, d_sae]``: tokens on which both fire; the feature's own count on itself."""
    rows: tuple[tuple[int, int], ...]
    """Row ranges that were scanned, ``(first, past the last)``."""
    fingerprint: str
    """Of the SAE and the hook: scans of different SAEs do not merge."""

    @property
    def bin_edges(self) -> torch.Tensor:
        """``[bins + 1]``: from 0 over 1e-3 to 1e4 (four bins a decade) to infinity."""
        return torch.from_numpy(BIN_EDGES)

    @property
    def firing_rate(self) -> torch.Tensor:
        """float64 ``[d_sae]``: share of the tokens on which the feature fires."""
        return self.count.double() / self.n_tokens

    @property
    def mean_l0(self) -> float:
        """Features that fire on a token, on average."""
        return int(self.count.sum()) / self.n_tokens

    @property
    def dead(self) -> torch.Tensor:
        """bool ``[d_sae]``: did not fire in these tokens, which bounds the rate by ``rate_bound``."""
        return self.count == 0

    @property
    def rate_bound(self) -> float:
        """The rate of a dead feature is below this, at 95%: about ``3 / n_tokens``."""
        return rate_bound(self.n_tokens)

    def top_examples(
        self, feature: int, tokens, tokenizer, n: int = 20, interval=None
    ) -> pd.DataFrame:
        """Where the feature fires most strongly, in context; a ``token_df`` with the activation.

        Args:
            tokens: the rows that were scanned, ``[batch, pos]``, row 0 first.
            n: examples at most.
            interval: ``(low, high)``: instead of the strongest, examples with ``low <= activation < high``,
                from up to 4 kept of each bin, so that the middle of the range is read too.

        Raises: ValueError if the scan kept no positions, or the rows are not all given.
        """
        feature = check_feature(feature, len(self.count))
        check_positive(n, "n")
        if self.top_values.shape[1] == 0:
            raise ValueError(
                "this scan kept no positions (top_k=0, or a file that holds counts only); scan the tokens that you want examples of"
            )
        if interval is None:
            filled = self.top_positions[feature, :, 0] >= 0
            positions, values = (
                self.top_positions[feature][filled][:n],
                self.top_values[feature][filled][:n],
            )
        else:
            positions, values = self._samples_between(feature, interval, n)
        return _in_context(positions, values, tokens, tokenizer)

    def _samples_between(self, feature: int, interval, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = interval
        if not low < high:
            raise ValueError(f"interval is {interval}; give (low, high) with low below high")
        pick = (
            (self.sample_feature == feature)
            & (self.sample_value >= low)
            & (self.sample_value < high)
        )
        positions, values = self.sample_position[pick], self.sample_value[pick]
        order = np.lexsort((*positions.numpy().T[::-1], -values.numpy()))
        spread = (
            order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))]
            if len(order)
            else order
        )
        return positions[spread], values[spread]

    def __add__(self, other: FeatureScan) -> FeatureScan:
        if not isinstance(other, FeatureScan):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                "these scans are of different SAEs or hooks; merge scans of one SAE at one hook"
            )
        if self.top_values.shape[1] != other.top_values.shape[1]:
            raise ValueError(
                f"top_k is {self.top_values.shape[1]} in one scan and {other.top_values.shape[1]} in the other; scan both with one top_k"
            )
        rows = sorted(self.rows + other.rows)
        for (_, end), (start, _) in zip(rows, rows[1:]):
            if start < end:
                raise ValueError(
                    f"both scans hold row {start}; give each part its own first_row=, so that no row counts twice"
                )
        if not torch.equal(self.cofiring_features, other.cofiring_features):
            raise ValueError(
                "cofiring= chose other features in one scan than in the other; scan both with the same"
            )
        collector = Collector(len(self.count), self.top_values.shape[1], self.cofiring_features)
        collector.absorb(vars(self))
        collector.absorb(vars(other))
        return FeatureScan.of(collector.arrays(), _joined(rows), self.fingerprint)

    @classmethod
    def of(
        cls,
        found: Mapping[str, int | np.ndarray],
        rows: tuple[tuple[int, int], ...],
        fingerprint: str,
    ) -> FeatureScan:
        """From what a collector found."""
        tensors = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in found.items()
        }
        return cls(**tensors, rows=rows, fingerprint=fingerprint)

    def without_positions(self) -> FeatureScan:
        """Counts, sums and histograms only: nothing of it says what the text was."""
        empty = torch.zeros(0)
        return replace(
            self,
            top_values=self.top_values[:, :0],
            top_positions=self.top_positions[:, :0],
            sample_feature=empty.long(),
            sample_value=empty,
            sample_position=torch.zeros(0, 2).long(),
        )

    def save(self, path: str | Path, *, note: str = "") -> Path:
        """Write the scan as one safetensors file, whole or not at all. ``note`` is kept in it.

        Raises: OSError if it cannot be written; what was there before stays.
        """
        from safetensors.torch import save

        path = Path(path)
        arrays = {name: getattr(self, name) for name in (*_ARRAYS, *_SAMPLES, *_LATER)}
        arrays |= {
            name: arrays[name].int()
            for name in _COUNTS
            if arrays[name].numel() and int(arrays[name].max()) < 2**31
        }
        arrays = {name: array.contiguous() for name, array in arrays.items()}
        metadata = {
            "n_tokens": str(self.n_tokens),
            "rows": json.dumps(self.rows),
            "fingerprint": self.fingerprint,
            "note": note,
        }
        partial = path.with_name(path.name + ".partial")
        try:
            with open(partial, "wb") as file:
                file.write(save(arrays, metadata=metadata | {"digest": _digest(arrays)}))
                file.flush()
                os.fsync(file.fileno())
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> FeatureScan:
        """Read what ``save`` wrote. Raises: WeightsError if the file is something else, or damaged."""
        return cls.load_with_note(path)[0]

    @classmethod
    def load_with_note(cls, path: str | Path) -> tuple[FeatureScan, str]:
        """The scan, and the note that ``save`` was given; raises as ``load`` does."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                arrays, metadata = (
                    {name: file.get_tensor(name) for name in file.keys()},
                    file.metadata() or {},
                )
            if metadata.get("digest", digest := _digest(arrays)) != digest:
                raise ValueError("its numbers are not those that were written")
            d_sae = len(arrays["count"])
            unknown = {"total_activation": torch.full((d_sae,), torch.nan, dtype=torch.float64)}
            unknown |= {
                "cofiring_features": torch.zeros(0).long(),
                "cofiring": torch.zeros(0, d_sae).long(),
            }
            arrays = unknown | arrays
            arrays |= {name: arrays[name].long() for name in _COUNTS}
            rows = tuple(tuple(pair) for pair in json.loads(metadata["rows"]))
            scan = cls(
                **arrays,
                n_tokens=int(metadata["n_tokens"]),
                rows=rows,
                fingerprint=metadata["fingerprint"],
            )
            return scan, metadata.get("note", "")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path} is not a feature scan, or is damaged ({error}); scan again"
            ) from error

    def __repr__(self) -> str:
        d_sae = len(self.count)
        return (
            f"FeatureScan({self.n_tokens:,} tokens, {d_sae:,} features: mean L0 {self.mean_l0:.3g}, "
            f"{int(self.dead.sum()):,} did not fire (rate below {self.rate_bound:.2g} at 95%))"
        )


def _in_context(positions: torch.Tensor, values: torch.Tensor, tokens, tokenizer) -> pd.DataFrame:
    tokens = torch.as_tensor(tokens)
    if len(positions) and int(positions[:, 0].max()) >= len(tokens):
        raise ValueError(
            f"an example lies in row {int(positions[:, 0].max())}, but only {len(tokens)} rows were given; give the rows that were scanned"
        )
    if len(positions) and int(positions[:, 1].max()) >= tokens.shape[1]:
        raise ValueError(
            f"an example lies at position {int(positions[:, 1].max())}, but rows are {tokens.shape[1]} tokens long; give the rows that were scanned"
        )
    rows = positions[:, 0].unique()
    frame = token_df(tokens[rows] if len(rows) else tokens[:1], tokenizer)
    n_pos = tokens.shape[1]
    picked = torch.searchsorted(rows, positions[:, 0].contiguous()) * n_pos + positions[:, 1]
    examples = frame.iloc[picked.numpy()].reset_index(drop=True)
    examples["batch"] = positions[:, 0].numpy()
    examples["label"] = [f"{b}/{p}" for b, p in zip(examples["batch"], examples["pos"])]
    return examples.assign(activation=values.numpy())


def _joined(rows: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined = [rows[0]]
    for start, end in rows[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _digest(arrays: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {tuple(arrays[name].shape)}".encode())
        digest.update(arrays[name].contiguous().numpy())
    return digest.hexdigest()
