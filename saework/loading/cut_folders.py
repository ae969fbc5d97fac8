"""Folders with a model's first blocks, in a cache beside the Hub's: whole, or not there.

Each is an ordinary small folder of Hugging Face's transformers: ``config.json`` of the blocks that
it holds, and one ``model.safetensors``, whose tensors are the published ones bit by bit. What is on
this machine already is copied; the rest comes from the Hub by ranges of bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from saework.core.errors import NotAvailableError, WeightsError
from saework.core.files import read_json
from saework.engine.forward import progress_bar
from saework.loading.cut_models import FirstBlocks
from saework.loading.hub import Repository
from saework.loading.hub_ranges import HubFile, NoRangesError
from saework.loading.stored_tensors import CHUNK, LocalFile, StoredTensor, copied, tensors_in

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
RECORD = "saework.json"
SHARD = re.compile(r"[\w.-]+\.safetensors")


def cut_cache() -> Path:
    """Where the folders are kept: beside the Hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).absolute().parent / "saework"


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
    from filelock import FileLock

    if repository.folder:
        return repository.folder
    commit = hub_folder.name
    model = cut_cache() / repository.name.replace("/", "--") / commit
    folder = model / f"blocks-{blocks.n_blocks}-of-{blocks.n_blocks_of_whole}"
    if not folder.exists():
        model.mkdir(parents=True, exist_ok=True)
        with FileLock(model / f".{folder.name}.lock"):
            if not folder.exists():
                pinned = replace(repository, revision=commit)
                with _partial_folder(folder) as partial:
                    _Filling(pinned, hub_folder, folder, blocks).write(partial)
    check_unchanged(folder)
    return folder


def check_unchanged(folder: Path) -> None:
    """Read a folder's files, and compare them with what was recorded when they were written.

    Raises:
        WeightsError: a file is missing, cut off or changed.
    """
    remedy = f"delete {folder}, and load again"
    try:
        recorded = read_json(folder / RECORD)["sha256"]
        wanted = {name: str(recorded[name]) for name in (CONFIG, WEIGHTS)}
    except (WeightsError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} is damaged: {RECORD} cannot be read; {remedy}") from error
    for name, digest in wanted.items():
        path = folder / name
        if not path.exists():
            raise WeightsError(f"{folder} is damaged: it has no {name}; {remedy}")
        if _sha256(path) != digest:
            raise WeightsError(
                f"{folder} is damaged: {name} is not what was written there; {remedy}"
            )


@dataclass(frozen=True)
class _Filling:
    """What is needed to fill one folder."""

    repository: Repository
    """Pinned to the commit."""
    hub_folder: Path
    """The repository's snapshot in the Hub's cache."""
    folder: Path
    """The folder's final place."""
    blocks: FirstBlocks

    def write(self, partial: Path) -> None:
        """Write all files of the folder."""
        tensors = self._tensors(ranges=True)
        self._check_disk(tensors)
        try:
            digest = self._write_weights(partial / WEIGHTS, tensors)
        except NoRangesError:
            tensors = self._tensors(ranges=False)
            digest = self._write_weights(partial / WEIGHTS, tensors)
        config = json.dumps(self.blocks.config.to_dict(), indent=1)
        _write(partial / CONFIG, config)
        record = {
            "repository": self.repository.name,
            "revision": self.repository.revision,
            "blocks": self.blocks.n_blocks,
            "blocks of the whole model": self.blocks.n_blocks_of_whole,
            "sha256": {CONFIG: _sha256(partial / CONFIG), WEIGHTS: digest},
        }
        _write(partial / RECORD, json.dumps(record, indent=1))

    def _tensors(self, *, ranges: bool) -> dict[str, StoredTensor]:
        """Where each tensor is, by transformers' name, with the shape that the config says.

        Raises:
            WeightsError: a tensor is missing, or has another shape.
        """
        tensors = self._on_this_machine()
        needed = self.blocks.shapes.keys() - tensors.keys()
        if needed:
            published, shards = self._shards(needed)
            stored: dict[str, StoredTensor] = {}
            for shard in shards:
                stored |= self._tensors_of_shard(shard, ranges=ranges)
            published = published or self.blocks.published_names(stored)
            for name in needed:
                if published[name] not in stored:
                    raise WeightsError(
                        f"{self.repository.name} has no {published[name]} in the file that its "
                        "index names; it is not whole"
                    )
                tensors[name] = stored[published[name]]
        for name, shape in self.blocks.shapes.items():
            if tensors[name].shape != shape:
                raise WeightsError(
                    f"{tensors[name].source.name}: {name} has shape {tensors[name].shape}, its "
                    f"config says {shape}; it belongs to another model"
                )
        return tensors

    def _shards(self, needed: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """The published names by transformers' (empty without an index), and the files."""
        index = self.hub_folder / INDEX
        if not index.exists():
            return {}, [WEIGHTS]
        shard_of = _weight_map(index)
        published = self.blocks.published_names(shard_of)
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

    def _on_this_machine(self) -> dict[str, StoredTensor]:
        """Tensors that other folders of the same revision hold already."""
        found: dict[str, StoredTensor] = {}
        for other in sorted(self.folder.parent.glob("blocks-*-of-*")):
            try:
                check_unchanged(other)
            except WeightsError:
                continue
            held = tensors_in(LocalFile(other / WEIGHTS))
            found |= {name: held[name] for name in held if name in self.blocks.shapes}
        return found

    def _check_disk(self, tensors: Mapping[str, StoredTensor]) -> None:
        needed = sum(tensor.n_bytes for tensor in tensors.values())
        free = shutil.disk_usage(self.folder.parent).free
        if needed > free:
            raise NotAvailableError(
                f"{needed / 1e9:.1f} GB to download but {free / 1e9:.1f} GB free in "
                f"{cut_cache()}; make room, or set HF_HOME to another disk"
            )

    def _write_weights(self, path: Path, tensors: Mapping[str, StoredTensor]) -> str:
        """Write the tensors to one file; returns its SHA-256."""
        sha256 = hashlib.sha256()
        total = sum(tensor.n_bytes for tensor in tensors.values())
        description = f"{self.blocks.n_blocks} of {self.blocks.n_blocks_of_whole} blocks"
        bar = progress_bar(show=True, total=total, unit="B", unit_scale=True, desc=description)
        with bar, path.open("wb") as file:
            for chunk in copied(tensors, advance=bar.update):
                sha256.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return sha256.hexdigest()


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


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name at the end, or is removed on an error.

    Only whoever holds the folder's lock may do this: what others left is removed.
    """
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(left)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()
