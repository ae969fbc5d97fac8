"""One streaming pass over many tokens: how often each feature fires, how strongly, and where.

A scan is a map over row blocks and a merge. Counts are integers, sums are float64, and lists break
ties by position, so that neither the cut into batches nor the order of blocks changes a result.
Neither ``[tokens, d_sae]`` nor a logit is ever held for more than one block.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saework import run
from saework._checks import WeightsError, check_feature, check_finite, check_mask, check_positive
from saework.firings import BIN_EDGES, Firings, bin_of, rank_in_group
from saework.metrics import rate_bound
from saework.tokens import token_df

TOKENS_PER_ENCODING = 1024
_ARRAYS = ("count", "max_activation", "l0_histogram", "histogram", "top_values", "top_positions")
_SAMPLES = ("sample_feature", "sample_value", "sample_position")


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
    rows: tuple[tuple[int, int], ...]
    """Row ranges that were scanned, ``(first, past the last)``."""
    fingerprint: str
    """Of the SAE and the hook: scans of different SAEs do not merge."""
    cofiring_features: torch.Tensor | None = None
    """int64 ``[c]``."""
    cofiring: torch.Tensor | None = None
    """int64 ``[c, d_sae]``: tokens on which both fire."""

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

    def top_examples(self, feature: int, tokens, tokenizer, n: int = 20, interval=None) -> pd.DataFrame:
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
            raise ValueError("this scan kept no positions (top_k=0, or a file that holds counts only); scan the tokens that you want examples of")
        if interval is None:
            filled = self.top_positions[feature, :, 0] >= 0
            positions, values = self.top_positions[feature][filled][:n], self.top_values[feature][filled][:n]
        else:
            positions, values = self._samples_between(feature, interval, n)
        return _in_context(positions, values, tokens, tokenizer)

    def _samples_between(self, feature: int, interval, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = interval
        if not low < high:
            raise ValueError(f"interval is {interval}; give (low, high) with low below high")
        pick = (self.sample_feature == feature) & (self.sample_value >= low) & (self.sample_value < high)
        positions, values = self.sample_position[pick], self.sample_value[pick]
        order = np.lexsort((*positions.numpy().T[::-1], -values.numpy()))
        spread = order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))] if len(order) else order
        return positions[spread], values[spread]

    def __add__(self, other: FeatureScan) -> FeatureScan:
        if not isinstance(other, FeatureScan):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            raise ValueError("these scans are of different SAEs or hooks; merge scans of one SAE at one hook")
        if self.top_values.shape[1] != other.top_values.shape[1]:
            raise ValueError(f"top_k is {self.top_values.shape[1]} in one scan and {other.top_values.shape[1]} in the other; scan both with one top_k")
        rows = sorted(self.rows + other.rows)
        for (_, end), (start, _) in zip(rows, rows[1:]):
            if start < end:
                raise ValueError(f"both scans hold row {start}; give each part its own first_row=, so that no row counts twice")
        top_k = self.top_values.shape[1]
        return _assemble(
            self._firings() + other._firings(),
            top_k,
            n_tokens=self.n_tokens + other.n_tokens,
            count=self.count + other.count,
            max_activation=torch.maximum(self.max_activation, other.max_activation),
            l0_histogram=self.l0_histogram + other.l0_histogram,
            histogram=self.histogram + other.histogram,
            rows=_joined(rows),
            fingerprint=self.fingerprint,
        )

    def _firings(self) -> Firings:
        """The firings that the lists and samples hold, some of them twice."""
        filled = self.top_positions[..., 0] >= 0
        listed = Firings(filled.nonzero()[:, 0].numpy(), self.top_values[filled].numpy(), self.top_positions[filled].numpy())
        return listed + Firings(self.sample_feature.numpy(), self.sample_value.numpy(), self.sample_position.numpy())

    def without_positions(self) -> FeatureScan:
        """Counts and histograms only: nothing of it says what the text was."""
        empty = torch.zeros(0)
        return replace(
            self,
            top_values=self.top_values[:, :0],
            top_positions=self.top_positions[:, :0],
            sample_feature=empty.long(),
            sample_value=empty,
            sample_position=torch.zeros(0, 2).long(),
        )

    def save(self, path: str | Path) -> Path:
        """Write the scan as one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        small = {"histogram": _smallest(self.histogram), "l0_histogram": _smallest(self.l0_histogram)}
        arrays = {name: getattr(self, name).contiguous() for name in (*_ARRAYS, *_SAMPLES)} | small
        metadata = {"n_tokens": str(self.n_tokens), "rows": json.dumps(self.rows), "fingerprint": self.fingerprint}
        save_file(arrays, partial, metadata=metadata)
        return partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> FeatureScan:
        """Read what ``save`` wrote. Raises: WeightsError if the file is something else, or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
            counts = {name: arrays[name].long() for name in ("histogram", "l0_histogram")}
            rows = tuple(tuple(pair) for pair in json.loads(metadata["rows"]))
            n_tokens, fingerprint = int(metadata["n_tokens"]), metadata["fingerprint"]
            return cls(**{**arrays, **counts}, n_tokens=n_tokens, rows=rows, fingerprint=fingerprint)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a feature scan, or is damaged ({error}); scan again") from error

    def __repr__(self) -> str:
        d_sae = len(self.count)
        return (
            f"FeatureScan({self.n_tokens:,} tokens, {d_sae:,} features: mean L0 {self.mean_l0:.3g}, "
            f"{int(self.dead.sum()):,} did not fire (rate below {self.rate_bound:.2g} at 95%))"
        )


@torch.no_grad()
def scan(
    model,
    sae,
    tokens,
    *,
    hook: str | None = None,
    top_k: int = 20,
    mask=None,
    first_row: int = 0,
    batch_size: int = 32,
    cofiring=None,
    progress: bool = True,
) -> FeatureScan:
    """Run the model up to the SAE's hook on each row, and gather what each feature does.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        top_k: strongest activations to keep of each feature; 0 keeps counts and histograms only.
        mask: bool ``[batch, pos]``: where False (BOS, padding), the token does not count. By default
            all count, BOS too, as published.
        first_row: number of the first row, for scans of parts that are merged later.
        batch_size: rows run at a time.

    Raises: ValueError for bad tokens, mask or numbers; HookError if hook and SAE do not fit.
    Memory: per feature 31 counts, ``20 * top_k`` bytes of lists and at most 3 kB of samples, whatever the number of tokens.
    Source: ``get_freqs`` of the gelu-1l notebook for the firing rates.
    """
    tokens = run.as_tokens(model, tokens)
    hook = run.hook_of(sae, hook)
    mask = check_mask(mask, tokens.shape)
    check_positive(top_k, "top_k", minimum=0), check_positive(first_row, "first_row", minimum=0)
    n_counted = tokens.numel() if mask is None else int(mask.sum())
    if top_k > n_counted:
        raise ValueError(f"top_k is {top_k}, but there are only {n_counted} tokens to count; give at most that")
    check_positive(batch_size, "batch_size")
    collector = _Collector(sae.W_dec.shape[0], top_k)
    if cofiring is not None:
        wanted = torch.as_tensor(cofiring).long()
        together = torch.zeros(len(wanted), sae.W_dec.shape[0], dtype=torch.int64)
    for first, part in run.progress_bar(list(run.batches_of(tokens, batch_size)), show=progress, desc="scan"):
        x = run.sae_input(model, sae, part, hook)
        counted = torch.ones(part.shape, dtype=torch.bool) if mask is None else mask[first : first + len(part)].cpu()
        row, pos = (places.numpy() for places in counted.nonzero(as_tuple=True))
        places = np.stack([row + first + first_row, pos], axis=1)
        flat = x[counted.to(x.device)]
        for start in range(0, len(flat), TOKENS_PER_ENCODING):
            block = slice(start, start + TOKENS_PER_ENCODING)
            features = sae.encode(flat[block])
            collector.add(features, places[block])
            if cofiring is not None:
                fires = (features > 0).float()
                together += (fires[:, wanted].T @ fires).long()
    extra = {} if cofiring is None else {"cofiring_features": wanted, "cofiring": together}
    return collector.result(**extra, rows=((first_row, first_row + len(tokens)),), fingerprint=fingerprint(sae, hook))


class _Collector:
    """Running counts, and the firings that may still end up in a list."""

    def __init__(self, d_sae: int, top_k: int):
        self.d_sae, self.top_k, self.n_tokens = d_sae, top_k, 0
        self.count = torch.zeros(d_sae, dtype=torch.int64)
        self.max_activation = torch.zeros(d_sae)
        self.l0_histogram = torch.zeros(d_sae + 1, dtype=torch.int64)
        self.histogram = np.zeros((d_sae, len(BIN_EDGES) - 1), dtype=np.int64)
        self.kept = Firings.none()
        self.pending: list[Firings] = []

    def add(self, features: torch.Tensor, places: np.ndarray) -> None:
        """Take in one block: ``features [token, d_sae]`` at ``places [token, (row, pos)]``.

        Only the few features that fire are touched after the first look at the block.
        """
        if not torch.isfinite(features.sum()):
            check_finite(features, "feature activations")
        token, feature = (features > 0).nonzero(as_tuple=True)
        value = features[token, feature].float().cpu()
        token, feature = token.cpu(), feature.cpu()
        self.n_tokens += len(features)
        self.count += torch.bincount(feature, minlength=self.d_sae)
        self.max_activation.scatter_reduce_(0, feature, value, "amax")
        l0 = torch.bincount(token, minlength=len(features))
        self.l0_histogram += torch.bincount(l0, minlength=self.d_sae + 1)
        value, feature = value.numpy(), feature.numpy()
        bins = len(BIN_EDGES) - 1
        self.histogram += np.bincount(feature * bins + bin_of(value), minlength=self.d_sae * bins).reshape(-1, bins)
        if self.top_k:
            self.pending.append(Firings(feature, value, places[token.numpy()]))
            if sum(len(firings.value) for firings in self.pending) > 500_000:
                self._compact()

    def _compact(self) -> None:
        firings = sum(self.pending, self.kept)
        top, samples = firings.strongest(self.top_k), firings.samples()
        self.kept = firings[np.union1d(top, samples)]
        self.pending = []

    def result(self, **identity) -> FeatureScan:
        """The scan of all that was added."""
        self._compact()
        counts = {name: getattr(self, name) for name in ("n_tokens", "count", "max_activation", "l0_histogram")}
        return _assemble(self.kept, self.top_k, **counts, histogram=torch.from_numpy(self.histogram), **identity)


def _assemble(firings: Firings, top_k: int, *, count: torch.Tensor, **rest) -> FeatureScan:
    firings = firings.unique()
    top_values = torch.zeros(len(count), top_k)
    top_positions = torch.full((len(count), top_k, 2), -1, dtype=torch.int64)
    top = firings[firings.strongest(top_k)]
    rank = rank_in_group(top.feature)
    top_values[top.feature, rank] = torch.from_numpy(top.value)
    top_positions[top.feature, rank] = torch.from_numpy(top.place)
    samples = firings[firings.samples()]
    return FeatureScan(
        count=count,
        top_values=top_values,
        top_positions=top_positions,
        sample_feature=torch.from_numpy(samples.feature),
        sample_value=torch.from_numpy(samples.value),
        sample_position=torch.from_numpy(samples.place),
        **rest,
    )


def _in_context(positions: torch.Tensor, values: torch.Tensor, tokens, tokenizer) -> pd.DataFrame:
    tokens = torch.as_tensor(tokens)
    if len(positions) and int(positions[:, 0].max()) >= len(tokens):
        raise ValueError(f"an example lies in row {int(positions[:, 0].max())}, but only {len(tokens)} rows were given; give the rows that were scanned")
    if len(positions) and int(positions[:, 1].max()) >= tokens.shape[1]:
        raise ValueError(f"an example lies at position {int(positions[:, 1].max())}, but rows are {tokens.shape[1]} tokens long; give the rows that were scanned")
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


def _smallest(counts: torch.Tensor) -> torch.Tensor:
    return counts.int() if counts.numel() and int(counts.max()) < 2**31 else counts


def fingerprint(sae, hook: str) -> str:
    """Sixteen hex digits of the hook's name, and of every 97th weight (each bias and threshold) of the SAE."""
    digest = hashlib.sha256(hook.encode())
    for name, step in (("W_enc", 97), ("W_dec", 97), ("b_enc", 1), ("b_dec", 1), ("threshold", 1)):
        weights = getattr(sae, name, None)
        if weights is not None:
            digest.update(weights.detach().float().cpu().flatten()[::step].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
