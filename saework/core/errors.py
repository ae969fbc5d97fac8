"""The error classes, and the words for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import suppress

MAX_SUGGESTIONS = 3
SHOWN_CHARACTERS = 60  # of a wrong value
SIMILAR_ENOUGH = 0.4  # of difflib's 0 to 1; its own 0.6 misses names of another length


class UnknownNameError(ValueError):
    """A release, id or hook that does not exist; the message names the nearest ones."""


class WeightsError(ValueError):
    """A weights file that is damaged, unsafe, or of another shape than its layout says."""


class HookError(ValueError):
    """A hook that is missing, never fires, or has another width than the SAE."""


class NotAvailableError(OSError):
    """A file that is not available: no network, no access, or no such file."""


def in_words(value: object) -> str:
    """A wrong value in an error: itself if it is short and plain, else what it is.

    >>> in_words("x"), in_words([1, 2]), in_words(unknown)
    ("'x'", '[1, 2]', 'a function')
    """
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), list, tuple, dict)):
        with suppress(ValueError):  # a whole number of more than 4,300 digits has no text
            text = repr(value)
            if len(text) <= SHOWN_CHARACTERS:
                return text
            if isinstance(value, (str, bytes)):
                return f"{text[: SHOWN_CHARACTERS - 1]}…"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    article = "an" if kind[0] in "aeiouAEIOU" or kind.startswith("nd") else "a"
    return f"{article} {kind}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")


def unknown(kind: str, given: object, known: Iterable[str], *, see: str) -> UnknownNameError:
    """The error for a name that does not exist, with up to three near ones.

    Args:
        kind: what the name is of, such as ``release``.
        given: the name.
        known: the names that exist.
        see: a sentence that says where to find them.

    >>> print(unknown("hook", "hook_post", ["hook_pre", "hook_z"], see="See hook_dict."))
    there is no hook 'hook_post'. Did you mean 'hook_pre' or 'hook_z'? See hook_dict.
    """
    names = [str(name) for name in known]
    near = difflib.get_close_matches(
        str(given),
        names,
        n=MAX_SUGGESTIONS,
        cutoff=SIMILAR_ENOUGH,
    )
    message = f"there is no {kind} {given!r}."
    if near:
        suggestions = " or ".join(repr(name) for name in near)
        message += f" Did you mean {suggestions}?"
    return UnknownNameError(f"{message} {see}")
