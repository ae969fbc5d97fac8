"""Recorded notebooks hold nothing of one machine, and a picture of each figure."""

from __future__ import annotations

import base64
import io
import json

import nbformat
import pytest
from PIL import Image
from stand_ins import executed_notebook

from saework.reproduction import pictures
from saework.reproduction.html import PLOTLY_MIME, WIDGET_MIME, outputs_with, page
from saework.reproduction.record import (
    add_pictures,
    cleaned,
    edges_in,
    record,
    repository_address,
    set_badge,
    set_setup_cell,
    setup_cell,
)
from saework.views import plots
from saework.views.tables import RAW_MIME, show

GROUPS = {"rare": ([1, 2], [3, 4]), "the rest": ([5], [6])}


def as_data(figure) -> dict:
    return json.loads(figure.to_json())


def recorded(figure):
    """A notebook with a figure, as the recording command has it before it draws."""
    output = nbformat.v4.new_output(
        "display_data", data={PLOTLY_MIME: as_data(figure), "text/plain": "figure"}
    )
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output])]
    )


def test_cleaning_leaves_nothing_of_this_machine():
    raw = show({"x": 1.0})._repr_mimebundle_()
    widget = {WIDGET_MIME: {"model_id": "1"}, "text/plain": "VBox()"}
    executed = executed_notebook(raw, widget)
    executed.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stdout", text="printed")
    )
    clean = cleaned(executed)
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[1].metadata == {"tags": ["parameters"]}
    assert [sorted(output.get("data", {})) for output in clean.cells[1].outputs] == [
        ["text/html", "text/plain"],
        [],
    ]
    nbformat.validate(clean)


def test_numbers_near_a_rounding_edge_are_found():
    edge, safe = show({"x": 1.23500001})._repr_mimebundle_(), show({"x": 1.232})._repr_mimebundle_()
    assert RAW_MIME in edge
    assert edges_in(executed_notebook(edge, safe)) == [1.23500001]


@pytest.mark.parametrize("address", [None, "https://github.com/someone/saework"])
def test_the_badge_and_the_setup_cell_follow_the_address(address):
    nb = executed_notebook()
    nb.cells.append(nbformat.v4.new_code_cell("", metadata={"tags": ["setup"]}))
    for _ in range(2):  # a second time changes nothing
        set_badge(nb, "00_start_here.ipynb", address)
        set_setup_cell(nb, address)
    if address is None:
        assert nb.cells[0].source == "# Title?"
        assert "on Colab: README, The notebooks" in nb.cells[2].source
    else:
        place = "colab.research.google.com/github/someone/saework/blob/main/notebooks"
        assert nb.cells[0].source.count(f"{place}/00_start_here.ipynb") == 1
        assert nb.cells[0].source.endswith("# Title?")
        assert nb.cells[2].source.endswith(
            '    %pip install --quiet "git+https://github.com/someone/saework" {kept}'
        )


def test_the_setup_cell_keeps_numpy_and_torch(monkeypatch):
    """Run as a reader on Colab runs it, with saework missing and a stand-in for pip."""
    import importlib.metadata
    import importlib.util

    from IPython.core.interactiveshell import InteractiveShell

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "saework" else find(name)
    )
    shell, ran = InteractiveShell(), []
    shell.register_magic_function(ran.append, magic_name="pip")
    shell.run_cell(setup_cell("https://github.com/someone/saework")).raise_error()
    kept = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "torch"))
    assert ran == [f'install --quiet "git+https://github.com/someone/saework" {kept}']


def test_the_setup_cell_without_an_address_says_what_to_run(monkeypatch):
    import importlib.util

    exec(setup_cell(None))  # saework is here: nothing happens
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"run: pip install -e \. \(on Colab: README, The notebooks\)"
    ):
        exec(setup_cell(None))


def test_the_setup_cell_is_the_one_of_the_committed_notebooks():
    from saework.reproduction.run import notebook_folder

    for path in notebook_folder().glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        (setup,) = [cell for cell in cells if "setup" in cell.metadata.get("tags", [])]
        assert setup.source == setup_cell(repository_address(notebook_folder().parent))


def test_the_address_of_the_repository(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n")
    assert repository_address(tmp_path) is None
    file.write_text("[project.urls]\nRepository = 'https://github.com/someone/x'\n")
    assert repository_address(tmp_path) == "https://github.com/someone/x"


def test_a_notebook_that_fails_is_not_cleaned(monkeypatch, tmp_path):
    monkeypatch.setattr("saework.reproduction.record.execute", lambda source, target: "E: why")
    path = tmp_path / "one.ipynb"
    nbformat.write(executed_notebook(), path)
    with pytest.raises(RuntimeError, match=r"one\.ipynb: E: why"):
        record(path, repository=None)


def test_no_browser_is_said_and_the_rest_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    monkeypatch.setattr("saework.reproduction.record.execute", lambda source, target: None)
    path = tmp_path / "one.ipynb"
    notebook = recorded(plots.line(GROUPS, title="Loss", x="step", y="loss (nats)"))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Title?"))
    nbformat.write(notebook, path)
    said = []
    record(path, repository=None, say=said.append)
    assert said == [
        "one.ipynb: its figures got no picture, so GitHub will show none: "
        "no Chromium is installed (on Debian and Ubuntu: apt install chromium)"
    ]
    assert outputs_with(nbformat.read(path, as_version=4), PLOTLY_MIME)


@pytest.mark.skipif(pictures.missing() is not None, reason=str(pictures.missing()))
def test_a_recorded_figure_has_a_picture_and_a_page_shows_it_once():
    notebook = recorded(plots.scatter(GROUPS, title="Rates", x="rate", y="cosine"))
    add_pictures(notebook)
    (output,) = outputs_with(notebook, PLOTLY_MIME)
    picture = base64.b64decode(output.data["image/png"])
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (700, 340) and len(picture) < 60_000
        colours = {colour for _, colour in image.convert("RGB").getcolors()}
    assert len(colours) > 20, "the figure is blank"
    assert output.metadata == {
        "image/png": {"alt": "Rates; x: rate; y: cosine; groups: rare, the rest"}
    }
    nbformat.validate(notebook)
    html = page(notebook, title="one")
    assert output.data["image/png"].strip() not in html and html.count('role="figure"') == 1
    assert 'aria-label="Rates; x: rate; y: cosine; groups: rare, the rest"' in html
