"""A replay pack: what a run of a notebook left behind, in one safetensors file without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saework.core.files import partial_file, without_doubles
from saework.reproduction.pack_values import Tensors, Tree, unpacked

VERSION = "2"
"""Of the file's format. Version 1 stored none, and named result classes by their modules."""
ABOUT = ("notebook", "source", "licence", "parameters", "made", "saework", "torch")
"""What a pack says about the run that made it."""


class Pack:
    """What a run of a notebook left behind, by the statement that made it.

    Args:
        path: a file that ``saework reproduce`` wrote.

    Raises:
        ValueError: if the file is no pack, is damaged, or is of another version of the format.
    """

    about: dict[str, Any]
    """The notebook, the digest of its source, its parameters, and when and with what it was run."""
    kept: dict[str, dict[str, Any]]
    """By ``cell.statement``: ``values`` by name and, if something was displayed, ``shown``."""

    def __init__(self, path: str | Path):
        tree, self.tensors = read(path)
        try:
            self.about = tree["about"]
            self.kept = tree["kept"]
            for part in ABOUT:
                self.about[part]
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is no replay pack (it lacks {error}); "
                "give a file that saework reproduce wrote"
            ) from error
        if not _is_well_formed(self.about, self.kept):
            raise ValueError(
                f"{path} is no replay pack that saework wrote (its parts are of another kind); "
                "give a file that saework reproduce wrote"
            )

    def take(self, statement: str) -> Any:
        """The value that a statement left, or a tuple of them in the order of their names.

        Args:
            statement: ``cell.statement``, each counted from 0.

        Raises:
            ValueError: the pack does not hold it.
        """
        trees = self.kept[statement]["values"].values()
        values = [self._unpacked(tree) for tree in trees]
        return values[0] if len(values) == 1 else tuple(values)

    def shown(self, statement: str) -> Any:
        """What a statement displayed.

        Raises:
            ValueError: the pack does not hold it.
        """
        return self._unpacked(self.kept[statement]["shown"])

    def _unpacked(self, tree: Tree) -> Any:
        try:
            return unpacked(tree, self.tensors)
        # of trees that no ``packed`` made; the errors are those of torch and pandas too
        except Exception as error:
            raise ValueError(
                f"the pack holds a value that cannot be read ({type(error).__name__}: {error}); "
                "it is damaged, or was made by hand"
            ) from error

    def kept_in(self, cell: int) -> dict[str, dict[str, Any]]:
        """What is kept of the statements of one cell, by the number of the statement."""
        places = {key: key.partition(".") for key in self.kept}
        return {
            statement: self.kept[key]
            for key, (in_cell, _, statement) in places.items()
            if in_cell == str(cell)
        }


def _is_well_formed(about: object, kept: object) -> bool:
    """Whether the parts are mappings, down to the values by name."""
    if not isinstance(about, dict) or not isinstance(kept, dict):
        return False
    if not isinstance(about["parameters"], dict) or not isinstance(about["notebook"], str):
        return False
    entries = kept.values()
    return all(
        isinstance(entry, dict) and isinstance(entry.get("values"), dict) for entry in entries
    )


def write(path: str | Path, tree: Tree, tensors: Tensors) -> Path:
    """Write JSON and the tensors that it names. An older file stays until the new one is whole."""
    from safetensors.torch import save_file

    with partial_file(path) as partial:
        save_file(tensors, partial, metadata={"saework": json.dumps(tree), "version": VERSION})
    return Path(path)


def read(path: str | Path) -> tuple[Tree, Tensors]:
    """What ``write`` wrote.

    Raises:
        ValueError: if the file is something else, is damaged, or is of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not Path(path).is_file():  # a pipe would be waited for without end
            raise ValueError("there is no such file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tree = json.loads(metadata["saework"], object_pairs_hook=without_doubles)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no replay pack, or is damaged ({error}); "
            "give a file that saework reproduce wrote"
        ) from error
    version = metadata.get("version", "1")
    if version != VERSION:
        raise ValueError(
            f"{path} is a replay pack of version {version}, and this saework reads version "
            f"{VERSION}; run saework reproduce NAME again with this version of saework, "
            "where NAME is the release that the pack is of"
        )
    return tree, tensors
