"""The notebooks as a whole: copied, executed, and run again from a pack.

``execute`` runs them, ``html`` makes the pages. Here stands which notebooks belong to a release,
and how the ledgers in their outputs become one.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from datetime import datetime
from pathlib import Path
from threading import Event, Lock
from typing import Any

import nbformat
from nbformat import NotebookNode
from tqdm.auto import tqdm

from saework.core.errors import unknown
from saework.core.files import DATA, PACKAGE, check_own_page, write_whole
from saework.core.folders import make_folder, only_writer
from saework.core.ledger import LEDGER_MIME, Ledger
from saework.core.terminal import is_terminal
from saework.loading.catalogue import NOTEBOOKS, STUDIES, release_named
from saework.loading.needs import memory_gb
from saework.loading.plans import Plan
from saework.reproduction import own_files, replay
from saework.reproduction.execute import execute, several_at_a_time, workers_for
from saework.reproduction.html import outputs_with, page
from saework.reproduction.index_page import INDEX, Page, index_page, title_of

DEVICE, DTYPE = "DEVICE", "DTYPE"
"""Parameters of the notebooks that load a model."""


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

    Raises:
        ValueError: the folder cannot be written to.
    """
    make_folder(folder)
    copied, kept = [], []
    for source in sorted(notebook_folder().glob("*.ipynb")):
        target = Path(folder) / source.name
        if os.path.lexists(target):  # also a link to nothing
            kept.append(source.name)
        else:
            copied.append(write_whole(target, source.read_bytes()))
    if kept:
        names = ", ".join(kept) if len(kept) < 3 else f"{kept[0]} and {len(kept) - 1} others"
        warnings.warn(
            f"{names} in {folder} left alone, since they exist; move them away for fresh copies",
            stacklevel=2,
        )
    return copied


def reproduce(
    name: str,
    out: str | Path,
    *,
    parameters: dict[str, Any] | None = None,
    plans: Mapping[str, Plan] | None = None,
    left_out: Collection[str] = (),
    say: Callable[[str], object] = tqdm.write,
) -> Ledger:
    """Execute the notebooks of a release or a study, and return their ledger.

    Writes the executed notebooks, a self-contained page of each, an index of the pages, and the
    ledger; and a replay pack of each notebook of a release (``rerun`` reads it). A notebook that
    fails is written as far as it came; its claims stay "not run", and the others are still run.
    Two run at a time where the machine has two cores and the memory.

    Args:
        name: of the release or study.
        out: the folder to write to.
        parameters: of the notebooks, besides ``RELEASE``; ``DEVICE`` and ``DTYPE`` go to those
            that have them.
        plans: device and dtype of each notebook, where ``parameters`` does not say them.
        left_out: notebooks that are not run; their claims stay "not run".
        say: what takes a line before and after each notebook.

    Raises:
        UnknownNameError: if there is no set of notebooks for the name.
        ValueError: the folder has files of these names that saework did not write, or that were
            changed since; or it cannot be written to, or another process writes to it.
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
    out = make_folder(out)
    with only_writer(out):
        return _reproduced(name, out, parameters or {}, plans or {}, left_out, say)


def _reproduced(
    name: str,
    out: Path,
    parameters: Mapping[str, Any],
    plans: Mapping[str, Plan],
    left_out: Collection[str],
    say: Callable[[str], object],
) -> Ledger:
    """``reproduce``, in a folder that is there, and to which no one else writes."""
    own_files.check_run(out, list(NOTEBOOKS[name]), INDEX)
    notebooks = [notebook for notebook in NOTEBOOKS[name] if notebook not in left_out]
    for notebook in left_out:
        say(f"{notebook} is left out: it does not fit (--force runs it too)")
    settings = {
        notebook: _settings(name, plans.get(notebook), parameters) for notebook in notebooks
    }
    problems = _run_all(name, settings, out, say)
    ledgers: list[Ledger] = []
    pages: list[Page] = []
    for notebook, problem in problems.items():
        executed = nbformat.read(out / f"{notebook}.ipynb", as_version=4)
        ledgers += ledgers_in(executed)
        # after a failure the pack is one of an earlier run
        has_pack = problem is None and (out / f"{notebook}.safetensors").exists()
        pages.append(Page(notebook, title_of(executed), problem, has_pack))
    ledger = Ledger.merge(ledgers) if ledgers else Ledger([], tier=name)
    ledger.save(out / "ledger.json")
    write_whole(out / INDEX, index_page(name, pages, ledger, when=datetime.now()))
    failed = [f"{notebook}: {problem}" for notebook, problem in problems.items() if problem]
    if failed:
        raise RuntimeError("notebooks failed:\n" + "\n".join(failed))
    return ledger


def _settings(release: str, plan: Plan | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook's parameters: what was given, and what its plan says of device and dtype."""
    planned = {}
    if plan is not None and release not in STUDIES and not release_named(release).offline:
        planned = {DEVICE: plan.device, DTYPE: plan.dtype}
    return {"RELEASE": release, **planned, **parameters}


