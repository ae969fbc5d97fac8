"""saework's way, by its public calls."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
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
from saework.engine.encoder import (  # not public, and no public call does this alone
    Active,
    Encoder,
    encode_columns,
)
from saework.engine.forward import activations


def rates(s):
    return {"count": scan(s.model, s.sae, s.tokens, top_k=0, progress=False).count}


def recons(s):
    score = recons_score(s.model, s.sae, s.tokens, progress=False)
    return {
        "clean": torch.tensor(score.loss),
        "spliced": torch.tensor(score.recons_loss),
        "ablated": torch.tensor(score.ablated_loss),
    }


def metrics(s):
    values = reconstruction_metrics(s.model, s.sae, s.tokens, progress=False).with_bos
    return {name: torch.tensor(value) for name, value in values.items()}


def feature(s):
    return {"activations": feature_activations(s.model, s.sae, s.tokens, s.feature).flatten()}


def before_kept(s):
    s.x = activations(s.model, s.tokens, s.hook)


def kept(s):
    return {"activations": encode_columns(s.sae, s.x, s.feature).flatten()}


def features(s):
    """Statistics, and a table of the strongest examples in context for each chosen feature."""
    found = scan(
        s.model, select_features(s.sae, s.features), s.tokens, hook=s.hook, top_k=20, progress=False
    )
    tables = [found.top_examples(i, s.tokens, s.tokenizer) for i in range(len(s.features))]
    assert all(len(table) <= 20 for table in tables)
    return _lists_of(found)


def all_features(s):
    """The same lists of every feature; a table in context is made when somebody opens one."""
    found = scan(s.model, s.sae, s.tokens, top_k=20, progress=False)
    start = time.perf_counter()
    found.top_examples(s.feature, s.tokens, s.tokenizer)
    table = torch.tensor(time.perf_counter() - start)
    pick = torch.tensor(s.features)
    return {name: values[pick] for name, values in _lists_of(found).items()} | {"table": table}


def _lists_of(found):
    return {
        "count": found.count,
        "max": found.max_activation,
        "top": found.top_positions,
        "top_values": found.top_values,
    }


def lists(s):
    """Seconds that encoding and collecting take inside a scan, without lists and with them.

    A difference of whole scans would drown in the noise of the encoder.
    """
    seconds = Counter()

    def timed(name, function):
        def call(*args):
            start = time.perf_counter()
            result = function(*args)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    parts = (
        (Encoder, "__call__", "encoder"),
        (Collector, "add", "collector"),
        (Collector, "arrays", "collector"),
    )
    for top_k in (0, 20):
        with ExitStack() as stack:
            for owner, method, name in parts:
                stack.enter_context(
                    patch.object(owner, method, timed(f"{name}_{top_k}", getattr(owner, method)))
                )
            scan(s.model, s.sae, s.tokens, top_k=top_k, progress=False)
    return {name: torch.tensor(value) for name, value in seconds.items()}


def short(s):
    return {"count": scan(s.model, s.sae, s.tokens[:391], progress=False).count}


def long(s):
    return {"count": scan(s.model, s.sae, s.tokens[:1563], progress=False).count}


def plan(s, blocks=1000):
    """What a scan takes, and what it costs to send and to merge parts of a million tokens, whose lists are full."""
    start = time.perf_counter()
    scan(s.model, s.sae, s.tokens, progress=False)
    seconds = {"scan_seconds": time.perf_counter() - start}
    a, b = (_drawn_part(s.sae.W_dec.shape[0], first_row, blocks) for first_row in (0, 10**6))
    start = time.perf_counter()
    a + b
    seconds["merge_seconds"] = time.perf_counter() - start
    return {
        name: torch.tensor(value)
        for name, value in (
            seconds | {"part_bytes": a.save(s.folder / "part").stat().st_size}
        ).items()
    }


def _drawn_part(d_sae, first_row, blocks):
    """A scan's result without the scan: 25 features, drawn at random, fire on each of a block's 1,024 tokens."""
    found, token = Collector(d_sae, 20), torch.arange(1024)
    draw = torch.Generator().manual_seed(first_row)
    for block in range(blocks):
        start, step = (
            torch.randint(d_sae, (1024, 1), generator=draw),
            torch.randint(1, d_sae // 25, (1024, 1), generator=draw),
        )
        feature, value = (
            (start + step * torch.arange(25)) % d_sae,
            torch.rand(1024 * 25, generator=draw) ** 3,
        )
        places = place_of(first_row + 8 * block + token.numpy() // 128, token.numpy() % 128)
        found.add(
            Active(token.repeat_interleave(25), feature.flatten(), value.clamp(min=1e-3)), places
        )
    found.end_part()
    return FeatureScan.of(found.arrays(), ((first_row, first_row + 8 * blocks),), "")
