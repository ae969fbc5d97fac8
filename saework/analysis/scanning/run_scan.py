"""One streaming pass over many tokens: how often each feature fires, how strongly, and where.

A scan is a map over parts of the rows, and a merge. ``[token, d_sae]`` exists for one block of
tokens only. Parts have the same borders and are added in the same order whether they are scanned
here, by an executor's workers, or after an interruption. So the result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from saework.analysis.scanning.checkpoint import Checkpoint, work_digest
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.firings import POSITION_BITS
from saework.analysis.scanning.row_digests import row_digests
from saework.analysis.scanning.workers import Job, Rebuild, Rows, by_workers, in_this_process
from saework.core.arguments import accepts_workbook, check_feature, check_positive
from saework.core.protocols import HookedModel, SparseAutoencoder, hook_of
from saework.engine import forward
from saework.engine.digests import sae_digest

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

MAX_ROWS = 2 ** (63 - POSITION_BITS)  # a row and a position are kept in one int64
PART = 32_768  # tokens; an interruption loses no more


@accepts_workbook
@torch.no_grad()
def scan(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    *,
    hook: str | None = None,
    top_k: int = 20,
    cofiring: Sequence[int] = (),
    mask: Bool[Tensor, "batch pos"] | None = None,
    first_row: int = 0,
    batch_size: int | None = None,
    checkpoint: str | Path | None = None,
    executor: Executor | None = None,
    rebuild: Rebuild | None = None,
    progress: bool = True,
) -> FeatureScan:
    """Count how often, how strongly and where each feature fires.

    The model runs up to the SAE's hook only. Or a Workbook alone in place of model, sae and tokens.

    Time: the SAE's digest is computed, and with a checkpoint or an executor the model's: about 1 GB
    of weights a second for each thread of torch.

    Memory does not depend on the number of tokens. Each feature takes 66 numbers, ``28 * top_k``
    bytes of lists, at most 4 kB of samples and 8 bytes per ``cofiring`` feature. One block of
    features takes ``4 * 1024 * d_sae`` bytes (67 MB for 16,384).

    Args:
        model: a TransformerLens model.
        sae: a ``sae_lens.SAE``, or your own object.
        tokens: rows of one length, BOS first.
        hook: the SAE's own by default.
        top_k: strongest activations to keep of each feature; 0 keeps counts and histograms only.
        cofiring: features for which to count, of every feature, the tokens on which both fire.
        mask: where False (BOS, padding), the token does not count. By default all count, BOS too,
            as published.
        first_row: number of the first row, for scans of parts that are merged later.
        batch_size: rows run at a time; by default about 1,024 tokens' worth (16,384 on a GPU).
        checkpoint: a file that keeps what is done. The next call with the same arguments continues
            from it.
        executor: anything with ``submit``, as in ``concurrent.futures``; its workers scan parts.
        rebuild: needed with an executor: a picklable function that gives ``(model, sae)``. Each
            worker calls it once. For a pool of processes it must be in a file that they can
            import, not in a notebook.
        progress: show a progress bar.

    Raises:
        ValueError: bad tokens, mask or numbers; an activation that is not finite (it says in which
            rows); workers that rebuild something else, or cannot import ``rebuild``; functions at
            hooks together with a checkpoint or an executor.
        HookError: hook and SAE do not fit.
        WeightsError: the checkpoint is damaged, or of another scan.
        RuntimeError: the executor failed.

    Source: ``get_freqs`` of the gelu-1l notebook for the firing rates.

    >>> import saework
    >>> book = saework.load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> counted = saework.scan(book, progress=False)
    >>> counted.n_tokens, counted.count.shape, round(counted.mean_l0)
    (2048, torch.Size([4096]), 26)
    """
    hook = hook_of(sae, hook)
    tokens, _, mask, batch_size = forward.prepared(model, sae, tokens, hook, mask, batch_size)
    tokens = tokens.cpu()  # a batch goes to the model's device when its turn comes
    _check_choices(tokens, mask, top_k, first_row, executor, rebuild)
    d_sae = sae.W_dec.shape[0]
    checked = [check_feature(feature, d_sae) for feature in cofiring]
    job = Job(hook, top_k, tuple(dict.fromkeys(checked)), batch_size)  # each feature once
    collector = job.collector(d_sae)
    n_pos = tokens.shape[1]
    fingerprint = sae_digest(sae, hook)
    # without positions there is no row to look up
    digests = row_digests(tokens) if top_k else torch.zeros(0, dtype=torch.int64)

    def first_rows(n_rows: int) -> FeatureScan:
        """What the collector holds, as the scan of so many rows."""
        return FeatureScan.of(
            collector.arrays(),
            ((first_row, first_row + n_rows),),
            digests[:n_rows],
            fingerprint,
            n_left_out=n_rows * n_pos - collector.n_tokens,
        )

    saved = None
    rows_done = 0
    if checkpoint is not None:
        settings = asdict(job) | {"first_row": first_row, "part": PART}
        work_is = work_digest(model, sae, fingerprint, tokens, mask, settings)
        saved = Checkpoint(checkpoint, work_is)
        if before := saved.read():
            collector.absorb(vars(before))
            rows_done = before.rows[0][1] - first_row

    batches_per_part = max(1, PART // (batch_size * n_pos))
    parts = forward.row_blocks(len(tokens), batch_size * batches_per_part)
    work = [Rows.of(tokens, mask, part, first_row) for part in parts if part.start >= rows_done]
    with forward.progress_bar(
        total=tokens.numel(),
        initial=rows_done * n_pos,
        show=progress,
        desc="scan",
        unit=" tokens",
        unit_scale=True,
    ) as bar:
        if executor is None or rebuild is None:
            scanned = in_this_process(collector, job, model, sae, work, bar)
        else:
            scanned = by_workers(collector, job, model, sae, work, bar, executor, rebuild)
        for rows in scanned:
            rows_done += len(rows.tokens)
            if saved is not None:
                saved.write(first_rows(rows_done))
    return first_rows(rows_done)


def _check_choices(
    tokens: torch.Tensor,
    mask: torch.Tensor | None,
    top_k: int,
    first_row: int,
    executor: Executor | None,
    rebuild: Rebuild | None,
) -> None:
    check_positive(top_k, "top_k", minimum=0)
    check_positive(first_row, "first_row", minimum=0)
    if first_row + len(tokens) > MAX_ROWS:
        raise ValueError(f"first_row is {first_row}; rows are numbered below {MAX_ROWS:,}")
    n_counted = tokens.numel() if mask is None else int(mask.sum())
    if top_k > n_counted:
        raise ValueError(
            f"top_k is {top_k}, but there are only {n_counted} tokens to count; give at most that"
        )
    if (executor is None) != (rebuild is None):
        raise ValueError(
            "executor= and rebuild= go together: give a picklable function without arguments "
            "that returns (model, sae)"
        )
    if executor is not None and not hasattr(executor, "submit"):
        raise ValueError(
            f"executor is a {type(executor).__name__}, which has no submit; give an executor, such "
            "as concurrent.futures.ThreadPoolExecutor or Dask's client.get_executor()"
        )
    if rebuild is not None and not callable(rebuild):
        raise ValueError(
            f"rebuild is a {type(rebuild).__name__}; give a function without arguments that "
            "returns (model, sae)"
        )
