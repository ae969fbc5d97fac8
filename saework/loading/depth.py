"""A release's model: all of it, or the embedding and the blocks up to the SAE's hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saework.core.errors import NotAvailableError
from saework.core.protocols import HookedModel, SparseAutoencoder, Tokenizer, sae_metadata
from saework.loading import models
from saework.loading.cut_folders import config_folder, cut_folder
from saework.loading.cut_models import blocks_needed, first_blocks
from saework.loading.needs import DEPTHS, FULL, HOOK
from saework.loading.release import Release
from saework.loading.requirements import check_memory

if TYPE_CHECKING:
    import torch


def check_depth(depth: object, release: Release) -> None:
    """Refuse, before anything is downloaded, a depth that this release's model cannot have.

    Raises:
        ValueError: for another word.
        NotAvailableError: for a model that is one file, read whole.
    """
    if depth not in DEPTHS:
        raise ValueError(f'depth is {depth!r}; give "{FULL}" or "{HOOK}"')
    if depth == HOOK and not release.model_layout.can_be_cut:
        raise NotAvailableError(
            f"the model of {release.name} is one file that is read whole, so nothing is left out "
            f'of it; load it with depth="{FULL}"'
        )


def load_model(
    release: Release,
    sae: SparseAutoencoder,
    tokenizer: Tokenizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    depth: str = FULL,
    force: bool = False,
) -> HookedModel:
    """The release's model, processed as the SAE needs it, on the device.

    Raises:
        NotAvailableError: no network, access, disk or memory; or not known to work in part.
        HookError: the SAE's hook is in no block of the model.
        WeightsError: damaged files.
    """
    repository = release.repositories["model"]
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    trained_on = sae_metadata(sae, "model_from_pretrained_kwargs") or {}
    options["centred"] = bool(trained_on.get("center_writing_weights"))
    if depth == HOOK:
        hub_folder = config_folder(repository)
        blocks = first_blocks(hub_folder, blocks_needed(sae))
        if not force:
            check_memory(blocks.n_values * dtype.itemsize, str(device))
        folder = cut_folder(repository, hub_folder, blocks)
        options["blocks"] = blocks
    else:
        files = release.model_layout.files
        folder = repository.fetch_folder(files, also=models.OPTIONAL_FILES)
    return release.model_layout.read(folder, tokenizer, **options)
