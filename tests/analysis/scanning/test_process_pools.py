"""Pools of processes: those that cannot work are refused at once, and forked ones work."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import rebuilding
import torch

from saework.analysis.scanning import process_pools
from saework.analysis.scanning.process_pools import check_pool, start_method

# As at a prompt or in a notebook: the main module has no file. Torch has used two threads.
AT_A_PROMPT = """
import multiprocessing, os, sys, torch
from concurrent.futures import ProcessPoolExecutor
import saework
from saework.analysis.scanning import run_scan

run_scan.PART = 512
torch.set_num_threads(2)
square = torch.ones(1500, 1500)
(square @ square).exp().sum()
book = saework.load("gelu-1l-mini", n_tokens=2048, check=False)

def rebuild():
    return book.model, book.sae

def scan(**options):
    return saework.scan(book, batch_size=4, progress=False, **options)

def pool(method):
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))

for method in ("spawn", "forkserver"):
    with pool(method) as executor:
        try:
            scan(executor=executor, rebuild=rebuild)
        except ValueError as error:
            print(error)
with pool("fork") as executor:
    by_workers = scan(executor=executor, rebuild=rebuild)
torch.set_num_threads(1)
print("fork", torch.equal(by_workers.count, scan().count), torch.equal(
    by_workers.top_values, scan().top_values))
"""


def test_pools_of_a_notebook():
    """A fork after torch used its threads hung for ever; a spawned pool failed for ever."""
    done = subprocess.run(
        [sys.executable, "-"], input=AT_A_PROMPT, capture_output=True, text=True, timeout=600
    )
    lines = done.stdout.strip().split("\n")
    words = (
        "rebuild= is defined in a notebook or at a prompt, and the pool's new processes ({}) "
        "cannot import it from there; put it in a file, such as parts.py, beside the notebook, "
        "and write: from parts import rebuild"
    )
    expected = [words.format("spawn"), words.format("forkserver"), "fork True True"]
    assert lines == expected, done.stderr


@pytest.fixture
def pool():
    """``pool(method)``: an executor that has not started a process."""
    made = []

    def pool(method):
        context = multiprocessing.get_context(method)
        made.append(ProcessPoolExecutor(1, mp_context=context))
        return made[-1]

    yield pool
    for executor in made:
        executor.shutdown()


def model_on(device):
    return SimpleNamespace(parameters=lambda: iter([torch.empty(0, device=device)]))


def nested():
    def inside():
        pass

    return inside


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("rebuild", [lambda: None, nested(), partial(nested())])
def test_a_function_that_cannot_be_sent(pool, method, rebuild):
    words = (
        r"rebuild= cannot be sent to another process \(.*\); give a function that stands by itself "
        "in a file that can be imported, no lambda and no function inside another"
    )
    with pytest.raises(ValueError, match=words):
        check_pool(pool(method), rebuild, model_on("cpu"))
    check_pool(ThreadPoolExecutor(1), rebuild, model_on("cpu"))


def test_functions_that_can_be_sent(pool, monkeypatch):
    monkeypatch.setattr(process_pools, "_main_is_a_file", lambda: False)
    for method in ("fork", "spawn"):
        for rebuild in (rebuilding.gelu_mini, partial(rebuilding.gelu_mini)):
            check_pool(pool(method), rebuild, model_on("cpu"))


def test_a_function_of_main_inside_a_partial(pool, monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(nested, "__module__", "__main__")
    monkeypatch.setattr(main, "nested", nested, raising=False)
    monkeypatch.setattr(process_pools, "_main_is_a_file", lambda: False)
    for rebuild in (nested, partial(rebuilding.gelu_mini, nested)):
        with pytest.raises(ValueError, match=r"new processes \(spawn\) cannot import it"):
            check_pool(pool("spawn"), rebuild, model_on("cpu"))
        check_pool(pool("fork"), rebuild, model_on("cpu"))
    monkeypatch.setattr(process_pools, "_main_is_a_file", lambda: True)
    check_pool(pool("spawn"), nested, model_on("cpu"))


def test_a_forked_process_has_no_gpu(pool):
    words = r"a forked process cannot use the GPU .*; give ProcessPoolExecutor\(mp_context=.*spawn"
    with pytest.raises(ValueError, match=words):
        check_pool(pool("fork"), rebuilding.gelu_mini, model_on("meta"))
    check_pool(pool("spawn"), rebuilding.gelu_mini, model_on("meta"))


def test_how_processes_start(pool):
    assert [start_method(pool(method)) for method in ("fork", "spawn")] == ["fork", "spawn"]
    with ThreadPoolExecutor(1) as threads:
        assert start_method(threads) is None
