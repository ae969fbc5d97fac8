"""The notebooks as a whole: copied, executed, exported, and recorded for the repository.

papermill executes them, nbconvert makes the pages; what is ours is which notebooks belong to a
release, how the ledgers in their outputs become one, and what a committed notebook must not hold.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from html import escape
from pathlib import Path

import nbformat

from saework import pictures, replay
from saework._checks import unknown
from saework.catalogue import STUDIES, release_named
from saework.claims import LEDGER_MIME, Ledger
from saework.tables import RAW_MIME, near_rounding_edge

_GELU = ("00_start_here", "01_gelu_1l_reconstruction", "02_gelu_1l_rare_features", "03_gelu_1l_reading_a_feature")
_GEMMA_SCOPE, _GEMMA_2B, _LLAMA = ("04_gemma_scope_validation", "05_gemma_scope_frontier"), ("06_gemma_2b_residual_saes",), ("07_llama_steering",)
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
PLOTLY_MIME = "application/vnd.plotly.v1+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
BADGE_START = "[![Open In Colab]"
# Figures as data (JupyterLab draws them), no progress bars: what a notebook stores is the same everywhere.
ENVIRONMENT = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}{{ super() }}<style>
:root { --jp-cell-prompt-not-active-opacity: 1; --jp-cell-inprompt-font-color: #2a5d84; --jp-cell-outprompt-font-color: #9c4221;
  --jp-mirror-editor-comment-color: #2f6f6f; --jp-mirror-editor-number-color: #1d6b1d; --jp-mirror-editor-operator-color: #8a00d4; }
</style>{%- endblock -%}"""


def notebook_folder() -> Path:
    """Where the notebooks lie: in the package if it was installed from a wheel, else in the repository."""
    package = Path(__file__).parent
    for folder in (package / "data" / "notebooks", package.parent / "notebooks"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the notebooks are not in this installation; install saework from its wheel or its repository")


def copy_notebooks(folder: str | Path) -> list[Path]:
    """Copy the notebooks to a folder. Files that are there already are left alone, and reported by a warning."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for source in sorted(notebook_folder().glob("*.ipynb")):
        target = folder / source.name
        if target.exists():
            warnings.warn(f"{target} exists and was left alone; move it away for a fresh copy", stacklevel=2)
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
        raise unknown("set of notebooks for", name, NOTEBOOKS, see=f"There are sets for {', '.join(NOTEBOOKS)}; load({name!r}) works in your own.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ledgers, failed = [], []
    for number, notebook in enumerate(NOTEBOOKS[name], 1):
        say(f"[{number}/{len(NOTEBOOKS[name])}] {notebook}")
        target = out / f"{notebook}.ipynb"
        given, pack = {"RELEASE": name, **(parameters or {})}, (out / f"{notebook}.safetensors").absolute()
        whole = nbformat.read(notebook_folder() / f"{notebook}.ipynb", as_version=4)
        if name not in STUDIES:
            whole = replay.watched(whole, pack, name=notebook, licence=release_named(name).licence, parameters=given)
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
        raise ValueError(f"{pack} is of the notebook {name!r}, which this saework does not have; replay it with the version that made it")
    notebook = replay.without_weights(load_notebook_node(str(source)), pack)
    out.mkdir(parents=True, exist_ok=True)
    if pack.resolve() != (out / pack.name).resolve():
        shutil.copy(pack, out)
    target = out / f"{name}-replay.ipynb"
    nbformat.write(notebook, target)
    problem = execute(target, target)
    (out / f"{name}-replay.html").write_text(page(nbformat.read(target, as_version=4), title=name), encoding="utf-8")
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
            str(source), str(target), parameters=parameters or {}, kernel_name="python3", cwd=str(target.parent), progress_bar=sys.stderr.isatty(), log_output=False
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return None


def ledgers_in(notebook) -> list[Ledger]:
    """The ledgers that an executed notebook displayed."""
    return [Ledger.from_dict(data) for data in _outputs(notebook, LEDGER_MIME)]


def page(notebook, *, title: str) -> str:
    """A notebook as one HTML file that refers to nothing outside; plotly's script is embedded once."""
    from nbconvert import HTMLExporter

    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    _drop_widgets(notebook)
    _draw_figures(notebook)
    exporter = HTMLExporter(raw_template=_PAGE, embed_images=True, exclude_anchor_links=True)
    return exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})[0]


