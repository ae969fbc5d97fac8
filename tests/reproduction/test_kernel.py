"""The kernel: this Python, without the folder's files and the user's profile."""

from __future__ import annotations

import json
import sys

import nbformat
import pytest

from saework.reproduction.execute import execute
from saework.reproduction.kernel import OwnKernelManager

SHADOWS = ("torch", "ipykernel", "ipykernel_launcher", "random")


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A folder and a home full of code that leaves a file when it runs."""
    home, folder, ran = (tmp_path / name for name in ("home", "folder", "ran"))
    for made in (home, folder, ran):
        made.mkdir()

    def code(path, name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(ran / name)!r}, 'w').close()\n")

    for name in SHADOWS:
        code(folder / f"{name}.py", name)
    code(folder / "ipython_kernel_config.py", "config of the folder")
    profile = home / ".ipython" / "profile_default"
    code(profile / "startup" / "00.py", "start-up file")
    code(profile / "ipython_kernel_config.py", "config of the profile")
    code(home / "startup.py", "PYTHONSTARTUP")
    kernel = home / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = ["/usr/bin/touch", str(ran / "kernel")]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "startup.py"))
    return folder, ran


def test_no_code_of_the_folder_or_of_the_profile_runs(witness):
    folder, ran = witness
    cells = ["import sys, random\nsys.executable, '' in sys.path, random.__file__, __debug__"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    path = folder / "one.ipynb"
    nbformat.write(notebook, path)
    assert execute(path, path) is None
    assert [file.name for file in ran.iterdir()] == []
    shown = nbformat.read(path, as_version=4).cells[0].outputs[0]["data"]["text/plain"]
    assert (
        repr(sys.executable) in shown
        and shown.endswith("True)")
        and "False" in shown
        and str(folder) not in shown
    )


def test_the_kernel_is_this_python_whatever_its_name():
    for name in ("python3", "another"):
        assert OwnKernelManager(kernel_name=name).kernel_spec.argv[0] == sys.executable
