"""A cache for parts of models, beside the Hub's: each folder is whole, or not there."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.hub import Repository
from saework.loading.stored_tensors import CHUNK

RECORD = "saework.json"
"""In each folder: what it holds, and the digests of its files."""


def cut_cache() -> Path:
    """Where the folders are kept: beside the Hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).absolute().parent / "saework"


def model_cache(pinned: Repository) -> Path:
    """Where all folders of one model's revision are kept."""
    return cut_cache() / pinned.name.replace("/", "--") / str(pinned.revision)


def make_folder(
    folder: Path, files: Collection[str], write: Callable[[Path], dict[str, object]]
) -> None:
    """Make a folder, if it is not there: whole, or not at all. Then check what is in it.

    Args:
        folder: in the cache.
        files: that it consists of.
        write: writes them to a folder, and returns what is recorded of them, ``sha256`` by name.

    Raises:
        WeightsError: a file is missing, cut off or changed.
    """
    from filelock import FileLock

    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                with _partial_folder(folder) as partial:
                    record = write(partial)
                    write_text(partial / RECORD, json.dumps(record, indent=1))
    check_unchanged(folder, files)


def check_unchanged(folder: Path, files: Collection[str]) -> None:
    """Read a folder's files, and compare them with what was recorded when they were written.

    Raises:
        WeightsError: a file is missing, cut off or changed.
    """
    remedy = f"delete {folder}, and load again"
    try:
        recorded = read_json(folder / RECORD)["sha256"]
        wanted = {name: str(recorded[name]) for name in files}
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


def write_chunks(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a file, and wait until it is on the disk; returns the SHA-256 of what it should be."""
    sha256 = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            sha256.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()


def write_text(path: Path, text: str) -> str:
    """As ``write_chunks``."""
    return write_chunks(path, [text.encode()])


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


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()
