"""The badge and the setup cell, run as Colab runs it: with pip, and numpy and torch in place."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from stand_ins import executed_notebook

from saework.reproduction.colab import Origin, origin_of, set_badge, set_setup_cell, setup_cell
from saework.reproduction.run import notebook_folder

ADDRESS = "https://github.com/someone/saework"
SESSION = """
import importlib.util, os, subprocess, sys
from importlib.metadata import version

class Shell:
    def run_line_magic(self, name, line):
        "As IPython does: names in braces are filled in, and the shell runs pip."
        subprocess.run(f"{sys.executable} -m {name} {line.format(**globals())}", shell=True)

def get_ipython():
    return Shell()

cell, is_colab = sys.argv[1:]
if is_colab == "yes":
    sys.modules["google.colab"] = None
before = {name: version(name) for name in ("numpy", "torch")}
try:
    exec(cell)
finally:
    assert before == {name: version(name) for name in ("numpy", "torch")}
    print("kept", before)
"""


def wheel(folder: Path, name: str, version: str, source: str = "", needs: tuple[str, ...] = ()):
    """A wheel of one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", source)
        file.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with pip, and with what looks like Colab's numpy and torch."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name, version in (("numpy", "2.0.2"), ("torch", "2.6.0+cu124")):
        with zipfile.ZipFile(wheel(folder, name, version)) as file:
            file.extractall(site_packages)
    return folder


@pytest.fixture
def colab(environment, tmp_path, monkeypatch):
    """Runs a cell in the environment, beside an index that has newer ones of both."""
    python = environment / "bin" / "python"
    packages = tmp_path / "index"
    packages.mkdir()
    for name in ("numpy", "torch"):
        wheel(packages, name, "9.0")
    for name in ("PYTHONPATH", "PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))

    def run(cell: str, *, on_colab: bool = True) -> subprocess.CompletedProcess:
        code = TransformerManager().transform_cell(cell)
        command = [python, "-c", SESSION, code, "yes" if on_colab else "no"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    run.packages = packages
    yield run
    uninstall = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "saework", "extra"]
    subprocess.run(uninstall, capture_output=True, check=True)


def package(folder: Path, *needs: str) -> Path:
    source = "def plans_here(notebook):\n    return f'the plans of {notebook}'\n"
    return wheel(folder, "saework", "0.1.0", source, needs)


def test_on_colab_it_installs_beside_numpy_and_torch_and_says_the_plans(colab):
    package(colab.packages, "numpy>=1.26", "torch>=2.6", "extra")
    wheel(colab.packages, "extra", "1.0", needs=("numpy",))
    cell = setup_cell("00_start_here", "saework")
    done = colab(cell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "installs saework and what it needs, in some minutes; stays as it is: "
        "numpy==2.0.2 torch==2.6.0+cu124",
        "the plans of 00_start_here",
        "kept {'numpy': '2.0.2', 'torch': '2.6.0+cu124'}",
    ]
    again = colab(cell)
    assert again.stdout.splitlines()[0] == "the plans of 00_start_here", "installed once"
    elsewhere = colab(cell, on_colab=False)
    assert elsewhere.stdout.startswith("kept"), "it says nothing of a machine that is not Colab"


def test_an_address_is_given_to_pip_as_it_is(colab):
    """A wheel's address, since a repository's needs the tools that build it."""
    path = package(colab.packages, "numpy", "torch")
    done = colab(setup_cell("00_start_here", path.as_uri()))
    assert done.returncode == 0 and "the plans of 00_start_here" in done.stdout, done.stderr


def test_where_numpy_cannot_stay_nothing_is_installed(colab):
    package(colab.packages, "numpy>=3")
    done = colab(setup_cell("00_start_here", "saework"))
    assert done.returncode == 1 and "kept {'numpy': '2.0.2'" in done.stdout
    assert "Cannot install" in done.stderr and "No module named 'saework'" in done.stderr


@pytest.mark.parametrize("on_colab", [True, False])
def test_without_an_origin_a_strangers_package_is_not_installed(colab, on_colab):
    package(colab.packages)
    done = colab(setup_cell("00_start_here", None), on_colab=on_colab)
    assert done.returncode == 1 and done.stdout.startswith("kept")
    assert (
        "ModuleNotFoundError: saework is not installed, and nothing says yet where this cell can "
        "get it from (CONTRIBUTING, Colab). In a checkout: pip install -e . On Colab: upload the "
        "checkout and run %pip install ./saework, or run %pip install git+ADDRESS with its address"
    ) in done.stderr


def test_elsewhere_nothing_is_installed_without_being_asked(colab):
    package(colab.packages)
    done = colab(setup_cell("00_start_here", "saework"), on_colab=False)
    assert done.returncode == 1
    assert "saework is not installed; run: pip install 'saework'" in done.stderr


def test_in_a_checkout_on_colab_it_says_the_plans(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(setup_cell("10_reading_saebench", None), {})
    assert capsys.readouterr().out.startswith("This machine: ")


def test_in_a_checkout_it_says_and_imports_nothing(monkeypatch, capsys):
    exec(setup_cell("00_start_here", None), names := {})
    assert capsys.readouterr().out == "" and "plans_here" not in names


@pytest.mark.parametrize("address", [None, ADDRESS])
def test_the_badge_and_the_setup_cell_follow_the_address(address):
    nb = executed_notebook()
    nb.cells.append(nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]}))
    origin = Origin(address)
    for _ in range(2):  # a second time changes nothing
        set_badge(nb, "00_start_here.ipynb", address)
        set_setup_cell(nb, "00_start_here", origin.install)
    assert nb.cells[2].source == setup_cell("00_start_here", origin.install)
    if address is None:
        assert nb.cells[0].source == "# Title?"
    else:
        place = "colab.research.google.com/github/someone/saework/blob/main/notebooks"
        assert nb.cells[0].source.count(f"{place}/00_start_here.ipynb") == 1
        assert nb.cells[0].source.endswith("# Title?")
        assert f'%pip install --quiet "git+{ADDRESS}" {{kept}}\n' in nb.cells[2].source