def _run_all(
    release: str,
    settings: Mapping[str, dict[str, Any]],
    out: Path,
    say: Callable[[str], object],
) -> dict[str, str | None]:
    """Run notebooks, and write their pages; returns what went wrong with each, or None.

    Args:
        release: whose notebooks they are.
        settings: by notebook, its parameters.
        out: where everything is written.
        say: what takes a line before and after each notebook.
    """
    notebooks = list(settings)
    plain = {name: _plain_source(name) for name in notebooks}
    parameters = {name: _those_of(plain[name], settings[name]) for name in notebooks}
    sources = {name: _source(plain[name], name, out, parameters[name]) for name in notebooks}
    n_cells = sum(len(source.cells) for source in sources.values())
    devices = {given.get(DEVICE) for given in parameters.values()}
    is_alone = release in STUDIES or not devices <= {None, "cpu"}  # a GPU holds one model at a time
    n_workers = 1 if is_alone else workers_for(memory_gb(release_named(release)))
    stopping = Event()
    page_lock = Lock()  # nbconvert's exporters are not made for threads
    with tqdm(total=n_cells, unit="cell", disable=not is_terminal(sys.stderr)) as bar:

        def run(numbered: tuple[int, str]) -> str | None:
            number, name = numbered
            place = f"[{number}/{len(notebooks)}] {name}"
            say(place)

            def on_cell(cell: NotebookNode, cell_index: int) -> None:
                bar.update()
                bar.set_postfix_str(f"{name}, cell {cell_index + 1}")

            target = out / f"{name}.ipynb"
            problem = _executed(
                sources[name],
                target,
                parameters=parameters[name],
                on_cell=on_cell,
                stopping=stopping,
            )
            executed = nbformat.read(target, as_version=4)
            path = out / f"{name}.html"
            with page_lock:
                _write_page(executed, path, title=name, neighbours=_neighbours(name, notebooks))
            say(f"{place}: {'failed, see ' if problem else ''}{path}")
            return problem

        numbered = list(enumerate(notebooks, 1))
        problems = several_at_a_time(
            run, numbered, n_workers=n_workers, folder=out, stopping=stopping
        )
    return dict(zip(notebooks, problems))


def _neighbours(name: str, notebooks: Sequence[str]) -> list[tuple[str, str]]:
    """Links of a page: the index, and the pages before and after it."""
    at = notebooks.index(name)
    links = [("all pages", INDEX)]
    links += [(f"previous: {other}", f"{other}.html") for other in notebooks[max(0, at - 1) : at]]
    links += [(f"next: {other}", f"{other}.html") for other in notebooks[at + 1 : at + 2]]
    return links


