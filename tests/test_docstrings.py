"""The examples in docstrings run, and every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import saework

MODULES = [
    module.name
    for module in pkgutil.walk_packages(saework.__path__, "saework.")
    if not module.name.startswith("saework.data.")
]
FUNCTIONS = [name for name in saework.__all__ if inspect.isfunction(getattr(saework, name))]
LONGEST_SUMMARY = 15  # words
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0


def test_there_are_functions_to_check():
    assert {"load", "scan", "steer", "recons_score"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_public_function_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(saework, name))


@pytest.mark.parametrize("name", saework.__all__)
def test_a_summary_is_short(name):
    summary = inspect.getdoc(getattr(saework, name)).split("\n\n")[0]
    assert len(summary.split()) <= LONGEST_SUMMARY, summary
