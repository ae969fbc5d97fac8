"""Scans on an executor's workers: threads, processes, and a Dask cluster that loses a worker."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import rebuilding
import torch
from rebuilding import dies, gelu_mini
from stand_ins import assert_same

import saework
from saework.analysis.scanning import run_scan, workers
from saework.engine import forward


@pytest.fixture(scope="module")
def workbook():
    return saework.load("gelu-1l-mini", check=False)


@pytest.fixture
def scan(workbook, monkeypatch):
    """A scan of 64 rows in parts of 8, of one batch each."""
    monkeypatch.setattr(run_scan, "PART", 8 * 128)

    def scan(**changes):
        sae, tokens = changes.pop("sae", workbook.sae), workbook.tokens[:64]
        return saework.scan(
            workbook.model, sae, tokens, **{"batch_size": 8, "cofiring": [5, 900], **changes}
        )

    return scan


@pytest.fixture(scope="module")
def expected(workbook):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_scan, "PART", 8 * 128)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as the workers have it
        result = saework.scan(
            workbook.model, workbook.sae, workbook.tokens[:64], batch_size=8, cofiring=[5, 900]
        )
        torch.set_num_threads(threads)
    return result


@pytest.fixture
def one_thread(monkeypatch):
    """For processes that are started from here: matrix products that are cut as in ``expected``."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return "spawn"


class Backwards:
    """An executor that does the work it was given last first, each in this thread."""

    def __init__(self):
        self.waiting = []

    def submit(self, function, *arguments):
        future = Lazy(self)
        self.waiting.append((future, function, arguments))
        return future

    def work(self):
        while self.waiting:
            future, function, arguments = self.waiting.pop()
            future.set_result(function(*arguments))


class Lazy(Future):
    def __init__(self, executor):
        super().__init__()
        self.executor = executor

    def result(self, timeout=None):
        self.executor.work()
        return super().result(timeout)


def test_any_order_of_work_gives_the_same_scan(scan, workbook, expected):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = scan(executor=Backwards(), rebuild=lambda: (workbook.model, workbook.sae))
    torch.set_num_threads(n_threads)
    assert_same(result, expected)


def test_each_thread_rebuilds_once(scan, expected):
    made = []

    def rebuild():
        made.append(threading.get_ident())
        return gelu_mini()

    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        assert_same(scan(executor=executor, rebuild=rebuild), expected)
        assert_same(scan(executor=executor, rebuild=rebuild), expected)
    assert len(made) == len(set(made)) <= 2


def test_no_more_than_a_few_parts_wait(scan, monkeypatch, workbook):
    monkeypatch.setattr(workers, "AHEAD", 3)
    n_waiting = []

    class Counted(Backwards):
        def work(self):
            n_waiting.append(len(self.waiting))
            super().work()

    result = scan(executor=Counted(), rebuild=lambda: (workbook.model, workbook.sae))
    assert result.n_tokens == 64 * 128
    assert max(n_waiting) == 3


class FailsAtTheSixth(ThreadPoolExecutor):
    n_submitted = 0

    def submit(self, function, *arguments):
        self.n_submitted += 1
        if self.n_submitted < 6:
            return super().submit(function, *arguments)
        return super().submit(len, None)


def test_two_processes_and_a_resumed_scan(scan, expected, one_thread, tmp_path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(one_thread)) as executor:
        assert_same(scan(executor=executor, rebuild=gelu_mini), expected)
    path = tmp_path / "c.safetensors"
    words = (
        r"the executor failed after 5 of 8 parts "
        r"\(TypeError: object of type 'NoneType' has no len\(\)\). "
        "With checkpoint=, the same call with a new executor continues from there"
    )
    with FailsAtTheSixth(1, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        with pytest.raises(RuntimeError, match=words):
            scan(executor=executor, rebuild=gelu_mini, checkpoint=path)
    assert saework.FeatureScan.load(path).rows == ((0, 40),)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        assert_same(scan(executor=executor, rebuild=gelu_mini, checkpoint=path), expected)


def test_an_executor_whose_processes_die(scan, one_thread):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(one_thread)) as executor:
        words = (
            r"the executor failed after 0 of 8 parts \(BrokenProcessPool: .*\). A worker ended "
            "before its first part was done; what it printed says why. Usual causes: no memory .*; "
            "a script that starts the pool outside of if __name__ == '__main__':; a rebuild= that "
            "fails in a new process"
        )
        with pytest.raises(RuntimeError, match=words):
            scan(executor=executor, rebuild=dies)


def test_a_worker_that_makes_something_else(scan, workbook):
    other = workbook.model, workbook.with_sae("run2").sae
    words = (
        "rebuild= gives another SAE than scan was given; it must load the same weights, "
        "with the same dtype and settings"
    )
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match=words):
            scan(executor=executor, rebuild=lambda: other)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, sae: sae.W_enc[3, 5].add_(1.0),
        lambda model, sae: setattr(sae.cfg, "apply_b_dec_to_input", False),
        lambda model, sae: model.blocks[0].mlp.W_in[3, 5].add_(1.0),
    ],
    ids=["weight", "config", "model"],
)
def test_a_worker_whose_parts_differ_a_little(scan, workbook, change):
    model, sae = copy.deepcopy((workbook.model, workbook.sae))
    change(model, sae)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="rebuild= gives another (SAE|model) than scan was"):
            scan(executor=executor, rebuild=lambda: (model, sae))


