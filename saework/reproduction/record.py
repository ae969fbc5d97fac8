"""Recording the repository's notebooks: executed, and free of what belongs to one machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from saework.reproduction import pictures
from saework.reproduction.execute import execute
from saework.reproduction.html import PLOTLY_MIME, drop_widgets, outputs_with
from saework.views.tables import RAW_MIME, near_rounding_edge

BADGE_START = "[![Open In Colab]"
COLAB = "https://colab.research.google.com"
KEPT_METADATA = ("tags", "jupyter")
"""Of a cell."""


def record(path: Path, *, repository: str | None, say: Callable[[str], object] = print) -> None:
    """Execute a committed notebook in place, and leave only what is the same on every machine.

    Each figure gets a picture.

    Args:
        path: of the notebook.
        repository: its address, for the Colab badge and the setup cell; None while it is unknown.
        say: what takes each line for the person at work.

    Raises:
        RuntimeError: if the notebook fails.
    """
    notebook = nbformat.read(path, as_version=4)
    set_badge(notebook, path.name, repository)
    set_setup_cell(notebook, repository)
    for cell in notebook.cells:
        cell.metadata = _kept_metadata(cell)
    nbformat.write(notebook, path)
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


def add_pictures(notebook: NotebookNode) -> None:
    """Put a PNG, and what it shows in words, beside each plotly figure: GitHub runs no script."""
    outputs = outputs_with(notebook, PLOTLY_MIME)
    figures = [output.data[PLOTLY_MIME] for output in outputs]
    for output, figure, picture in zip(outputs, figures, pictures.drawn(figures)):
        output.data[pictures.PNG] = picture
        output.metadata = {pictures.PNG: {"alt": pictures.described(figure)}}


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """A notebook without execution times, widgets, raw numbers, or what else is of this machine."""
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


def set_setup_cell(notebook: NotebookNode, repository: str | None) -> None:
    """Write the cell that installs saework where it is missing."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell(repository)


def setup_cell(repository: str | None) -> str:
    """The text of the cell that installs saework; without an address it says what to run.

    numpy and torch are given to pip with their versions, so that it keeps them, or says why it
    cannot and installs nothing.
    """
    if repository is None:
        return """import importlib.util

if importlib.util.find_spec("saework") is None:  # nothing that is installed is replaced
    raise ModuleNotFoundError("run: pip install -e . (on Colab: README, The notebooks)")"""
    return f"""import importlib.util
from importlib.metadata import version

if importlib.util.find_spec("saework") is None:
    # numpy and torch stay as they are; if that is impossible, pip says so and installs nothing
    own = [name for name in ("numpy", "torch") if importlib.util.find_spec(name)]
    kept = " ".join(f"{{name}}=={{version(name)}}" for name in own)
    %pip install --quiet "git+{repository}" {{kept}}"""


def set_badge(notebook: NotebookNode, name: str, repository: str | None) -> None:
    """Write the Colab badge above the title; none while the repository's address is unknown."""
    title = notebook.cells[0]
    lines = [line for line in title.source.split("\n") if not line.startswith(BADGE_START)]
    if repository:
        address = repository.removeprefix("https://").rstrip("/")
        place = address.replace("github.com/", "github/", 1)
        image = f"{COLAB}/assets/colab-badge.svg"
        link = f"{COLAB}/{place}/blob/main/notebooks/{name}"
        lines = [f"{BADGE_START}({image})]({link})", "", *lines]
    title.source = "\n".join(lines).strip()


def repository_address(root: Path) -> str | None:
    """``project.urls.Repository`` of a ``pyproject.toml``, or None while it is not set."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    return project.get("urls", {}).get("Repository")


def _kept_metadata(cell: NotebookNode) -> dict[str, Any]:
    return {key: value for key, value in cell.metadata.items() if key in KEPT_METADATA}
