"""Folders with a model's first blocks, in a cache beside the Hub's.

Each is an ordinary small folder of Hugging Face's transformers: ``config.json`` of the blocks that
it holds, and one ``model.safetensors``, whose tensors are the published ones bit by bit. What is on
this machine already is copied; the rest comes from the Hub by ranges of bytes.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from saework.core.errors import NotAvailableError, WeightsError
from saework.engine.forward import progress_bar
from saework.loading.cut_cache import (
    check_unchanged,
    cut_cache,
    make_folder,
    model_cache,
    write_chunks,
    write_text,
)
from saework.loading.cut_models import TEXT, FirstBlocks
from saework.loading.hub import Repository
from saework.loading.published_tensors import INDEX, WEIGHTS, PublishedModel
from saework.loading.stored_tensors import LocalFile, StoredTensor, copied, tensors_in

CONFIG = "config.json"
FILES = (CONFIG, WEIGHTS)


def config_folder(repository: Repository) -> Path:
    """The folder with a repository's config, and the index of its weights if it has one.

    Of a repository on the Hub it is the snapshot in the Hub's cache, named by its commit.
    """
    return repository.fetch_folder((CONFIG,), also=(INDEX,))


def cut_folder(repository: Repository, hub_folder: Path, blocks: FirstBlocks) -> Path:
    """The folder with a repository's first blocks; made if need be.

    Memory: a few megabytes. Two processes that need the same folder make it once: one waits.

    Args:
        repository: of the whole model; if it is a folder itself, that is the answer.
        hub_folder: as ``config_folder`` gave it.
        blocks: what to hold.

    Raises:
        NotAvailableError: no access, network or disk.
        WeightsError: the Hub gives other bytes than it should, or the folder was changed.
    """
    if repository.folder:
        return repository.folder
    published = published_model(repository, hub_folder)
    name = f"blocks-{blocks.n_blocks}-of-{blocks.n_blocks_of_whole}"
    if blocks.depth == TEXT:
        name += "-without-embedding"
    folder = model_cache(published.repository) / name
    make_folder(folder, FILES, _Filling(published, folder, blocks).write)
    return folder


def published_model(repository: Repository, hub_folder: Path) -> PublishedModel:
    """A repository pinned to the commit of its snapshot in the Hub's cache."""
    return PublishedModel(replace(repository, revision=hub_folder.name), hub_folder)


@dataclass(frozen=True)
class _Filling:
    """What is needed to fill one folder."""

    published: PublishedModel
    folder: Path
    """The folder's final place."""
    blocks: FirstBlocks

    def write(self, partial: Path) -> dict[str, object]:
        """Write the folder's files; returns what is recorded of them."""
        known = tensors_here(self.folder.parent, self.blocks.shapes)
        write = functools.partial(self._write_weights, partial / WEIGHTS)
        digest = self.published.used(self.blocks, known, write)
        config = json.dumps(self.blocks.config.to_dict(), indent=1)
        return {
            "repository": self.published.repository.name,
            "revision": self.published.repository.revision,
            "blocks": self.blocks.n_blocks,
            "blocks of the whole model": self.blocks.n_blocks_of_whole,
            "sha256": {CONFIG: write_text(partial / CONFIG, config), WEIGHTS: digest},
        }

    def _check_disk(self, tensors: Mapping[str, StoredTensor]) -> None:
        needed = sum(tensor.n_bytes for tensor in tensors.values())
        free = shutil.disk_usage(self.folder.parent).free
        if needed > free:
            raise NotAvailableError(
                f"{needed / 1e9:.1f} GB to download but {free / 1e9:.1f} GB free in "
                f"{cut_cache()}; make room, or set HF_HOME to another disk"
            )

    def _write_weights(self, path: Path, tensors: Mapping[str, StoredTensor]) -> str:
        self._check_disk(tensors)
        total = sum(tensor.n_bytes for tensor in tensors.values())
        description = f"{self.blocks.n_blocks} of {self.blocks.n_blocks_of_whole} blocks"
        bar = progress_bar(show=True, total=total, unit="B", unit_scale=True, desc=description)
        with bar:
            return write_chunks(path, copied(tensors, advance=bar.update))


def tensors_here(model: Path, names: Collection[str]) -> dict[str, StoredTensor]:
    """Tensors that folders of the same revision hold already."""
    found: dict[str, StoredTensor] = {}
    for folder in sorted(model.glob("blocks-*-of-*")):
        try:
            check_unchanged(folder, FILES)
        except WeightsError:
            continue
        held = tensors_in(LocalFile(folder / WEIGHTS))
        found |= {name: held[name] for name in held if name in names}
    return found
