"""One streaming pass over many tokens: how often each feature fires, how strongly, and where.

A scan is a map over parts of the rows, and a merge. Neither ``[tokens, d_sae]`` nor a logit is ever held for more than
one block. Parts have the same borders and are added in the same order whether they are scanned here, by an executor's
workers, or after an interruption, so that the result is the same to the last bit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from saework.analysis.scanning.checkpoint import (
    Checkpoint,
    model_fingerprint,
    sae_fingerprint,
    work_fingerprint,
)
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.firings import place_of
from saework.core.arguments import accepts_workbook, check_feature, check_positive
from saework.engine import forward
from saework.engine.encoder import BLOCK, Encoder

PART = 32_768  # tokens; an interruption loses no more
AHEAD = 64  # parts given to an executor before the first of them is done


@accepts_workbook
@torch.no_grad()
def scan(
    model,
    sae,
    tokens,
    *,
    hook: str | None = None,
    top_k: int = 20,
    cofiring=(),
    mask=None,
    first_row: int = 0,
    batch_size: int | None = None,
    checkpoint: str | Path | None = None,
    executor=None,
    rebuild: Callable | None = None,
    progress: bool = True,
) -> FeatureScan:
    """Run the model up to the SAE's hook on each row, and gather what each feature does.

    Args:
        tokens: long ``[batch, pos]``, BOS first.
        hook: the SAE's own by default.
        top_k: strongest activations to keep of each feature; 0 keeps counts and histograms only.
        cofiring: features for which to count, of every feature, the tokens on which both fire.
        mask: bool ``[batch, pos]``: where False (BOS, padding), the token does not count. By default
            all count, BOS too, as published.
        first_row: number of the first row, for scans of parts that are merged later.
        batch_size: rows run at a time; by default about 1,024 tokens' worth (16,384 on a GPU).
        checkpoint: a file that keeps what is done; the next call with the same arguments goes on from it.
        executor: anything with ``submit``, as ``concurrent.futures`` defines it; parts are scanned by its workers.
        rebuild: with an executor: a picklable function that gives ``(model, sae)``, called once in each worker.

    Raises: ValueError for bad tokens, mask or numbers, an activation that is not finite (it says the rows), or workers
    that rebuild something else; HookError if hook and SAE do not fit; WeightsError for a checkpoint that is damaged or
    of another scan; RuntimeError if the executor dies.
    Memory: of each feature 66 numbers, ``28 * top_k`` bytes of lists, at most 4 kB of samples and 8 bytes a ``cofiring``
    feature; one block of features (``4 * 1024 * d_sae`` bytes); whatever the number of tokens.
    Source: ``get_freqs`` of the gelu-1l notebook for the firing rates.
    """
    tokens, hook, mask, batch_size = forward.prepared(model, sae, tokens, hook, mask, batch_size)
    _check_choices(tokens, mask, top_k, first_row, executor, rebuild)
    d_sae = sae.W_dec.shape[0]
    cofiring = tuple(dict.fromkeys(check_feature(feature, d_sae) for feature in cofiring))
    job = _Job(hook, top_k, cofiring, batch_size)
    found, rows_done, fingerprint = job.collector(d_sae), 0, sae_fingerprint(sae, hook)
    keeper = None
    if checkpoint is not None:
        settings = asdict(job) | {"first_row": first_row, "part": PART}
        keeper = Checkpoint(checkpoint, work_fingerprint(model, sae, hook, tokens, mask, settings))
        if before := keeper.read():
            found.absorb(vars(before))
            rows_done = before.rows[0][1] - first_row

    so_far = lambda: FeatureScan.of(
        found.arrays(), ((first_row, first_row + rows_done),), fingerprint
    )  # noqa: E731
    parts = forward.row_blocks(
        len(tokens), batch_size * max(1, PART // (batch_size * tokens.shape[1]))
    )
    work = [_Rows.of(tokens, mask, part, first_row) for part in parts if part.start >= rows_done]
    done_before = rows_done * tokens.shape[1]
    with forward.progress_bar(
        total=tokens.numel(),
        initial=done_before,
        show=progress,
        desc="scan",
        unit=" tokens",
        unit_scale=True,
    ) as bar:
        if executor is None:
            scanned = _here(found, job, model, sae, work, bar)
        else:
            scanned = _elsewhere(found, job, model, sae, work, bar, executor, rebuild)
        for rows in scanned:
            rows_done += len(rows.tokens)
            if keeper:
                keeper.write(so_far())
    return so_far()


def _check_choices(
    tokens: torch.Tensor, mask: torch.Tensor | None, top_k: int, first_row: int, executor, rebuild
) -> None:
    check_positive(top_k, "top_k", minimum=0), check_positive(first_row, "first_row", minimum=0)
    n_counted = tokens.numel() if mask is None else int(mask.sum())
    if top_k > n_counted:
        raise ValueError(
            f"top_k is {top_k}, but there are only {n_counted} tokens to count; give at most that"
        )
    if (executor is None) != (rebuild is None):
        raise ValueError(
            "executor= and rebuild= go together: give a picklable function without arguments that returns (model, sae)"
        )


@dataclass(frozen=True)
class _Job:
    """What a worker must know, beside the model and the SAE."""

    hook: str
    top_k: int
    cofiring: tuple[int, ...]
    batch_size: int

    def collector(self, d_sae: int) -> Collector:
        """An empty one, for this work."""
        return Collector(d_sae, self.top_k, self.cofiring)

    @torch.no_grad()
    def collect(
        self,
        found: Collector,
        model,
        encode: Encoder,
        rows: _Rows,
        advance: Callable = lambda n: None,
    ) -> None:
        """Add one part's features to a collector."""
        for batch in forward.row_blocks(len(rows.tokens), self.batch_size):
            on = rows.mask[batch]
            if on.any():
                tokens = forward.as_tokens(model, rows.tokens[batch])
                x = forward.sae_input(
                    model, encode.sae, tokens, self.hook, first_row=rows.first_row + batch.start
                )
                row, pos = on.nonzero()
                places = place_of(row + rows.first_row + batch.start, pos)
                flat = x.flatten(2)[torch.from_numpy(on).to(x.device)]
                for start in range(0, len(flat), BLOCK):
                    block = slice(start, start + BLOCK)
                    _, active = encode(flat[block])
                    found.add(active, places[block])
            advance(on.size)
        found.end_part()