def _drop_widgets(notebook) -> None:
    """Live widgets need a kernel, and their renderer a network; what they hold in HTML stays."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _is_static(output)]


def _is_static(output) -> bool:
    """Whether something is left of an output when its live view is taken out (which it is)."""
    live = output.get("data", {}).pop(WIDGET_MIME, None)
    return live is None or "text/html" in output["data"]


def _draw_figures(notebook) -> None:
    import plotly.io

    script = True
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        figure = output.get("data", {}).pop(PLOTLY_MIME, None)
        if figure:
            output.data.pop(pictures.PNG, None)  # the figure itself is drawn
            words = escape(pictures.described(figure), quote=True)
            figure = plotly.io.from_json(json.dumps({key: figure[key] for key in ("data", "layout")}))
            drawing = plotly.io.to_html(figure, full_html=False, include_plotlyjs=script)
            output.data["text/html"] = f'<div role="figure" aria-label="{words}">{drawing}</div>'
            script = False


def _outputs(notebook, mime: str) -> Iterator[dict]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime in output.get("data", {}):
                yield output["data"][mime]


# ---- what is committed ----


def record(path: Path, *, repository: str | None, say=print) -> None:
    """Execute a committed notebook in place; leave in it what is the same on every machine, and a picture of each figure."""
    notebook = nbformat.read(path, as_version=4)
    _set_badge(notebook, path.name, repository)
    _set_setup(notebook, repository)
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")}
    nbformat.write(notebook, path)
    problem = execute(path, path)
    if problem:
        raise RuntimeError(f"{path.name}: {problem}")
    executed = nbformat.read(path, as_version=4)
    for number in edges_in(executed):
        say(f"{path.name}: {number!r} lies within 1e-4 of a rounding edge, so another processor may print it differently")
    notebook = cleaned(executed)
    if pictures.missing() is None:
        add_pictures(notebook)
    elif figures_in(notebook):
        say(f"{path.name}: its figures got no picture, so GitHub will show none: {pictures.missing()}")
    nbformat.write(notebook, path)


def figures_in(notebook) -> list:
    """The outputs of a notebook that are plotly figures."""
    return [output for cell in notebook.cells for output in cell.get("outputs", []) if PLOTLY_MIME in output.get("data", {})]


def add_pictures(notebook) -> None:
    """Put a PNG, and what it shows in words, beside each plotly figure: GitHub runs no script."""
    figures = figures_in(notebook)
    for output, picture in zip(figures, pictures.drawn([output.data[PLOTLY_MIME] for output in figures])):
        output.data[pictures.PNG] = picture
        output.metadata = {pictures.PNG: {"alt": pictures.described(output.data[PLOTLY_MIME])}}


def cleaned(notebook):
    """A notebook without execution times, widget state, raw numbers, or anything else of this machine."""
    _drop_widgets(notebook)
    language = {"name": "python"}
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": language}
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter") and value}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(RAW_MIME, None)
            if "metadata" in output:
                output.metadata = {}
    return notebook


def edges_in(notebook) -> list[float]:
    """Numbers that a notebook prints and a last bit could change."""
    tables = [(data["numbers"], data["digits"]) for data in _outputs(notebook, RAW_MIME)]
    return [number for numbers, digits in tables for number in numbers if near_rounding_edge(number, digits)]


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
        lines = [f"{BADGE_START}({badge})](https://colab.research.google.com/{where}/blob/main/notebooks/{name})", "", *lines]
    title.source = "\n".join(lines).strip()


def repository_address(root: Path) -> str | None:
    """``project.urls.Repository`` of a ``pyproject.toml``, or None while it is not set."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")
