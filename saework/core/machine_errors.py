"""Errors of the machine: too little memory, a GPU that fails. No file is to blame for them."""

from __future__ import annotations

from saework.core.errors import NotAvailableError

NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
)
"""How torch and the system say it."""
GPU_FAILS = ("cuda error", "cublas_status", "cudnn_status")
"""How torch says that a GPU was lost, or computes no more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch has no memory left."""
    return isinstance(error, MemoryError) or _says(error, NO_MEMORY)


def check_not_the_machine(error: BaseException) -> None:
    """Raise another error where the machine failed, before a file is called damaged.

    Args:
        error: of a library that was reading weights.

    Raises:
        NotAvailableError: too little memory, or a GPU that fails; it says what to do.
    """
    first_line = str(error).partition("\n")[0]
    if is_out_of_memory(error):
        raise NotAvailableError(
            f"there is not enough memory to load this ({first_line}); close other programs, or "
            'give device="cpu", dtype="bfloat16" or depth="hook"'
        ) from error
    if _says(error, GPU_FAILS):
        raise NotAvailableError(
            f"the GPU failed ({first_line}); restart the session and load again, or give "
            'device="cpu"; the files on this machine are not the reason'
        ) from error


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)
