"""Argument checks: each error says what was given, what is allowed, and what to do next."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np
import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.argument_kinds import checker
from saework.core.errors import in_words
from saework.core.parts import check_model, check_sae
from saework.core.plain_torch import plain_torch
from saework.core.protocols import WorkbookParts

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
NOT_INTEGERS = (
    torch.bool,
    torch.complex64,
    torch.complex128,
)
MAX_ROWS_NAMED = 10
CHECKS_OF_PARTS: dict[str, Callable[[Any], None]] = {"model": check_model, "sae": check_sae}


def check_tokens(
    tokens: Any, *, d_vocab: int | None = None, n_ctx: int | None = None
) -> Int[Tensor, "batch pos"]:
    """Tokens as long ``[batch, pos]``; one row may be given as ``[pos]``.

    Args:
        tokens: integers: a tensor, an array, or lists.
        d_vocab: size of the vocabulary; without it, only negative ids are refused.
        n_ctx: the model's context; without it, rows of any length pass.

    Raises:
        ValueError: not integers, empty, of another shape, too long, or out of the vocabulary.
    """
    tokens = _as_rows_of_integers(tokens)
    n_pos = tokens.shape[1]
    if n_ctx is not None and n_pos > n_ctx:
        raise ValueError(
            f"rows are {n_pos} tokens long, but the model's context is {n_ctx}; "
            f"cut the rows to {n_ctx} tokens"
        )
    allowed = "0 and up" if d_vocab is None else f"0..{d_vocab - 1}"
    for token in (int(tokens.min()), int(tokens.max())):
        if token < 0 or (d_vocab is not None and token >= d_vocab):
            raise ValueError(
                f"token {token} is out of the vocabulary ({allowed}); "
                "tokenize with this model's own tokenizer"
            )
    return tokens


def _as_rows_of_integers(tokens: Any) -> Int[Tensor, "batch pos"]:
    if not isinstance(tokens, torch.Tensor):
        try:
            tokens = torch.as_tensor(_plain_array(tokens))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"tokens are not a table of integers ({error}); "
                "give ids in rows of one length, [batch, pos]"
            ) from error
    shape = tuple(tokens.shape)
    if tokens.is_meta or tokens.layout is not torch.strided:
        where = "on device meta" if tokens.is_meta else f"{tokens.layout}"
        raise ValueError(f"tokens are {where}; give a dense tensor that holds numbers")
    if tokens.numel() == 0:
        raise ValueError(f"tokens are empty (shape {shape}); give at least one row with one token")
    if tokens.dtype.is_floating_point or tokens.dtype in NOT_INTEGERS:
        raise ValueError(
            f"tokens are {tokens.dtype}; give integers, such as the ids that a tokenizer returns"
        )
    if tokens.ndim not in (1, 2):
        raise ValueError(f"tokens have shape {shape}; give [batch, pos], or [pos] for one row")
    return torch.atleast_2d(tokens).long()


def check_feature(feature: Any, d_sae: int) -> int:
    """A feature's number, counted from 0.

    Raises:
        ValueError: not a whole number, or not below ``d_sae``.
    """
    allowed = f"0..{d_sae - 1}"
    if not _is_whole(feature):
        raise ValueError(f"feature is {feature!r}; give a whole number in {allowed}")
    if not 0 <= feature < d_sae:
        raise ValueError(f"feature {feature} does not exist; this SAE has features {allowed}")
    return int(feature)


def check_mask(mask: Any, shape: Sequence[int], *, what: str = "mask") -> Tensor | None:
    """A bool tensor of the given shape, or None.

    Args:
        mask: a tensor, an array, lists, or None.
        shape: the shape that it must have.
        what: its name in an error.

    Raises:
        ValueError: not bool, of another shape, or False everywhere.
    """
    if mask is None:
        return None
    mask = as_tensor(mask, what)
    if mask.dtype != torch.bool or mask.layout is not torch.strided:
        kind = mask.dtype if mask.layout is torch.strided else mask.layout
        raise ValueError(f"{what} is {kind}; give bool, such as tokens != tokenizer.bos_token_id")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{what} has shape {tuple(mask.shape)}; it must have {tuple(shape)}")
    if not mask.any():
        raise ValueError(
            f"{what} is False everywhere, which leaves nothing; set at least one place to True"
        )
    return mask


def as_tensor(values: Any, what: str) -> Tensor:
    """Numbers as a tensor.

    Args:
        values: a tensor, an array, or lists.
        what: its name in an error.

    Raises:
        ValueError: they are no table of numbers.
    """
    if isinstance(values, torch.Tensor):
        return values
    try:
        return torch.as_tensor(_plain_array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} is {in_words(values)}; give a tensor, an array, or lists of one length"
        ) from error


def _plain_array(values: Any) -> Any:
    """Arrays and frames as torch takes them: in this machine's byte order, each axis forwards."""
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return values


def as_real_numbers(values: Any, what: str) -> Tensor:
    """Real numbers as a tensor; the same, but complex numbers, True and False are refused too."""
    tensor = as_tensor(values, what)
    if tensor.dtype in NOT_INTEGERS or tensor.is_meta or tensor.layout is not torch.strided:
        kind = "a meta tensor" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise ValueError(f"{what} is {kind}; give real numbers in a dense tensor")
    return tensor


