"""A model's hooks, and what an SAE keeps of its last input, belong to one thread at a time.

Hooks stand on the model itself. With two threads on one model, a function that one of them put
there would run in the other's forward pass, and each would read the other's activations.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from saework.core.protocols import Hook, HookedModel

Locks = WeakKeyDictionary[Any, Any]

_locks: Locks = WeakKeyDictionary()
_guard = threading.Lock()


def lock_of(part: Any) -> Any:
    """The lock of a model or an SAE; the thread that has it may take it again."""
    with _guard:
        try:
            return _locks.setdefault(part, threading.RLock())
        except TypeError:  # an own object that cannot be a key has one lock with all others
            return _locks.setdefault(WeakKeyDictionary, threading.RLock())


@contextmanager
def hooked(model: HookedModel, hooks: Sequence[Hook]) -> Iterator[None]:
    """Functions at a model's hooks; meanwhile no other thread runs it by these functions."""
    with lock_of(model), model.hooks(fwd_hooks=list(hooks)):
        yield


def _begin_anew() -> None:
    """In a forked process: its one thread has none of the locks that other threads had."""
    global _locks, _guard
    _locks, _guard = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_begin_anew)
