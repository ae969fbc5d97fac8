"""A release's model: all of it, or what an SAE's hook needs, or what it needs for one text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saework.core.errors import NotAvailableError
from saework.core.protocols import HookedModel, SparseAutoencoder, Tokenizer, sae_metadata
from saework.loading import models
from saework.loading.cut_folders import config_folder, cut_folder
from saework.loading.cut_models import DEPTHS, FULL, HOOK, TEXT, blocks_needed, first_blocks
from saework.loading.embedding_rows import embedding_rows
from saework.loading.release import Release
from saework.loading.requirements import check_memory

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int
    from torch import Tensor

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Tokens that the analyses put before or behind a text."""


def check_depth(depth: object, release: Release) -> None:
    """Refuse, before anything is downloaded, a depth that this release's model cannot have.

    Raises:
        ValueError: for another word.
        NotAvailableError: for a model that is one file, read whole.
    """
    if depth not in DEPTHS:
        raise ValueError(f'depth is {depth!r}; give "{FULL}", "{HOOK}" or "{TEXT}"')
    if depth != FULL and not release.model_layout.can_be_cut:
        raise NotAvailableError(
            f"the model of {release.name} is one file that is read whole, so nothing is left out "
            f'of it; load it with depth="{FULL}"'
        )


def load_model(
    release: Release,
    sae: SparseAutoencoder,
    tokenizer: Tokenizer,
    tokens: Int[Tensor, "batch pos"],
    *,
    device: torch.device,
    dtype: torch.dtype,
    depth: str = FULL,
    force: bool = False,
) -> HookedModel:
    """The release's model, processed as the SAE needs it, on the device.

    Args:
        release: of the model.
        sae: whose hook decides how many blocks are needed.
        tokenizer: the model's.
        tokens: whose rows of the embedding are held with ``depth="text"``.
        device: where the weights go.
        dtype: of the weights.
        depth: as ``load`` takes it.
        force: go ahead where memory is too small.

    Raises:
        NotAvailableError: no network, access, disk or memory; or not known to work in part.
        HookError: the SAE's hook is in no block of the model.
        WeightsError: damaged files.
    """
    repository = release.repositories["model"]
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    trained_on = sae_metadata(sae, "model_from_pretrained_kwargs") or {}
    options["centred"] = bool(trained_on.get("center_writing_weights"))
    if depth == FULL:
        files = release.model_layout.files
        folder = repository.fetch_folder(files, also=models.OPTIONAL_FILES)
    else:
        hub_folder = config_folder(repository)
        whole = first_blocks(hub_folder, blocks_needed(sae))
        blocks = whole.without_embedding() if depth == TEXT else whole
        if not force:
            check_memory(blocks.n_values * dtype.itemsize, str(device))
        folder = cut_folder(repository, hub_folder, blocks)
        if depth == TEXT:
            token_ids = _tokens_of(tokens, tokenizer)
            rows = embedding_rows(repository, hub_folder, whole, token_ids)
            blocks = replace(blocks, rows=rows)
        options["blocks"] = blocks
    return release.model_layout.read(folder, tokenizer, **options)


def _tokens_of(tokens: Int[Tensor, "batch pos"], tokenizer: Tokenizer) -> set[int]:
    """The numbers of a text's tokens, and of those that are put around a text."""
    special = [getattr(tokenizer, name, None) for name in SPECIAL]
    return {*tokens.unique().tolist(), *(one for one in special if one is not None)}
