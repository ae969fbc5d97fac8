"""Devices and dtypes as they are asked for: typed words are checked without torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import argparse

    import torch

DTYPES = ("float32", "bfloat16", "float16")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
NO_MPS = (
    "device is 'mps', and Apple's GPUs have no float64, in which scores are summed here; give 'cpu'"
)


def device_word(word: str) -> str:
    """A typed device, checked.

    Raises:
        ValueError: for another word, or a device that has no float64.

    >>> device_word("cuda:1")
    'cuda:1'
    """
    if word == "mps":
        raise ValueError(NO_MPS)
    if not DEVICE.fullmatch(word):
        raise ValueError(f"device is {word!r}; give 'cpu', 'cuda' or 'cuda:1'")
    return word


def dtype_word(word: str) -> str:
    """A typed dtype, checked.

    Raises:
        ValueError: for another word.
    """
    if word not in DTYPES:
        raise ValueError(f"dtype is {word!r}; give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    return word


def add_plan_options(command: argparse.ArgumentParser) -> None:
    """Add what can be typed of a plan to a command."""
    command.add_argument(
        "--device", metavar="D", help="cpu, cuda or cuda:1; a GPU that is large enough if left out"
    )
    command.add_argument(
        "--dtype",
        metavar="T",
        help="float32, bfloat16 or float16; float32 where it fits if left out",
    )
    command.add_argument(
        "--force", action="store_true", help="go ahead though memory or disk is too small"
    )


def plan_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was typed of a plan, checked: device, dtype and force.

    Raises:
        ValueError: for another word.
    """
    device = None if arguments.device is None else device_word(arguments.device)
    dtype = None if arguments.dtype is None else dtype_word(arguments.dtype)
    return {"device": device, "dtype": dtype, "force": arguments.force}


def as_device(device: object) -> torch.device:
    """The device asked for, or a GPU if there is one.

    Raises:
        ValueError: for what is no device, or one that holds no numbers, or none in float64.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(cast("str", device))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; give 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "meta":
        raise ValueError("device is 'meta', which holds no numbers; give 'cpu' or 'cuda'")
    if device.type == "mps":
        raise ValueError(NO_MPS)
    return device


def check_is_here(device: torch.device) -> None:
    """Refuse a GPU that this machine does not have, before anything is fetched for it.

    Raises:
        ValueError: there is none, or not so many.
    """
    import torch

    if device.type != "cuda":
        return
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= n_gpus:
        raise ValueError(
            f"device is '{device}', and torch finds {n_gpus} GPUs here; give 'cpu', or leave "
            "device= out"
        )


def as_dtype(dtype: object) -> torch.dtype:
    """The dtype asked for, by itself or by its name; float32 if none is.

    Raises:
        ValueError: for what is no dtype of floats.
    """
    import torch

    if dtype is None:
        return torch.float32
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if isinstance(named, torch.dtype) and named.is_floating_point and named.itemsize > 1:
        return named
    raise ValueError(f"dtype is {dtype!r}; give a dtype of floats, such as 'float32' or 'bfloat16'")
