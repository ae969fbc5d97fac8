"""Pools of processes that cannot work are refused before anything is given to them."""

from __future__ import annotations

import pickle
import pickletools
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from saework.core.protocols import HookedModel

SPAWN = (
    "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')), with rebuild in a file"
)


def start_method(executor: Executor) -> str | None:
    """How a ``ProcessPoolExecutor`` starts its processes; None for any other executor."""
    context: Any = getattr(executor, "_mp_context", None)
    if not isinstance(executor, ProcessPoolExecutor) or context is None:
        return None
    return context.get_start_method()


def check_pool(executor: Executor, rebuild: Callable[[], object], model: HookedModel) -> None:
    """Check that the processes of a ``ProcessPoolExecutor`` can run ``rebuild``.

    Other executors are not checked: Dask's sends functions whole.

    Raises:
        ValueError: ``rebuild`` cannot be sent to a process, or a new process cannot import it, or
            the processes are forked from one that uses a GPU.
    """
    if not isinstance(executor, ProcessPoolExecutor):
        return
    on_gpu = next(model.parameters()).device.type != "cpu"
    method = start_method(executor)
    if method == "fork" and on_gpu:
        raise ValueError(
            "this pool forks its processes, and a forked process cannot use the GPU that this one "
            f"uses; give {SPAWN}"
        )
    try:
        # in protocol 2 each function's module and name stand together in one GLOBAL
        pickled = pickle.dumps(rebuild, protocol=2)
    except Exception as error:  # what a user's object raises while it is pickled
        raise ValueError(
            f"rebuild= cannot be sent to another process ({error}); give a function that stands by "
            "itself in a file that can be imported, no lambda and no function inside another"
        ) from error
    if method != "fork" and not _main_is_a_file() and _is_of_main(pickled):
        raise ValueError(
            f"rebuild= is defined in a notebook or at a prompt, and the pool's new processes "
            f"({method}) cannot import it from there; put it in a file, such as parts.py, beside "
            "the notebook, and write: from parts import rebuild"
        )


def _is_of_main(pickled: bytes) -> bool:
    """Whether a pickle names anything that is defined in the main module."""
    return any(
        operation.name == "GLOBAL" and str(argument).startswith("__main__ ")
        for operation, argument, _ in pickletools.genops(pickled)
    )


def _main_is_a_file() -> bool:
    """Whether a new process can run the main module's file, as multiprocessing does."""
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", None):
        return True
    path = getattr(main, "__file__", None)
    return path is not None and Path(path).exists()
