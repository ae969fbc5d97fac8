"""Argument checks: each error says what was given, what is allowed, and what to do next."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

import torch

import saework.core.torch_setup  # noqa: F401, before the first work with torch
from saework.core.protocols import WorkbookParts

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


def check_tokens(tokens, *, d_vocab: int | None = None, n_ctx: int | None = None) -> torch.Tensor:
    """Tokens as long ``[batch, pos]``; one row may be given as ``[pos]``."""
    if not isinstance(tokens, torch.Tensor):
        try:
            tokens = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"tokens are not a table of integers ({error}); give ids in rows of one length, [batch, pos]"
            ) from error
    if tokens.numel() == 0:
        raise ValueError(
            f"tokens are empty (shape {tuple(tokens.shape)}); give at least one row with one token"
        )
    if tokens.dtype.is_floating_point or tokens.dtype in (
        torch.bool,
        torch.complex64,
        torch.complex128,
    ):
        raise ValueError(
            f"tokens are {tokens.dtype}; give integers, such as the ids that a tokenizer returns"
        )
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.ndim != 2:
        raise ValueError(
            f"tokens have shape {tuple(tokens.shape)}; give [batch, pos], or [pos] for one row"
        )
    tokens = tokens.long()
    if n_ctx is not None and tokens.shape[1] > n_ctx:
        raise ValueError(
            f"rows are {tokens.shape[1]} tokens long, but the model's context is {n_ctx}; cut the rows to {n_ctx} tokens"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (d_vocab is not None and high >= d_vocab):
        bad, allowed = (low if low < 0 else high), (f"0..{d_vocab - 1}" if d_vocab else "0 and up")
        raise ValueError(
            f"token {bad} is out of the vocabulary ({allowed}); tokenize with this model's own tokenizer"
        )
    return tokens


def check_feature(feature: int, d_sae: int) -> int:
    """A feature's number, counted from 0."""
    if not _is_whole(feature):
        raise ValueError(f"feature is {feature!r}; give a whole number in 0..{d_sae - 1}")
    if not 0 <= feature < d_sae:
        raise ValueError(f"feature {feature} does not exist; this SAE has features 0..{d_sae - 1}")
    return int(feature)


def check_mask(mask, shape: Sequence[int], *, what: str = "mask") -> torch.Tensor | None:
    """A bool tensor of the given shape, or None."""
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise ValueError(
            f"{what} is {mask.dtype}; give bool, such as tokens != tokenizer.bos_token_id"
        )
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{what} has shape {tuple(mask.shape)}; it must have {tuple(shape)}")
    if not mask.any():
        raise ValueError(
            f"{what} is False everywhere, which leaves nothing; set at least one place to True"
        )
    return mask


def check_finite(values: torch.Tensor, what: str, *, rows: Sequence[int] = ()) -> torch.Tensor:
    """The tensor itself, if it holds neither NaN nor infinity. ``rows``: what its first axis is called in the error."""
    if not bool(torch.isfinite(values.sum())) and not bool(
        torch.isfinite(values).all()
    ):  # the sum alone takes a tenth of the time
        bad = ~torch.isfinite(values)
        bad_rows = list(
            dict.fromkeys(
                int(row)
                for row, wrong in zip(rows, bad.reshape(len(bad), -1).any(1).tolist())
                if wrong
            )
        )
        where = (
            f", in rows {', '.join(map(str, bad_rows[:10]))}{' and more' * (len(bad_rows) > 10)}"
            * bool(bad_rows)
        )
        raise ValueError(
            f"{what} hold {int(bad.sum())} NaN or infinite values out of {values.numel()}{where}; "
            "load the weights again, or use float32 if a smaller dtype overflowed"
        )
    return values


def check_positive(value: int, what: str, *, minimum: int = 1) -> int:
    """A whole number of at least ``minimum``."""
    if not _is_whole(value) or value < minimum:
        raise ValueError(f"{what} is {value!r}; give a whole number of at least {minimum}")
    return int(value)


def _is_whole(value) -> bool:
    try:
        return not isinstance(value, bool) and int(value) == value
    except (TypeError, ValueError, OverflowError):  # None, words, NaN, infinity
        return False


class AcceptsWorkbook(Protocol[P, R]):
    """A function of ``(model, sae, ...)`` that takes a ``Workbook`` in their place as well."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """With the parts."""

    @overload
    def __call__(self, workbook: WorkbookParts, /, *args: Any, **kwargs: Any) -> R:
        """With a Workbook, which brings model, SAE, hook and, where the function takes them, tokens."""


def accepts_workbook(function: Callable[P, R]) -> AcceptsWorkbook[P, R]:
    """Let a function of ``(model, sae, ...)`` be called with a ``Workbook`` alone in their place.

    The workbook's model, SAE and, if the function has such a parameter, tokens stand in for the
    first arguments; its hook is the default of ``hook``. All other arguments are given as usual.

    Raises (when called): ValueError for a Workbook together with any of what it brings.

    >>> @accepts_workbook
    ... def width(model, sae, tokens, *, hook=None):
    ...     return hook, len(tokens)
    >>> from types import SimpleNamespace
    >>> width(SimpleNamespace(model=0, sae=0, tokens=[[0, 1]], tokenizer=0, hook="hook_embed"))
    ('hook_embed', 1)
    """
    parameters = inspect.signature(function).parameters
    brought = [name for name in ("model", "sae", "tokens") if name in parameters]
    n_positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not args or not isinstance(args[0], WorkbookParts):
            return function(*args, **kwargs)
        workbook, *others = args
        named_twice = [name for name in brought if name in kwargs]
        if named_twice or len(others) > n_positional - len(brought):
            parts = ", ".join(brought)
            raise ValueError(
                f"{function.__name__} was given a Workbook and "
                f"{', '.join(named_twice) or 'another positional argument'} as well, but a Workbook brings {parts}; give {function.__name__}(workbook, ...) "
                f"with nothing in place of them, or {function.__name__}({parts}, ...) without it"
            )
        if "hook" in parameters:
            kwargs.setdefault("hook", workbook.hook)
        return function(*(getattr(workbook, name) for name in brought), *others, **kwargs)

    return cast("AcceptsWorkbook[P, R]", call)
