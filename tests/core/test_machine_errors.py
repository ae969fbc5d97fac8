"""The machine's failures, told from a program's mistakes and from damaged files."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from saework.core.errors import NotAvailableError
from saework.core.machine_errors import check_not_the_machine, is_out_of_memory

CUDA_FULL = (
    "CUDA out of memory. Tried to allocate 2.20 GiB. GPU 0 has a total capacity of 14.74 GiB\n"
    "of which 1.06 GiB is free."
)
LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA_FULL),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_too_little_memory(error):
    assert is_out_of_memory(error)
    words = 'not enough memory to load this .*close other programs, .* depth="hook"$'
    with pytest.raises(NotAvailableError, match=words) as raised:
        check_not_the_machine(error)
    assert "\n" not in str(raised.value) and raised.value.__cause__ is error


def test_torch_itself_says_it_so():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize("text", [LOST, "CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"])
def test_a_gpu_that_fails(text):
    words = 'the GPU failed .*restart the session and load again, or give device="cpu"'
    with pytest.raises(NotAvailableError, match=words):
        check_not_the_machine(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), OSError("no such file"), KeyError(3)])
def test_other_errors_are_let_through(error):
    check_not_the_machine(error)
    assert not is_out_of_memory(error)
