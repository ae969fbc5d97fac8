"""Each exercise: its solution passes its check, and the common mistake does not."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from saework.reproduction.execute import execute

ROOT = Path(__file__).parents[2]
PATHS = [  # the notebooks whose exercises have this form
    path
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if '"exercise"' in path.read_text(encoding="utf-8")
]
UNANSWERED = "not answered yet"
RIGHT = "right"
PYTHON = r"<details>\s*<summary>{title}</summary>.*?```python\n(.*?)```.*?</details>"


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def exercises(notebook) -> list[tuple[int, dict[str, str]]]:
    """The place of each check, and the code of the solution and of the mistake behind it."""
    found = []
    for i, cell in enumerate(notebook.cells):
        if "exercise" not in tags(cell):
            continue
        check, answers = notebook.cells[i + 1 : i + 3]
        assert "check" in tags(check) and answers.cell_type == "markdown", cell.source
        code = {}
        for title in ("Solution", "A common mistake"):
            block = re.search(PYTHON.format(title=title), answers.source, flags=re.S)
            assert block, f"{title} is missing behind: {cell.source}"
            code[title] = block[1]
        assert "<summary>Hint</summary>" in answers.source
        found.append((i + 1, code))
    return found


def answered(notebook) -> tuple[nbformat.NotebookNode, list[int], list[int]]:
    """The notebook with both answers before a copy of each check, and where these copies are."""
    cells, right, wrong = [], [], []
    checks = dict(exercises(notebook))
    for i, cell in enumerate(notebook.cells):
        cells.append(copy.deepcopy(cell))
        if i not in checks:
            continue
        for title, places in (("A common mistake", wrong), ("Solution", right)):
            cells.append(new_code_cell(checks[i][title]))
            cells.append(new_code_cell(cell.source))
            places.append(len(cells) - 1)
    whole = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    for number, cell in enumerate(whole.cells):
        cell.id = f"cell-{number}"
    return whole, right, wrong


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs).strip()


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_solutions_pass_and_mistakes_do_not(notebook, tmp_path):
    whole, right, wrong = answered(notebook)
    path = tmp_path / "answered.ipynb"
    nbformat.write(whole, path)
    assert execute(path, path) is None
    cells = nbformat.read(path, as_version=4).cells
    assert [printed(cells[i]) for i in right] == [RIGHT] * len(right)
    for i in wrong:
        assert printed(cells[i]) and printed(cells[i]) not in (RIGHT, UNANSWERED), cells[i].source


def test_no_answer_stands_in_the_stored_outputs(notebook):
    for place, _ in exercises(notebook):
        assert printed(notebook.cells[place]) == UNANSWERED
