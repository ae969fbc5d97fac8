"""Where a model's tensors are: in files on this machine, or in ranges of the Hub's files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.cut_models import FirstBlocks
from saework.loading.hub import Repository
from saework.loading.hub_ranges import HubFile, NoRangesError
from saework.loading.stored_tensors import LocalFile, StoredTensor, tensors_in

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
T = TypeVar("T")
SHARD = re.compile(r"[\w.-]+\.safetensors")


@dataclass(frozen=True)
class PublishedModel:
    """A repository at one commit, with its safetensors files."""

    repository: Repository
    """Pinned to the commit, or a folder on this machine."""
    hub_folder: Path
    """The repository's snapshot in the Hub's cache, or the folder."""

    def tensors(
        self, blocks: FirstBlocks, known: Mapping[str, StoredTensor], *, ranges: bool
    ) -> dict[str, StoredTensor]:
        """Where each tensor is, by transformers' name, with the shape that the config says.

        Args:
            blocks: whose tensors.
            known: where some of them are.
            ranges: take ranges of the Hub's files; without them whole files are downloaded.

        Raises:
            NotAvailableError: no access, or no network.
            WeightsError: a tensor is missing, or has another shape.
        """
        tensors = dict(known)
        needed = blocks.shapes.keys() - tensors.keys()
        if needed:
            published, shards = self._shards(blocks, needed)
            stored: dict[str, StoredTensor] = {}
            for shard in shards:
                stored |= self._tensors_of_shard(shard, ranges=ranges)
            published = published or blocks.published_names(stored)
            for name in needed:
                if published[name] not in stored:
                    raise WeightsError(
                        f"{self.repository.name} has no {published[name]} in the file that its "
                        "index names; it is not whole"
                    )
                tensors[name] = stored[published[name]]
        for name, shape in blocks.shapes.items():
            if tensors[name].shape != shape:
                raise WeightsError(
                    f"{tensors[name].source.name}: {name} has shape {tensors[name].shape}, its "
                    f"config says {shape}; it belongs to another model"
                )
        return tensors

    def used(
        self,
        blocks: FirstBlocks,
        known: Mapping[str, StoredTensor],
        use: Callable[[dict[str, StoredTensor]], T],
    ) -> T:
        """What ``use`` makes of the tensors: of ranges; if the server gives none, of whole files.

        Args:
            blocks: whose tensors.
            known: where some of them are.
            use: reads them; called again if the first range is answered with the whole file.

        Raises:
            NotAvailableError, WeightsError: as ``tensors``.
        """
        try:
            return use(self.tensors(blocks, known, ranges=True))
        except NoRangesError:
            return use(self.tensors(blocks, known, ranges=False))

    def _shards(
        self, blocks: FirstBlocks, needed: Iterable[str]
    ) -> tuple[dict[str, str], list[str]]:
        """The published names by transformers' (empty without an index), and the files."""
        index = self.hub_folder / INDEX
        if not index.exists():
            return {}, [WEIGHTS]
        shard_of = _weight_map(index)
        published = blocks.published_names(shard_of)
        return published, sorted({shard_of[published[name]] for name in needed})

    def _tensors_of_shard(self, shard: str, *, ranges: bool) -> dict[str, StoredTensor]:
        """From a file in the Hub's cache; else by ranges; else of the whole file, downloaded."""
        path = self.hub_folder / shard
        if path.exists():
            return tensors_in(LocalFile(path))
        if ranges:
            try:
                source = HubFile(self.repository, str(self.repository.revision), shard)
                return tensors_in(source)
            except NoRangesError:
                pass
        path = self.repository.fetch(shard)
        if path.parent != self.hub_folder:
            raise WeightsError(
                f"{shard} of {self.repository.name} came from another revision than its config; "
                "load again"
            )
        return tensors_in(LocalFile(path))


def _weight_map(index: Path) -> dict[str, str]:
    """From a tensor's name to its file.

    Raises:
        WeightsError: the index is damaged, or names a file outside of the repository's folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map; delete it and download it again")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise WeightsError(f"{index} says that {name} is in {shard!r}, which is no shard")
    return weight_map
