"""The commands, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import nbformat
import pytest

from saework import cli
from saework.core.ledger import Ledger
from saework.loading import requirements
from saework.reproduction import run


@pytest.fixture
def one_notebook(tmp_path, monkeypatch):
    """A release whose only notebook displays a ledger; ``write(measured)`` makes it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(run, "notebook_folder", lambda: folder)
    monkeypatch.setitem(run.NOTEBOOKS, "gelu-1l-mini", ("one",))

    def write(code: str):
        head = (
            "from saework import Claim, Ledger\n"
            "claim = Claim('x', 1.0, '', 'a paper', 0.1, RELEASE)\n"
            "ledger = Ledger([claim], tier=RELEASE)\n"
        )
        cells = [
            nbformat.v4.new_code_cell("RELEASE = 'nothing'", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(head + code),
        ]
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "one.ipynb")

    return write


@pytest.mark.parametrize(
    "code, exit_code",
    [
        ("ledger.record('x', 1.05)\nledger", 0),
        ("ledger.record('x', 2.0)\nledger", 1),
        ("ledger", 3),
        ("ledger.not_comparable('x', 'no corpus')\nledger", 3),
    ],
)
def test_reproduce_exits_with_the_verdict(one_notebook, tmp_path, capsys, code, exit_code):
    one_notebook(code)
    command = ["reproduce", "gelu-1l-mini", "--verbose", "--out", str(tmp_path / "out")]
    assert cli.main(command) == exit_code
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "one.ipynb",
        "one.html",
        "one.safetensors",
        "ledger.json",
        "index.html",
    }
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert Ledger.from_dict(ledger).exit_code == exit_code
    assert "a paper" in capsys.readouterr().out


def test_a_broken_notebook_is_kept_and_said(one_notebook, tmp_path, capsys):
    one_notebook("raise RuntimeError('the reason')")
    assert cli.main(["reproduce", "gelu-1l-mini", "--out", str(tmp_path / "out")]) == 1
    assert "one: RuntimeError: the reason" in capsys.readouterr().err
    assert (tmp_path / "out" / "one.html").exists()


