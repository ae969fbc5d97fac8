"""Two threads on one model: each gets its own numbers."""

from __future__ import annotations

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from stand_ins import POST, hooks_are_clean

import saework
from saework.engine import one_thread
from saework.engine.forward import capture
from saework.engine.one_thread import hooked, lock_of


def test_one_threads_hooks_wait_for_anothers(tiny):
    """The second thread begins while the first is in the middle of its forward pass."""
    begun, ended = threading.Event(), []

    def slow(value, hook):
        begun.set()
        # the other thread has time to run through this hook, if nothing keeps it
        waiting.join(timeout=0.2)
        ended.append("first")

    def second():
        begun.wait()
        ended.append(capture(tiny.model, tiny.tokens[:2], POST, []))

    waiting = threading.Thread(target=second)
    waiting.start()
    first = capture(tiny.model, tiny.tokens[2:], POST, [("blocks.0.hook_resid_pre", slow)])
    waiting.join()
    assert ended[0] == "first" and len(ended) == 2
    assert torch.equal(first, capture(tiny.model, tiny.tokens[2:], POST, []))
    assert torch.equal(ended[1], capture(tiny.model, tiny.tokens[:2], POST, []))
    assert hooks_are_clean(tiny.model)


def test_many_threads_get_the_numbers_of_one(lively):
    def measured(rows):
        tokens = lively.tokens[rows]
        zero = saework.token_losses(lively.model, tokens, POST, torch.zeros_like)
        scan = saework.scan(lively.model, lively.sae, tokens, progress=False, top_k=0)
        return (
            zero.tolist(),
            saework.token_losses(lively.model, tokens).tolist(),
            scan.count.tolist(),
        )

    parts = [slice(row, row + 1) for row in range(6)] * 3
    alone = list(map(measured, parts))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(measured, parts)) == alone
    assert hooks_are_clean(lively.model)


def test_a_thread_may_take_its_lock_again_and_parts_have_their_own(tiny):
    other = copy.deepcopy(tiny.sae)
    assert lock_of(tiny.model) is lock_of(tiny.model)
    assert len({id(lock_of(part)) for part in (tiny.model, tiny.sae, other)}) == 3
    with hooked(tiny.model, []), hooked(tiny.model, []):
        pass
    assert lock_of([]) is lock_of({}), "what cannot be a key shares one"


def test_a_forked_process_has_no_lock_of_another_thread(tiny):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock_of(tiny.model):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert os.register_at_fork and one_thread._begin_anew
    child = os.fork()
    if child == 0:
        os._exit(0 if lock_of(tiny.model).acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    assert status == 0
