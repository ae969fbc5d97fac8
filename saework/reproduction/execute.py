"""Notebooks executed by papermill: one, or several at a time."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, TypeVar

import psutil

from saework.core.terminal import is_terminal

Item = TypeVar("Item")
Result = TypeVar("Result")

# Figures as data (JupyterLab draws them), and no progress bars: outputs are the same everywhere.
ENVIRONMENT = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}


def execute(
    source: Path,
    target: Path,
    *,
    parameters: dict[str, Any] | None = None,
    on_cell: Callable[..., None] | None = None,
) -> str | None:
    """Run a notebook from top to bottom with papermill; returns what went wrong, or None.

    It runs in the folder of ``target``.

    Args:
        source: the notebook.
        target: where it is written, executed.
        parameters: of the notebook.
        on_cell: called with ``cell`` and ``cell_index`` after each cell, in place of a progress
            bar; then the process must be in that folder already.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from saework.reproduction.kernel import OwnKernelManager, kernel_arguments

    os.environ.update(ENVIRONMENT)  # kernels inherit it
    try:
        with TemporaryDirectory(prefix="saework-", ignore_cleanup_errors=True) as profile:
            papermill.execute_notebook(
                _as_template(source),
                _as_template(target),
                parameters=parameters or {},
                kernel_name="python3",
                cwd=None if on_cell else str(target.parent),
                progress_bar=on_cell is None and is_terminal(sys.stderr),
                log_output=False,
                on_cell_complete=on_cell,
                kernel_manager_class=OwnKernelManager,
                extra_arguments=kernel_arguments(profile),
            )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return (
            "its process was ended from outside, most often for lack of memory; close other "
            "programs, or set OMP_NUM_THREADS=1, and run the command again"
        )
    return None


def _as_template(path: Path) -> str:
    """A path for papermill, which fills in what stands between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def several_at_a_time(
    run: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    n_workers: int,
    folder: Path,
    stopping: Event,
) -> list[Result]:
    """``run`` of each item, in order; each may ``execute`` a notebook of the folder.

    Where it is interrupted, the kernels are ended, and what was written stays.

    Args:
        run: called from ``n_workers`` threads.
        items: what it is called with.
        n_workers: how many at a time; the cores are shared out between them.
        folder: becomes the folder of this process meanwhile, since papermill would set it for
            each notebook apart, and a process has only one.
        stopping: is set before the kernels are ended, so that ``run`` can tell a notebook that
            was stopped from one that failed.
    """
    from papermill.utils import chdir

    earlier = set(_children())
    with (
        chdir(folder),
        _threads_for(n_workers),
        _silent_after(stopping),
        ThreadPoolExecutor(n_workers) as executor,
    ):
        try:
            return list(executor.map(run, items))
        except BaseException:
            stopping.set()
            executor.shutdown(wait=False, cancel_futures=True)
            _stop(set(_children()) - earlier)
            raise


def workers_for(memory_gb: float) -> int:
    """How many notebooks run at a time: two, if there are two cores and the memory.

    Args:
        memory_gb: what one of them needs.
    """
    if (os.cpu_count() or 1) < 2:
        return 1
    return 2 if 2 * memory_gb * 1e9 <= psutil.virtual_memory().available else 1


@contextmanager
def _threads_for(n_workers: int) -> Iterator[None]:
    """The cores shared out between the kernels that start inside, unless the user has done it."""
    if n_workers == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // n_workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


@contextmanager
def _silent_after(stopping: Event) -> Iterator[None]:
    """papermill's log without the deaths of the kernels that are ended on purpose."""
    log = logging.getLogger("papermill")

    def speaks(record: logging.LogRecord) -> bool:
        return not stopping.is_set()

    log.addFilter(speaks)
    try:
        yield
    finally:
        log.removeFilter(speaks)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _stop(kernels: set[psutil.Process]) -> None:
    for kernel in kernels:
        with suppress(psutil.Error):
            kernel.kill()
