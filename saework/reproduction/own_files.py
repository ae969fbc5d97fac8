"""What is in the folder of a run already: only what saework wrote, unchanged, is written over."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from saework.core.files import check_own_page, digest
from saework.reproduction.pack import Pack

ADDED_TAGS = {"injected-parameters", "papermill-error-cell-tag", "replay"}
"""Of the cells that a run adds: they are no change of a reader's."""
SIGNATURE = "saework"
"""In a notebook's metadata: the digest of its cells as they were written."""
NEXT_STEP = "move it away, or give another folder (--out DIR). Nothing was run"


def signed(notebook: NotebookNode) -> NotebookNode:
    """The notebook itself, with the digest of its cells in its metadata."""
    notebook.metadata[SIGNATURE] = {"cells": _cells_digest(notebook)}
    return notebook


def check_notebook(path: Path) -> None:
    """Refuse a notebook that a reader has worked in, or that is not of a run.

    Raises: ValueError, which says what to do.
    """
    if not path.exists():
        return
    try:
        _check_is_file(path)
        notebook = nbformat.read(path, as_version=4)
        written = notebook.metadata[SIGNATURE]["cells"]
        changed = written != _cells_digest(notebook)
    # a damaged file or another kind of one
    except Exception as error:
        raise ValueError(f"{path} was not written by this command; {NEXT_STEP}") from error
    if changed:
        raise ValueError(f"{path} has been changed since saework wrote it; {NEXT_STEP}")


def check_run(folder: Path, notebooks: list[str], index: str) -> None:
    """Refuse a folder in which a run of these notebooks would write over other people's files.

    Args:
        folder: of the run.
        notebooks: their names.
        index: the name of the index page.

    Raises: ValueError, which names the file.
    """
    for name in notebooks:
        check_notebook(folder / f"{name}.ipynb")
        check_own_page(folder / f"{name}.html")
        check_pack(folder / f"{name}.safetensors")
    check_own_page(folder / index)
    _check_ledger(folder / "ledger.json")


def check_pack(path: Path, new: bytes | None = None) -> None:
    """Refuse a file that is no replay pack, or another one than the new one.

    Args:
        path: of the file, which may not be there.
        new: what is to be written; by default any pack may be replaced.

    Raises: ValueError, which says what to do.
    """
    if not path.exists():
        return
    try:
        Pack(path)
    except ValueError as error:
        raise ValueError(f"{path} is no replay pack; {NEXT_STEP}") from error
    if new is not None and path.read_bytes() != new:
        raise ValueError(f"{path} is another replay pack of this name; {NEXT_STEP}")


def _check_ledger(path: Path) -> None:
    if not path.exists():
        return
    try:
        _check_is_file(path)
        is_ledger = {"tier", "entries"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError, RecursionError):
        is_ledger = False
    if not is_ledger:
        raise ValueError(f"{path} is no ledger of saework's; {NEXT_STEP}")


def _check_is_file(path: Path) -> None:
    """Raises: ValueError for a folder, or a pipe, which would be waited for without end."""
    if not path.is_file():
        raise ValueError(f"{path} is no file")


def _cells_digest(notebook: NotebookNode) -> str:
    """Of what stands in the cells, without what a run adds."""
    cells = [
        [cell.cell_type, cell.source]
        for cell in notebook.cells
        if ADDED_TAGS.isdisjoint(cell.metadata.get("tags", []))
    ]
    return digest(json.dumps(cells))
