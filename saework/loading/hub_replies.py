"""What a server of the Hub may not do: name a path outside the cache, or have a token printed."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "[token]"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|(?<=Bearer )[^\s'\",;<>]+")
"""How a token looks, also where it is not this machine's."""
ETAG = re.compile(r"[\w.+=~-]{1,200}")
"""What may be the name of a file in the cache; the Hub sends hexadecimal digits."""


def without_tokens(text: str) -> str:
    """A text in which no token can be read; a server may send back what it was sent.

    >>> without_tokens("got Authorization: Bearer abc")
    'got Authorization: Bearer [token]'
    """
    from huggingface_hub import get_token

    own = get_token()
    if own:
        text = text.replace(own, HIDDEN)
    return TOKEN.sub(HIDDEN, text)


def check_etags() -> None:
    """Let huggingface_hub refuse an ETag that is no plain name; it makes the ETag a file's name.

    Its next calls raise a ValueError for such an ETag, before anything is written.
    """
    from huggingface_hub import file_download

    library: Any = file_download
    original = getattr(library, "_normalize_etag", None)  # private: a later version may not have it
    if original is None or getattr(original, "is_checked", False):
        return

    def checked(etag: str | None) -> str | None:
        name = original(etag)
        if name is not None and (not ETAG.fullmatch(name) or set(name) == {"."}):
            raise ValueError(
                f"the server's ETag {ascii(name[:80])} is no plain name, and nothing was written"
            )
        return name

    checked.is_checked = True  # type: ignore[attr-defined]
    library._normalize_etag = checked