def test_a_study_is_reproduced_though_there_is_nothing_to_load(
    one_notebook, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(run.NOTEBOOKS, "saebench", ("one",))
    one_notebook("ledger.record('x', 1.05)\nledger")
    assert cli.main(["reproduce", "saebench", "--out", str(tmp_path / "out")]) == 0
    assert "Published: 1 of 1 run here, all hold" in capsys.readouterr().out


def test_an_interrupted_run_says_what_is_kept(one_notebook, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "reproduce", interrupted)
    out = tmp_path / "out"
    assert cli.main(["reproduce", "gelu-1l-mini", "--out", str(out)]) == 130
    assert f"saework: stopped; what was finished is in {out}" in capsys.readouterr().err


def test_an_unknown_release_is_named_with_its_neighbours(capsys):
    assert cli.main(["reproduce", "gelu-1l-mni"]) == 2
    assert "Did you mean 'gelu-1l-mini'" in capsys.readouterr().err


def test_no_word_of_an_error_is_cut_in_a_terminal(capsys, monkeypatch):
    assert cli.main(["reproduce", "gelu-1l-mni"]) == 2
    plain = capsys.readouterr().err
    assert len(plain.splitlines()) == 1
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["reproduce", "gelu-1l-mni"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and max(map(len, lines)) <= 60
    assert " ".join(lines) == plain.strip()


def test_list_and_preflight(capsys):
    assert cli.main(["list"]) == 0
    assert "gelu-1l-mini" in capsys.readouterr().out
    assert cli.main(["list", "--all"]) == 0
    listed = capsys.readouterr().out
    assert "gpt2-small-res-jb" in listed and "SAEs; every function is right with" in listed
    assert cli.main(["preflight", "gelu-1l-mini"]) == 0
    assert "gelu-1l-mini: ready" in capsys.readouterr().out


def test_the_releases_fit_into_eighty_columns(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = {line.split()[0]: line.split()[2:] for line in lines[1:8]}
    assert listed["gelu-1l-mini"] == ["offline", "1", "GB", "no"]
    assert listed["gemma-2b-res-jb"] == ["5.3", "GB", "14", "GB", "yes"]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--device cpu --dtype bfloat16", "['cpu', 'bfloat16']"),
        ("--dtype float16", "['own', 'float16']"),
        ("", "['own', 'own']"),
    ],
)
def test_device_and_dtype_are_passed_to_the_notebooks(
    words, given, tmp_path, monkeypatch, one_notebook
):
    one_notebook(f"assert [DEVICE, DTYPE] == {given}\nledger.record('x', 1.0)\nledger")
    path = tmp_path / "notebooks" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "RELEASE = ''\nDEVICE = 'own'\nDTYPE = 'own'"
    nbformat.write(notebook, path)
    out = str(tmp_path / "out")
    assert cli.main(["reproduce", "gelu-1l-mini", "--out", out, *words.split()]) == 0


def test_a_notebook_without_these_parameters_gets_none(one_notebook, tmp_path):
    one_notebook("assert 'DEVICE' not in globals()\nledger.record('x', 1.0)\nledger")
    words = ["reproduce", "gelu-1l-mini", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(words) == 0


def test_what_is_too_large_is_left_out_or_forced(one_notebook, tmp_path, machine, capsys):
    """Memory for no notebook at all; --force runs them, and is over afterwards."""
    one_notebook("import os\nassert os.environ['SAEWORK_FORCE']\nledger.record('x', 1.0)\nledger")
    words = ["reproduce", "gelu-1l-mini", "--out", str(tmp_path / "out")]
    machine(memory_gb=0.5)
    assert cli.main(words) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "about 1.0 GB of memory needed but 0.5 GB available" in shown
    assert cli.main(["preflight", "gelu-1l-mini"]) == 3
    assert cli.main(["preflight", "gelu-1l-mini", "--force"]) == 0
    assert "  note      about 1.0 GB" in capsys.readouterr().out
    assert cli.main([*words, "--force"]) == 0
    assert "SAEWORK_FORCE" not in os.environ


def test_notebooks_that_do_not_fit_are_left_out(one_notebook, tmp_path, monkeypatch, capsys):
    one_notebook("ledger.record('x', 1.0)\nledger")
    monkeypatch.setitem(run.NOTEBOOKS, "gelu-1l-mini", ("one", "06_large"))
    plain = requirements.preflight

    def preflight(*given, **options):
        return replace(plain(*given, **options), too_large=("06_large",))

    monkeypatch.setattr(requirements, "preflight", preflight)
    assert cli.main(["reproduce", "gelu-1l-mini", "--out", str(tmp_path / "out")]) == 3
    shown = capsys.readouterr()
    assert "06_large is left out: it does not fit (--force runs it too)" in shown.out + shown.err


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["reproduce", "gelu-1l-mini", "--device", "cuda"]) == 2
    assert "torch sees no CUDA GPU on this machine; give 'cpu'" in capsys.readouterr().err


def test_without_a_command_the_first_steps_are_shown(capsys):
    assert cli.main([]) == 0
    assert "saework reproduce gelu-1l-mini" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"saework {version('saework')}\n"


SLOW = {"torch", "pandas", "sae_lens", "nbconvert"}
AFTER = f'\nimport sys\nprint(*({SLOW} & set(sys.modules)), "end")'


@pytest.mark.parametrize(
    ("words", "exit_code", "too_slow"),
    [
        ([], 0, SLOW),
        (["list"], 0, {"sae_lens", "nbconvert"}),
        (["preflight", "gelu-1l-mini"], 0, {"sae_lens", "nbconvert"}),
        (["reproduce", "gelu-1l-mni"], 2, {"sae_lens", "nbconvert"}),
        (["page", "gpt2-smal-res-jb", "7"], 2, {"sae_lens", "nbconvert"}),
        (["reproduce", "gelu-1l-mini", "--device", "gpu"], 2, SLOW),
        (["preflight", "gelu-1l-mini", "--dtype", "bf16"], 2, SLOW),
    ],
)
def test_a_first_answer_imports_nothing_slow(words, exit_code, too_slow):
    code = f"from saework import cli\nassert cli.main({words!r}) == {exit_code}{AFTER}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported & (too_slow | {"end"}) == {"end"}


def test_notebooks_are_copied_and_never_overwritten(tmp_path, capsys):
    assert cli.main(["notebooks", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.ipynb")}
    assert {f"{name}.ipynb" for name in run.NOTEBOOKS["gelu-1l"]} <= names
    mine = tmp_path / "00_start_here.ipynb"
    mine.write_text("my work")
    assert cli.main(["notebooks", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert (
        said.startswith("saework: 00_start_here.ipynb and 11 others in") and "\n" not in said[:-1]
    )
    assert mine.read_text() == "my work"


@pytest.mark.parametrize("command", "list preflight reproduce page replay notebooks record".split())
def test_each_command_says_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0 and f"saework {command}" in capsys.readouterr().out


def test_what_is_recorded(one_notebook, tmp_path, monkeypatch, capsys):
    recorded = []
    monkeypatch.setattr(
        "saework.reproduction.record.record", lambda path, origin: recorded.append(path.stem)
    )
    set_up = []
    monkeypatch.setattr(
        "saework.reproduction.record.set_up",
        lambda path, origin: set_up.append((path.stem, origin.install)),
    )
    one_notebook("ledger")
    assert cli.main(["record"]) == 2
    assert "is not in the repository" in capsys.readouterr().err
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert cli.main(["record", "onee"]) == 2
    assert "there is no notebook 'onee'. Did you mean 'one'?" in capsys.readouterr().err
    assert cli.main(["record"]) == cli.main(["record", "one"]) == 0
    assert recorded == ["one", "one"]
    assert "no project.urls.Repository" in capsys.readouterr().err
    (tmp_path / "pyproject.toml").write_text("[project.urls]\nRepository = 'https://x.org/y'\n")
    assert cli.main(["record", "--setup-only"]) == 0
    assert recorded == ["one", "one"] and set_up == [("one", "git+https://x.org/y")]
    assert capsys.readouterr().err == ""


def test_a_page_goes_into_a_folder_of_its_own(tmp_path, capsys):
    (tmp_path / "index.html").write_text("mine")
    for out, words in (
        (tmp_path / "index.html", "index.html is a file; give a folder (--out DIR)"),
        (tmp_path, "index.html was not written by saework, and is left as it is"),
    ):
        assert cli.main(["page", "gelu-1l-mini", "7", "--out", str(out)]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.out == ""


def test_a_note_on_the_command_line_is_not_lost_by_the_next_call(monkeypatch, tmp_path, capsys):
    class Loaded(Exception):
        pass

    def load(*arguments, **options):
        raise Loaded

    monkeypatch.setattr("saework.loading.workbook.load", load)
    (tmp_path / "feature-7.html").write_text("<meta name='generator' content='saework'>")
    line = {"feature": 7, "firing_rate": 0.1, "max_activation": 1.0, "note": "my finding"}
    kept = {"source": "s", "counted": "c", "lines": [line]}
    (tmp_path / "pages.json").write_text(json.dumps(kept))
    command = ["page", "gelu-1l-mini", "7", "8", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "feature-7.html has a note of yours, which would be lost; give it again (--note" in said
    for allowed in (
        [*command, "--note", ""],
        [*command, "--note", "more"],
        ["page", *command[1:2]],
    ):
        with pytest.raises(Loaded):
            cli.main([*allowed, "8", "--out", str(tmp_path)] if len(allowed) == 2 else allowed)


@pytest.mark.parametrize(
    "name, release", [("saebench", "gelu-1l-mini"), ("feature-ordering", "gemma-mini")]
)
def test_a_study_is_no_release_but_has_one(name, release, capsys):
    assert cli.main(["page", name, "7"]) == 2
    assert f"'{name}' is a study, and no release to load; saework reproduce" in (
        capsys.readouterr().err
    )
    assert cli.main(["preflight", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name} is a study, and its model is that of {release}\n")
    assert f"{release}: ready" in said
