"""Around a command: what a closed pipe, a signal, a warning or a full disk does, in one line."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from saework.core.lines import wrapped
from saework.core.machine_errors import is_out_of_memory

TYPED_WRONG, FAILED, CUT_OFF, BY_SIGNAL = 2, 1, 141, 128
"""Exit codes. The last is added to the signal's number, as shells do."""
ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no hang-up
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class EndedError(KeyboardInterrupt):
    """A signal that ends a process, which is taken as Ctrl-C is."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def run_command(command: Callable[[], int], kept: Callable[[], str]) -> int:
    """Run a command, say in one line what stopped it, and return the exit code.

    Args:
        command: returns an exit code.
        kept: what an interrupted command leaves, and how to go on.

    Returns:
        The command's own code; 2 for a mistake in what was typed, and for files that cannot be
        read or written; 1 for too little memory; 128 and the signal's number if it was ended.
    """
    prepare_streams()
    try:
        with signals_as_interrupts(), warnings_in_one_line():
            code = command()
            flush_output()  # a full disk or a closed pipe is said here, and not at the exit
            return code
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and is_cut_off():
            return CUT_OFF
        say(f"saework: {error_text(error)}")
        return TYPED_WRONG
    except KeyboardInterrupt as error:
        say(f"\nsaework: stopped; {kept()}")
        return BY_SIGNAL + (error.number if isinstance(error, EndedError) else signal.SIGINT)
    except Warning as warning:
        say(f"saework: {warning} (a warning; PYTHONWARNINGS or -W makes it an error here)")
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say(
            "saework: there is not enough memory; close other programs, or take fewer tokens or "
            "a smaller release"
        )
        return FAILED


def prepare_streams() -> None:
    """Let a terminal that has no tick or no accents get a question mark instead.

    A stream that is closed becomes one to nowhere, since a kernel could not start without it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            if nowhere > 2:
                os.close(nowhere)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sees it; a stream may be closed, or None."""
    return stream is not None and not stream.closed and stream.isatty()


def say(line: str) -> None:
    """Write a line to the error stream, if it is still there; in a terminal, no word is cut."""
    if is_terminal(sys.stderr):
        width = shutil.get_terminal_size().columns
        line = "\n".join(wrapped(part, width=width) for part in line.splitlines())
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def flush_output() -> None:
    """Write out what was printed.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def is_cut_off() -> bool:
    """Whether the reader of the output has gone, as ``head`` does; then no more is written."""
    if sys.stdout is None or not _has_no_reader(sys.stdout.fileno()):
        return False
    # Python writes what is left at its exit, and would complain there
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _has_no_reader(file: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(file, 0)  # an error is told without being asked for
    return bool(poll.poll(0))


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that nothing half done is left.

    A signal that is ignored stays so (``nohup``). The second one ends the process at once.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise EndedError(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Write a warning without the line of code that gave it."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        say(f"saework: {message}")

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def error_text(error: ValueError | OSError) -> str:
    """An error in words; the system's own get the file's name, and what to do.

    >>> print(error_text(PermissionError(13, "Permission denied", "pages")))
    pages: Permission denied; give a folder that you may write to (--out DIR)
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = "check the path"
    if error.errno in FULL:
        remedy = "make room on that disk, or write to another; an older file there is as it was"
    elif error.errno in FORBIDDEN:
        remedy = "give a folder that you may write to (--out DIR)"
    return f"{named}{error.strerror}; {remedy}"
