"""The parts of a scan, scanned in this process or by an executor's workers.

Parts are added to a collector in their order, whichever worker is ready first. So the result is the
same to the last bit, if the workers use as many threads as this process.

A process forked from one that used torch's threads waits for ever for threads that it does not
have. So a forked worker uses one thread, from before its first operation on.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.consistency import check_numbers
from saework.analysis.scanning.firings import place_of
from saework.analysis.scanning.process_pools import check_pool, start_method
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine import forward
from saework.engine.digests import check_no_hooks, model_digest, sae_digest
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


@dataclass(frozen=True)
class Expected:
    """What a worker must have before it scans its first part of a call."""

    digests: dict[str, str]
    """Of the caller's model and SAE."""
    call: str
    """Each call of ``scan`` has its own: weights may have been edited since the last one."""
    one_thread: bool
    """Whether the worker is a forked process."""


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
    """Parts are added in their order, whichever is ready first; after a failure none waits.

    Raises:
        ValueError: the executor cannot work with ``rebuild``, or a worker finds the work at fault.
        RuntimeError: the executor failed.
    """
    check_pool(executor, rebuild, model)
    expected = Expected(
        digests=_digests(model, sae, job.hook),
        call=secrets.token_hex(8),
        one_thread=start_method(executor) == "fork",
    )
    not_submitted = deque(work)
    futures: deque[Future] = deque()
    try:
        for n_done, rows in enumerate(work):
            try:
                while not_submitted and len(futures) < AHEAD:
                    next_rows = not_submitted.popleft()
                    futures.append(executor.submit(_scan_part, rebuild, expected, job, next_rows))
                part = futures.popleft().result()
                _check_part(part, rows)
            except ValueError:  # a worker found the work itself at fault
                raise
            except Exception as error:  # each kind of executor fails in its own way
                raise RuntimeError(
                    f"the executor failed after {n_done} of {len(work)} parts "
                    f"({type(error).__name__}: {error}). {_remedy(error, n_done)}"
                ) from error
            collector.absorb(part)
            bar.update(rows.tokens.size)
            yield rows
    finally:
        for future in futures:
            future.cancel()


def _remedy(error: Exception, n_done: int) -> str:
    if n_done > 0 or not isinstance(error, BrokenExecutor):
        return "With checkpoint=, the same call with a new executor continues from there"
    return (
        "A worker ended before its first part was done; what it printed says why. Usual causes: no "
        "memory for one more model and SAE in each worker (give fewer workers); a script that "
        "starts the pool outside of if __name__ == '__main__':; a rebuild= that fails in a new "
        "process (try it alone in a new Python)"
    )


# A worker's own model and encoder, kept from one part to the next.
_worker = threading.local()


def _scan_part(rebuild: Rebuild, expected: Expected, job: Job, rows: Rows) -> dict:
    """What a worker does: model and SAE are made once, and then used for each part."""
    if expected.one_thread:
        torch.set_num_threads(1)
    if getattr(_worker, "call", None) != expected.call:
        _prepare(rebuild, expected, job.hook)
    collector = job.collector(_worker.encode.sae.W_dec.shape[0])
    job.collect(collector, _worker.model, _worker.encode, rows)
    return collector.arrays()


def _check_part(part: Any, rows: Rows) -> None:
    """Refuse what an executor gives back in place of a part's scan.

    Raises: RuntimeError.
    """
    try:
        check_numbers(part)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise RuntimeError(f"it gave back something else than was asked for ({error})") from error
    n_counted = int(rows.counts.sum())
    if part["n_tokens"] != n_counted:
        raise RuntimeError(f"it gave back {part['n_tokens']} tokens in place of {n_counted}")


def _prepare(rebuild: Rebuild, expected: Expected, hook: str) -> None:
    """Keep model and SAE in the worker: those of the call before, or else made new.

    Raises: ValueError if they are not the caller's.
    """
    if hasattr(_worker, "encode"):
        kept = _digests(_worker.model, _worker.encode.sae, hook)
        if kept == expected.digests:
            _worker.call = expected.call
            return
    model, sae = rebuild()
    digests = _digests(model, sae, hook)
    others = [name for name, given in expected.digests.items() if digests[name] != given]
    if others:
        raise ValueError(
            f"rebuild= gives another {' and '.join(others)} than scan was given; "
            "it must load the same weights, with the same dtype and settings"
        )
    _worker.model = model
    _worker.encode = Encoder(sae)
    _worker.call = expected.call


def _digests(model: HookedModel, sae: SparseAutoencoder, hook: str) -> dict[str, str]:
    check_no_hooks(model, sae)
    return {"model": model_digest(model), "SAE": sae_digest(sae, hook)}
