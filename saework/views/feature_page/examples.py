"""A second look at the examples that a scan kept: their contexts, and what each feature's absence costs there.

Bounded by the number of examples, whatever the number of features: each row is read once for all
features, and once more for each feature that is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.firings import bin_of
from saework.engine import forward
from saework.engine.encoder import encode_columns
from saework.engine.losses import next_token_losses

N_TOP, N_EACH, N_INTERVALS = 10, 3, 6
BEFORE, AFTER = 20, 8
TOKENS_PER_BATCH = 4096
TOP = -1


@dataclass(frozen=True)
class Places:
    """Where chosen examples lie, one an entry; those of a feature stand together, in the order to be shown."""

    feature: np.ndarray
    group: np.ndarray
    """``TOP``, or the number of the feature's interval, counted from the strongest."""
    value: np.ndarray
    row: np.ndarray
    pos: np.ndarray

    def __len__(self) -> int:
        return len(self.feature)

    def __getitem__(self, index) -> Places:
        return Places(
            self.feature[index],
            self.group[index],
            self.value[index],
            self.row[index],
            self.pos[index],
        )


@dataclass(frozen=True)
class Closeups:
    """What the second look saw, in the order of the places."""

    values: np.ndarray
    """float32 ``[example, BEFORE + 1 + AFTER]``: the feature around the example; NaN past the ends of the row."""
    loss_change: np.ndarray
    """float64 ``[example]``: nats, by which ablation raises the loss of the next token; NaN where the row ends."""
    label_hits: dict[str, np.ndarray]
    """int64 ``[feature]`` by label: tokens on which the feature fires and the label holds."""
    fires: np.ndarray
    """int64 ``[feature]``: tokens on which it fires, where labels were asked for."""


def intervals_of(histogram: np.ndarray) -> list[np.ndarray]:
    """The bins of each interval, strongest first: the six highest bins that hold a firing, then all below as one."""
    filled = np.flatnonzero(histogram)[::-1]
    return [filled[i : i + 1] for i in range(min(len(filled), N_INTERVALS))] + (
        [filled[N_INTERVALS:]] if len(filled) > N_INTERVALS else []
    )


def choose(scan: FeatureScan, features: list[int]) -> Places:
    """The top examples of each feature, and a fair few of each interval.

    A scan keeps the firings of a bin whose places hash lowest, which is as good as drawing lots; where an
    interval has several bins, each gives its share.
    """
    order = np.argsort(scan.sample_feature.numpy(), kind="stable")
    sorted_features = scan.sample_feature.numpy()[order]
    parts = []
    for feature in features:
        top = scan.top_positions[feature][scan.top_positions[feature, :, 0] >= 0][:N_TOP].numpy()
        parts.append((feature, TOP, scan.top_values[feature, : len(top)].numpy(), top))
        own = order[slice(*np.searchsorted(sorted_features, [feature, feature + 1]))]
        value, place = scan.sample_value.numpy()[own], scan.sample_position.numpy()[own]
        histogram = scan.histogram[feature].numpy()
        for group, bins in enumerate(intervals_of(histogram)):
            picked = _fair(bin_of(value), bins, histogram)
            picked = picked[np.lexsort((place[picked, 1], place[picked, 0], -value[picked]))]
            parts.append((feature, group, value[picked], place[picked]))
    sizes = [len(value) for _, _, value, _ in parts]
    place = np.concatenate([place.reshape(-1, 2) for *_, place in parts])
    return Places(
        np.repeat([feature for feature, *_ in parts], sizes),
        np.repeat([group for _, group, *_ in parts], sizes),
        np.concatenate([value for _, _, value, _ in parts]),
        *place.T,
    )


