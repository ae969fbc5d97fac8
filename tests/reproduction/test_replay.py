"""Which statements need the weights, what they leave, and that a notebook runs again without them."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from stand_ins import NO_MODEL, text_of

from saework import cli
from saework.reproduction import packs, replay
from saework.reproduction import run as reproduction_run


class Weights(torch.nn.Module):
    """Stands for a workbook: what hangs on ``load`` and is too much to keep."""

    n = 3

    def rows(self):
        return torch.arange(6.0).reshape(2, 3)


def load():
    return Weights()


load.__module__ = "saework.loading.workbook"  # it is known by its name, as the real one


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run cells under a watch; returns for each cell its source in the replay, and the names of a replay that was run."""
    monkeypatch.setitem(__import__("sys").modules, "stand_in", SimpleNamespace(load=load))

    def run(*cells):
        shell = InteractiveShell()
        shell.user_ns[replay.WATCHING] = watch = replay.Watch(shell.user_ns)
        shell.ast_transformers.append(watch)
        results = [shell.run_cell(source) for source in ("from stand_in import load", *cells)]
        for result in results:
            result.raise_error()
        path = watch.save(tmp_path / "x.safetensors", {"notebook": "x"})
        pack = replay.Pack(path)
        again = InteractiveShell()
        again.user_ns["pack"] = pack
        sources = []
        for number, source in enumerate(cells, 1):
            kept = {
                key.split(".")[1]: value
                for key, value in pack.kept.items()
                if key.split(".")[0] == str(number)
            }
            sources.append(replay._replayed(source, number, kept) if kept else source)
        shown = [again.run_cell(source) for source in sources]
        for result in shown:
            result.raise_error()
        return SimpleNamespace(
            sources=sources,
            names=again.user_ns,
            shown=[r.result for r in shown],
            first=[r.result for r in results[1:]],
            pack=pack,
        )

    return run


def live(source):
    return [line for line in source.split("\n") if not line.startswith("#")]


def test_what_uses_the_weights_is_read_and_what_uses_its_results_runs(run):
    done = run("book = load()\nx = book.rows()\ny = x + 1", "y.sum()")
    assert done.sources == [
        "# book = load()\n# x = book.rows()\nx = pack.take('1.1')\ny = x + 1",
        "y.sum()",
    ]
    assert done.shown[1] == done.first[1] == 21 and "book" not in done.names


def test_what_nobody_reads_later_is_not_kept(run):
    done = run("book = load()\nx = book.rows()\nz = x * book.n")
    assert (
        all(entry["values"] == {} for entry in done.pack.kept.values()) and done.pack._tensors == {}
    )


def test_what_is_too_large_makes_its_users_need_the_weights(run, monkeypatch):
    monkeypatch.setattr(packs, "LIMIT", 100)
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
    assert (
        done.shown[2] == done.first[2] == [0, 1, 4]
        and "table = pack.take('2.0')" in done.sources[1]
    )


def test_what_is_changed_and_cannot_be_kept_needs_the_weights_too(run):
    done = run(
        "import random\nrng = random.Random(0)\nbook = load()",
        "x = rng.random() * book.n",
        "y = rng.random()\ny",
    )
    assert done.shown[2] == done.first[2] and live(done.sources[2]) == ["y = pack.take('3.0')", "y"]


def test_a_function_that_reads_the_weights(run):
    done = run(
        "def f(x):\n    return x * book.n",
        "g = lambda x: f(x) + 1",
        "book = load()",
        "a = g(2)",
        "h = lambda x: x + 1\nh(a)",
    )
    assert done.shown[4] == done.first[4] == 8
    assert live(done.sources[3]) == ["a = pack.take('4.0')"] and "h = lambda x: x + 1" in live(
        done.sources[4]
    )


def test_names_inside_functions_and_comprehensions_are_others(run):
    done = run(
        "book = load()\nx = book.n",
        "[book for book in range(2)]",
        "f = lambda book: book + 1\nf(x)",
    )
    assert done.sources[1:] == [
        "[book for book in range(2)]",
        "f = lambda book: book + 1\nf(x)",
    ] and done.shown == [None, [0, 1], 4]


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


def test_a_name_bound_anew_is_free_again(run):
    done = run("book = load()", "book = 5", "book + 1")
    assert done.sources[1:] == ["book = 5", "book + 1"] and done.shown[2] == 6


def test_what_was_shown_is_shown_again_as_text_if_need_be(run):
    done = run("book = load()\nbook", "book.rows()")
    assert repr(done.shown[0]) == repr(done.first[0]) == "Weights()" and torch.equal(
        done.shown[1], done.first[1]
    )
    assert live(done.sources[0]) == ["pack.shown('1.1')"]


def test_comments_decorators_and_shared_lines_stay_whole(run):
    source = "import functools\nbook = load()  # here\n\n# why\n@functools.cache\ndef f(a):\n    return a * book.n\n\n\nx = f(1); y = 2\nz = (\n    x\n    + y\n)"
    done = run(source, "z")
    assert done.shown[1] == done.first[1] == 5
    assert live(done.sources[0]) == [
        "import functools",
        "",
        "",
        "",
        "x, y = pack.take('1.3')",
        "z = (",
        "    x",
        "    + y",
        ")",
    ]
    assert [
        line for line in done.sources[0].replace("# ", "").split("\n") if "take" not in line
    ] == source.replace("# ", "").split("\n")


