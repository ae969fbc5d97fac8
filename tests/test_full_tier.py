"""The cells that only the full release runs, on the mini's files in its place.

This proves that the code of that tier runs to its ledger, not that a published number comes out:
the verdicts here mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from saework.claims import NOT_RUN
from saework.reproduction import NOTEBOOKS, ledgers_in

FOLDER = Path(__file__).parent.parent / "notebooks"
STAND_IN = """
from dataclasses import replace
from saework import catalogue, corpus
drawn = corpus.published_rows
corpus.published_rows = lambda n_rows, n_batches, **more: drawn(n_rows, 1, **more)  # 64 rows are enough to run
mini, full = catalogue._RELEASES["gelu-1l-mini"], catalogue._RELEASES["gelu-1l"]
catalogue._RELEASES["gelu-1l"] = replace(full, d_in=512, d_sae=4096, repositories=mini.repositories)
RELEASE = "gelu-1l"
"""


@pytest.mark.parametrize("name", NOTEBOOKS["gelu-1l"])
def test_the_full_branch_runs_to_its_ledger(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    parameters = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(STAND_IN))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    own = [entry for ledger in ledgers_in(notebook) for entry in ledger.entries if entry.claim.tier == "gelu-1l"]
    assert [entry.claim.id for entry in own if entry.verdict == NOT_RUN] == []
    assert own or name == "00_start_here"
