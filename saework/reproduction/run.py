"""The notebooks as a whole: copied, executed, and run again from a pack.

papermill executes them, nbconvert makes the pages. What is ours is which notebooks belong to a
release, and how the ledgers in their outputs become one.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from saework.core.errors import unknown
from saework.core.files import DATA, PACKAGE, write_whole
from saework.core.ledger import LEDGER_MIME, Ledger
from saework.loading.catalogue import NOTEBOOKS, STUDIES, release_named
from saework.reproduction import replay
from saework.reproduction.html import outputs_with, page

# Figures as data (JupyterLab draws them), and no progress bars: outputs are the same everywhere.
ENVIRONMENT = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}


def notebook_folder() -> Path:
    """Where the notebooks are: inside an installed wheel, or in the repository.

    Raises:
        FileNotFoundError: if this installation has none.
    """
    for folder in (DATA / "notebooks", PACKAGE.parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "the notebooks are not in this installation; "
        "install saework from its wheel or its repository"
    )


def copy_notebooks(folder: str | Path) -> list[Path]:
    """Copy the notebooks to a folder, and return the new files.

    A file that is there already is left alone, with a warning.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for source in sorted(notebook_folder().glob("*.ipynb")):
        target = folder / source.name
        if target.exists():
            warnings.warn(
                f"{target} exists and was left alone; move it away for a fresh copy", stacklevel=2
            )
            continue
        copied.append(Path(shutil.copy(source, target)))
    return copied


def reproduce(
    name: str,
    out: str | Path,
    *,
    parameters: dict[str, Any] | None = None,
    say: Callable[[str], object] = print,
) -> Ledger:
    """Execute the notebooks of a release or a study, and return their ledger.

    Writes the executed notebooks, a self-contained page of each, and the ledger; and a replay pack
    of each notebook of a release (``rerun`` reads it). A notebook that fails is written as far as
    it came; its claims stay "not run", and the others are still run.

    Args:
        name: of the release or study.
        out: the folder to write to.
        parameters: of the notebooks, besides ``RELEASE``.
        say: what takes a line before each notebook.

    Raises:
        UnknownNameError: if there is no set of notebooks for the name.
        RuntimeError: at the end, if a notebook failed.
    """
    if name not in NOTEBOOKS:
        release_named(name)  # its own error, for a name that is no release either
        raise unknown(
            "set of notebooks for",
            name,
            NOTEBOOKS,
            see=f"There are sets for {', '.join(NOTEBOOKS)}; load({name!r}) works in your own.",
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ledgers: list[Ledger] = []
    problems: list[str] = []
    notebooks = NOTEBOOKS[name]
    for number, notebook in enumerate(notebooks, 1):
        say(f"[{number}/{len(notebooks)}] {notebook}")
        problem = _run_notebook(notebook, out, {"RELEASE": name, **(parameters or {})})
        if problem:
            problems.append(f"{notebook}: {problem}")
        executed = nbformat.read(out / f"{notebook}.ipynb", as_version=4)
        ledgers += ledgers_in(executed)
        _write_page(executed, out / f"{notebook}.html", title=notebook)
    ledger = Ledger.merge(ledgers) if ledgers else Ledger([], tier=name)
    ledger.save(out / "ledger.json")
    if problems:
        raise RuntimeError("notebooks failed:\n" + "\n".join(problems))
    return ledger


def rerun(pack: str | Path, out: str | Path) -> Path:
    """Run a notebook from its replay pack, without its model, and return the notebook's path.

    Writes the notebook, its page and a copy of the pack.

    Args:
        pack: a file that ``reproduce`` wrote.
        out: the folder to write to.

    Raises:
        ValueError: for a file that is no pack, or that is of another version's notebook.
        RuntimeError: if the notebook fails; it is written as far as it came.
    """
    # papermill's reader, since the parameters are set by papermill.
    from papermill.iorw import load_notebook_node

    pack = Path(pack)
    out = Path(out)
    name = replay.Pack(pack).about["notebook"]
    source = notebook_folder() / f"{name}.ipynb"
    # The name comes from the file, and must not lead out of the folder.
    if source not in notebook_folder().glob("*.ipynb"):
        raise ValueError(
            f"{pack} is of the notebook {name!r}, which this saework does not have; "
            "replay it with the version that made it"
        )
    notebook = replay.without_weights(load_notebook_node(str(source)), pack)
    out.mkdir(parents=True, exist_ok=True)
    if pack.resolve() != (out / pack.name).resolve():
        shutil.copy(pack, out)
    target = out / f"{name}-replay.ipynb"
    _write_notebook(notebook, target)
    problem = execute(target, target)
    _write_page(nbformat.read(target, as_version=4), target.with_suffix(".html"), title=name)
    if problem:
        raise RuntimeError(f"{name}: {problem}")
    return target


def execute(source: Path, target: Path, *, parameters: dict[str, Any] | None = None) -> str | None:
    """Run a notebook from top to bottom with papermill; returns what went wrong, or None."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ.update(ENVIRONMENT)  # kernels inherit it
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters or {},
            kernel_name="python3",
            cwd=str(target.parent),
            progress_bar=sys.stderr.isatty(),
            log_output=False,
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return None


def ledgers_in(notebook: NotebookNode) -> list[Ledger]:
    """The ledgers that an executed notebook displayed."""
    outputs = outputs_with(notebook, LEDGER_MIME)
    return [Ledger.from_dict(output["data"][LEDGER_MIME]) for output in outputs]


def _run_notebook(notebook: str, out: Path, parameters: dict[str, Any]) -> str | None:
    """Execute one notebook in ``out``, with its pack; returns what went wrong, or None."""
    target = out / f"{notebook}.ipynb"
    source = nbformat.read(notebook_folder() / target.name, as_version=4)
    release = parameters["RELEASE"]
    if release not in STUDIES:
        source = replay.watched(
            source,
            (out / f"{notebook}.safetensors").absolute(),
            name=notebook,
            licence=release_named(release).licence,
            parameters=parameters,
        )
    _write_notebook(source, target)
    problem = execute(target, target, parameters=parameters)
    executed = replay.unwatched(nbformat.read(target, as_version=4))
    _write_notebook(executed, target)
    return problem


def _write_notebook(notebook: NotebookNode, path: Path) -> None:
    text = nbformat.writes(notebook)
    write_whole(path, text if text.endswith("\n") else text + "\n")


def _write_page(notebook: NotebookNode, path: Path, *, title: str) -> None:
    write_whole(path, page(notebook, title=title))
