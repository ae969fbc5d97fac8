"""Notebooks executed by papermill: one, or several at a time."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from threading import Event
from types import SimpleNamespace

import nbformat
import pytest

from saework.reproduction import execute as module
from saework.reproduction.execute import execute, several_at_a_time, workers_for

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)


def test_what_went_wrong_is_returned(tmp_path):
    write(tmp_path / "one.ipynb", "x = 1", "raise KeyError(x)")
    target = tmp_path / "two.ipynb"
    assert execute(tmp_path / "one.ipynb", target, parameters={"x": 2}) == "KeyError: 2"
    write(tmp_path / "one.ipynb", "x = 1", "assert x == 1")
    assert execute(tmp_path / "one.ipynb", target) is None


def test_a_kernel_that_is_ended_is_told_and_what_it_gave_is_kept(tmp_path):
    """As by a system that is short of memory."""
    end = "import os\nos.abort()"
    write(tmp_path / "one.ipynb", "x = 1", "print(x)", end, "print('after')")
    target = tmp_path / "two.ipynb"
    problem = execute(tmp_path / "one.ipynb", target)
    assert problem.startswith("its process was ended from outside, most often for lack of memory")
    outputs = [cell.outputs for cell in nbformat.read(target, as_version=4).cells]
    assert [[one.text for one in some] for some in outputs] == [[], ["1\n"], [], []]


def test_braces_in_a_path_are_those_of_the_path(tmp_path):
    folder = tmp_path / "run {x} {{2}}"
    folder.mkdir()
    write(folder / "one.ipynb", "x = 1", "import os; assert os.getcwd().endswith('run {x} {{2}}')")
    assert execute(folder / "one.ipynb", folder / "two.ipynb", parameters={"x": 2}) is None
    assert sorted(path.name for path in folder.iterdir()) == ["one.ipynb", "two.ipynb"]


def test_two_notebooks_at_a_time_meet_in_their_folder(tmp_path):
    """Each waits for what the other writes, so that one after the other would never end."""
    wait = "import pathlib, time\nwhile not pathlib.Path({!r}).exists():\n    time.sleep(0.05)"
    for name, other in (("a", "b"), ("b", "a")):
        source = (
            f"import os, pathlib\npathlib.Path({name!r}).write_text(os.environ['OMP_NUM_THREADS'])"
        )
        write(tmp_path / f"{name}.ipynb", "x = 1", source, wait.format(other))
    cells = []

    def run(name):
        path = tmp_path / f"{name}.ipynb"
        return execute(
            path, path, on_cell=lambda cell, cell_index: cells.append((name, cell_index))
        )

    before = os.getcwd()
    found = several_at_a_time(run, ["a", "b"], n_workers=2, folder=tmp_path, stopping=Event())
    assert found == [None, None]
    assert os.getcwd() == before
    assert sorted(cells) == [(name, index) for name in "ab" for index in range(3)]
    assert (tmp_path / "a").read_text() == os.environ.get("OMP_NUM_THREADS", "1")


def test_results_are_in_order_and_the_cores_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)

    def run(item):
        time.sleep(0.05 if item == 0 else 0)
        return item, os.environ.get("OMP_NUM_THREADS")

    found = several_at_a_time(run, range(4), n_workers=2, folder=tmp_path, stopping=Event())
    assert found == [(item, "4") for item in range(4)]
    assert "OMP_NUM_THREADS" not in os.environ
    found = several_at_a_time(run, [1], n_workers=1, folder=tmp_path, stopping=Event())
    assert found == [(1, None)]


@pytest.mark.parametrize(
    ("cores", "available_gb", "n_workers"), [(2, 2.1, 2), (2, 1.9, 1), (1, 99, 1), (None, 99, 1)]
)
def test_two_at_a_time_need_two_cores_and_twice_the_memory(
    cores, available_gb, n_workers, monkeypatch
):
    memory = SimpleNamespace(available=available_gb * 1e9)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(module.os, "cpu_count", lambda: cores)
    assert workers_for(1.0) == n_workers


def test_an_error_ends_the_kernels_that_run_and_nothing_else(tmp_path, caplog):
    waits = [sys.executable, "-c", "input()"]
    earlier = subprocess.Popen(waits, stdin=subprocess.PIPE)
    kernels, told, stopping = [], [], Event()

    def run(item):
        if item == "kernel":
            kernels.append(subprocess.Popen(waits, stdin=subprocess.PIPE))
            kernels[0].wait()
            logging.getLogger("papermill").error("Kernel died")
            return told.append(stopping.is_set())
        while not kernels:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        several_at_a_time(run, ["stop", "kernel"], n_workers=2, folder=tmp_path, stopping=stopping)
    assert told == [True]
    assert "Kernel died" not in caplog.text
    logging.getLogger("papermill").error("heard again")
    assert "heard again" in caplog.text
    assert kernels[0].returncode not in (None, 0)
    assert earlier.poll() is None
    earlier.communicate()
