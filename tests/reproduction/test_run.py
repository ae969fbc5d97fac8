"""Sets of notebooks: found, copied, executed, and their ledgers merged."""

from __future__ import annotations

from concurrent.futures import CancelledError
from threading import Event

import nbformat
import pytest

from saework import Claim, Ledger, UnknownNameError
from saework.reproduction import run

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the notebooks, empty."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(run, "notebook_folder", lambda: folder)
    return folder


def test_the_notebooks_are_those_of_this_checkout():
    assert (run.notebook_folder() / "00_start_here.ipynb").exists()


def test_an_installation_without_notebooks_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "DATA", tmp_path / "data")
    monkeypatch.setattr(run, "PACKAGE", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match="install saework from its wheel or its repository"):
        run.notebook_folder()
    (tmp_path / "data" / "notebooks").mkdir(parents=True)
    assert run.notebook_folder() == tmp_path / "data" / "notebooks"


def test_only_new_notebooks_are_copied(folder, tmp_path):
    write(folder / "a.ipynb", "1")
    write(folder / "b.ipynb", "2")
    out = tmp_path / "new" / "copies"
    assert run.copy_notebooks(out) == [out / "a.ipynb", out / "b.ipynb"]
    (out / "a.ipynb").unlink()
    with pytest.warns(UserWarning, match=r"b\.ipynb in .* left alone, since they exist; move"):
        assert run.copy_notebooks(out) == [out / "a.ipynb"]


def test_a_release_without_a_set_of_notebooks_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="there is no set of notebooks for 'gpt2-small-mlp-"):
        run.reproduce("gpt2-small-mlp-tm", tmp_path)
    with pytest.raises(UnknownNameError, match="'gelu-1l-mni'"):
        run.reproduce("gelu-1l-mni", tmp_path)


def test_every_notebook_is_run_though_one_fails(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(run.NOTEBOOKS, "saebench", ("bad", "good"))
    make = "from saework import Claim, Ledger\nclaims = [Claim(NAME, 1, '', '', 0, RELEASE)]"
    for name, last in (("bad", "1 / 0"), ("good", f"ledger.record('good', {1})")):
        ledger = f"ledger = Ledger(claims, tier=RELEASE)\n{last}"
        write(folder / f"{name}.ipynb", f"RELEASE, NAME = '', {name!r}", make, ledger, "ledger")
    lines = []
    for _ in range(2):  # its own files of the first run are written over
        lines.clear()
        with pytest.raises(RuntimeError, match="notebooks failed:\nbad: ZeroDivisionError"):
            run.reproduce(
                "saebench", tmp_path / "out", parameters={"NAME": "good"}, say=lines.append
            )
    out = tmp_path / "out"
    first, second = "[1/2] bad", "[2/2] good"
    failed, done = f"{first}: failed, see {out / 'bad.html'}", f"{second}: {out / 'good.html'}"
    assert lines == [first, failed, second, done]
    names = {path.name for path in out.iterdir()}
    written = {"bad.ipynb", "bad.html", "good.ipynb", "good.html", "ledger.json", "index.html"}
    assert names == written
    index = (out / "index.html").read_text()
    assert "failed: ZeroDivisionError" in index and 'href="good.html"' in index
    assert 'href="index.html"' in (out / "good.html").read_text()
    executed = nbformat.read(tmp_path / "out" / "good.ipynb", as_version=4)
    (ledger,) = run.ledgers_in(executed)
    assert ledger.tier == "saebench" and ledger.exit_code == 0
    assert '"holds"' in (tmp_path / "out" / "ledger.json").read_text()


def test_a_notebook_that_was_stopped_leaves_the_older_one(tmp_path):
    target = tmp_path / "a.ipynb"
    write(target, "'older'")
    older = target.read_bytes()
    write(tmp_path / "source.ipynb", "1 / 0")  # what a killed kernel gives: a problem
    source = nbformat.read(tmp_path / "source.ipynb", as_version=4)
    stopping = Event()
    stopping.set()
    with pytest.raises(CancelledError, match=r"a\.ipynb was stopped in the middle"):
        run._executed(source, target, stopping=stopping)
    assert target.read_bytes() == older
    assert {path.name for path in tmp_path.iterdir()} == {"a.ipynb", "source.ipynb"}


def test_a_page_links_to_its_neighbours():
    assert run._neighbours("b", ("a", "b", "c")) == [
        ("all pages", "index.html"),
        ("previous: a", "a.html"),
        ("next: c", "c.html"),
    ]
    assert run._neighbours("a", ("a",)) == [("all pages", "index.html")]


def test_a_ledger_is_read_from_what_a_notebook_displayed():
    ledger = Ledger([Claim("x", 1, "", "", 0, "t")], tier="t")
    output = nbformat.v4.new_output("display_data", data=ledger._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell("ledger", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), cell])
    assert [repr(found) for found in run.ledgers_in(notebook)] == [repr(ledger)]