def test_a_worker_with_a_hook(scan, workbook):
    model = copy.deepcopy(workbook.model)
    model.add_perma_hook(workbook.hook, lambda value, hook: 2 * value)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="the model has a function on at blocks.0.mlp"):
            scan(executor=executor, rebuild=lambda: (model, workbook.sae))


def test_what_a_worker_keeps_may_have_been_edited(scan, workbook):
    """The next call sees it, and makes the parts again."""
    sae = copy.deepcopy(workbook.sae)
    made = []

    def rebuild():
        made.append(sae)
        return workbook.model, copy.deepcopy(workbook.sae) if len(made) > 1 else sae

    with ThreadPoolExecutor(1) as executor:
        first = scan(executor=executor, rebuild=rebuild)
        sae.W_enc[3, 5] += 1.0
        assert_same(scan(executor=executor, rebuild=rebuild), first)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"executor": "threads", "rebuild": gelu_mini}, "executor is a str, which has no submit"),
        ({"executor": Backwards(), "rebuild": 3}, "rebuild is a int; give a function without"),
    ],
)
def test_what_is_no_executor_or_no_function(scan, arguments, words):
    with pytest.raises(ValueError, match=words):
        scan(**arguments)


def test_what_a_worker_finds_wrong_is_said_as_it_is(scan, workbook):
    sae = workbook.with_sae("run2").sae
    sae.b_enc[7] = float("nan")
    # rows of the part that was worked on first
    with pytest.raises(ValueError, match="NaN or infinite values out of .*, in rows 56, 57, 58"):
        scan(executor=Backwards(), rebuild=lambda: (workbook.model, sae), sae=sae)


def test_a_dask_cluster_that_loses_a_worker(scan, expected, one_thread, tmp_path):
    """Two worker processes; one is killed at work, and Dask gives its part to the other."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(
        {"distributed.nanny.environ.OMP_NUM_THREADS": 1, "temporary_directory": str(tmp_path)}
    ):
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
            ) as cluster,
            Client(cluster) as client,
        ):
            client.upload_file(rebuilding.__file__)
            killed = []

            def kill_one():
                while sum(map(bool, client.processing().values())) < 2:
                    time.sleep(0.05)
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

            killer = threading.Thread(target=kill_one, daemon=True)
            killer.start()
            result = scan(executor=client.get_executor(), rebuild=gelu_mini)
            killer.join(600)
            alive = set(client.run(os.getpid).values())
    assert len(killed) == 1 and killed[0] not in alive
    assert_same(result, expected)


def test_after_a_failure_no_part_waits(scan):
    class FirstFails:
        def __init__(self):
            self.futures = []

        def submit(self, *work):
            self.futures.append(Future())
            if len(self.futures) == 8:
                self.futures[0].set_exception(MemoryError("the machine is full"))
            return self.futures[-1]

    executor = FirstFails()
    words = r"failed after 0 of 8 parts \(MemoryError: the machine is full"
    with pytest.raises(RuntimeError, match=words):
        scan(executor=executor, rebuild=gelu_mini)
    assert [future.cancelled() for future in executor.futures] == [False] + 7 * [True]


def test_tokens_are_checked_once_at_the_door_and_once_when_they_run(scan, monkeypatch):
    checked = []
    check_tokens = forward.check_tokens

    def counted(tokens, **limits):
        checked.append(len(tokens))
        return check_tokens(tokens, **limits)

    monkeypatch.setattr(forward, "check_tokens", counted)
    scan()
    assert checked == [64, *8 * [8]]


def test_rows_travel_without_the_rest_of_the_tokens():
    tokens = torch.arange(100_000).reshape(1000, 100)
    rows = workers.Rows.of(tokens, None, slice(10, 12), first_row=5)
    assert rows.first_row == 15 and rows.counts.all()
    assert rows.tokens.tolist() == tokens[10:12].tolist()
    assert len(pickle.dumps(rows)) < 4_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda part: None, "it gave back something else than was asked for"),
        (lambda part: part | {"n_tokens": 1}, "something else than was asked for .*contradict"),
        (lambda part: part | {"count": part["count"].sum()}, "something else than was asked"),
        (lambda part: part | {"max_activation": part["max_activation"] * np.nan}, "has NaN"),
    ],
)
def test_an_executor_that_gives_something_else(scan, workbook, change, words):
    class Liar:
        def submit(self, function, *arguments):
            future = Future()
            future.set_result(change(function(*arguments)))
            return future

    with pytest.raises(RuntimeError, match=f"the executor failed after 0 of .*{words}"):
        scan(executor=Liar(), rebuild=lambda: (workbook.model, workbook.sae))
