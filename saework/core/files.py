"""Where the package's own files are, whole-file writes, JSON, and digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saework.core.errors import WeightsError

PACKAGE = Path(__file__).parent.parent
DATA = PACKAGE / "data"
DIGEST_CHARACTERS = 16


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        WeightsError: the file is missing, damaged, or has anything but an object.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} does not exist; check the path, or download the whole folder"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} is not JSON ({error}); delete it and download it again"
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(
            f"{path} holds a {type(value).__name__}, not an object; delete it and download it again"
        )
    return value


@contextmanager
def partial_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, which replaces ``path`` at the end, or is removed on an error.

    >>> with partial_file("numbers.txt") as partial:  # doctest: +SKIP
    ...     partial.write_text("1 2 3")
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all; an older file stays until the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    with partial_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def digest(*parts: str | bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all parts, one after another.

    >>> digest("two ", b"parts") == digest("two parts")
    True
    """
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part.encode() if isinstance(part, str) else part)
    return sha256.hexdigest()[:DIGEST_CHARACTERS]
