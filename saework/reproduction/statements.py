"""The statements of a notebook's cell, and the names that each one reads and writes."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator


class Statement:
    """One statement of a cell, and the names of the notebook that it uses.

    Statements that share a line are one, since a replay comments out whole lines.
    """

    reads: set[str]
    """Names whose value it uses, inside its functions and comprehensions too."""
    binds: set[str]
    """Names that it gives a value, or imports."""
    changes: set[str]
    """Names whose value it may change in place: an item or attribute set, a method called."""

    def __init__(self, nodes: list[ast.stmt]):
        self.nodes = nodes
        source = ast.unparse(ast.Module(nodes, []))
        table = symtable.symtable(source, "cell", "exec")
        self.reads = set()
        self.binds = set()
        self.changes = set()
        for symbol in table.get_symbols():
            name = symbol.get_name()
            if symbol.is_referenced():
                self.reads.add(name)
            if symbol.is_assigned() or symbol.is_imported():
                self.binds.add(name)
        for scope in _inner_scopes(table):
            for symbol in scope.get_symbols():
                if symbol.is_global():
                    self.reads.add(symbol.get_name())
        self.binds.discard("_")
        for node in nodes:
            for part in ast.walk(node):
                self._add_names_of(part)

    @property
    def only_imports(self) -> bool:
        """Whether it does nothing but import."""
        imports = (ast.Import, ast.ImportFrom)
        return all(isinstance(node, imports) for node in self.nodes)

    @property
    def first_line(self) -> int:
        """Its first line in the cell, counted from 1; decorators stand above their function."""
        first = self.nodes[0]
        decorators = getattr(first, "decorator_list", [])
        lines = [node.lineno for node in (first, *decorators)]
        return min(lines)

    @property
    def last_line(self) -> int:
        """Its last line in the cell, counted from 1."""
        return last_line_of(self.nodes[-1])

    def _add_names_of(self, part: ast.AST) -> None:
        match part:
            # Inside a comprehension, := binds a name of the cell; symtable lists it inside only.
            case ast.NamedExpr(target=ast.Name(id=name)):
                self.binds.add(name)
            # symtable lists the target of += as assigned only. A function's own is not in binds.
            case ast.AugAssign(target=ast.Name(id=name)) if name in self.binds:
                self.reads.add(name)
            case ast.Call(func=ast.Attribute()):
                self.changes |= _root_name(part)
            case ast.Subscript() | ast.Attribute():
                if not isinstance(part.ctx, ast.Load):
                    self.changes |= _root_name(part)


def statements_of(tree: ast.Module) -> list[Statement]:
    """The statements of a parsed cell, in order."""
    groups: list[list[ast.stmt]] = []
    last_line = 0
    for node in tree.body:
        if node.lineno > last_line:
            groups.append([])
        groups[-1].append(node)
        last_line = last_line_of(node)
    return [Statement(nodes) for nodes in groups]


def last_line_of(node: ast.stmt) -> int:
    """The last line of a parsed statement; Python's own type allows None for one made by hand."""
    return node.end_lineno or node.lineno


def _inner_scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for scope in table.get_children():
        yield scope
        yield from _inner_scopes(scope)


def _root_name(node: ast.AST) -> set[str]:
    """``{"a"}`` of ``a.b[0].c()``; empty if it begins with something other than a name."""
    match node:
        case ast.Name(id=name):
            return {name}
        case ast.Call(func=inner):
            return _root_name(inner)
        case ast.Subscript(value=inner) | ast.Attribute(value=inner):
            return _root_name(inner)
    return set()
