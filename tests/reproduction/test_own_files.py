"""Only what saework wrote, and nobody changed, is written over."""

from __future__ import annotations

import os

import nbformat
import pytest

from saework.core.files import GENERATOR
from saework.reproduction import own_files, pack
from saework.reproduction.own_files import check_pack, check_run
from saework.reproduction.pack import ABOUT

RUN = {"notebooks": ["one"], "index": "index.html"}


def written(path):
    cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("")]
    cells += [nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["injected-parameters"]})]
    nbformat.write(own_files.signed(nbformat.v4.new_notebook(cells=cells)), path)
    return nbformat.read(path, as_version=4)


def test_an_unchanged_notebook_is_saeworks(tmp_path):
    path = tmp_path / "one.ipynb"
    own_files.check_notebook(path)
    notebook = written(path)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="run again")]
    notebook.cells[2].source = "x = 2"
    nbformat.write(notebook, path)
    own_files.check_run(tmp_path, **RUN)


def test_a_readers_work_stays(tmp_path):
    path = tmp_path / "one.ipynb"
    notebook = written(path)
    notebook.cells[1].source = "my answer"
    nbformat.write(notebook, path)
    words = r"one.ipynb has been changed since saework wrote it; move it away, or give another"
    with pytest.raises(ValueError, match=words):
        own_files.check_run(tmp_path, **RUN)
    nbformat.write(nbformat.v4.new_notebook(), path)
    with pytest.raises(ValueError, match="one.ipynb was not written by this command"):
        own_files.check_run(tmp_path, **RUN)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("index.html", "index.html was not written by saework, and is left as it is"),
        ("one.html", "one.html was not written by saework"),
        ("ledger.json", "ledger.json is no ledger of saework's; move it away"),
        ("one.safetensors", "one.safetensors is no replay pack; move it away"),
    ],
)
def test_other_peoples_files_stay(name, words, tmp_path):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ValueError, match=words):
        own_files.check_run(tmp_path, **RUN)
    assert (tmp_path / name).read_text() == "[1]"


def test_own_pages_and_ledgers_pass(tmp_path):
    (tmp_path / "index.html").write_text(f"<head>{GENERATOR}")
    (tmp_path / "ledger.json").write_text('{"tier": "t", "entries": []}')
    own_files.check_run(tmp_path, **RUN)


@pytest.mark.parametrize(
    "name", ["one.ipynb", "one.html", "one.safetensors", "index.html", "ledger.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_is_not_read_without_end(name, kind, tmp_path):
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} (was not written by|is no)"):
        check_run(tmp_path, ["one"], "index.html")


def test_another_pack_of_the_same_name_stays(tmp_path):
    path, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    about = {**dict.fromkeys(ABOUT, ""), "notebook": "one", "parameters": {}}
    for number, file in enumerate((path, other)):
        pack.write(file, {"about": {**about, "made": str(number)}, "kept": {}}, {})
    check_pack(path)
    check_pack(path, path.read_bytes())
    check_pack(tmp_path / "none", b"")
    with pytest.raises(ValueError, match="one.safetensors is another replay pack of this name"):
        check_pack(path, other.read_bytes())