def test_the_lines_of_the_cell_are_short():
    for install in (None, f"git+{ADDRESS}"):
        lines = setup_cell("02_gelu_1l_reading_a_feature", install).splitlines()
        assert max(map(len, lines)) <= 100


def test_the_setup_cell_is_the_one_of_the_committed_notebooks():
    for path in notebook_folder().glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        (setup,) = [cell for cell in cells if "setup" in cell.metadata.get("tags", [])]
        assert setup.source == setup_cell(path.stem, origin_of(notebook_folder().parent).install)
        assert setup.outputs == []


@pytest.mark.parametrize(
    ("text", "origin", "install"),
    [
        ("[project]\nname = 'x'\n", Origin(), None),
        (f"[project.urls]\nRepository = '{ADDRESS}/'\n", Origin(ADDRESS), f"git+{ADDRESS}"),
        (
            "[project]\n[tool.saework]\ncolab = 'saework>=0.1'\n",
            Origin(requirement="saework>=0.1"),
            "saework>=0.1",
        ),
        (
            f"[project.urls]\nRepository = '{ADDRESS}'\n[tool.saework]\ncolab = 'saework'\n",
            Origin(ADDRESS, "saework"),
            f"git+{ADDRESS}",
        ),
    ],
)
def test_what_pyproject_says(tmp_path, text, origin, install):
    (tmp_path / "pyproject.toml").write_text(text)
    assert origin_of(tmp_path) == origin and origin.install == install


@pytest.mark.parametrize("value", ['""', "true", "'saework; rm'", "'\"'"])
def test_what_pyproject_may_not_say(tmp_path, value):
    file = tmp_path / "pyproject.toml"
    file.write_text(f"[project]\n[tool.saework]\ncolab = {value}\n")
    with pytest.raises(ValueError, match=r"tool.saework.colab of pyproject.toml is .*'saework'"):
        origin_of(tmp_path)
    file.write_text(f"[project.urls]\nRepository = {value}\n")
    with pytest.raises(ValueError, match=r"project.urls.Repository .* 'https://github.com/OWNER"):
        origin_of(tmp_path)
