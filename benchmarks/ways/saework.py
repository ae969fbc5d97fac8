"""saework's way, by its public calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import torch

# names are fetched here, since a first use imports
from saework import (
    FeatureScan,
    feature_activations,
    recons_score,
    reconstruction_metrics,
    scan,
    select_features,
)
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import place_of

# not public, and no public call does this alone
from saework.engine.encoder import Active, Encoder, encode_columns
from saework.engine.forward import activations

FIRING = 25  # features on each token of a drawn part
BLOCK = 1024  # tokens
ROW = 128  # tokens


def rates(s: SimpleNamespace) -> dict:
    """Counts of all features."""
    found = scan(s.model, s.sae, s.tokens, top_k=0, progress=False)
    return {"count": found.count}


def recons(s: SimpleNamespace) -> dict:
    """The three losses of the recons score."""
    score = recons_score(s.model, s.sae, s.tokens, progress=False)
    return {
        "clean": torch.tensor(score.loss),
        "spliced": torch.tensor(score.recons_loss),
        "ablated": torch.tensor(score.ablated_loss),
    }


def metrics(s: SimpleNamespace) -> dict:
    """Every reconstruction metric."""
    values = reconstruction_metrics(s.model, s.sae, s.tokens, progress=False).with_bos
    return {name: torch.tensor(value) for name, value in values.items()}


def feature(s: SimpleNamespace) -> dict:
    """One feature on all tokens."""
    values = feature_activations(s.model, s.sae, s.tokens, s.feature)
    return {"activations": values.flatten()}


def before_kept(s: SimpleNamespace) -> None:
    """The activations that are kept."""
    s.x = activations(s.model, s.tokens, s.hook)


def kept(s: SimpleNamespace) -> dict:
    """One feature of activations that are there already."""
    return {"activations": encode_columns(s.sae, s.x, s.feature).flatten()}


def features(s: SimpleNamespace) -> dict:
    """Statistics, and a table of the strongest examples in context for each chosen feature."""
    chosen = select_features(s.sae, s.features)
    found = scan(s.model, chosen, s.tokens, hook=s.hook, top_k=20, progress=False)
    for i in range(len(s.features)):
        table = found.top_examples(i, s.tokens, s.tokenizer)
        assert len(table) <= 20
    return lists_of(found)


def all_features(s: SimpleNamespace) -> dict:
    """The same lists of every feature; a table in context is made when somebody opens one."""
    found = scan(s.model, s.sae, s.tokens, top_k=20, progress=False)
    start = time.perf_counter()
    found.top_examples(s.feature, s.tokens, s.tokenizer)
    seconds = time.perf_counter() - start
    chosen = torch.tensor(s.features)
    lists = {name: values[chosen] for name, values in lists_of(found).items()}
    return lists | {"table": torch.tensor(seconds)}


def lists_of(found: FeatureScan) -> dict:
    """What SAEDashboard gives too."""
    return {
        "count": found.count,
        "max": found.max_activation,
        "top": found.top_positions,
        "top_values": found.top_values,
    }


def lists(s: SimpleNamespace) -> dict:
    """Seconds that encoding and collecting take inside a scan, without lists and with them.

    A difference of whole scans would drown in the noise of the encoder.
    """
    seconds: Counter = Counter()
    with ExitStack() as stack:
        for owner, method, name in (
            (Encoder, "__call__", "encoder"),
            (Collector, "add", "collector"),
            (Collector, "arrays", "collector"),
        ):
            timed = timing(getattr(owner, method), name, seconds)
            stack.enter_context(patch.object(owner, method, timed))
        parts = {}
        for top_k in (0, 20):
            seconds.clear()
            scan(s.model, s.sae, s.tokens, top_k=top_k, progress=False)
            for name, value in seconds.items():
                parts[f"{name}_{top_k}"] = torch.tensor(value)
    return parts


def timing(function: Callable, name: str, seconds: Counter) -> Callable:
    """The function, which adds what it takes to ``seconds[name]``."""

    def call(*args):
        start = time.perf_counter()
        result = function(*args)
        seconds[name] += time.perf_counter() - start
        return result

    return call


def short(s: SimpleNamespace) -> dict:
    """A quarter of the rows."""
    found = scan(s.model, s.sae, s.tokens[:391], progress=False)
    return {"count": found.count}


def long(s: SimpleNamespace) -> dict:
    """All rows."""
    found = scan(s.model, s.sae, s.tokens[:1563], progress=False)
    return {"count": found.count}


def plan(s: SimpleNamespace, blocks: int = 1000) -> dict:
    """What a scan takes, and what it costs to send and to merge parts of a million tokens.

    The lists of such parts are full.
    """
    start = time.perf_counter()
    scan(s.model, s.sae, s.tokens, progress=False)
    scan_seconds = time.perf_counter() - start
    d_sae = s.sae.W_dec.shape[0]
    a = drawn_part(d_sae, 0, blocks)
    b = drawn_part(d_sae, 10**6, blocks)
    start = time.perf_counter()
    a + b
    merge_seconds = time.perf_counter() - start
    part = a.save(s.folder / "part")
    return {
        "scan_seconds": torch.tensor(scan_seconds),
        "merge_seconds": torch.tensor(merge_seconds),
        "part_bytes": torch.tensor(part.stat().st_size),
    }


def drawn_part(d_sae: int, first_row: int, blocks: int) -> FeatureScan:
    """A scan's result without the scan: 25 features, drawn at random, fire on each token."""
    collector = Collector(d_sae, 20)
    generator = torch.Generator().manual_seed(first_row)
    token = torch.arange(BLOCK)
    rows_per_block = BLOCK // ROW
    for block in range(blocks):
        # on each token a start and a step, so that its features all differ
        start = torch.randint(d_sae, (BLOCK, 1), generator=generator)
        step = torch.randint(1, d_sae // FIRING, (BLOCK, 1), generator=generator)
        feature = (start + step * torch.arange(FIRING)) % d_sae
        value = torch.rand(BLOCK * FIRING, generator=generator) ** 3
        active = Active(
            token=token.repeat_interleave(FIRING),
            feature=feature.flatten(),
            value=value.clamp(min=1e-3),
        )
        row, pos = divmod(token.numpy(), ROW)
        places = place_of(first_row + rows_per_block * block + row, pos)
        collector.add(active, places)
    collector.end_part()
    rows = (first_row, first_row + rows_per_block * blocks)
    digests = torch.zeros(rows[1] - rows[0], dtype=torch.int64)
    return FeatureScan.of(collector.arrays(), (rows,), digests, "")