@dataclass(frozen=True)
class _Rows:
    """Some of the rows, as they travel to a worker."""

    tokens: np.ndarray
    mask: np.ndarray
    first_row: int

    @classmethod
    def of(
        cls, tokens: torch.Tensor, mask: torch.Tensor | None, part: slice, first_row: int
    ) -> _Rows:
        """A part of all rows; ``first_row``: the number of the first of all."""
        some = tokens[part].cpu().numpy()
        return cls(
            some,
            np.ones(some.shape, dtype=bool) if mask is None else mask[part].cpu().numpy(),
            first_row + part.start,
        )


def _here(found: Collector, job: _Job, model, sae, work: list[_Rows], bar) -> Iterator[_Rows]:
    encode = Encoder(sae)
    for rows in work:
        job.collect(found, model, encode, rows, bar.update)
        yield rows


def _elsewhere(
    found: Collector, job: _Job, model, sae, work: list[_Rows], bar, executor, rebuild: Callable
) -> Iterator[_Rows]:
    """Parts by an executor's workers, added in their order, whichever is ready first; none waits on after a failure."""
    expected, waiting = (model_fingerprint(model), sae_fingerprint(sae, job.hook)), deque()
    left = deque(work)
    try:
        for done, rows in enumerate(work):
            try:
                while left and len(waiting) < AHEAD:
                    waiting.append(
                        executor.submit(_scan_part, rebuild, expected, job, left.popleft())
                    )
                part = waiting.popleft().result()
            except ValueError:  # what a worker found wrong with the work
                raise
            except Exception as error:  # each kind of executor has its own way to say that it died
                raise RuntimeError(
                    f"the executor failed after {done} of {len(work)} parts ({type(error).__name__}: {error}). "
                    "With checkpoint=, the same call with a new executor goes on from there"
                ) from error
            found.absorb(part)
            bar.update(rows.tokens.size)
            yield rows
    finally:
        for future in waiting:
            future.cancel()


_worker = threading.local()


def _scan_part(rebuild: Callable, expected: tuple[str, str], job: _Job, rows: _Rows) -> dict:
    """What a worker does: model and SAE are made once, and then used for each part."""
    if getattr(_worker, "made", None) != expected:
        model, sae = rebuild()
        made = model_fingerprint(model), sae_fingerprint(sae, job.hook)
        if made != expected:
            what = " and ".join(
                name for name, a, b in zip(("model", "SAE"), made, expected) if a != b
            )
            raise ValueError(
                f"rebuild= gives another {what} than scan was given; it must load the same weights"
            )
        _worker.made, _worker.model, _worker.encode = made, model, Encoder(sae)
    found = job.collector(_worker.encode.sae.W_dec.shape[0])
    job.collect(found, _worker.model, _worker.encode, rows)
    return found.arrays()
