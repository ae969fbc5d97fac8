"""Torch's usual defaults within a public function, whatever the session has set.

A default dtype, a default device and autocast reach every tensor that is made or multiplied on the
way. Numbers would then depend on a line far away, and nothing of a result would say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch

AUTOCAST_DEVICES = ("cpu", "cuda")


@contextmanager
def plain_torch() -> Iterator[None]:
    """float32 and the CPU as defaults, and no autocast; afterwards all is as it was.

    >>> with torch.autocast("cpu", torch.bfloat16), plain_torch():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # entered only where it is needed: it slows each of torch's functions
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