def test_an_assertion_that_needs_the_weights_is_not_claimed_again(run):
    done = run("book = load()\nassert book.n == 3", "1")
    assert live(done.sources[0]) == []


# ---- whole notebooks ----


CELLS = """
from saework import load, show
RELEASE = 'gelu-1l-mini'
---
book = load(RELEASE, device='cpu', check=False)
tokens = book.tokens[:2, :8]
book
---
features = book.sae.encode(book.model.run_with_cache(tokens, names_filter=book.hook)[1][book.hook])
---
l0 = (features > 0).sum(-1)
show({'mean L0': l0[:, 1:].double().mean(), 'features': book.sae.cfg.d_sae})
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A notebook of gelu-1l-mini, reproduced; the folder of its results."""
    base = tmp_path_factory.mktemp("replay")
    (base / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS.split("---")]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel), base / "notebooks" / "one.ipynb"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction_run, "notebook_folder", lambda: base / "notebooks")
        patch.setitem(run.NOTEBOOKS, "gelu-1l-mini", ("one",))
        reproduction_run.reproduce("gelu-1l-mini", base / "out", say=lambda line: None)
        yield base


def test_the_notebook_runs_again_without_a_model_and_shows_the_same(kept, tmp_path, capsys):
    assert cli.main(["replay", str(kept / "out" / "one.safetensors"), "--out", str(tmp_path)]) == 0
    assert "one-replay.ipynb is ready, without a model" in capsys.readouterr().out
    first, again = (
        nbformat.read(path, as_version=4)
        for path in (kept / "out" / "one.ipynb", tmp_path / "one-replay.ipynb")
    )
    assert text_of(again) == text_of(first) and "Workbook gelu-1l-mini" in text_of(again)[0]
    assert (
        "# book = load(" in "".join(cell.source for cell in again.cells)
        and (tmp_path / "one-replay.html").exists()
    )
    assert "no weights" in again.cells[0].source and "MIT" in again.cells[0].source
    again.cells.append(nbformat.v4.new_code_cell(NO_MODEL))
    NotebookClient(
        again, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


def test_the_reproduced_notebook_does_not_show_that_it_was_watched(kept):
    notebook = nbformat.read(kept / "out" / "one.ipynb", as_version=4)
    assert replay.WATCHING not in json.dumps(notebook) and "_replay" not in json.dumps(notebook)


def test_a_pack_of_another_version_of_the_notebook_is_refused(kept, tmp_path, capsys):
    path = kept / "notebooks" / "one.ipynb"
    whole = path.read_text()
    path.write_text(whole.replace("mean L0", "L0"))
    assert cli.main(["replay", str(kept / "out" / "one.safetensors"), "--out", str(tmp_path)]) == 2
    assert "was made from another version of one (saework 0" in capsys.readouterr().err
    path.rename(path.with_suffix(".away"))
    assert cli.main(["replay", str(kept / "out" / "one.safetensors"), "--out", str(tmp_path)]) == 2
    assert "the notebook 'one', which this saework does not have" in capsys.readouterr().err
    path.with_suffix(".away").rename(path)
    path.write_text(whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["name", "parameter", "notebook"])
def test_a_pack_made_by_hand_puts_no_code_into_the_notebook(kept, tmp_path, capsys, part):
    tree, tensors = packs.read(kept / "out" / "one.safetensors")
    witness, code = tmp_path / "ran", f"x = open({str(tmp_path / 'ran')!r}, 'w')"
    if part == "name":
        next(entry for entry in tree["kept"].values() if entry["values"])["values"][code] = 1
    elif part == "parameter":
        tree["about"]["parameters"] = {code: 1}
    else:
        (tmp_path / "evil.ipynb").write_text((kept / "notebooks" / "one.ipynb").read_text())
        tree["about"]["notebook"] = os.path.relpath(tmp_path / "evil", kept / "notebooks")
    pack = packs.write(tmp_path / "one.safetensors", tree, tensors)
    assert cli.main(["replay", str(pack), "--out", str(tmp_path / "out")]) == 2
    said = {
        "name": "which that statement does not write",
        "parameter": "a pack sets RELEASE only",
        "notebook": "which this saework does not have",
    }
    assert (
        said[part] in capsys.readouterr().err
        and not witness.exists()
        and not (tmp_path / "out").exists()
    )


def test_what_is_no_pack_is_refused(kept, tmp_path, capsys):
    packs.write(tmp_path / "x.safetensors", {"about": {}}, {})
    for path, said in (
        (tmp_path / "x.safetensors", "lacks 'kept'"),
        (kept / "notebooks" / "one.ipynb", "is no replay pack"),
        (tmp_path / "no", "no replay pack"),
    ):
        assert cli.main(["replay", str(path), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
