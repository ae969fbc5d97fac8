"""What an argument of each name must be, checked before a public function begins.

A name means the same in every public function. So one table says of each what it may hold, and
nothing of another kind comes as far as a library, whose own error would not say what to give.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar

from saework.core.errors import in_words

P = ParamSpec("P")
R = TypeVar("R")
MAX_SEED = 2**63 - 1
TOKENIZER_NEEDS = ("batch_decode", "convert_ids_to_tokens", "__len__")
SCAN_NEEDS = ("is_of", "check_rows", "top_positions")

Kind = Callable[[str, Any], None]
"""Takes an argument's name and value; raises ValueError for a value that it cannot have."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call by their names, and run it with torch's usual defaults.

    Raises: ValueError (in the call), which says what was given and what to give.

    >>> @checked
    ... def draws(seed=0):
    ...     return seed
    >>> draws(seed="7")
    Traceback (most recent call last):
        ...
    ValueError: seed is '7'; give a whole number in 0..9223372036854775807
    """
    check = checker(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from saework.core.plain_torch import plain_torch  # torch, which a first answer goes without

        check(args, kwargs)
        with plain_torch():
            return function(*args, **kwargs)

    return call


def checker(function: Callable[..., Any]) -> Callable[[Sequence[Any], Mapping[str, Any]], None]:
    """What checks the arguments of one function's calls: given those by place and those by name."""
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    kinds = {name: KINDS[name] for name in names if name in KINDS}

    def check(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        for name, value in {**dict(zip(names, args)), **kwargs}.items():
            # what is left at its default, None for example, needs no check
            if name in kinds and value is not parameters[name].default:
                kinds[name](name, value)

    return check


def check_seed(name: str, value: Any) -> None:
    """A whole number that every generator takes: torch's and numpy's."""
    if not is_whole(value) or not 0 <= value <= MAX_SEED:
        raise ValueError(f"{name} is {in_words(value)}; give a whole number in 0..{MAX_SEED}")


def check_whole(name: str, value: Any) -> None:
    """A whole number, perhaps below zero."""
    if not is_whole(value):
        raise ValueError(f"{name} is {in_words(value)}; give a whole number, such as -1")


def check_number(name: str, value: Any) -> None:
    """A finite number; True and False are none."""
    if not is_number(value) or not math.isfinite(value):
        raise ValueError(f"{name} is {in_words(value)}; give a finite number, such as 3.0")


def check_hook_name(name: str, value: Any) -> None:
    """The name of a hook."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{name} is {in_words(value)}; give a hook's name, such as 'blocks.0.mlp.hook_post'"
        )


def check_text(name: str, value: Any) -> None:
    """A string, perhaps an empty one."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {in_words(value)}; give text")


def check_no_surrogate(text: str, what: str) -> None:
    """Text that a tokenizer takes and a file can hold: without half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds a lone surrogate at character {error.start}, which no tokenizer takes "
            "and no file can hold; remove it"
        ) from error


def check_path(name: str, value: Any) -> None:
    """A path that a file can have."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise ValueError(f"{name} is {in_words(value)}; give a path, as text or as pathlib.Path")
    text = os.fspath(value)
    if not text or "\0" in text:
        raise ValueError(f"{name} is {text!r}, which no file can have; give another path")


def check_tokenizer(name: str, value: Any) -> None:
    """A tokenizer of Hugging Face transformers, or an object like one."""
    missing = [needed for needed in TOKENIZER_NEEDS if not hasattr(value, needed)]
    if missing:
        raise ValueError(
            f"{name} is {in_words(value)}, without {', '.join(missing)}; "
            "give the model's tokenizer, such as workbook.tokenizer"
        )


def check_scan(name: str, value: Any) -> None:
    """What ``scan`` returns."""
    if isinstance(value, type) or not all(hasattr(value, needed) for needed in SCAN_NEEDS):
        raise ValueError(
            f"{name} is {in_words(value)}; give what scan(workbook) returns, or leave it out"
        )


def check_several(name: str, value: Any) -> None:
    """Several values, in a list or another thing to go through; text and mappings are none."""
    is_axis = getattr(value, "ndim", 1) > 0  # an array of one number has no axis
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)) or not is_axis:
        raise ValueError(f"{name} is {in_words(value)}; give them in a list, such as [7]")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a real number, of Python's or numpy's kinds; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of Python's or numpy's kinds; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


KINDS: dict[str, Kind] = {
    "seed": check_seed,
    "pos": check_whole,
    "mark": check_whole,
    "hook": check_hook_name,
    "tokenizer": check_tokenizer,
    "scan": check_scan,
    "cofiring": check_several,
    "features": check_several,
    "k": check_several,
    "path": check_path,
    "folder": check_path,
    "checkpoint": check_path,
    "note": check_text,
    "label": check_text,
    "second_label": check_text,
    "command": check_text,
    "source": check_text,
    "sae_repo": check_text,
    "sae_npz_path": check_text,
    "model_id": check_text,
    "name": check_text,
    "model_name": check_text,
}
"""By an argument's name, what it may hold."""
