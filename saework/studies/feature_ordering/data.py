"""The activations that the study's runs are trained on, in batches that can start anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import torch

from saework.studies.feature_ordering.variants import Setting

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Batches: TypeAlias = Callable[[int, int], Iterator[Float[Tensor, "batch d_in"]]]

ROWS_AT_ONCE = 64


def study_data(
    setting: Setting, *, device: str = "cpu"
) -> tuple[Batches, Float[Tensor, "tokens d_in"]]:
    """The batches and the held-out activations that ``train`` needs.

    They are the model's activations at the setting's hook, without BOS. The last rows of the text
    are held out. Where the setting takes all of the text, its activations are kept in memory;
    where it gives ``n_tokens``, the model runs along.

    Args:
        setting: whose model, hook and sizes are used.
        device: of the model.
    Returns: ``(batches, held_out)``.
    Memory: 54 MB of activations for the mini. For the real setting about 5 GB, and the model.

    >>> from dataclasses import replace
    >>> from saework import feature_ordering
    >>> setting = replace(feature_ordering.SMALL, n_tokens=2048, held_out_rows=2)
    >>> batches, held_out = feature_ordering.study_data(setting)
    >>> held_out.shape
    torch.Size([254, 128])
    """
    from saework.engine.activation_batches import activation_batches
    from saework.engine.forward import activations
    from saework.loading.workbook import load

    book = load(setting.release, n_tokens=setting.n_tokens, device=device, check=False)
    n_trained_on = len(book.tokens) - setting.held_out_rows
    rows, last_rows = book.tokens[:n_trained_on], book.tokens[n_trained_on:]

    def without_bos(tokens: Tensor) -> Tensor:
        parts = tokens.split(ROWS_AT_ONCE)
        x = torch.cat([activations(book.model, part, setting.hook) for part in parts])
        is_text = tokens != book.tokenizer.bos_token_id
        return x[is_text.to(x.device)]

    held_out = without_bos(last_rows)
    if setting.n_tokens is None:
        x = without_bos(rows)
        scale = 1.0
        if setting.scale_to is not None:
            scale = setting.scale_to / float(x.norm(dim=-1).mean())
        return tensor_batches(x * scale, setting.batch), held_out * scale

    def batches(seed: int, start: int = 0) -> Iterator[Tensor]:
        return activation_batches(
            book.model,
            rows,
            setting.hook,
            batch=setting.batch,
            seed=seed,
            bos=False,
            start=start,
        )

    return batches, held_out


def tensor_batches(x: Float[Tensor, "tokens d_in"], batch: int) -> Batches:
    """Endless batches of given activations, as ``batches(seed, start)`` for ``train``.

    Each epoch has an order of its own. What does not fill a batch at its end is dropped.

    Args:
        x: all activations.
        batch: tokens per batch.
    Raises:
        ValueError: if there are fewer activations than one batch needs.
    """
    per_epoch = len(x) // batch
    if not per_epoch:
        raise ValueError(
            f"{len(x)} activations do not fill one batch of {batch}; "
            "give more of them, or a smaller batch"
        )

    def batches(seed: int, start: int = 0) -> Iterator[Tensor]:
        epoch, n_skipped = divmod(start, per_epoch)
        while True:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(x), generator=generator)
            for rows in order.split(batch)[n_skipped:per_epoch]:
                yield x[rows]
            epoch += 1
            n_skipped = 0

    return batches
