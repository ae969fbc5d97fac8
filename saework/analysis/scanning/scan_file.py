"""A scan as a file: one safetensors file of its arrays, with a digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saework.core.errors import WeightsError
from saework.core.files import write_whole

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
)
# not in files written before they were kept
LATER_ARRAYS = ("total_activation", "cofiring_features", "cofiring")
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
    """
    from safetensors.torch import save

    arrays = {}
    for name in (*ARRAYS, *LATER_ARRAYS):
        array = values[name].contiguous()
        if name in COUNTS and array.numel() > 0:
            highest = int(array.max())
            array = array.int() if highest < 2**31 else array
        arrays[name] = array
    metadata = {
        "n_tokens": str(values["n_tokens"]),
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
        WeightsError: the file is something else, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        digest = _digest(arrays)
        if metadata.get("digest", digest) != digest:
            raise ValueError("its numbers are not those that were written")
        return _values(arrays, metadata), metadata.get("note", "")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a feature scan, or is damaged ({error}); scan again"
        ) from error


def _values(arrays: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Raises: KeyError or ValueError if a part is missing, or there is one too many."""
    d_sae = len(arrays["count"])
    unknown_sums = {
        "total_activation": torch.full((d_sae,), torch.nan, dtype=torch.float64),
        "cofiring_features": torch.zeros(0, dtype=torch.int64),
        "cofiring": torch.zeros(0, d_sae, dtype=torch.int64),
    }
    values: dict[str, Any] = unknown_sums | arrays
    if values.keys() != {*ARRAYS, *LATER_ARRAYS}:
        names = ", ".join(sorted(arrays))
        raise ValueError(f"it holds {names}")
    for name in COUNTS:
        values[name] = values[name].long()
    rows = json.loads(metadata["rows"])
    values |= {
        "n_tokens": int(metadata["n_tokens"]),
        "rows": tuple((first, end) for first, end in rows),
        "fingerprint": metadata["fingerprint"],
    }
    return values


def _digest(arrays: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name].contiguous()
        sha256.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        sha256.update(array.numpy().data)
    return sha256.hexdigest()
