"""A notebook again without its model: what needs the weights is read from a pack.

``watched`` adds the cells that make a run write a pack. ``without_weights`` writes each statement
that needs the weights as a comment, and the reading of its results below it. All else runs again.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.files import digest
from saework.reproduction.pack import Pack
from saework.reproduction.statements import Statement, statements_of
from saework.reproduction.watch import WATCH, Entry, watch

__all__ = ["Pack", "unwatched", "watch", "watched", "without_weights"]  # watch: for notebooks

PACK = "pack"
"""The name of the pack in a replay."""
PARAMETERS = ("RELEASE",)
"""What a pack may set. The names become code."""
REPLAY_TAG = "replay"


def watched(
    notebook: NotebookNode, path: Path, *, name: str, licence: str, parameters: dict[str, Any]
) -> NotebookNode:
    """A notebook that writes a pack as it runs: with one cell before all others, and one behind.

    Args:
        notebook: from ``nbformat``.
        path: of the pack.
        name: of the notebook.
        licence: of the weights that are measured.
        parameters: that the run gets.
    """
    about = {
        "notebook": name,
        "source": source_digest(notebook),
        "licence": licence,
        "parameters": parameters,
    }
    first = _replay_cell("from saework.reproduction import replay as _replay\n\n_replay.watch()")
    last = _replay_cell(f"_ = {WATCH}.save({str(path)!r}, {about!r})")
    return nbformat.v4.new_notebook(
        cells=[first, *notebook.cells, last],
        metadata=notebook.metadata,
    )


def unwatched(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the cells that ``watched`` put in."""
    notebook.cells = [
        cell for cell in notebook.cells if REPLAY_TAG not in cell.metadata.get("tags", [])
    ]
    return notebook


def without_weights(notebook: NotebookNode, path: Path) -> NotebookNode:
    """A notebook that reads from the pack what needs the weights; those statements are comments.

    Args:
        notebook: from ``papermill``, whose parameters it can set.
        path: of the pack.

    Raises:
        ValueError: if the pack was made from another version of the notebook, or by hand.
    """
    pack = Pack(path)
    _check_origin(pack.about, notebook, path)
    if pack.about["parameters"]:
        from papermill.parameterize import parameterize_notebook

        notebook = parameterize_notebook(notebook, pack.about["parameters"])
    # Cells are counted as IPython's transformers see them: an empty one is not handed to them.
    code = [cell for cell in _code_cells(notebook) if cell.source.strip()]
    for number, cell in enumerate(code):
        kept = pack.kept_in(number)
        cell.source = replayed(cell.source, number, kept)
        cell.outputs = []
    note = _note(pack.about, path.name)
    reading = nbformat.v4.new_code_cell(
        f"from saework.reproduction import replay\n\n{PACK} = replay.Pack({path.name!r})"
    )
    return nbformat.v4.new_notebook(
        cells=[note, reading, *notebook.cells],
        metadata=notebook.metadata,
    )


def replayed(source: str, cell: int, kept: dict[str, Entry]) -> str:
    """A cell's source, with the statements in ``kept`` as comments and their results read below.

    Args:
        source: of the cell.
        cell: its number.
        kept: what a pack keeps of it, by the number of the statement.

    Raises:
        ValueError: if the pack keeps a name that the statement does not write.
    """
    if not kept:
        return source
    lines = source.split("\n")
    result: list[str] = []
    n_done = 0
    for number, statement in enumerate(statements_of(ast.parse(source))):
        first = statement.first_line - 1
        last = statement.last_line
        result += lines[n_done:first]
        own_lines = lines[first:last]
        n_done = last
        entry = kept.get(str(number))
        if entry is None:
            result += own_lines
            continue
        result += [f"# {line}".rstrip() for line in own_lines]
        result += _readings(f"{cell}.{number}", statement, entry)
    result += lines[n_done:]
    return "\n".join(result)


def source_digest(notebook: NotebookNode) -> str:
    """A digest of a notebook's code."""
    sources = [cell.source for cell in _code_cells(notebook)]
    return digest("\n\n".join(sources))


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _replay_cell(source: str) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata={"tags": [REPLAY_TAG]})


def _readings(place: str, statement: Statement, entry: Entry) -> list[str]:
    """The lines that read what a statement left and displayed."""
    lines = []
    names = list(entry["values"])
    # The names become code, and a pack may come from anybody.
    if not set(names) <= statement.binds | statement.changes:
        raise ValueError(
            f"the pack keeps {names} of cell {place.partition('.')[0]}, "
            "which that statement does not write; it was made by hand, and is refused"
        )
    if names:
        targets = ", ".join(names)
        lines.append(f"{targets} = {PACK}.take('{place}')")
    if "shown" in entry:
        lines.append(f"{PACK}.shown('{place}')")
    return lines


def _check_origin(about: dict[str, Any], notebook: NotebookNode, path: Path) -> None:
    if about["source"] != source_digest(notebook):
        raise ValueError(
            f"{path} was made from another version of {about['notebook']} "
            f"(saework {about['saework']}); replay it with that version"
        )
    others = [name for name in about["parameters"] if name not in PARAMETERS]
    if others:
        allowed = ", ".join(PARAMETERS)
        raise ValueError(
            f"{path} sets {others}; a pack sets {allowed} only, "
            "so it was made by hand, and is refused"
        )


def _as_text(value: object) -> str:
    """A value as one line of Markdown that is text only, since a pack may come from anybody.

    Every character but letters, digits and spaces becomes its number, so no link, image or HTML.
    """
    line = " ".join(str(value).split())
    return "".join(
        character if character.isalnum() or character == " " else f"&#{ord(character)};"
        for character in line
    )


def _note(about: dict[str, Any], file_name: str) -> NotebookNode:
    """The cell above a replay that says what it is."""
    made, saework_version, torch_version, licence, pack_name = (
        _as_text(value)
        for value in (about["made"], about["saework"], about["torch"], about["licence"], file_name)
    )
    return nbformat.v4.new_markdown_cell(
        "**A replay.** What needs the weights is commented out, and shows what a run on "
        f"{made} gave (saework {saework_version}, torch {torch_version}), read from "
        f"<code>{pack_name}</code>. Everything else runs, and can be changed.\n\n"
        "The pack holds measurements, and token ids of the text that was read; no weights. "
        f"Those that it was measured on: {licence}."
    )
