"""Plain values out of a text: JSON objects, and the Python literals that logs print. Nothing is evaluated.

A literal is put into JSON token by token; whatever is no string, number, list or mapping is refused
where it stands, so that a file from anywhere can be read.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

MAX_DEPTH = 100
_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|' + r"'[^'\\\n]*(?:\\.[^'\\\n]*)*'"
_LIST = re.compile(r"\s*\[\s*[\[{]")  # a file that is a list of results
_START = re.compile(
    rf"""\{{\s*(?:(?:{_STRING})\s*:|["'](?:\w[^"'\n]*)?\Z)""", re.DOTALL
)  # or a file cut within the first key
_SCAN = re.compile(_STRING + r"""|[\[\]{}()"']""", re.DOTALL)
_TOKEN = re.compile(
    rf"""(?P<space>\s+) | (?P<string>{_STRING}) | (?P<mark>[\[\]{{}}(),:]) | (?P<name>-?[A-Za-z_][\w.]*)
      | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NAMES = {
    "True": "true",
    "False": "false",
    "None": "null",
    "nan": "NaN",
    "-nan": "NaN",
    "inf": "Infinity",
    "-inf": "-Infinity",
}
_NAMES |= {word: word for word in ("true", "false", "null", "NaN", "Infinity", "-Infinity")}
_CLOSES = {"{": "}", "[": "]", "(": ")"}


class ResultError(ValueError):
    """A result file that is truncated, hostile, or something else; the message says where."""


def values_in(text: str, name: str, *, marks: Iterable[str]) -> Iterator[tuple[str, object]]:
    """``(place, value)`` of each JSON object or Python dict in a text, in its order; prose around them is passed over.

    Args:
        name: of the text, for places such as ``run.txt, line 3``.
        marks: words of which a wanted value holds one. A value without any that is no plain value (a
            log's settings, say, with a device in them) is given as its ResultError, not raised.

    Raises: ResultError for a value that is not closed, is no plain value, gives a key twice, or nests
    more than ``MAX_DEPTH`` deep.
    Memory: about 30 times the text. Time: linear in it.
    """
    found = _LIST.match(text) or _START.search(text)
    end, line = 0, 1
    while found:
        start = text.index("[", found.start()) if found.re is _LIST else found.start()
        line += text.count("\n", end, start)
        end = _end(text, start, name)
        try:
            value = _value(text, start, end, name)
        except ResultError as error:
            if any(text.find(mark, start, end) >= 0 for mark in marks):
                raise
            value = error
        yield f"{name}, line {line}", value
        line += text.count("\n", start, end)
        found = _START.search(text, end)


def _place(text: str, at: int, name: str) -> str:
    return (
        f"{name}, line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
    )


def _end(text: str, start: int, name: str) -> int:
    """Past the bracket that closes the one at ``start``; strings are passed over whole."""
    opened = []
    for token in _SCAN.finditer(text, start):
        mark = token.group()
        if mark in _CLOSES:
            opened.append(mark)
            if len(opened) > MAX_DEPTH:
                raise ResultError(
                    f"{_place(text, token.start(), name)}: brackets are nested more than {MAX_DEPTH} deep; no result of SAEBench's is. "
                    "Give the file that it wrote"
                )
        elif mark in ("]", "}", ")"):
            if _CLOSES[opened.pop()] != mark:
                raise ResultError(
                    f"{_place(text, token.start(), name)}: {mark!r} closes a bracket of another kind. Is the file damaged?"
                )
            if not opened:
                return token.end()
        elif mark in "\"'":
            raise ResultError(
                f"{_place(text, token.start(), name)}: the string that begins here does not end on its line. Is the file whole?"
            )
    raise ResultError(
        f"the value that begins at {_place(text, start, name)} is not closed: the text ends at line {text.count(chr(10)) + 1} with {len(opened)} "
        "bracket(s) open. Is the file whole?"
    )


def _value(text: str, start: int, end: int, name: str):
    try:
        return _loads(text[start:end])
    except json.JSONDecodeError:
        pass
    except ValueError as error:
        raise ResultError(
            f"the value that begins at {_place(text, start, name)}: {error}"
        ) from None
    parts, places = _translated(text, start, end, name)
    try:
        return _loads("".join(parts))
    except json.JSONDecodeError as error:
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part))
        at = places[min(bisect_right(starts, error.pos) - 1, len(places) - 1)]
        raise ResultError(
            f"{_place(text, at, name)}: no plain value ({error.msg}); values are strings, numbers, lists and mappings"
        ) from None
    except ValueError as error:
        raise ResultError(
            f"the value that begins at {_place(text, start, name)}: {error}"
        ) from None


def _loads(text: str):
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice; one of the two values would be lost"
        )
    return found


def _translated(text: str, start: int, end: int, name: str) -> tuple[list[str], list[int]]:
    """A Python literal's tokens as JSON's, and where each stands."""
    parts, places, kinds = [], [], [""]
    for token in _TOKEN.finditer(text, start, end):
        kind, word = token.lastgroup, token.group()
        if kind == "space":
            continue
        if kind == "other" or (kind == "name" and word not in _NAMES):
            called = kind == "name" and text[token.end() : token.end() + 1] == "("
            raise ResultError(
                f"{_place(text, token.start(), name)}: {word[:40]!r} is {'a call' if called else 'no plain value'}, and nothing is evaluated here; "
                "write strings, numbers, lists and mappings only"
            )
        if word in ("]", "}", ")") and parts[-1] == ",":
            parts[-1] = ""  # Python's trailing comma
        if word == ":" and kinds[-1] in ("number", "name"):
            parts[-1] = json.dumps(parts[-1])  # JSON's keys are strings
        try:
            parts.append(_as_json(kind, word))
        except (ValueError, SyntaxError) as error:
            raise ResultError(f"{_place(text, token.start(), name)}: {error}") from None
        places.append(token.start())
        kinds.append(kind)
    return parts, places


def _as_json(kind: str, word: str) -> str:
    if kind == "string":
        return json.dumps(ast.literal_eval(word) if "\\" in word else word[1:-1])
    if kind == "number":
        return json.dumps(float(word) if set(word) & set(".eE") else int(word))
    return _NAMES[word] if kind == "name" else {"(": "[", ")": "]"}.get(word, word)
