"""Tensors from weights files, checked: no code is run, no key is unknown, no shape is wrong.

The libraries ignore unknown keys and fill missing ones without a word, so each reader checks all
keys and shapes here.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.arguments import check_finite
from saework.core.errors import WeightsError
from saework.core.machine_errors import check_not_the_machine

if TYPE_CHECKING:
    from torch import Tensor

MOST_UNPACKED = 100
# How a zip file and a pickle begin. A file that begins so was not damaged, so it is refused.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` or ``.pth`` file by name; nothing in it is executed.

    Raises:
        WeightsError: if the file is truncated, or holds more than tensors.
        NotAvailableError: too little memory.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _begins_with(path, (ZIP, PICKLE)):
            raise _refused(path, "tensors") from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, MemoryError) as error:
        check_not_the_machine(error)
        raise _damaged(path, error) from error
    named = isinstance(state, dict)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            f"{path} does not hold named tensors; it is not a weights file of this layout"
        )
    return state


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file by name, as float32 tensors; nothing in it is executed.

    Raises:
        WeightsError: if the file is truncated, or holds more than arrays.
    """
    path = Path(path)
    try:
        _check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as arrays:
            return as_floats({name: _tensor(arrays[name]) for name in arrays}, path)
    except WeightsError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) and _begins_with(path, (ZIP[:2], PICKLE)):
            raise _refused(path, "arrays") from error
        raise _damaged(path, error) from error
    except (OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def as_floats(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors as float32.

    Raises:
        WeightsError: for integers, booleans or complex numbers, which no layout stores.
    """
    for name, value in state.items():
        if not value.is_floating_point():
            raise WeightsError(
                f"{path}: {name} is {value.dtype}, and weights are floats; "
                "it is not a weights file of this layout"
            )
    return {name: value.float() for name, value in state.items()}


def _tensor(array: Any) -> Tensor:
    """Raises: TypeError for what torch has no tensor of, such as words."""
    return torch.from_numpy(np.asarray(array))


def _check_unpacked_size(path: Path) -> None:
    """Refuse a zip whose directory says that it unpacks to far more, before anything is unpacked.

    Raises:
        WeightsError: above a hundred times its size; weights hardly shrink in a zip.
    """
    if not zipfile.is_zipfile(path):
        return  # numpy says what it is
    with zipfile.ZipFile(path) as file:
        unpacked = sum(member.file_size for member in file.infolist())
    if unpacked > MOST_UNPACKED * max(path.stat().st_size, 10_000):
        raise WeightsError(
            f"{path} unpacks to {unpacked:,} bytes, more than {MOST_UNPACKED} times its size, "
            "which no weights file does; refused. Get the weights from the published repository"
        )


def check_shapes(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: str | Path
) -> None:
    """Check that the tensors have exactly these names and shapes, and are finite.

    Raises:
        WeightsError: for a missing or unknown name, or another shape.
        ValueError: for NaN or infinite values.
    """
    missing = sorted(shapes.keys() - state.keys())
    extra = sorted(state.keys() - shapes.keys())
    if missing or extra:
        raise WeightsError(
            f"{path} does not have the keys of its layout "
            f"(missing: {missing or 'none'}; unknown: {extra or 'none'}); "
            "it belongs to another model, or is not whole: download it again"
        )
    for name, shape in shapes.items():
        stored = tuple(state[name].shape)
        if stored != shape:
            raise WeightsError(
                f"{path}: {name} has shape {stored}, its config says {shape}; "
                "it belongs to another model"
            )
        check_finite(state[name], f"{path}: {name}")


def _begins_with(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)).startswith(beginnings)


def _refused(path: Path, kind: str) -> WeightsError:
    return WeightsError(
        f"{path} holds more than {kind}, and loading that would run code from the file; refused. "
        "Get the weights from the published repository"
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    size = path.stat().st_size if path.exists() else 0
    return WeightsError(
        f"{path} ({size:,} bytes) is truncated or damaged ({type(error).__name__}); "
        "delete it and download it again"
    )
