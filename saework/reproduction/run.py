"""The notebooks as a whole: copied, executed, exported, and recorded for the repository.

papermill executes them, nbconvert makes the pages; what is ours is which notebooks belong to a
release, how the ledgers in their outputs become one, and what a committed notebook must not hold.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat

from saework.core.errors import unknown
from saework.core.files import DATA, PACKAGE
from saework.core.ledger import LEDGER_MIME, Ledger
from saework.loading.catalogue import STUDIES, release_named
from saework.reproduction import replay
from saework.reproduction.html import page

_GELU = (
    "00_start_here",
    "01_gelu_1l_reconstruction",
    "02_gelu_1l_rare_features",
    "03_gelu_1l_reading_a_feature",
)
_GEMMA_SCOPE, _GEMMA_2B, _LLAMA = (
    ("04_gemma_scope_validation", "05_gemma_scope_frontier"),
    ("06_gemma_2b_residual_saes",),
    ("07_llama_steering",),
)
NOTEBOOKS = {
    "gelu-1l-mini": _GELU,
    "gelu-1l": _GELU,
    "gemma-mini": (*_GEMMA_SCOPE, *_GEMMA_2B),
    "gemma-scope-2b-pt-res": _GEMMA_SCOPE,
    "gemma-2b-res-jb": _GEMMA_2B,
    "llama-mini": _LLAMA,
    "llama-3.2-1b-qresearch": _LLAMA,
    "feature-ordering": ("08_feature_ordering",),
    "feature-ordering-2b": ("08_feature_ordering",),
    "saebench": ("09_reading_saebench",),
}
# Figures as data (JupyterLab draws them), no progress bars: what a notebook stores is the same everywhere.
ENVIRONMENT = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}


def notebook_folder() -> Path:
    """Where the notebooks lie: in the package if it was installed from a wheel, else in the repository."""
    for folder in (DATA / "notebooks", PACKAGE.parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "the notebooks are not in this installation; install saework from its wheel or its repository"
    )


def copy_notebooks(folder: str | Path) -> list[Path]:
    """Copy the notebooks to a folder. Files that are there already are left alone, and reported by a warning."""
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


def reproduce(name: str, out: str | Path, *, parameters: dict | None = None, say=print) -> Ledger:
    """Execute the notebooks of a release or a study, write them and self-contained pages to ``out``, and return the ledger.

    Beside a release's notebooks it writes their replay packs (``rerun`` reads them).

    Args: ``parameters``: of the notebooks, besides ``RELEASE``.

    A notebook that fails is written as far as it came; its claims stay "not run", and the failure
    is said and raised at the end.
    """
    if name not in NOTEBOOKS:
        release_named(name)
        raise unknown(
            "set of notebooks for",
            name,
            NOTEBOOKS,
            see=f"There are sets for {', '.join(NOTEBOOKS)}; load({name!r}) works in your own.",
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ledgers, failed = [], []
    for number, notebook in enumerate(NOTEBOOKS[name], 1):
        say(f"[{number}/{len(NOTEBOOKS[name])}] {notebook}")
        target = out / f"{notebook}.ipynb"
        given, pack = (
            {"RELEASE": name, **(parameters or {})},
            (out / f"{notebook}.safetensors").absolute(),
        )
        whole = nbformat.read(notebook_folder() / f"{notebook}.ipynb", as_version=4)
        if name not in STUDIES:
            whole = replay.watched(
                whole, pack, name=notebook, licence=release_named(name).licence, parameters=given
            )
        nbformat.write(whole, target)
        problem = execute(target, target, parameters=given)
        if problem:
            failed.append(f"{notebook}: {problem}")
        executed = replay.unwatched(nbformat.read(target, as_version=4))
        nbformat.write(executed, target)
        ledgers += ledgers_in(executed)
        (out / f"{notebook}.html").write_text(page(executed, title=notebook), encoding="utf-8")
    ledger = Ledger.merge(ledgers) if ledgers else Ledger([], tier=name)
    ledger.save(out / "ledger.json")
    if failed:
        raise RuntimeError("notebooks failed:\n" + "\n".join(failed))
    return ledger


def rerun(pack: str | Path, out: str | Path) -> Path:
    """Run a notebook from its replay pack, without its model; writes notebook, page and pack to ``out``.

    Returns: the notebook. Raises: ValueError for a file that is no pack, or of another version's
    notebook; RuntimeError if the notebook fails, written as far as it came.
    """
    from papermill.iorw import load_notebook_node

    pack, out = Path(pack), Path(out)
    name = replay.Pack(pack).about["notebook"]
    source = notebook_folder() / f"{name}.ipynb"
    if source not in notebook_folder().glob("*.ipynb"):  # no path out of the folder
        raise ValueError(
            f"{pack} is of the notebook {name!r}, which this saework does not have; replay it with the version that made it"
        )
    notebook = replay.without_weights(load_notebook_node(str(source)), pack)
    out.mkdir(parents=True, exist_ok=True)
    if pack.resolve() != (out / pack.name).resolve():
        shutil.copy(pack, out)
    target = out / f"{name}-replay.ipynb"
    nbformat.write(notebook, target)
    problem = execute(target, target)
    (out / f"{name}-replay.html").write_text(
        page(nbformat.read(target, as_version=4), title=name), encoding="utf-8"
    )
    if problem:
        raise RuntimeError(f"{name}: {problem}")
    return target


def execute(source: Path, target: Path, *, parameters: dict | None = None) -> str | None:
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


def ledgers_in(notebook) -> list[Ledger]:
    """The ledgers that an executed notebook displayed."""
    return [Ledger.from_dict(data) for data in _outputs(notebook, LEDGER_MIME)]


def _outputs(notebook, mime: str) -> Iterator[dict]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime in output.get("data", {}):
                yield output["data"][mime]
