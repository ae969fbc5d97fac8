"""Where the package's own files are, whole-file writes, JSON, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saework.core.argument_kinds import check_path
from saework.core.errors import WeightsError

PACKAGE = Path(__file__).parent.parent
DATA = PACKAGE / "data"
DIGEST_CHARACTERS = 16
NAME_CHARACTERS = 50  # of a file's name in that of its partial file; names may have 255 bytes
ABANDONED = 3600.0  # seconds since the last write to a partial file, whose writer must be gone


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        WeightsError: the file is missing, damaged, or has anything but an object.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; check the path, or download the whole folder")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give a JSON file")
    if not path.is_file():  # a pipe would be waited for without end
        raise WeightsError(f"{path} is no file; check the path")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_doubles)
    except RecursionError as error:
        raise WeightsError(f"{path} nests too deeply; give a JSON file") from error
    except ValueError as error:
        raise WeightsError(
            f"{path} is not JSON ({error}); delete it and download it again"
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(
            f"{path} holds a {type(value).__name__}, not an object; delete it and download it again"
        )
    return value


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values, for ``object_pairs_hook``.

    Raises:
        ValueError: for a key with two values, of which one would be taken without a word.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"it gives {key[:60]!r} twice, so it cannot be told which holds")
        found[key] = value
    return found


@contextmanager
def partial_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, which replaces ``path`` at the end, or is removed on an error.

    >>> with partial_file("numbers.txt") as partial:  # doctest: +SKIP
    ...     partial.write_text("1 2 3")
    """
    path = writable(path)
    _remove_abandoned(path)
    # a name of its own: others may write the same file at this moment
    start = f".{path.name[:NAME_CHARACTERS]}."
    partial = path.with_name(f"{start}{secrets.token_hex(8)}.partial")
    try:
        # made here, so that whoever writes to it keeps the usual permissions
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        permissions = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name
        partial.chmod(permissions)
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        # the file that was asked for is named, and not the one in between
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # in a folder that cannot be written to
            partial.unlink(missing_ok=True)


def writable(path: str | Path) -> Path:
    """A path that a file can be written to, as far as can be told before.

    Raises:
        ValueError: it is no path.
        OSError: it is a folder, a pipe or a device, or its folder does not exist.
    """
    check_path("path", path)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file in it")
    if path.exists() and not path.is_file():  # it would be replaced, even /dev/null
        raise OSError(f"{path} is a pipe or a device; give the path of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {path.parent}; make it first"
        )
    return path


def readable(path: str | Path) -> Path:
    """The path of a file that is there.

    Raises:
        ValueError: it is no path.
        OSError: there is no such file, or it is a folder, a pipe or a device.
    """
    check_path("path", path)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    if not path.is_file():  # reading a pipe would wait for ever
        raise OSError(f"{path} is a pipe or a device; give a file")
    return path


def _remove_abandoned(path: Path) -> None:
    """Remove what writers of this file left that were killed."""
    start = f".{path.name[:NAME_CHARACTERS]}."
    pattern = re.compile(re.escape(start) + r"[0-9a-f]{16}\.partial")
    for other in path.parent.glob(".*.partial"):
        if pattern.fullmatch(other.name):
            with suppress(OSError):  # another writer may have removed it
                if time.time() - other.stat().st_mtime > ABANDONED:
                    other.unlink()


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all; an older file stays until the new one is complete.

    Raises:
        OSError: it cannot be written.
        ValueError: the text has half a character (a lone surrogate), which no file can hold.
    """
    try:
        written = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        around = ascii(error.object[max(0, error.start - 20) : error.end])
        raise ValueError(
            f"{path} cannot be written: the text has a lone surrogate, at the end of {around}; "
            "take it out"
        ) from error
    with partial_file(path) as partial:
        partial.write_bytes(written)
    return Path(path)


GENERATOR = '<meta name="generator" content="saework">'
"""In the head of each page that saework writes; what lacks it is somebody else's."""
_MARK = re.compile(rb'<meta (?=[^>]*name="generator")(?=[^>]*content="saework")')
HEAD = 16_384  # bytes of a page in which its mark is looked for


def check_own_page(path: str | Path) -> None:
    """Refuse to write a page over a file that saework did not write.

    Raises:
        ValueError: there is such a file, or a folder.
    """
    path = Path(path)
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if _MARK.search(file.read(HEAD)):  # nbconvert writes the attributes in another order
                return
    raise ValueError(
        f"{path} was not written by saework, and is left as it is; move it away, or give another "
        "folder (--out DIR)"
    )


def digest(*parts: str | bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all parts, one after another.

    >>> digest("two ", b"parts") == digest("two parts")
    True
    """
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part.encode() if isinstance(part, str) else part)
    return sha256.hexdigest()[:DIGEST_CHARACTERS]
