"""What a scan found of each feature: to read, to merge, and to keep as a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from saework.analysis.scanning import scan_file
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import BIN_EDGES
from saework.analysis.scanning.row_digests import joined, row_digests
from saework.core.argument_kinds import checked, is_number
from saework.core.arguments import check_feature, check_positive, check_tokens
from saework.core.errors import in_words
from saework.core.formulas import rate_bound
from saework.core.protocols import SparseAutoencoder, Tokenizer, WorkbookParts
from saework.core.token_tables import token_df
from saework.engine.digests import sae_digest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int, Int64
    from torch import Tensor


@dataclass(frozen=True)
class FeatureScan:
    """What one pass over tokens found of each feature.

    ``a + b`` merges scans of different rows, and ``sum(scans)`` several.

    A feature fires where it is not zero. A few SAEs have activations below zero (AbsTopK): their
    firings are counted and ranked by size, and listed with their sign.
    """

    n_tokens: int
    """Tokens counted."""
    count: Int64[Tensor, " d_sae"]
    """Tokens on which the feature fires, which means that it is not zero."""
    max_activation: Float32[Tensor, " d_sae"]
    """The largest size of an activation; 0 where the feature did not fire."""
    l0_histogram: Int64[Tensor, " d_sae+1"]
    """Tokens by the number of features that fire on them."""
    histogram: Int64[Tensor, "d_sae bins"]
    """Firings by the size of the activation; ``bin_edges`` are the borders."""
    top_values: Float32[Tensor, "d_sae top_k"]
    """The activations of largest size, ties by row and position; 0 where unfilled."""
    top_positions: Int64[Tensor, "d_sae top_k 2"]
    """Their rows and positions; -1 where unfilled."""
    sample_feature: Int64[Tensor, " sample"]
    """The features of a random sample: up to 4 firings of each feature in each bin."""
    sample_value: Float32[Tensor, " sample"]
    """The sample's activations."""
    sample_position: Int64[Tensor, "sample 2"]
    """The sample's rows and positions. Their hash decides what is in it: each scan draws alike."""
    total_activation: Float64[Tensor, " d_sae"]
    """Sum over the tokens; NaN in the scans recorded for the minis, which did not keep it."""
    cofiring_features: Int64[Tensor, " chosen"]
    """The features chosen for ``cofiring``."""
    cofiring: Int64[Tensor, "chosen d_sae"]
    """Tokens on which both fire; the feature's own count on itself."""
    rows: tuple[tuple[int, int], ...]
    """Row ranges that were scanned, ``(first, past the last)``."""
    row_digests: Int64[Tensor, " rows"]
    """A number for each of these rows, which other tokens do not have; empty without positions."""
    fingerprint: str
    """``sae_digest`` of the SAE and the hook: scans of different SAEs do not merge."""
    n_left_out: int | None = None
    """Tokens of these rows that ``mask=`` left out; None in a file that does not say."""

    @property
    def bin_edges(self) -> Float64[Tensor, " bins+1"]:
        """From 0 over 1e-3 to 1e4 (four bins a decade) to infinity."""
        return torch.from_numpy(BIN_EDGES)

    @property
    def firing_rate(self) -> Float64[Tensor, " d_sae"]:
        """Share of the tokens on which the feature fires."""
        return self.count.double() / self.n_tokens

    @property
    def mean_l0(self) -> float:
        """Features that fire on a token, on average."""
        return int(self.count.sum()) / self.n_tokens

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Whether the feature did not fire in these tokens: its rate is below ``rate_bound``."""
        return self.count == 0

    @property
    def rate_bound(self) -> float:
        """The rate of a dead feature is below this, at 95%: about ``3 / n_tokens``."""
        return rate_bound(self.n_tokens)

    @property
    def top_k(self) -> int:
        """Strongest activations kept of each feature."""
        return self.top_values.shape[1]

    @checked
    def top_examples(
        self,
        feature: int,
        tokens: Int[Tensor, "batch pos"],
        tokenizer: Tokenizer,
        n: int = 20,
        interval: tuple[float, float] | None = None,
    ) -> pd.DataFrame:
        """Where the feature fires most strongly, in context: a ``token_df`` with the activation.

        Args:
            feature: its number.
            tokens: the rows that were scanned, row 0 first.
            tokenizer: the model's.
            n: examples at most.
            interval: ``(low, high)``: instead of the strongest, examples with
                ``low <= size < high``, from the sample that was kept of each bin, so that the
                middle of the range is read too.

        Raises:
            ValueError: the scan kept no positions, or other rows are given than it read.
        """
        feature = check_feature(feature, len(self.count))
        check_positive(n, "n")
        if self.top_k == 0:
            raise ValueError(
                "this scan kept no positions (top_k=0, or a file that holds counts only); "
                "scan the tokens that you want examples of"
            )
        if interval is not None:
            positions, values = self._samples_between(feature, interval, n)
        else:
            positions = self.top_positions[feature, :n]
            values = self.top_values[feature, :n]
            filled = positions[:, 0] >= 0
            positions, values = positions[filled], values[filled]
        tokens = check_tokens(tokens)
        self.check_rows(tokens, positions[:, 0].unique())
        return _in_context(positions, values, tokens, tokenizer)

    def check_rows(
        self, tokens: Int[Tensor, "batch pos"], rows: Int[Tensor, " some"] | None = None
    ) -> None:
        """Check that rows hold the tokens that were scanned.

        Args:
            tokens: the rows that were scanned, row 0 first.
            rows: the numbers of those to check; all that were scanned by default.

        Raises:
            ValueError: a row is not there, or holds other tokens.
        """
        if len(self.row_digests) == 0:  # it kept no positions, so none will be looked up
            return
        scanned = torch.cat([torch.arange(first, end) for first, end in self.rows])
        rows = scanned if rows is None else rows.sort().values
        tokens = check_tokens(tokens)
        last_row = int(rows.max()) if len(rows) else 0
        if last_row >= len(tokens):
            raise ValueError(
                f"this scan reaches to row {last_row}, but there are {len(tokens)} rows; "
                "give the rows that were scanned, row 0 first"
            )
        recorded = self.row_digests[torch.searchsorted(scanned, rows)]
        differ = row_digests(tokens[rows]) != recorded
        if differ.any():
            raise ValueError(
                f"row {int(rows[differ][0])} holds other tokens than those that were scanned; "
                "give the rows that were scanned, or scan these"
            )

    def _samples_between(
        self, feature: int, interval: tuple[float, float], n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions and values of up to n samples, spread over the interval, strongest first."""
        if not _is_pair(interval) or not interval[0] < interval[1]:
            raise ValueError(
                f"interval is {in_words(interval)}; give (low, high) with low below high"
            )
        low, high = interval
        own = self.sample_feature == feature
        positions = self.sample_position[own]
        values = self.sample_value[own]
        sizes = values.abs()
        inside = (sizes >= low) & (sizes < high)
        positions = positions[inside]
        values = values[inside]
        row, pos = positions.numpy().T
        # lexsort takes the key that counts most last: the size, then the row, then the position
        order = np.lexsort((pos, row, -values.abs().numpy()))
        if len(order) > n:
            # evenly spaced, the strongest and (if n > 1) the weakest among them
            ranks = np.linspace(0, len(order) - 1, n)
            order = order[ranks.round().astype(int)]
        return positions[order], values[order]

    def __add__(self, other: FeatureScan) -> FeatureScan:
        if not isinstance(other, FeatureScan):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                "these scans are of different SAEs or hooks; merge scans of one SAE at one hook, "
                "with the same weights, dtype and settings"
            )
        if self.top_k != other.top_k:
            raise ValueError(
                f"top_k is {self.top_k} in one scan and {other.top_k} in the other; "
                "scan both with one top_k"
            )
        rows = sorted(self.rows + other.rows)
        for (_, end), (start, _) in zip(rows, rows[1:]):
            if start < end:
                raise ValueError(
                    f"both scans hold row {start}; give each part its own first_row=, "
                    "so that no row counts twice"
                )
        if not torch.equal(self.cofiring_features, other.cofiring_features):
            raise ValueError(
                "cofiring= chose other features in one scan than in the other; "
                "scan both with the same"
            )
        self._warn_of_same_rows(other)
        collector = Collector(len(self.count), self.top_k, self.cofiring_features.numpy())
        collector.absorb(vars(self))
        collector.absorb(vars(other))
        digests = joined([(self.rows, self.row_digests), (other.rows, other.row_digests)])
        left_out = None
        if self.n_left_out is not None and other.n_left_out is not None:
            left_out = self.n_left_out + other.n_left_out
        return FeatureScan.of(
            collector.arrays(), _joined(rows), digests, self.fingerprint, n_left_out=left_out
        )

    def _warn_of_same_rows(self, other: FeatureScan) -> None:
        """Warn if all rows of one scan are in the other under other numbers."""
        own, others = self.row_digests, other.row_digests
        if min(len(own), len(others)) and (
            torch.isin(own, others).all() or torch.isin(others, own).all()
        ):
            n_rows = min(len(own), len(others))
            warnings.warn(
                f"all {n_rows} rows of one scan hold the same tokens as rows of the other, so they "
                "count twice; is first_row= of another text?",
                stacklevel=3,
            )

    def __radd__(self, other: object) -> FeatureScan:
        # sum() begins with 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def is_of(self, sae: SparseAutoencoder, hook: str) -> bool:
        """Whether this SAE was scanned, with these weights, dtype and settings, at this hook.

        Time: reads the whole SAE, about 1 GB/s for each thread of torch.
        """
        return self.fingerprint == sae_digest(sae, hook)

    def check_is_of(self, workbook: WorkbookParts) -> None:
        """Check that the workbook's SAE, hook and tokens are those that were scanned.

        Raises:
            ValueError: they are others; the message says which.
        """
        d_sae = workbook.sae.W_dec.shape[0]
        if len(self.count) != d_sae:
            raise ValueError(
                f"the scan has {len(self.count)} features and this SAE {d_sae}; "
                "give a scan of this SAE, or leave scan= out"
            )
        if not self.is_of(workbook.sae, workbook.hook):
            raise ValueError(
                "this scan is of another SAE or hook than the workbook's (weights, dtype and "
                "settings count); make it with scan(workbook), or leave scan= out"
            )
        self.check_rows(workbook.tokens)

    @classmethod
    def of(
        cls,
        collected: Mapping[str, int | np.ndarray],
        rows: tuple[tuple[int, int], ...],
        digests: Int64[Tensor, " rows"],
        fingerprint: str,
        *,
        n_left_out: int | None = None,
    ) -> FeatureScan:
        """From what a collector gathered in these rows."""
        values: dict[str, Any] = {}
        for name, value in collected.items():
            values[name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        return cls(
            **values,
            rows=rows,
            row_digests=digests,
            fingerprint=fingerprint,
            n_left_out=n_left_out,
        )

    def without_positions(self) -> FeatureScan:
        """Counts, sums and histograms only: nothing of it says what the text was."""
        return replace(
            self,
            top_values=self.top_values[:, :0],
            top_positions=self.top_positions[:, :0],
            sample_feature=torch.zeros(0, dtype=torch.int64),
            sample_value=torch.zeros(0),
            sample_position=torch.zeros(0, 2, dtype=torch.int64),
            row_digests=torch.zeros(0, dtype=torch.int64),
        )

    @checked
    def save(self, path: str | Path, *, note: str = "") -> Path:
        """Write the scan as one safetensors file, whole or not at all.

        Args:
            path: the file; what was there before is replaced.
            note: words to keep in it, which ``load_with_note`` gives back.

        Raises:
            OSError: it cannot be written; what was there before stays.
        """
        return scan_file.write(path, vars(self), note)

    @classmethod
    def load(cls, path: str | Path) -> FeatureScan:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: the file is something else, damaged, or of an older saework, which did
                not record all of the SAE: then scan again.
        """
        return cls.load_with_note(path)[0]

    @classmethod
    def load_with_note(cls, path: str | Path) -> tuple[FeatureScan, str]:
        """The scan, and the note that ``save`` was given; raises as ``load`` does."""
        values, note = scan_file.read(path)
        scan = cls(**values)
        return scan, note

    def __repr__(self) -> str:
        d_sae = len(self.count)
        left_out = ""
        if self.n_left_out is not None:
            left_out = " (all of their rows, BOS too)"
            if self.n_left_out:
                left_out = f" ({self.n_left_out:,} left out by mask=)"
        return (
            f"FeatureScan({self.n_tokens:,} tokens{left_out}, {d_sae:,} features: "
            f"mean L0 {self.mean_l0:.3g}, {int(self.dead.sum()):,} did not fire "
            f"(rate below {self.rate_bound:.2g} at 95%))"
        )


def _is_pair(interval: Any) -> bool:
    """Whether it is two numbers."""
    return isinstance(interval, (tuple, list)) and list(map(is_number, interval)) == [True] * 2


def _in_context(
    positions: torch.Tensor,
    values: torch.Tensor,
    tokens: Int[Tensor, "batch pos"],
    tokenizer: Tokenizer,
) -> pd.DataFrame:
    """A ``token_df`` of the positions ``[example, (row, pos)]``, with their activations."""
    n_pos = tokens.shape[1]
    row, pos = positions.numpy().T
    # only rows with an example are decoded; the table has one line for each of their tokens
    rows = np.unique(row)
    table = token_df(tokens[rows] if len(rows) else tokens[:1], tokenizer)
    line = np.searchsorted(rows, row) * n_pos + pos
    examples = table.iloc[line].reset_index(drop=True)
    examples["batch"] = row
    examples["label"] = [f"{b}/{p}" for b, p in zip(row, pos)]
    examples["activation"] = values.numpy()
    return examples


def _joined(rows: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted ranges, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in rows:
        if joined and joined[-1][1] == start:
            start, _ = joined.pop()
        joined.append((start, end))
    return tuple(joined)
