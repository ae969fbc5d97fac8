"""A notebook again without its model: cells rewritten, and whole notebooks run from their packs."""

from __future__ import annotations

import json
import os
from html import unescape

import nbformat
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from stand_ins import NO_MODEL, text_of

from saework import cli
from saework.reproduction import pack, run
from saework.reproduction.html import page
from saework.reproduction.own_files import signed
from saework.reproduction.replay import (
    replayed,
    source_digest,
    unwatched,
    watched,
    without_weights,
)
from saework.reproduction.watch import WATCH


def test_a_cell_of_which_nothing_is_kept_stays_as_it_is():
    source = "x = 1  # here\n\n\ny = (\n    2\n)"
    assert replayed(source, 0, {}) == source


def test_results_are_read_below_what_made_them():
    kept = {
        "1": {"values": {"x": 1, "y": 2}, "shown": 3},
        "2": {"values": {}},
        "4": {"values": {}, "shown": 5},
    }
    source = "a = 1\nx = y = f()\nassert x == 1\nb = 2\nf(b)"
    assert replayed(source, 7, kept).split("\n") == [
        "a = 1",
        "# x = y = f()",
        "x, y = pack.take('7.1')",
        "pack.shown('7.1')",
        "# assert x == 1",
        "b = 2",
        "# f(b)",
        "pack.shown('7.4')",
    ]


SOURCE = """import functools
book = load()  # here

# why
@functools.cache
def f(a):
    return a * book.n


x = f(1); y = 2
z = (
    x
    + y
)"""


def test_comments_decorators_and_shared_lines_stay_whole():
    kept = {"1": {"values": {}}, "2": {"values": {}}, "3": {"values": {"x": 1, "y": 2}}}
    assert replayed(SOURCE, 0, kept).split("\n") == [
        "import functools",
        "# book = load()  # here",
        "",
        "# why",
        "# @functools.cache",
        "# def f(a):",
        "#     return a * book.n",
        "",
        "",
        "# x = f(1); y = 2",
        "x, y = pack.take('0.3')",
        "z = (",
        "    x",
        "    + y",
        ")",
    ]


def test_a_name_that_the_statement_does_not_write_is_refused():
    kept = {"0": {"values": {"os.system('ls') or x": 1}}}
    with pytest.raises(ValueError, match="of cell 3, which that statement does not write; it was"):
        replayed("x = f()", 3, kept)


def test_the_cells_of_the_watch_come_and_go(tmp_path):
    own = [nbformat.v4.new_markdown_cell("# Title?"), nbformat.v4.new_code_cell("x = 1")]
    notebook = nbformat.v4.new_notebook(cells=own)
    path = tmp_path / "one.safetensors"
    both = watched(notebook, path, name="one", licence="MIT", parameters={"RELEASE": "r"})
    first, *between, last = both.cells
    assert first.source == "from saework.reproduction import replay as _replay\n\n_replay.watch()"
    assert between == own and WATCH in last.source and repr(str(path)) in last.source
    assert source_digest(notebook) in last.source
    assert unwatched(both).cells == own


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
        patch.setattr(run, "notebook_folder", lambda: base / "notebooks")
        patch.setitem(run.NOTEBOOKS, "gelu-1l-mini", ("one",))
        run.reproduce("gelu-1l-mini", base / "out", say=lambda line: None)
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
    assert WATCH not in json.dumps(notebook) and "_replay" not in json.dumps(notebook)


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
    tree, tensors = pack.read(kept / "out" / "one.safetensors")
    witness, code = tmp_path / "ran", f"x = open({str(tmp_path / 'ran')!r}, 'w')"
    if part == "name":
        next(entry for entry in tree["kept"].values() if entry["values"])["values"][code] = 1
    elif part == "parameter":
        tree["about"]["parameters"] = {code: 1}
    else:
        (tmp_path / "evil.ipynb").write_text((kept / "notebooks" / "one.ipynb").read_text())
        tree["about"]["notebook"] = os.path.relpath(tmp_path / "evil", kept / "notebooks")
    by_hand = pack.write(tmp_path / "one.safetensors", tree, tensors)
    assert cli.main(["replay", str(by_hand), "--out", str(tmp_path / "out")]) == 2
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
    pack.write(tmp_path / "x.safetensors", {"about": {}}, {})
    for path, said in (
        (tmp_path / "x.safetensors", "lacks 'kept'"),
        (kept / "notebooks" / "one.ipynb", "is no replay pack"),
        (tmp_path / "no", "no replay pack"),
    ):
        assert cli.main(["replay", str(path), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


def test_what_a_pack_says_of_itself_is_text(kept, tmp_path):
    tree, tensors = pack.read(kept / "out" / "one.safetensors")
    tree["about"]["licence"] = "[MIT](javascript:alert(1)) ![x](http://x/y.png) <b>\nhttp://x"
    by_hand = pack.write(tmp_path / "one.safetensors", tree, tensors)
    source = load_notebook_node(str(kept / "notebooks" / "one.ipynb"))
    note = without_weights(source, by_hand).cells[0]
    html = page(nbformat.v4.new_notebook(cells=[note]), title="t")
    (paragraph,) = [line for line in html.splitlines() if "MIT" in line]
    assert "<a" not in paragraph and "<img" not in paragraph and "<b>" not in paragraph
    assert "[MIT](javascript:alert(1)) ![x](http://x/y.png) <b> http://x" in unescape(paragraph)


def test_a_second_replay_keeps_what_a_reader_wrote(kept, tmp_path, capsys):
    command = ["replay", str(kept / "out" / "one.safetensors"), "--out", str(tmp_path)]
    path = tmp_path / "one-replay.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("as written")])
    nbformat.write(signed(notebook), path)
    notebook.cells[0].source = "my answer"
    nbformat.write(notebook, path)
    assert cli.main(command) == 2
    assert "has been changed since saework wrote it; move it away" in capsys.readouterr().err
    assert "my answer" in path.read_text() and list(tmp_path.iterdir()) == [path]