def _fair(bin_of_sample: np.ndarray, bins: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """Indices of ``N_EACH`` samples of some bins, each bin by its share of the firings (largest remainder)."""
    share = N_EACH * histogram[bins] / histogram[bins].sum()
    n_of = np.floor(share).astype(int)
    left = N_EACH - int(n_of.sum())
    n_of[np.argsort(n_of - share, kind="stable")[:left]] += 1
    return np.concatenate([np.flatnonzero(bin_of_sample == b)[:n] for b, n in zip(bins, n_of)])


@torch.no_grad()
def look(
    model,
    sae,
    tokens: torch.Tensor,
    hook: str,
    places: Places,
    *,
    features,
    counted,
    labels=None,
    progress=True,
) -> Closeups:
    """The contexts of the examples, the loss of the token after each with and without the feature, and label counts.

    Ablation takes the feature's own contribution out, ``x - f * W_dec[feature]``, at each counted token of the
    row; what the SAE does not explain stays.

    Args:
        features: those to be counted against labels, in ascending order.
        counted: bool ``[batch, pos]``: False on tokens that are neither edited nor counted.
        labels: bool ``[batch, pos]`` by name; with them, every row is read once, else those of the examples.

    Memory: 4,096 tokens at a time, times the features that have an example in them (all, with labels).
    """
    labels = labels or {}
    features, n_rows = np.asarray(features), len(tokens)
    values = np.full((len(places), BEFORE + 1 + AFTER), np.nan, dtype=np.float32)
    clean, hits = (
        np.full(len(places), np.nan),
        np.zeros((len(labels) + 1, len(features)), dtype=np.int64),
    )
    rules = torch.stack([*labels.values(), torch.ones_like(counted)]) & counted if labels else None
    rows = np.arange(n_rows) if labels else np.unique(places.row)
    size = max(1, TOKENS_PER_BATCH // tokens.shape[1])
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    for block in forward.progress_bar(blocks, show=progress, desc="examples"):
        here = np.flatnonzero(np.isin(places.row, block))
        columns = features if labels else np.unique(places.feature[here])
        row, pos = np.searchsorted(block, places.row[here]), places.pos[here]
        x, clean[here] = _read(model, tokens[block], hook, row, pos)
        active = encode_columns(sae, x, torch.from_numpy(columns).to(x.device)).float().cpu()
        values[here] = _windows(active[row, :, np.searchsorted(columns, places.feature[here])], pos)
        if labels:
            fires = (active > 0).flatten(0, 1).float()
            hits += (rules[:, block].flatten(1).float().cpu() @ fires).long().numpy()
    ablated = _ablated_losses(model, sae, tokens, hook, places, counted, progress=progress)
    return Closeups(values, ablated - clean, dict(zip(labels, hits)), hits[-1])


def _read(
    model, tokens: torch.Tensor, hook: str, row: np.ndarray, pos: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """What the hook holds, and the loss of the token after each place, from one run; without places it ends at the hook."""
    if not len(row):
        return forward.activations(model, tokens, hook), np.zeros(0)
    tokens, held = forward.as_tokens(model, tokens), []

    def keep(value, hook):
        held.append(value)

    hidden = forward.capture(model, tokens, forward.UNEMBED_INPUT, [(hook, keep)])
    return held[0], _losses_after(model, hidden, tokens, row, pos)


def _losses_after(
    model, hidden: torch.Tensor, tokens: torch.Tensor, row: np.ndarray, pos: np.ndarray
) -> np.ndarray:
    """Nats, float64 ``[place]``: the loss of the token after each place; NaN at the end of a row."""
    losses, inside = np.full(len(row), np.nan), np.flatnonzero(pos + 1 < tokens.shape[1])
    if len(inside):
        row, pos = row[inside], pos[inside]
        losses[inside] = (
            next_token_losses(model, [hidden[row, pos][:, None]], tokens[row, pos + 1][:, None])[0][
                0, :, 0
            ]
            .cpu()
            .numpy()
        )
    return losses


def _windows(values: torch.Tensor, pos: np.ndarray) -> np.ndarray:
    """``values [example, pos]`` from ``BEFORE`` before to ``AFTER`` after each position."""
    at = pos[:, None] + np.arange(-BEFORE, AFTER + 1)
    inside = (at >= 0) & (at < values.shape[1])
    taken = np.take_along_axis(values.numpy(), np.where(inside, at, 0), axis=1)
    return np.where(inside, taken, np.nan)


def _ablated_losses(
    model, sae, tokens, hook: str, places: Places, counted, *, progress: bool
) -> np.ndarray:
    """As ``_losses_after``, with each place's feature taken out of its row."""
    losses = np.full(len(places), np.nan)
    key = places.feature.astype(np.int64) * len(tokens) + places.row
    _, first, pair = np.unique(key, return_index=True, return_inverse=True)
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, pair, places.pos)
    for batch in forward.progress_bar(
        list(_batches(last, tokens.shape[1])), show=progress, desc="ablation"
    ):
        length = min(
            int(last[batch].max()) + 2, tokens.shape[1]
        )  # nothing after it reaches back, in a causal model
        row, feature = places.row[first[batch]], torch.from_numpy(places.feature[first[batch]])
        part = forward.as_tokens(model, tokens[row, :length])
        edit = lambda x, feature=feature: x - contribution(sae, x, feature.to(x.device))  # noqa: E731
        hidden = forward.final_states(
            model, part, hook, edit, counted[row, :length].to(part.device)
        )
        here = np.flatnonzero(np.isin(pair, batch))
        local = np.argsort(batch)[np.searchsorted(np.sort(batch), pair[here])]
        losses[here] = _losses_after(model, hidden, part, local, places.pos[here])
    return losses


def _batches(last: np.ndarray, n_pos: int) -> Iterator[np.ndarray]:
    """Pairs of like length together, longest first, at most ``TOKENS_PER_BATCH`` tokens at a time."""
    order, start = np.argsort(-last, kind="stable"), 0
    while start < len(order):
        size = max(1, TOKENS_PER_BATCH // min(int(last[order[start]]) + 2, n_pos))
        yield order[start : start + size]
        start += size


def contribution(sae, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """What one feature of each row adds to the SAE's output, ``f * W_dec[feature]``, in ``x``'s shape and scale.

    Args: ``x``: ``[batch, pos, ...]``; ``features``: ``[batch]``.
    """
    columns, of_row = features.unique(return_inverse=True)
    f = encode_columns(sae, x, columns)[torch.arange(len(x), device=x.device), :, of_row]
    added = f[..., None] * sae.W_dec[features][:, None]
    back = getattr(
        sae, "run_time_activation_norm_fn_out", None
    )  # an SAE that scales its input scales its output back, once
    if back is not None:
        scaled, shift = back(torch.stack([added, torch.zeros_like(added)]))
        added = scaled - shift
    return added.reshape(x.shape)
