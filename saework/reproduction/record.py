"""Recording the repository's notebooks: executed, and free of what belongs to one machine."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

from saework.reproduction import pictures
from saework.reproduction.html import PLOTLY_MIME, _drop_widgets
from saework.reproduction.run import _outputs, execute
from saework.views.tables import RAW_MIME, near_rounding_edge

BADGE_START = "[![Open In Colab]"


# ---- what is committed ----


def record(path: Path, *, repository: str | None, say=print) -> None:
    """Execute a committed notebook in place; leave in it what is the same on every machine, and a picture of each figure."""
    notebook = nbformat.read(path, as_version=4)
    _set_badge(notebook, path.name, repository)
    _set_setup(notebook, repository)
    for cell in notebook.cells:
        cell.metadata = {
            key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")
        }
    nbformat.write(notebook, path)
    problem = execute(path, path)
    if problem:
        raise RuntimeError(f"{path.name}: {problem}")
    executed = nbformat.read(path, as_version=4)
    for number in edges_in(executed):
        say(
            f"{path.name}: {number!r} lies within 1e-4 of a rounding edge, so another processor may print it differently"
        )
    notebook = cleaned(executed)
    if pictures.missing() is None:
        add_pictures(notebook)
    elif figures_in(notebook):
        say(
            f"{path.name}: its figures got no picture, so GitHub will show none: {pictures.missing()}"
        )
    nbformat.write(notebook, path)


def figures_in(notebook) -> list:
    """The outputs of a notebook that are plotly figures."""
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if PLOTLY_MIME in output.get("data", {})
    ]


def add_pictures(notebook) -> None:
    """Put a PNG, and what it shows in words, beside each plotly figure: GitHub runs no script."""
    figures = figures_in(notebook)
    for output, picture in zip(
        figures, pictures.drawn([output.data[PLOTLY_MIME] for output in figures])
    ):
        output.data[pictures.PNG] = picture
        output.metadata = {pictures.PNG: {"alt": pictures.described(output.data[PLOTLY_MIME])}}


def cleaned(notebook):
    """A notebook without execution times, widget state, raw numbers, or anything else of this machine."""
    _drop_widgets(notebook)
    language = {"name": "python"}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": language,
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = {
            key: value
            for key, value in cell.metadata.items()
            if key in ("tags", "jupyter") and value
        }
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(RAW_MIME, None)
            if "metadata" in output:
                output.metadata = {}
    return notebook


def edges_in(notebook) -> list[float]:
    """Numbers that a notebook prints and a last bit could change."""
    tables = [(data["numbers"], data["digits"]) for data in _outputs(notebook, RAW_MIME)]
    return [
        number
        for numbers, digits in tables
        for number in numbers
        if near_rounding_edge(number, digits)
    ]


def _set_setup(notebook, repository: str | None) -> None:
    """The cell that installs saework where it is missing; while the address is unknown it points to what to set."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell(repository)


def setup_cell(repository: str | None) -> str:
    """Its text. numpy and torch are handed to pip as they are, so that it keeps them, or says why it cannot and installs nothing."""
    if repository is None:
        return (
            'import importlib.util\n\nif importlib.util.find_spec("saework") is None:  # nothing that is installed is replaced\n'
            '    raise ModuleNotFoundError("run: pip install -e . (on Colab: README, The notebooks)")'
        )
    return f"""import importlib.util
from importlib.metadata import version

if importlib.util.find_spec("saework") is None:
    # numpy and torch stay as they are; if pip cannot do with them, it says so and installs nothing
    kept = " ".join(f"{{name}}=={{version(name)}}" for name in ("numpy", "torch") if importlib.util.find_spec(name))
    %pip install --quiet "git+{repository}" {{kept}}"""


def _set_badge(notebook, name: str, repository: str | None) -> None:
    """The Colab badge above the title, made from the repository's address; none while that is unknown."""
    title = notebook.cells[0]
    lines = [line for line in title.source.split("\n") if not line.startswith(BADGE_START)]
    if repository:
        where = repository.removeprefix("https://").rstrip("/").replace("github.com/", "github/", 1)
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        lines = [
            f"{BADGE_START}({badge})](https://colab.research.google.com/{where}/blob/main/notebooks/{name})",
            "",
            *lines,
        ]
    title.source = "\n".join(lines).strip()


def repository_address(root: Path) -> str | None:
    """``project.urls.Repository`` of a ``pyproject.toml``, or None while it is not set."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")
