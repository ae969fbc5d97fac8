"""Tensors in safetensors files, by their bytes: on this machine, or a range of a file on the Hub.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: each
tensor's dtype, shape and place), and the data. Only headers are read here, and bytes passed on.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saework.core.errors import WeightsError

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000  # as safetensors itself allows
CHUNK = 4 * 2**20
BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}


class ByteSource(Protocol):
    """A file of known size that gives any of its bytes."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, a few megabytes at a time."""


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.path.stat().st_size

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """See ``ByteSource.chunks``.

        Raises:
            WeightsError: the file ends before.
        """
        with self.path.open("rb") as file:
            file.seek(start)
            remaining = stop - start
            while remaining:
                chunk = file.read(min(CHUNK, remaining))
                if not chunk:
                    raise WeightsError(f"{self.path} is cut off; delete it and download it again")
                remaining -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes are."""

    source: ByteSource
    dtype: str
    """As safetensors writes it, such as ``BF16``."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    stop: int
    """The byte after its last."""

    @property
    def n_bytes(self) -> int:
        """Of its data."""
        return self.stop - self.start


def tensors_in(source: ByteSource) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, from its header alone.

    Raises:
        WeightsError: the header is damaged, or says other sizes than the file has.
    """
    length = int.from_bytes(_read(source, 0, LENGTH_BYTES), "little")
    data_start = LENGTH_BYTES + length
    if not 2 <= length <= MAX_HEADER or data_start > source.size:
        raise _damaged(source, f"its header would be {length:,} bytes long")
    try:
        header = json.loads(_read(source, LENGTH_BYTES, data_start))
        header.pop("__metadata__", None)
        tensors = {name: _stored(source, data_start, header[name]) for name in header}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(source, f"its header cannot be read ({error})") from error
    for name, tensor in tensors.items():
        expected = math.prod(tensor.shape) * BITS.get(tensor.dtype, 0) // 8
        if not data_start <= tensor.start <= tensor.stop <= source.size:
            raise _damaged(source, f"{name} lies outside of the file")
        if tensor.n_bytes != expected:
            raise _damaged(
                source,
                f"{name} of shape {list(tensor.shape)} and dtype {tensor.dtype} "
                f"takes {tensor.n_bytes:,} bytes",
            )
    return tensors


def _stored(source: ByteSource, data_start: int, entry: Mapping[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    return StoredTensor(
        source, str(entry["dtype"]), shape, data_start + int(begin), data_start + int(end)
    )


def _read(source: ByteSource, start: int, stop: int) -> bytes:
    if stop > source.size:
        raise _damaged(source, f"it has {source.size:,} bytes")
    return b"".join(source.chunks(start, stop))


def _damaged(source: ByteSource, why: str) -> WeightsError:
    return WeightsError(f"{source.name} is not a whole safetensors file: {why}; download it again")


def runs(tensors: Mapping[str, StoredTensor]) -> list[list[str]]:
    """The names in the order of their bytes; those that lie end to end in one file form a run.

    A run is one request.
    """

    def place(name: str) -> tuple[str, int, int]:
        tensor = tensors[name]
        return tensor.source.name, tensor.start, tensor.stop

    found: list[list[str]] = []
    end: tuple[str, int] | None = None
    for name in sorted(tensors, key=place):
        tensor = tensors[name]
        if end != (tensor.source.name, tensor.start):
            found.append([])
        found[-1].append(name)
        end = (tensor.source.name, tensor.stop)
    return found


def copied(
    tensors: Mapping[str, StoredTensor], *, advance: Callable[[int], object] = int
) -> Iterator[bytes]:
    """The bytes of a safetensors file with these tensors, bit by bit as they are stored.

    Memory: a few megabytes.

    Args:
        tensors: by the name that each gets.
        advance: called with the size of each piece of data.

    Raises:
        WeightsError: a source gives other bytes than it should.
    """
    in_order = runs(tensors)
    yield header_of(tensors, [name for run in in_order for name in run])
    for run in in_order:
        first, last = tensors[run[0]], tensors[run[-1]]
        for chunk in first.source.chunks(first.start, last.stop):
            advance(len(chunk))
            yield chunk


def header_of(tensors: Mapping[str, StoredTensor], names: Iterable[str]) -> bytes:
    """What stands before the data in a safetensors file with these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        tensor = tensors[name]
        end = position + tensor.n_bytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # the data begin at a multiple of 8
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
