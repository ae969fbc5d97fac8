"""A scan as a file: one safetensors file of its arrays, with a digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saework.analysis.scanning.consistency import check_numbers, check_rows
from saework.core.argument_kinds import check_no_surrogate
from saework.core.errors import WeightsError
from saework.core.files import readable, write_whole

ARRAYS = (
    "count",
    "max_activation",
    "l0_histogram",
    "histogram",
    "top_values",
    "top_positions",
    "sample_feature",
    "sample_value",
    "sample_position",
    "total_activation",
    "cofiring_features",
    "cofiring",
    "row_digests",
)
FORMAT = "3"
# int32 in the file where that is enough
COUNTS = ("histogram", "l0_histogram", "cofiring")


def write(path: str | Path, values: Mapping[str, Any], note: str) -> Path:
    """Write a scan, whole or not at all.

    Args:
        path: the file; what was there before is replaced.
        values: the fields of a ``FeatureScan``.
        note: words to keep in the file.

    Raises:
        OSError: it cannot be written; what was there before stays.
        ValueError: the note has half a character (a lone surrogate).
    """
    from safetensors.torch import save

    check_no_surrogate(note, "the note")
    arrays = {}
    for name in ARRAYS:
        array = values[name].contiguous()
        if name in COUNTS and array.numel() > 0:
            highest = int(array.max())
            array = array.int() if highest < 2**31 else array
        arrays[name] = array
    metadata = {
        "format": FORMAT,
        "n_tokens": str(values["n_tokens"]),
        "n_left_out": json.dumps(values["n_left_out"]),
        "rows": json.dumps(values["rows"]),
        "fingerprint": values["fingerprint"],
        "note": note,
        "digest": _digest(arrays),
    }
    return write_whole(path, save(arrays, metadata=metadata))


def read(path: str | Path) -> tuple[dict[str, Any], str]:
    """The fields of a ``FeatureScan``, and the note.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is something else, damaged, or of an older saework.
    """
    from safetensors import SafetensorError, safe_open

    path = readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        _check_format(path, metadata)
        if metadata["digest"] != _digest(arrays):
            raise ValueError("its numbers are not those that were written")
        return _values(arrays, metadata), metadata["note"]
    except WeightsError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a feature scan, or is damaged ({error}); scan again"
        ) from error


def _check_format(path: str | Path, metadata: dict[str, str]) -> None:
    """Raises: KeyError for what is no scan, WeightsError for a scan of another saework."""
    fingerprint = metadata["fingerprint"]
    file_format = metadata.get("format", "1")
    if file_format == "1":
        raise WeightsError(
            f"{path} was written by an older saework. Its fingerprint {fingerprint} is of a few of "
            "the SAE's weights only, so it cannot be told whether your SAE was scanned; delete the "
            "file and scan again"
        )
    if file_format == "2":
        raise WeightsError(
            f"{path} was written by an older saework, which did not record what text was scanned; "
            "delete the file and scan again"
        )
    if file_format != FORMAT:
        raise WeightsError(
            f"{path} is a scan of format {file_format}, and this saework reads format {FORMAT}; "
            "update saework, or scan again"
        )


def _values(arrays: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Raises: KeyError or ValueError if a part is missing, or there is one too many."""
    values: dict[str, Any] = dict(arrays)
    if values.keys() != {*ARRAYS}:
        names = ", ".join(sorted(arrays))
        raise ValueError(f"it holds {names}")
    for name in COUNTS:
        values[name] = values[name].long()
    rows = json.loads(metadata["rows"])
    n_left_out = json.loads(metadata.get("n_left_out", "null"))  # not in the oldest of this format
    if n_left_out is not None and not (type(n_left_out) is int and n_left_out >= 0):
        raise ValueError(f"it says that {n_left_out!r} tokens were left out")
    values |= {
        "n_tokens": int(metadata["n_tokens"]),
        "n_left_out": n_left_out,
        "rows": tuple((first, end) for first, end in rows),
        "fingerprint": metadata["fingerprint"],
    }
    check_numbers(values)
    check_rows(values["rows"], values)
    if values["n_tokens"] == 0:
        raise ValueError("it counts no token")
    return values


def _digest(arrays: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name].contiguous()
        sha256.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        sha256.update(array.numpy().data)
    return sha256.hexdigest()
