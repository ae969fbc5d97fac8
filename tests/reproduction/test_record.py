"""Recorded notebooks hold nothing of one machine, and a picture of each figure."""

from __future__ import annotations

import base64
import io
import json
import re

import nbformat
import pytest
from PIL import Image
from stand_ins import executed_notebook

from saework.reproduction import pictures
from saework.reproduction.colab import BADGE_START, Origin, setup_cell
from saework.reproduction.html import PLOTLY_MIME, WIDGET_MIME, outputs_with, page
from saework.reproduction.record import (
    add_pictures,
    cleaned,
    edges_in,
    record,
    set_up,
)
from saework.views import plots
from saework.views.tables import RAW_MIME, show
from saework.views.themes import FIGURES_IN_NOTEBOOKS

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
    style = {"text/html": FIGURES_IN_NOTEBOOKS}
    executed = executed_notebook(raw, style, widget)
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


def test_only_the_badge_and_the_setup_cell_are_written_anew(tmp_path):
    notebook = executed_notebook()
    notebook.cells.insert(1, nbformat.v4.new_code_cell("old", metadata={"tags": ["setup"]}))
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="printed")]
    path = tmp_path / "00_start_here.ipynb"
    nbformat.write(notebook, path)
    origin = Origin("https://github.com/someone/saework")
    set_up(path, origin=origin)
    written = nbformat.read(path, as_version=4)
    assert written.cells[0].source.startswith(BADGE_START)
    assert written.cells[1].source == setup_cell("00_start_here", origin.install)
    for cell, before in zip(written.cells[1:], notebook.cells[1:]):
        assert (cell.id, cell.outputs) == (before.id, before.outputs)
    assert [cell.source for cell in written.cells[2:]] == ["1"]
    once = path.read_bytes()
    set_up(path, origin=origin)
    assert path.read_bytes() == once


def test_a_notebook_that_fails_is_not_cleaned(monkeypatch, tmp_path):
    monkeypatch.setattr("saework.reproduction.record.execute", lambda source, target: "E: why")
    path = tmp_path / "one.ipynb"
    nbformat.write(executed_notebook(), path)
    with pytest.raises(RuntimeError, match=r"one\.ipynb: E: why"):
        record(path, origin=Origin())


def test_no_browser_is_said_and_the_rest_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    monkeypatch.setattr("saework.reproduction.record.execute", lambda source, target: None)
    path = tmp_path / "one.ipynb"
    notebook = recorded(plots.line(GROUPS, title="Loss", x="step", y="loss (nats)"))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Title?"))
    nbformat.write(notebook, path)
    said = []
    record(path, origin=Origin(), say=said.append)
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
    assert output.data["image/png"].strip() not in html
    assert len(re.findall('<div [^>]*role="figure"', html)) == 1
    assert 'aria-label="Rates; x: rate; y: cosine; groups: rare, the rest"' in html
