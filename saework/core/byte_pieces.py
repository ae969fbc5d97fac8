"""The pieces of a vocabulary that is made of bytes, as text."""

from __future__ import annotations

import re
from functools import cache

_FALLBACK = re.compile("<0x([0-9A-F]{2})>")
_STRAY = 0xDC00  # Python's "surrogateescape" adds it to a byte that is no text


def text_of_bytes(piece: str) -> str | None:
    """The text of a piece; each byte that is no text by itself as its number, ``⟨0xE6⟩``.

    Args:
        piece: as the vocabulary has it, such as ``Ġthe``, or ``<0xE6>`` (SentencePiece's fallback).

    Returns:
        None if the vocabulary is not one of bytes.

    >>> text_of_bytes("Ġthe"), text_of_bytes("æĹ"), text_of_bytes("<0xE6>")
    (' the', '⟨0xE6⟩⟨0x97⟩', '⟨0xE6⟩')
    """
    single = _FALLBACK.fullmatch(piece)
    byte_of = _byte_of()
    if single:
        content = bytes.fromhex(single[1])
    elif byte_of.keys() >= set(piece):
        content = bytes(byte_of[character] for character in piece)
    else:
        return None
    text = content.decode("utf-8", errors="surrogateescape")
    return "".join(map(_stray_byte_as_number, text))


def _stray_byte_as_number(character: str) -> str:
    number = ord(character) - _STRAY
    if not 0 <= number < 256:
        return character
    return f"⟨0x{number:02X}⟩"


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Source: ``bytes_to_unicode`` of GPT-2's ``encoder.py``. Printable bytes of Latin-1 stand for
    themselves. The others are, in order, the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [number for number in range(256) if number not in printable]
    stand_for = [*printable, *range(256, 256 + len(others))]
    characters = map(chr, stand_for)
    return dict(zip(characters, [*printable, *others]))
