"""Plain values out of a text: JSON objects, and the Python literals that logs print.

Nothing is evaluated. A Python literal is parsed into its syntax tree, and whatever is no string,
number, list or mapping is refused with its place. So a file from anywhere can be read.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, NoReturn

MAX_DEPTH = 100
MAX_EXPRESSION = 10_000
"""Characters of an expression that is still parsed, to say what is wrong with it."""
_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|' + r"'[^'\\\n]*(?:\\.[^'\\\n]*)*'"
# A file that is a list of results.
_LIST = re.compile(r"\s*\[\s*[\[{]")
# A brace and a key; or the end of a file that is cut within the first key.
_MAPPING = re.compile(rf"""\{{\s*(?:(?:{_STRING})\s*:|["'](?:\w[^"'\n]*)?\Z)""", re.DOTALL)
_STRING_OR_MARK = re.compile(_STRING + r"""|[\[\]{}()"']""", re.DOTALL)
# What is joined to a string or a closing bracket; or a long run without separators.
_EXPRESSION = re.compile(
    rf"(?:{_STRING}|[)\]}}])\s*(?P<joined>[^\s,:)\]}}\"'])?"
    rf"|(?P<long>[^\s,:()\[\]{{}}\"'][^,:()\[\]{{}}\"']{{{MAX_EXPRESSION},}})",
    re.DOTALL,
)
_CLOSES = {"{": "}", "[": "]", "(": ")"}
_NAMES = {
    "nan": math.nan,
    "NaN": math.nan,
    "inf": math.inf,
    "Infinity": math.inf,
    "true": True,
    "false": False,
    "null": None,
}


class ResultError(ValueError):
    """A result file that is truncated, hostile, or something else; the message says where."""


@dataclass(frozen=True)
class _Source:
    """A text, and where in it a value begins."""

    text: str
    name: str
    start: int
    line: int

    def place(self, at: int) -> str:
        """An offset of the text in words. It is not before the value."""
        line = self.line + self.text.count("\n", self.start, at)
        last_break = self.text.rfind("\n", 0, at)
        column = at - last_break
        return f"{self.name}, line {line}, column {column}"

    @property
    def beginning(self) -> str:
        """The value's own place in words."""
        place = self.place(self.start)
        return f"the value that begins at {place}"

    def line_start(self, line: int) -> int:
        """Where a line of the value, counted from 1, begins in the text."""
        at = self.start
        for _ in range(line - 1):
            line_break = self.text.find("\n", at)
            if line_break < 0:
                return at
            at = line_break + 1
        return at

    def offset(self, line: int, n_bytes: int) -> int:
        """The offset of a place in a syntax tree, which counts a line's bytes."""
        start = self.line_start(line)
        # no character has less than one byte, so this many characters are enough
        characters = self.text[start : start + n_bytes]
        bytes_before = characters.encode()[:n_bytes]
        return start + len(bytes_before.decode())

    def offset_of(self, error: SyntaxError) -> int:
        """The offset of an error, or of the value if the error has no place."""
        line = error.lineno or 1
        column = max(error.offset or 1, 1)
        return self.line_start(line) + column - 1

    def error(self, at: int, problem: str) -> ResultError:
        """The error for what stands at an offset of the text."""
        place = self.place(at)
        return ResultError(f"{place}: {problem}")

    def refusal(self, at: int, word: str, what: str = "no plain value") -> ResultError:
        """The error for a word of the text that is more than a plain value."""
        beginning = word[:40]
        problem = (
            f"{beginning!r} is {what}, and nothing is evaluated here; "
            "write strings, numbers, lists and mappings only"
        )
        return self.error(at, problem)


def values_in(text: str, name: str, *, marks: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Each JSON object or Python dict in a text, in its order, as ``(place, value)``.

    Prose around them is passed over.

    Args:
        text: what to read.
        name: of the text, for places such as ``run.txt, line 3``.
        marks: words of which a wanted value holds one. A value without any of them need not be
            plain: a log's settings may hold a device. Its ResultError is then given in its place.
    Raises:
        ResultError: for a value that is not closed, is not plain, gives a key twice, or nests more
            than ``MAX_DEPTH`` deep.
    Memory: about 30 times the text of JSON, 100 times that of literals. Time: linear in the text.
    """
    marks = list(marks)
    opening = _LIST.match(text) or _MAPPING.search(text)
    end, line = 0, 1
    while opening:
        start = opening.start()
        if opening.re is _LIST:
            start = text.index("[")  # past the blanks
        line += text.count("\n", end, start)
        source = _Source(text, name, start, line)
        end = _end(source)
        try:
            value = _value(source, end)
        except ResultError as error:
            is_wanted = any(text.find(mark, start, end) >= 0 for mark in marks)
            if is_wanted:
                raise
            value = error
        yield f"{name}, line {line}", value
        line += text.count("\n", start, end)
        opening = _MAPPING.search(text, end)


def _end(source: _Source) -> int:
    """The offset past the bracket that closes the value; strings are passed over whole."""
    text = source.text
    open_brackets: list[str] = []
    for token in _STRING_OR_MARK.finditer(text, source.start):
        at, mark = token.start(), token.group()
        if mark in _CLOSES:
            open_brackets.append(mark)
            if len(open_brackets) > MAX_DEPTH:
                problem = (
                    f"brackets are nested more than {MAX_DEPTH} deep; no result of SAEBench's is. "
                    "Give the file that it wrote"
                )
                raise source.error(at, problem)
        elif mark in _CLOSES.values():
            opened = open_brackets.pop()
            if _CLOSES[opened] != mark:
                problem = f"{mark!r} closes a bracket of another kind. Is the file damaged?"
                raise source.error(at, problem)
            if not open_brackets:
                return token.end()
        elif mark in ("'", '"'):
            problem = "the string that begins here does not end on its line. Is the file whole?"
            raise source.error(at, problem)
    last_line = text.count("\n") + 1
    raise ResultError(
        f"{source.beginning} is not closed: the text ends at line {last_line} with "
        f"{len(open_brackets)} bracket(s) open. Is the file whole?"
    )


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object, if no key comes twice."""
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(_given_twice(key))
        mapping[key] = value
    return mapping


def _given_twice(key: str) -> str:
    return f"the key {key!r} is given twice; one of the two values would be lost"


_JSON = json.JSONDecoder(object_pairs_hook=_mapping)


def _value(source: _Source, end: int) -> Any:
    try:
        value, _ = _JSON.raw_decode(source.text, source.start)
        return value
    except json.JSONDecodeError:
        return _literal(source, end)
    except ValueError as error:  # a key given twice, or a number of too many digits
        raise ResultError(f"{source.beginning}: {error}") from None


def _literal(source: _Source, end: int) -> Any:
    _refuse_long_expressions(source, end)
    text = source.text[source.start : end]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know, such as "\d"
            tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        at = source.offset_of(error)
        raise source.error(at, f"this is no literal ({error.msg})") from None
    except (MemoryError, RecursionError, ValueError) as error:
        kind = type(error).__name__
        raise ResultError(
            f"{source.beginning} is too deep or damaged to be parsed ({kind}: {error})"
        ) from None
    return _PlainValue(source).visit(tree.body)


def _refuse_long_expressions(source: _Source, end: int) -> None:
    """Refuse what makes a deep syntax tree although its brackets do not nest: ``1+1+1+1...``.

    Python 3.10 has no limit on that depth, and crashes. A short expression passes here, since the
    visitor has better words for it.
    """
    is_long = end - source.start > MAX_EXPRESSION
    for match in _EXPRESSION.finditer(source.text, source.start, end):
        part = match.lastgroup
        if part == "long" or (part == "joined" and is_long):
            at = match.start(part)
            raise source.refusal(at, source.text[at:end])


class _PlainValue(ast.NodeVisitor):
    """The value of a literal's syntax tree.

    A node of a kind without a method here is refused.
    """

    def __init__(self, source: _Source):
        self.source = source

    def visit_Constant(self, node: ast.Constant) -> Any:
        value = node.value
        if not isinstance(value, (str, int, float, NoneType)):
            self.generic_visit(node)  # bytes, a complex number, or ...
        return value

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id not in _NAMES:
            self.generic_visit(node)
        return _NAMES[node.id]

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if not isinstance(node.op, ast.USub):
            self.generic_visit(node)
        match node.operand:
            case ast.Constant(value=bool()):
                self.generic_visit(node)
            case ast.Constant(value=int() | float() as number):
                return -number
            case ast.Name(id="inf" | "Infinity"):
                return -math.inf
            case ast.Name(id="nan" | "NaN"):
                return math.nan
        self.generic_visit(node)

    def visit_List(self, node: ast.List | ast.Tuple) -> list:
        return [self.visit(item) for item in node.elts]

    visit_Tuple = visit_List

    def visit_Dict(self, node: ast.Dict) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in zip(node.keys, node.values):
            if key_node is None:  # {**other}
                self.generic_visit(value_node)
            key = self._key(key_node)
            if key in mapping:
                at, _ = self._excerpt(key_node)
                raise self.source.error(at, _given_twice(key))
            mapping[key] = self.visit(value_node)
        return mapping

    def visit_Call(self, node: ast.Call) -> NoReturn:
        at, expression = self._excerpt(node)
        function, _, _ = expression.partition("(")
        raise self.source.refusal(at, function, "a call")

    def generic_visit(self, node: ast.AST) -> NoReturn:
        """Refuse the node."""
        at, expression = self._excerpt(node)
        raise self.source.refusal(at, expression)

    def _key(self, node: ast.expr) -> str:
        """A mapping's key as a string, as in JSON: 1 is "1", and None "null"."""
        key = self.visit(node)
        if isinstance(key, str):
            return key
        if isinstance(key, list):  # a tuple
            self.generic_visit(node)
        return json.dumps(key)

    def _excerpt(self, node: Any) -> tuple[int, str]:
        """Where a node begins in the text, and its own text."""
        source = self.source
        start = source.offset(node.lineno, node.col_offset)
        end = source.offset(node.end_lineno, node.end_col_offset)
        return start, source.text[start:end]
