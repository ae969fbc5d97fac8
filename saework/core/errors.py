"""The error classes, and the words for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownNameError(ValueError):
    """A release, id or hook that does not exist; the message names the nearest ones."""


class WeightsError(ValueError):
    """A weights file that is damaged, unsafe, or of another shape than its layout says."""


class HookError(ValueError):
    """A hook that the model lacks, that never fires, or whose width the SAE does not have."""


def unknown(kind: str, given: object, known: Iterable[str], *, see: str) -> UnknownNameError:
    """The error for a name that does not exist, with up to three near ones."""
    near = difflib.get_close_matches(str(given), [str(name) for name in known], n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownNameError(f"there is no {kind} {given!r}.{hint} {see}")


class NotAvailableError(OSError):
    """A file that cannot be had: no network, no access, or no such file."""
