"""Recording the repository's notebooks: executed, and free of what belongs to one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from saework.reproduction import pictures
from saework.reproduction.colab import Origin, set_badge, set_setup_cell
from saework.reproduction.execute import execute
from saework.reproduction.html import PLOTLY_MIME, drop_theme_styles, drop_widgets, outputs_with
from saework.views.tables import RAW_MIME, near_rounding_edge

KEPT_METADATA = ("tags", "jupyter")
"""Of a cell."""


def record(path: Path, *, origin: Origin, say: Callable[[str], object] = print) -> None:
    """Execute a committed notebook in place, and leave only what is the same on every machine.

    Each figure gets a picture.

    Args:
        path: of the notebook.
        origin: where a reader gets saework, for the Colab badge and the setup cell.
        say: what takes each line for the person at work.

    Raises:
        RuntimeError: if the notebook fails.
    """
    set_up(path, origin=origin)
    problem = execute(path, path)
    if problem:
        raise RuntimeError(f"{path.name}: {problem}")
    executed = nbformat.read(path, as_version=4)
    for number in edges_in(executed):
        say(
            f"{path.name}: {number!r} lies within 1e-4 of a rounding edge, "
            "so another processor may print it differently"
        )
    notebook = cleaned(executed)
    no_pictures = pictures.missing()
    if no_pictures is None:
        add_pictures(notebook)
    elif outputs_with(notebook, PLOTLY_MIME):
        say(f"{path.name}: its figures got no picture, so GitHub will show none: {no_pictures}")
    nbformat.write(notebook, path)


def set_up(path: Path, *, origin: Origin) -> None:
    """Write a notebook's badge and setup cell anew; outputs stay as they are.

    Args:
        path: of the notebook.
        origin: where a reader gets saework.
    """
    notebook = nbformat.read(path, as_version=4)
    set_badge(notebook, path.name, origin.repository)
    set_setup_cell(notebook, path.stem, origin.install)
    for cell in notebook.cells:
        cell.metadata = _kept_metadata(cell)
    nbformat.write(notebook, path)


def add_pictures(notebook: NotebookNode) -> None:
    """Put a PNG, and what it shows in words, beside each plotly figure: GitHub runs no script."""
    outputs = outputs_with(notebook, PLOTLY_MIME)
    figures = [output.data[PLOTLY_MIME] for output in outputs]
    for output, figure, picture in zip(outputs, figures, pictures.drawn(figures)):
        output.data[pictures.PNG] = picture
        output.metadata = {pictures.PNG: {"alt": pictures.described(figure)}}


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """A notebook without execution times, widgets, raw numbers, or what else is of this machine."""
    drop_theme_styles(notebook)
    drop_widgets(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {key: value for key, value in _kept_metadata(cell).items() if value}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(RAW_MIME, None)
            if "metadata" in output:
                output.metadata = {}
    return notebook


def edges_in(notebook: NotebookNode) -> list[float]:
    """Numbers that a notebook prints and that a difference in the last bit could change."""
    edges: list[float] = []
    for output in outputs_with(notebook, RAW_MIME):
        table = output["data"][RAW_MIME]
        digits = table["digits"]
        edges += [number for number in table["numbers"] if near_rounding_edge(number, digits)]
    return edges


def _kept_metadata(cell: NotebookNode) -> dict[str, Any]:
    return {key: value for key, value in cell.metadata.items() if key in KEPT_METADATA}
