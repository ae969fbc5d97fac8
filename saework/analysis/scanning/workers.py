"""The parts of a scan, scanned in this process or by an executor's workers.

Parts are added to a collector in their order, whichever worker is ready first. So the result is the
same to the last bit, if the workers use as many threads as this process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from saework.analysis.scanning.checkpoint import model_fingerprint, sae_fingerprint
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import place_of
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine import forward
from saework.engine.encoder import BLOCK, Encoder

AHEAD = 64  # parts given to an executor before the first of them is done

Rebuild: TypeAlias = Callable[[], tuple[HookedModel, SparseAutoencoder]]


@dataclass(frozen=True)
class Rows:
    """Some of the rows, as they travel to a worker.

    In numpy: pickled, a slice of a tensor would bring all of the tensor along.
    """

    tokens: np.ndarray
    counts: np.ndarray
    """bool, in the tokens' shape: which tokens count."""
    first_row: int

    @classmethod
    def of(
        cls, tokens: torch.Tensor, mask: torch.Tensor | None, part: slice, first_row: int
    ) -> Rows:
        """A part of all rows; ``first_row`` is the number of the first of all."""
        ids = tokens[part].numpy()
        counts = np.ones(ids.shape, dtype=bool) if mask is None else mask[part].cpu().numpy()
        return cls(ids, counts, first_row + part.start)


@dataclass(frozen=True)
class Job:
    """What a worker must know, beside the model and the SAE; a checkpoint is of these settings."""

    hook: str
    top_k: int
    cofiring: tuple[int, ...]
    batch_size: int

    def collector(self, d_sae: int) -> Collector:
        """An empty collector for this work."""
        return Collector(d_sae, self.top_k, self.cofiring)

    @torch.no_grad()
    def collect(
        self,
        collector: Collector,
        model: HookedModel,
        encode: Encoder,
        rows: Rows,
        bar: tqdm | None = None,
    ) -> None:
        """Add one part's features to a collector."""
        for batch in forward.row_blocks(len(rows.tokens), self.batch_size):
            counts = rows.counts[batch]
            if counts.any():
                first_row = rows.first_row + batch.start
                tokens = torch.from_numpy(rows.tokens[batch])
                x = forward.sae_input(model, encode.sae, tokens, self.hook, first_row=first_row)
                counted = x.flatten(2)[torch.from_numpy(counts).to(x.device)]
                row, pos = counts.nonzero()
                places = place_of(row + first_row, pos)
                for start in range(0, len(counted), BLOCK):
                    block = slice(start, start + BLOCK)
                    _, active = encode(counted[block])
                    collector.add(active, places[block])
            if bar is not None:
                bar.update(counts.size)
        collector.end_part()


def in_this_process(
    collector: Collector,
    job: Job,
    model: HookedModel,
    sae: SparseAutoencoder,
    work: list[Rows],
    bar: tqdm,
) -> Iterator[Rows]:
    """Scan one part after the other; each is yielded when the collector has it."""
    encode = Encoder(sae)
    for rows in work:
        job.collect(collector, model, encode, rows, bar)
        yield rows


def by_workers(
    collector: Collector,
    job: Job,
    model: HookedModel,
    sae: SparseAutoencoder,
    work: list[Rows],
    bar: tqdm,
    executor: Executor,
    rebuild: Rebuild,
) -> Iterator[Rows]:
    """Parts are added in their order, whichever is ready first; after a failure none waits."""
    expected = _fingerprints(model, sae, job.hook)
    not_submitted = deque(work)
    futures: deque[Future] = deque()
    try:
        for n_done, rows in enumerate(work):
            try:
                while not_submitted and len(futures) < AHEAD:
                    next_rows = not_submitted.popleft()
                    futures.append(executor.submit(_scan_part, rebuild, expected, job, next_rows))
                part = futures.popleft().result()
            except ValueError:  # a worker found the work itself at fault
                raise
            except Exception as error:  # each kind of executor fails in its own way
                raise RuntimeError(
                    f"the executor failed after {n_done} of {len(work)} parts "
                    f"({type(error).__name__}: {error}). With checkpoint=, the same call with "
                    "a new executor continues from there"
                ) from error
            collector.absorb(part)
            bar.update(rows.tokens.size)
            yield rows
    finally:
        for future in futures:
            future.cancel()


# A worker's own model and encoder, kept from one part to the next, with their fingerprints.
_worker = threading.local()


def _scan_part(rebuild: Rebuild, expected: dict[str, str], job: Job, rows: Rows) -> dict:
    """What a worker does: model and SAE are made once, and then used for each part."""
    if getattr(_worker, "fingerprints", None) != expected:
        model, sae = rebuild()
        fingerprints = _fingerprints(model, sae, job.hook)
        others = [name for name in expected if fingerprints[name] != expected[name]]
        if others:
            raise ValueError(
                f"rebuild= gives another {' and '.join(others)} than scan was given; "
                "it must load the same weights"
            )
        _worker.fingerprints = fingerprints
        _worker.model = model
        _worker.encode = Encoder(sae)
    collector = job.collector(_worker.encode.sae.W_dec.shape[0])
    job.collect(collector, _worker.model, _worker.encode, rows)
    return collector.arrays()


def _fingerprints(model: HookedModel, sae: SparseAutoencoder, hook: str) -> dict[str, str]:
    return {"model": model_fingerprint(model), "SAE": sae_fingerprint(sae, hook)}
