"""A notebook's code cells, run one after the other in one namespace, on less text and training."""

from __future__ import annotations

import ast
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import torch

import saework

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("[0-9]*.ipynb"))]
ROW = 128
ROWS = {"01": 64, "03": 8, "04": 12}
"""Rows of text that a load gives: where notebooks need more than the usual number."""
USUAL_ROWS = 24
SOME_IDS = [
    "layer_2/width_1k/average_l0_9",
    "layer_2/width_1k/average_l0_22",
    "layer_2/width_4k/average_l0_21",
]
SMALLER: dict[str, dict[str, Any]] = {
    "01": {"STEPS": 20},
    "03": {"EVERY": 1},
    "06": {"LOSS_TOKENS": 256, "N_TOKENS": 1024, "N_PARENTS": 20, "SAE_IDS": SOME_IDS},
    "07": {"N_TOKENS": 1024, "FIRING_TOKENS": 2048},
    "08": {"N_PROMPTS": 2, "N_SAMPLES": 2, "NEW_TOKENS": 3, "N_DIRECTIONS": 2},
    "09": {"LIVE_STEPS": 25, "LIVE_SEEDS": (0,)},
}
"""Parameters of some notebooks."""
SHORTER = {
    "01": {"steps=2000": "steps=20", "N_SHORT = 300": "N_SHORT = 5", "n_test = 80": "n_test = 32"},
    "08": {"16 if is_mini else 4": "2", "torch.arange(d_sae)": "torch.arange(20)"},
}
"""Constants in other cells, and what stands there instead."""


class _Unasserted(ast.NodeTransformer):
    """``assert x`` becomes ``bool(x)``: it is computed, and the numbers of less text may fail."""

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        truth = ast.Call(ast.Name("bool", ast.Load()), [node.test], [])
        return ast.copy_location(ast.Expr(truth), node)


def _load_less(rows: int) -> Any:
    whole = saework.load

    def load(*args: Any, **options: Any) -> saework.Workbook:
        n_tokens = options.get("n_tokens")
        most = rows * ROW
        return whole(*args, **options | {"n_tokens": min(n_tokens or most, most)})

    return mock.patch("saework.load", load)


def _shown(*values: Any) -> None:
    """As a notebook does with what it displays."""
    for value in values:
        repr(value)
        getattr(value, "_repr_html_", str)()


def run_notebook(name: str, device: str, edits: dict[str, str] | None = None) -> dict[str, Any]:
    """Run all code cells but the one that installs.

    Args:
        name: such as ``00_start_here``.
        device: for the parameter ``DEVICE``.
        edits: parts of the source that are replaced.

    Returns: the notebook's variables.
    """
    number = name[:2]
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    variables: dict[str, Any] = {"__name__": "__main__", "display": _shown}
    edits = SHORTER.get(number, {}) | (edits or {})
    missing = set(edits)
    with _load_less(ROWS.get(number, USUAL_ROWS)), torch.enable_grad():
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type != "code" or "setup" in cell.metadata.get("tags", []):
                continue
            source = cell.source
            for old, new in edits.items():
                missing -= {old} if old in source else set()
                source = source.replace(old, new)
            _run_cell(source, f"{name}, cell {i}", variables)
            if "parameters" in cell.metadata.get("tags", []):
                assert "DEVICE" in variables or not source_loads(notebook), name
                variables |= {"DEVICE": device, **SMALLER.get(number, {})}
    assert not missing, f"{name} has no {missing}"
    return variables


def source_loads(notebook: nbformat.NotebookNode) -> bool:
    return any("load(" in cell.source for cell in notebook.cells if cell.cell_type == "code")


def _run_cell(source: str, place: str, variables: dict[str, Any]) -> None:
    tree = ast.fix_missing_locations(_Unasserted().visit(ast.parse(source)))
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    try:
        with redirect_stdout(io.StringIO()):
            exec(compile(tree, place, "exec"), variables)
            if isinstance(last, ast.Expr):
                _shown(eval(compile(ast.Expression(last.value), place, "eval"), variables))
    except Exception as error:
        error.add_note(f"in {place}:\n{source}")
        raise
