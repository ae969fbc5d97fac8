"""Which statements need the weights, and what they leave: each cell is run, and run as a replay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import saework
from saework.reproduction import pack_values
from saework.reproduction.pack import Pack
from saework.reproduction.replay import replayed
from saework.reproduction.watch import WATCH, Watch

ABOUT = {"notebook": "x", "source": "", "licence": "", "parameters": {}}


class Weights(torch.nn.Module):
    """Stands for a Workbook: what comes from ``load`` and is too much to keep."""

    n = 3

    def rows(self):
        return torch.arange(6.0).reshape(2, 3)


def load():
    return Weights()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run cells under a watch, and then again as a replay.

    Returns the cells of the replay (``sources``), what both runs displayed (``first`` and
    ``shown``), the replay's ``names`` and its ``pack``.
    """
    monkeypatch.setattr("saework.loading.workbook.load", load)

    def run(*cells):
        shell = InteractiveShell()
        watch = Watch(shell.user_ns)
        shell.user_ns[WATCH] = watch
        shell.ast_transformers.append(watch)
        first = run_all(shell, ["from saework import load", *cells])[1:]
        pack = Pack(watch.save(tmp_path / "x.safetensors", ABOUT))
        sources = [replayed(source, n, pack.kept_in(n)) for n, source in enumerate(cells, 1)]
        again = InteractiveShell()
        again.user_ns["pack"] = pack
        shown = run_all(again, sources)
        return SimpleNamespace(
            sources=sources, names=again.user_ns, shown=shown, first=first, pack=pack
        )

    return run


def run_all(shell, sources):
    """Run cells, and return what each displayed."""
    results = [shell.run_cell(source) for source in sources]
    for result in results:
        result.raise_error()
    return [result.result for result in results]


def live(source):
    return [line for line in source.split("\n") if not line.startswith("#")]


def test_what_uses_the_weights_is_read_and_what_uses_its_results_runs(run):
    done = run("book = load()\nx = book.rows()\ny = x + 1", "y.sum()")
    assert done.sources == [
        "# book = load()\n# x = book.rows()\nx = pack.take('1.1')\ny = x + 1",
        "y.sum()",
    ]
    assert done.shown[1] == done.first[1] == 21 and "book" not in done.names


def test_a_value_that_no_statement_reads_later_is_not_kept(run):
    done = run("book = load()\nx = book.rows()\nz = x * book.n")
    assert all(entry["values"] == {} for entry in done.pack.kept.values())
    assert done.pack.tensors == {}


def test_what_is_too_large_makes_its_users_need_the_weights(run, monkeypatch):
    monkeypatch.setattr(pack_values, "LIMIT", 100)
    done = run("book = load()\nx = book.rows().repeat(9, 9)\ns = float(x.sum())", "t = s + 1\nt")
    assert live(done.sources[0]) == ["s = pack.take('1.2')"] and done.sources[1] == "t = s + 1\nt"
    assert done.shown[1] == done.first[1]


@pytest.mark.parametrize(
    "use",
    [
        "for i in range(book.n):\n    table[i] = i * i",
        "[table.update({i: i * i}) for i in range(book.n)]",
        "table |= {i: i * i for i in range(book.n)}",
        "if book.n:\n    table.setdefault(0, 0), table.setdefault(1, 1)\n    table[2] = 4",
    ],
)
def test_what_is_changed_in_place_is_kept(run, use):
    done = run("table = {}\nbook = load()", use, "sorted(table.values())")
    assert done.shown[2] == done.first[2] == [0, 1, 4]
    assert "table = pack.take('2.0')" in done.sources[1]


def test_what_is_changed_and_cannot_be_kept_needs_the_weights_too(run):
    done = run(
        "import random\nrng = random.Random(0)\nbook = load()",
        "x = rng.random() * book.n",
        "y = rng.random()\ny",
    )
    assert done.shown[2] == done.first[2] and live(done.sources[2]) == ["y = pack.take('3.0')", "y"]


@pytest.mark.parametrize("limit", [100, pack_values.LIMIT])
def test_what_is_added_to_must_be_there(run, monkeypatch, limit):
    monkeypatch.setattr(pack_values, "LIMIT", limit)
    done = run("book = load()\nx = book.rows().repeat(9, 9)", "x += 1", "float(x.sum())")
    assert done.shown[2] == done.first[2] == 81 * 15 + 486
    assert (done.sources[1] == "x += 1") == (limit > 100)


def test_a_function_that_reads_the_weights(run):
    done = run(
        "def f(x):\n    return x * book.n",
        "g = lambda x: f(x) + 1",
        "book = load()",
        "a = g(2)",
        "h = lambda x: x + 1\nh(a)",
    )
    assert done.shown[4] == done.first[4] == 8
    assert live(done.sources[3]) == ["a = pack.take('4.0')"]
    assert "h = lambda x: x + 1" in live(done.sources[4])


def test_names_inside_functions_and_comprehensions_are_others(run):
    cells = ["[book for book in range(2)]", "f = lambda book: book + 1\nf(x)"]
    done = run("book = load()\nx = book.n", *cells)
    assert done.sources[1:] == cells and done.shown == [None, [0, 1], 4]


@pytest.mark.parametrize(
    "harmless",
    [
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    x = 1",
        "q = 1\ndel q",
        "from math import *",
        "(lambda: 3)(); 'a'.upper()",
    ],
)
def test_names_that_come_and_go_break_nothing(run, harmless):
    done = run("book = load()", harmless, f"y = book.n\n{harmless}", "y")
    assert done.shown[3] == 3


def test_names_bound_inside_an_expression(run):
    done = run("book = load()", "[last := i for i in range(book.n)]", "last + 1")
    assert done.shown[2] == done.first[2] == 3 and "last = pack.take('2.0')" in done.sources[1]


def test_a_name_that_gets_another_value_is_free_again(run):
    done = run("book = load()", "book = 5", "book + 1")
    assert done.sources[1:] == ["book = 5", "book + 1"] and done.shown[2] == 6


def test_what_was_shown_is_shown_again_as_text_if_need_be(run):
    done = run("book = load()\nbook", "book.rows()")
    assert repr(done.shown[0]) == repr(done.first[0]) == "Weights()"
    assert torch.equal(done.shown[1], done.first[1])
    assert live(done.sources[0]) == ["pack.shown('1.1')"]


def test_an_assertion_that_needs_the_weights_is_not_claimed_again(run):
    done = run("book = load()\nassert book.n == 3", "1")
    assert live(done.sources[0]) == []


@pytest.mark.parametrize(
    "imports",
    ["from saework import load as get", "from saework.loading.workbook import load as get"],
)
def test_load_is_known_by_itself_whatever_its_name(run, imports):
    done = run(imports, "x = get().rows()", "x.sum()")
    assert live(done.sources[1]) == ["x = pack.take('2.0')"]
    assert done.shown[2] == done.first[2] == 15


def test_a_function_that_only_looks_like_load_needs_no_weights(run):
    pretender = "def load():\n    return 7\n\nload.__module__ = 'saework.loading.workbook'"
    done = run(pretender, "import math", "x = load()\nx")
    assert done.sources[2] == "x = load()\nx" and done.shown[2] == 7


def test_the_load_of_saework_is_the_one_that_notebooks_import():
    from saework import load as imported
    from saework.loading import workbook

    assert imported is saework.load is workbook.load


def test_a_pack_says_with_what_it_was_made(run):
    about = run("book = load()").pack.about
    assert about["notebook"] == "x" and about["torch"] == torch.__version__
    assert about["saework"] == saework.__version__ and about["made"].count("-") == 2