def check_finite(values: Tensor, what: str, *, rows: Sequence[int] | np.ndarray = ()) -> Tensor:
    """The tensor itself, if it has neither NaN nor infinity.

    Args:
        values: a tensor of any shape.
        what: its name in an error; a plural.
        rows: numbers of the rows along its first axis, to name the wrong ones in an error.

    Raises:
        ValueError: NaN or infinity.
    """
    # If the sum is finite, so is each value: it takes a tenth of the time of looking at each.
    if torch.isfinite(values.sum()):
        return values
    wrong = ~torch.isfinite(values)
    n_wrong = int(wrong.sum())
    if n_wrong == 0:  # only the sum overflowed
        return values
    where = _in_rows(wrong, rows)
    raise ValueError(
        f"{what} hold {n_wrong} NaN or infinite values out of {values.numel()}{where}; "
        "load the weights again, or use float32 if a smaller dtype overflowed"
    )


def _in_rows(wrong: Tensor, rows: Sequence[int] | np.ndarray) -> str:
    """``, in rows 3, 5``: where something is wrong; empty if the rows have no numbers."""
    if len(rows) == 0:
        return ""
    numbers = []
    for number, entry in zip(rows, wrong):
        # several entries of the first axis may belong to one row
        if number not in numbers and entry.any():
            numbers.append(number)
    named = ", ".join(str(number) for number in numbers[:MAX_ROWS_NAMED])
    more = " and more" if len(numbers) > MAX_ROWS_NAMED else ""
    return f", in rows {named}{more}"


def check_positive(value: Any, what: str, *, minimum: int = 1) -> int:
    """A whole number of at least ``minimum``.

    Raises:
        ValueError: not whole, or too small.
    """
    if not _is_whole(value) or value < minimum:
        raise ValueError(f"{what} is {value!r}; give a whole number of at least {minimum}")
    return int(value)


def _is_whole(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and int(value) == value
    except (TypeError, ValueError, OverflowError):  # None, words, NaN, infinity
        return False


class AcceptsWorkbook(Protocol[P, R]):
    """A function of ``(model, sae, ...)`` that also takes a ``Workbook`` in their place."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """With the parts."""

    @overload
    def __call__(self, workbook: WorkbookParts, /, *args: Any, **kwargs: Any) -> R:
        """With a Workbook, which brings model, SAE, hook, and tokens where they are a parameter."""


def accepts_workbook(
    function: Callable[P, R], *, brings_hook: bool = True
) -> AcceptsWorkbook[P, R]:
    """Let a function of ``(model, sae, ...)`` take a ``Workbook`` alone in their place.

    The Workbook's model, SAE and, if the function has such a parameter, tokens become the first
    arguments; its hook is the default of ``hook``. All other arguments are given as usual. The
    function runs with torch's usual defaults (``plain_torch``).

    Args:
        function: takes ``(model, sae, ...)`` or ``(model, sae, tokens, ...)``.
        brings_hook: False where the default of ``hook`` comes from another argument.

    Raises:
        ValueError: (in the call) a Workbook together with any part that it brings; a model or an
            SAE that is none (``check_model``, ``check_sae``); an argument of another kind than its
            name's (``argument_kinds``).

    >>> @accepts_workbook
    ... def width(model, sae, tokens, *, hook=None):
    ...     return hook, len(tokens)
    >>> from types import SimpleNamespace
    >>> width(SimpleNamespace(model=0, sae=0, tokens=[[0, 1]], tokenizer=0, hook="hook_embed"))
    ('hook_embed', 1)
    """
    check_kinds = checker(function)
    parameters = inspect.signature(function).parameters
    parts = [name for name in ("model", "sae", "tokens") if name in parameters]
    positional = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    # From the hook on, arguments go by name: tokens in their place would pass for a hook.
    before_hook = positional[: positional.index("hook")] if "hook" in positional else positional
    n_others = len(before_hook) - len(parts)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        if not args or not isinstance(args[0], WorkbookParts):
            named = dict(zip(positional, args)) | kwargs
            for name, check in CHECKS_OF_PARTS.items():
                if name in parts and name in named:
                    check(named[name])
            check_kinds(args, kwargs)
            with plain_torch():
                return function(*args, **kwargs)
        workbook, *others = args
        surplus = _parts_beside_workbook(parts, others, kwargs, n_others)
        if surplus:
            name, brought = function.__name__, ", ".join(parts)
            raise ValueError(
                f"{name} was given a Workbook and {surplus} as well, "
                f"but a Workbook brings {brought}; "
                f"call {name}(workbook, ...) with nothing in their place, "
                f"or {name}({brought}, ...) without a Workbook"
            )
        if brings_hook and "hook" in parameters:
            kwargs.setdefault("hook", workbook.hook)
        brought_parts = [getattr(workbook, name) for name in parts]
        check_kinds([*brought_parts, *others], kwargs)
        with plain_torch():
            return function(*brought_parts, *others, **kwargs)

    return cast("AcceptsWorkbook[P, R]", call)


def _parts_beside_workbook(
    parts: list[str],
    others: list[Any],
    named: dict[str, Any],
    n_others: int,
) -> str:
    """What was given that the Workbook brings, in words; empty if nothing was."""
    named_parts = [part for part in parts if part in named]
    if named_parts:
        return ", ".join(named_parts)
    # even where the function takes more arguments: an SAE is none of those
    if others and hasattr(others[0], "W_dec"):
        return "an SAE"
    if len(others) > n_others:
        return "another positional argument"
    return ""
