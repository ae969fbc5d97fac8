"""Folders for results: made, tried, and written to by one process at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saework.core.argument_kinds import check_path

LOCK = ".saework.lock"
"""In a folder while a process writes to it."""


def make_folder(path: str | Path) -> Path:
    """Make a folder if it is not there, try it, and return its absolute path.

    Raises:
        ValueError: it is no path, is a file, or cannot be made or written to; before any work.
    """
    check_path("folder", path)
    path = Path(path)
    try:
        path = path.absolute()
        str(path).encode("utf-8")
    except FileNotFoundError as error:
        raise ValueError("this folder has been deleted; change to another one (cd)") from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of the folder {str(path)!a} is no text here, so no notebook or page can "
            "name it; give another folder (--out DIR), or set PYTHONUTF8=1"
        ) from error
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; give a folder (--out DIR)")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written to ({error.strerror}); "
            "give a folder that you may write to (--out DIR)"
        ) from error
    return path


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Let one process at a time write its results to a folder.

    Where the file system has no locks, all may.

    Raises:
        ValueError: another process writes to it now.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except NotImplementedError:
        yield
        return
    except Timeout:
        raise ValueError(
            f"another saework writes to {folder} at this moment; wait until it is done, or give "
            "another folder (--out DIR)"
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
