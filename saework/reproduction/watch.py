"""While a notebook runs: which statements need the weights, and what they leave behind.

``Watch`` follows which names depend on ``load``. A statement that uses such a name *needs the
weights*. The small results that it leaves are kept, and what uses only those needs no weights.
Nothing in a notebook has to be written for this.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import saework
from saework.reproduction import pack, pack_values
from saework.reproduction.pack_values import Tree
from saework.reproduction.statements import Statement, statements_of

WATCH = "_saework_watch"
"""The name of the watch in the kernel."""
SHOWN_CHARACTERS = 10_000
"""Of a displayed value that cannot be kept, so many characters of its text are."""
FUNCTION = (types.FunctionType, type)
CODE = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)
NOT_KEPT = object()
Place = tuple[int, int]
"""A cell's number, and a statement's in it."""
Entry = dict[str, Any]
"""What a pack keeps of a statement: ``values`` by name, and ``shown`` if it displayed something."""


class Watch:
    """An AST transformer of IPython's that looks at the names after each statement of a cell.

    Args:
        names: the namespace of the kernel.
    """

    def __init__(self, names: dict[str, Any]):
        self._names = names
        self._cells: list[list[Statement]] = []
        self._needing: set[str] = set()
        """Names whose value a replay does not have."""
        self._kept: dict[Place, Entry] = {}
        self._tensors: pack_values.Tensors = {}
        self._read_inside: dict[str, set[str]] = {}
        """What the notebook's own functions read when they are called."""

    def visit(self, tree: ast.Module) -> ast.Module:
        """A cell's tree, with a call of ``after_statement`` behind each statement."""
        cell = len(self._cells)
        statements = statements_of(tree)
        self._cells.append(statements)
        body: list[ast.stmt] = []
        for number, statement in enumerate(statements):
            body += statement.nodes
            call = _after_statement_call(cell, number)
            # A cell displays its last expression: it is handed over, and comes back as the value.
            last = body[-1]
            if statement is statements[-1] and isinstance(last, ast.Expr):
                body.pop()
                call.args.append(last.value)
            body.append(ast.Expr(call))
        return ast.fix_missing_locations(ast.Module(body, tree.type_ignores))

    def after_statement(self, cell: int, number: int, shown: Any = None) -> Any:
        """Note whether a statement needed the weights, and keep what it left.

        Args:
            cell: the cell's number, counted from 0.
            number: the statement's number in the cell, counted from 0.
            shown: what it displays.

        Returns:
            ``shown``.
        """
        statement = self._cells[cell][number]
        if statement.only_imports:
            load = saework.load
            for name, value in self._names.items():
                if value is load:
                    self._needing.add(name)
        elif self._reached(statement.reads) & self._needing:
            self._kept[cell, number] = self._keep_results(statement, shown)
        else:
            self._needing -= statement.binds
            for name in statement.binds:
                if isinstance(self._names.get(name), FUNCTION):
                    self._read_inside[name] = statement.reads
        return shown

    def save(self, path: str | Path, about: dict[str, Any]) -> Path:
        """Write a pack: values that statements without weights read later, and all that was shown.

        Args:
            path: of the file.
            about: the notebook's name, ``source``, licence and parameters.
        """
        kept = {}
        for place, entry in self._kept.items():
            read_later = self._read_after(place)
            values = _chosen(entry["values"], read_later)
            cell, number = place
            key = f"{cell}.{number}"
            kept[key] = {**entry, "values": values}
        # A tensor that only values left out here have named is left out too.
        words = set(_words(kept))
        tensors = _chosen(self._tensors, words)
        about = {
            **about,
            "made": date.today().isoformat(),
            "saework": version("saework"),
            "torch": version("torch"),
        }
        return pack.write(path, {"about": about, "kept": kept}, tensors)

    def _reached(self, reads: set[str]) -> set[str]:
        """The names, and those that their functions read."""
        reached: set[str] = set()
        waiting = set(reads)
        while waiting:
            name = waiting.pop()
            reached.add(name)
            inside = self._read_inside.get(name, set())
            waiting |= inside - reached
        return reached

    def _keep_results(self, statement: Statement, shown: Any) -> Entry:
        """What a statement left. What cannot be kept needs the weights from now on."""
        self._needing |= statement.binds
        values = {}
        for name in sorted(statement.binds | statement.changes):
            if name not in self._names:
                continue
            value = self._names[name]
            tree = self._packed(value)
            if tree is not NOT_KEPT:
                values[name] = tree
                self._needing.discard(name)
            # ``np.ones(3)`` is a method call too, and changes nothing of the module.
            elif not isinstance(value, CODE):
                self._needing.add(name)
        if shown is None:
            return {"values": values}
        tree = self._packed(shown)
        if tree is NOT_KEPT:
            text = repr(shown)[:SHOWN_CHARACTERS]
            tree = self._packed(pack_values.Text(text))
        return {"values": values, "shown": tree}

    def _read_after(self, place: Place) -> set[str]:
        """Names that statements read which come later and need no weights."""
        names: set[str] = set()
        for cell, statements in enumerate(self._cells):
            for number, statement in enumerate(statements):
                its_place = (cell, number)
                if its_place > place and its_place not in self._kept:
                    names |= statement.reads
        return names

    def _packed(self, value: object) -> Tree:
        try:
            tree, tensors = pack_values.packed(value)
        except pack_values.NotKeptError:
            return NOT_KEPT
        self._tensors |= tensors
        return tree


def watch() -> None:
    """Follow the cells that this kernel runs from now on."""
    from IPython import get_ipython

    shell = get_ipython()
    shell.user_ns[WATCH] = Watch(shell.user_ns)
    shell.ast_transformers.append(shell.user_ns[WATCH])


def _words(tree: Tree) -> Iterator[str]:
    """Every string in JSON, keys aside."""
    if isinstance(tree, str):
        yield tree
        return
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _words(part)


def _chosen(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    chosen = {}
    for name, value in values.items():
        if name in names:
            chosen[name] = value
    return chosen


def _after_statement_call(cell: int, number: int) -> ast.Call:
    return ast.Call(
        func=ast.Attribute(
            value=ast.Name(WATCH, ast.Load()),
            attr="after_statement",
            ctx=ast.Load(),
        ),
        args=[
            ast.Constant(cell),
            ast.Constant(number),
        ],
        keywords=[],
    )
