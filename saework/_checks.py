"""What a good argument is, and the wording of errors: what was given, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

import saework._torch  # noqa: F401, before the first work with torch


class UnknownNameError(ValueError):
    """A release, id or hook that does not exist; the message names the nearest ones."""


class WeightsError(ValueError):
    """A weights file that is damaged, unsafe, or of another shape than its layout says."""


class HookError(ValueError):
    """A hook that the model lacks, that never fires, or whose width the SAE does not have."""


# What an install may replace under a running session, and what then breaks far from its cause.
WATCHED = ("numpy", "torch", "pandas", "pyarrow", "transformers", "tokenizers", "huggingface_hub", "sae_lens")


def replaced_versions() -> list[str]:
    """Packages whose loaded version is not the installed one: an install replaced them after the session had begun."""
    found = []
    for name in WATCHED:
        loaded = getattr(sys.modules.get(name), "__version__", None)
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if loaded is not None and str(loaded).partition("+")[0] != installed.partition("+")[0]:
            found.append(f"{name} {loaded} is loaded but {installed} is installed")
    return found


def check_versions() -> None:
    """Raise RuntimeError, before anything is downloaded or computed, if the session runs on packages that were replaced."""
    if found := replaced_versions():
        remedy = "an install replaced it after this session had begun; restart the session, and run all cells again"
        raise RuntimeError(f"{'; '.join(found)}: {remedy}")


def unknown(kind: str, given: object, known: Iterable[str], *, see: str) -> UnknownNameError:
    """The error for a name that does not exist, with up to three near ones."""
    near = difflib.get_close_matches(str(given), [str(name) for name in known], n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownNameError(f"there is no {kind} {given!r}.{hint} {see}")


def check_tokens(tokens, *, d_vocab: int | None = None, n_ctx: int | None = None) -> torch.Tensor:
    """Tokens as long ``[batch, pos]``; one row may be given as ``[pos]``."""
    if not isinstance(tokens, torch.Tensor):
        try:
            tokens = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"tokens are not a table of integers ({error}); give ids in rows of one length, [batch, pos]") from error
    if tokens.numel() == 0:
        raise ValueError(f"tokens are empty (shape {tuple(tokens.shape)}); give at least one row with one token")
    if tokens.dtype.is_floating_point or tokens.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"tokens are {tokens.dtype}; give integers, such as the ids that a tokenizer returns")
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.ndim != 2:
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}; give [batch, pos], or [pos] for one row")
    tokens = tokens.long()
    if n_ctx is not None and tokens.shape[1] > n_ctx:
        raise ValueError(
            f"rows are {tokens.shape[1]} tokens long, but the model's context is {n_ctx}; cut the rows to {n_ctx} tokens"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (d_vocab is not None and high >= d_vocab):
        bad, allowed = (low if low < 0 else high), (f"0..{d_vocab - 1}" if d_vocab else "0 and up")
        raise ValueError(f"token {bad} is out of the vocabulary ({allowed}); tokenize with this model's own tokenizer")
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
        raise ValueError(f"{what} is {mask.dtype}; give bool, such as tokens != tokenizer.bos_token_id")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{what} has shape {tuple(mask.shape)}; it must have {tuple(shape)}")
    if not mask.any():
        raise ValueError(f"{what} is False everywhere, which leaves nothing; set at least one place to True")
    return mask


def check_finite(values: torch.Tensor, what: str, *, rows: Sequence[int] = ()) -> torch.Tensor:
    """The tensor itself, if it holds neither NaN nor infinity. ``rows``: what its first axis is called in the error."""
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):  # the sum alone takes a tenth of the time
        bad = ~torch.isfinite(values)
        bad_rows = list(dict.fromkeys(int(row) for row, wrong in zip(rows, bad.reshape(len(bad), -1).any(1).tolist()) if wrong))
        where = f", in rows {', '.join(map(str, bad_rows[:10]))}{' and more' * (len(bad_rows) > 10)}" * bool(bad_rows)
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
