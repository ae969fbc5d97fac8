"""Which names a statement reads, binds and changes, and which lines it takes."""

from __future__ import annotations

import ast

import pytest

from saework.reproduction.statements import statements_of


def statement(source):
    (only,) = statements_of(ast.parse(source))
    return only


@pytest.mark.parametrize(
    ("source", "reads", "binds", "changes"),
    [
        ("x = y", "y", "x", ""),
        ("x = _ = y", "y", "x", ""),
        ("x += 1", "x", "x", ""),
        ("if z:\n    x += 1", "x z", "x", ""),
        ("def f():\n    x = 0\n    x += y", "y", "f", ""),
        ("a.b[0].c = y", "a y", "", "a"),
        ("del a[i]", "a i", "", "a"),
        ("a.b().append(y)", "a y", "", "a"),
        ("f(y).append(z)", "f y z", "", "f"),
        ("(y + z).sum()", "y z", "", ""),
        ("import numpy as np, os.path", "", "np os", ""),
        ("from math import pi", "", "pi", ""),
        ("for i in y:\n    x = i", "i y", "i x", ""),
        ("with f() as g:\n    pass", "f", "g", ""),
        ("def f(a, b=y):\n    c = a\n    return c + z", "y z", "f", ""),
        ("class A:\n    x = y\n    def f(self):\n        return z", "y z", "A", ""),
        ("g = lambda a: a + z", "z", "g", ""),
        ("x = [a for a in y if a > z]", "y z", "x", ""),
        ("[last := a for a in y]", "y last", "last", ""),
        ("x = 1; y = x", "x", "x y", ""),
    ],
)
def test_names(source, reads, binds, changes):
    found = statement(source)
    assert found.reads == set(reads.split())
    assert found.binds == set(binds.split())
    assert found.changes == set(changes.split())


@pytest.mark.parametrize(
    ("source", "only_imports"),
    [("import os", True), ("import os; from math import pi", True), ("import os; x = 1", False)],
)
def test_imports(source, only_imports):
    assert statement(source).only_imports == only_imports


def test_lines():
    source = """x = 1; y = (
    2
)

@f
@g(
    1
)
def h():
    pass
z = "a" \\
    "b"; w = 3"""
    places = [(part.first_line, part.last_line) for part in statements_of(ast.parse(source))]
    assert places == [(1, 3), (5, 10), (11, 12)]