def rerun(pack: str | Path, out: str | Path) -> Path:
    """Run a notebook from its replay pack, without its model, and return the notebook's path.

    Writes the notebook, its page and a copy of the pack.

    Args:
        pack: a file that ``reproduce`` wrote.
        out: the folder to write to.

    Raises:
        ValueError: for a file that is no pack, or that is of another version's notebook.
            Also if the folder has files of these names that saework did not write, or that were
            changed since; or if it cannot be written to, or another process writes to it.
        RuntimeError: if the notebook fails; it is written as far as it came.
    """
    # papermill's reader, since the parameters are set by papermill.
    from papermill.iorw import load_notebook_node

    pack = Path(pack)
    name = replay.Pack(pack).about["notebook"]
    source = notebook_folder() / f"{name}.ipynb"
    # The name comes from the file, and must not lead out of the folder.
    if source not in notebook_folder().glob("*.ipynb"):
        raise ValueError(
            f"{pack} is of the notebook {name!r}, which this saework does not have; "
            "replay it with the version that made it"
        )
    notebook = replay.without_weights(load_notebook_node(str(source)), pack)
    folder = make_folder(out)
    with only_writer(folder):
        problem = _rerun(name, notebook, pack, folder)
    if problem:
        raise RuntimeError(f"{name}: {problem}")
    return Path(out) / f"{name}-replay.ipynb"


def _rerun(name: str, notebook: NotebookNode, pack: Path, out: Path) -> str | None:
    """Run a replay, and write it with its page and its pack; returns what went wrong, or None."""
    target = out / f"{name}-replay.ipynb"
    page_path = target.with_suffix(".html")
    own_files.check_notebook(target)
    check_own_page(page_path)
    if pack.resolve() != (out / pack.name).resolve():
        content = pack.read_bytes()
        own_files.check_pack(out / pack.name, content)
        write_whole(out / pack.name, content)
    problem = _executed(notebook, target)
    _write_page(nbformat.read(target, as_version=4), page_path, title=name)
    return problem


def ledgers_in(notebook: NotebookNode) -> list[Ledger]:
    """The ledgers that an executed notebook displayed."""
    outputs = outputs_with(notebook, LEDGER_MIME)
    return [Ledger.from_dict(output["data"][LEDGER_MIME]) for output in outputs]


def _plain_source(notebook: str) -> NotebookNode:
    return nbformat.read(notebook_folder() / f"{notebook}.ipynb", as_version=4)


def _those_of(source: NotebookNode, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without a device or dtype for which the notebook has no parameter."""
    text = "\n".join(
        cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])
    )
    return {
        name: value
        for name, value in settings.items()
        if name not in (DEVICE, DTYPE) or re.search(rf"^{name}\s*=", text, re.MULTILINE)
    }


def _source(
    source: NotebookNode, notebook: str, out: Path, parameters: dict[str, Any]
) -> NotebookNode:
    """A notebook as it will be run: one of a release is watched, and leaves a pack."""
    release = parameters["RELEASE"]
    if release in STUDIES:
        return source
    return replay.watched(
        source,
        out / f"{notebook}.safetensors",
        name=notebook,
        licence=release_named(release).licence,
        parameters=parameters,
    )


def _executed(
    source: NotebookNode,
    target: Path,
    *,
    parameters: dict[str, Any] | None = None,
    on_cell: Callable[..., None] | None = None,
    stopping: Event | None = None,
) -> str | None:
    """Execute a notebook, and write it when it has ended; an older one stays until then.

    Raises:
        CancelledError: it was stopped in the middle, so nothing was written.
    """
    running = target.with_name(f".{target.stem}-running.ipynb")
    _write_notebook(source, running)
    try:
        problem = execute(running, running, parameters=parameters, on_cell=on_cell)
        if stopping is not None and stopping.is_set():
            raise CancelledError(f"{target.name} was stopped in the middle")
        executed = replay.unwatched(nbformat.read(running, as_version=4))
    finally:
        running.unlink(missing_ok=True)
    about = executed.metadata.get("papermill", {})
    about |= {"input_path": target.name, "output_path": target.name}  # no folder of this machine
    _write_notebook(own_files.signed(executed), target)
    return problem


def _write_notebook(notebook: NotebookNode, path: Path) -> None:
    text = nbformat.writes(notebook)
    write_whole(path, text if text.endswith("\n") else text + "\n")


def _write_page(
    notebook: NotebookNode,
    path: Path,
    *,
    title: str,
    neighbours: Sequence[tuple[str, str]] = (),
) -> None:
    write_whole(path, page(notebook, title=title, neighbours=neighbours))
