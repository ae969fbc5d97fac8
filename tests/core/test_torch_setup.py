"""What importing the package does to torch before its first work, in fresh processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FIRST_CALLS = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

first = {}

class Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            first.setdefault(f"{op.name()} {out.dtype}", out.numel())
        return out

with Recorder():
    import saework.loading.models, saework.engine.forward
names = "sqrt exp log log10 sin cos tanh erf".split()
dtypes = ("float32", "float64")
print([first.get(f"aten::{name} torch.{dtype}") for name in names for dtype in dtypes])
"""

MAPPED_BLOCKS = """
{before}
import ctypes, torch

class Mallinfo(ctypes.Structure):  # see mallinfo(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
mapped = libc.mallinfo2().hblks
blocks = [torch.empty(size * 2**20, dtype=torch.uint8) for size in (1, 8, 31)]
print(libc.mallinfo2().hblks - mapped)
"""


def run_python(code: str) -> str:
    # A Dask cluster in this process leaves MALLOC_TRIM_THRESHOLD_ behind, which turns off what is
    # tested here.
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_elementwise_functions_are_first_called_by_one_thread():
    """Otherwise a session's first norm is wrong by 3e-4 now and then (pytorch issue 188792)."""
    assert run_python(FIRST_CALLS).strip() == str([1] * 16)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such rule")
@pytest.mark.parametrize(
    ("before", "n_mapped"), [("import torch", 3), ("import saework.core.torch_setup", 0)]
)
def test_activations_do_not_come_from_the_system_each_time(before, n_mapped):
    """A mapped block goes back to the system when it is freed: the next batch needs new pages."""
    assert int(run_python(MAPPED_BLOCKS.format(before=before))) == n_mapped
