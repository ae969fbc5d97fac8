"""saework's way, by its public calls."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import torch

from saework import feature_activations, recons_score, reconstruction_metrics, scan, select_features  # fetched here: a first use imports
from saework.collecting import Collector
from saework.encoding import Encoder, encode_columns  # not public, and no public call does this alone
from saework.run import activations


def rates(s):
    return {"count": scan(s.model, s.sae, s.tokens, top_k=0, progress=False).count}


def recons(s):
    score = recons_score(s.model, s.sae, s.tokens, progress=False)
    return {"clean": torch.tensor(score.loss), "spliced": torch.tensor(score.recons_loss), "ablated": torch.tensor(score.ablated_loss)}


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
    found = scan(s.model, select_features(s.sae, s.features), s.tokens, hook=s.hook, top_k=20, progress=False)
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
    return {"count": found.count, "max": found.max_activation, "top": found.top_positions, "top_values": found.top_values}


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

    for top_k in (0, 20):
        parts = (Encoder, "__call__", "encoder"), (Collector, "add", "collector"), (Collector, "arrays", "collector")
        with ExitStack() as stack:
            for owner, method, name in parts:
                stack.enter_context(patch.object(owner, method, timed(f"{name}_{top_k}", getattr(owner, method))))
            scan(s.model, s.sae, s.tokens, top_k=top_k, progress=False)
    return {name: torch.tensor(value) for name, value in seconds.items()}


def short(s):
    return {"count": scan(s.model, s.sae, s.tokens[:391], progress=False).count}


def long(s):
    return {"count": scan(s.model, s.sae, s.tokens[:1563], progress=False).count}


def plan(s):
    """What a scan takes, and what one part of it costs to send and to merge."""
    half = len(s.tokens) // 2
    start = time.perf_counter()
    a, b = (scan(s.model, s.sae, s.tokens[first : first + half], first_row=first, progress=False) for first in (0, half))
    scanned = time.perf_counter()
    a + b
    seconds = {"scan_seconds": scanned - start, "merge_seconds": time.perf_counter() - scanned}
    size = a.save(s.folder / "part").stat().st_size
    return {name: torch.tensor(value) for name, value in (seconds | {"part_bytes": size}).items()}
