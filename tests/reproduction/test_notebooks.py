"""What a committed notebook must and must not hold.

That they run, and give what is stored, nbval checks.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest

from saework.core.ledger import LEDGER_MIME
from saework.reproduction.colab import BADGE_START, origin_of, set_badge
from saework.reproduction.html import PLOTLY_MIME, outputs_with
from saework.reproduction.pictures import PNG, described
from saework.reproduction.run import NOTEBOOKS

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 18
RUNS_LIVE = {"setup", "parameters", "exercise", "check", "solution", "nbval-ignore-output"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_of_a_release_is_there():
    assert {path.stem for path in PATHS} >= {name for names in NOTEBOOKS.values() for name in names}


def test_it_is_valid_and_executed_in_order(notebook):
    path, nb = notebook
    nbformat.validate(nb)
    assert [cell.execution_count for cell in code_cells(nb)] == list(
        range(1, len(code_cells(nb)) + 1)
    )
    assert not [
        output
        for cell in code_cells(nb)
        for output in cell.outputs
        if output.output_type == "error"
    ]


def test_it_holds_no_widget_state_times_or_paths(notebook):
    path, nb = notebook
    assert "widgets" not in nb.metadata and "papermill" not in nb.metadata
    assert all(set(cell.metadata) <= {"tags", "jupyter"} for cell in nb.cells)
    assert not re.search(
        r"(?<![\w.])/(root|home|work|tmp|Users)/\w", path.read_text(encoding="utf-8")
    )
    assert not [
        output
        for cell in code_cells(nb)
        for output in cell.outputs
        if output.get("name") == "stderr"
    ], "a warning or a bar was stored"


def test_cells_are_short_and_tags_known(notebook):
    _, nb = notebook
    for cell in code_cells(nb):
        assert cell.source.count("\n") < LONGEST_CELL, cell.source[:80]
        assert set(cell.metadata.get("tags", [])) <= RUNS_LIVE


def test_it_has_the_parts_that_each_notebook_has(notebook):
    _, nb = notebook
    tags = [tag for cell in code_cells(nb) for tag in cell.metadata.get("tags", [])]
    assert [
        "find_spec" in cell.source
        for cell in code_cells(nb)
        if "setup" in cell.metadata.get("tags", [])
    ] == [True]
    assert tags.count("parameters") == 1 and tags.count("setup") == 1
    assert {"solution", "exercise"} & set(tags)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    first = nb.cells[0].source.removeprefix(BADGE_START)
    assert re.search(r"^# .*\?$", first, flags=re.M), "the title is a question"
    for part in (
        "What you will learn",
        "Parameters",
        "Does it hold?",
        "Published and here",
        "Exercises",
        "Takeaways",
        "Limits",
        "Next:",
        "References",
    ):
        assert part in prose, part
    assert sum("assert" in cell.source for cell in code_cells(nb)) >= 6
    assert "@@" not in prose


def test_its_links_lead_somewhere(notebook):
    path, nb = notebook
    for cell in nb.cells:
        for link in re.findall(
            r"\]\(([^)#\s]+)", cell.source if cell.cell_type == "markdown" else ""
        ):
            assert link.startswith("https://") or (path.parent / link).exists(), link


def test_a_badge_is_there_only_when_the_address_is_known(notebook):
    _, nb = notebook
    assert nb.cells[0].source.startswith(BADGE_START) == (origin_of(ROOT).repository is not None)


def test_the_badge_opens_this_very_notebook(notebook):
    path, nb = notebook
    committed = nb.cells[0].source
    set_badge(nb, path.name, origin_of(ROOT).repository)
    assert nb.cells[0].source == committed
    set_badge(nb, path.name, "https://github.com/someone/saework/")
    badge, _, title = nb.cells[0].source.split("\n")[:3]
    assert badge.endswith(
        f"](https://colab.research.google.com/github/someone/saework/blob/main/notebooks/{path.name})"
    )
    assert title.startswith("# ")


def test_versions_are_checked_before_anything_is_loaded(notebook):
    _, nb = notebook
    sources = [cell.source for cell in code_cells(nb)]
    checked = next(i for i, source in enumerate(sources) if "versions()" in source)
    loading = [
        i for i, source in enumerate(sources) if re.search(r"^\w.*\bload\(", source, flags=re.M)
    ]
    assert all(checked < i for i in loading)


def test_every_figure_has_labelled_axes(notebook):
    _, nb = notebook
    for output in outputs_with(nb, PLOTLY_MIME):
        layout = output.data[PLOTLY_MIME]["layout"]
        assert layout["xaxis"]["title"]["text"] and layout["yaxis"]["title"]["text"]


def test_every_figure_has_a_small_picture_beside_it_and_words(notebook):
    _, nb = notebook
    for output in outputs_with(nb, PLOTLY_MIME):
        assert PNG in output.data, (
            "GitHub would show nothing; record the notebook where Chromium is installed"
        )
        assert len(base64.b64decode(output.data[PNG])) < 60_000
        assert output.metadata[PNG]["alt"] == described(output.data[PLOTLY_MIME])


def test_cells_with_figures_are_not_compared_by_nbval(notebook):
    _, nb = notebook
    with_figures = [
        cell
        for cell in code_cells(nb)
        if any(PLOTLY_MIME in output.get("data", {}) for output in cell.outputs)
    ]
    assert all("nbval-ignore-output" in cell.metadata.get("tags", []) for cell in with_figures)


def test_no_value_of_the_mini_has_changed(notebook):
    path, nb = notebook
    from saework.core.claims import HOLDS, UNCHANGED
    from saework.core.ledger import Ledger

    for cell in code_cells(nb):
        for output in cell.outputs:
            if LEDGER_MIME in output.get("data", {}):
                ledger = Ledger.from_dict(output.data[LEDGER_MIME])
                assert ledger.exit_code == 0
                assert ledger.counts[HOLDS] + ledger.counts[UNCHANGED] > 0
