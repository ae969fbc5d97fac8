"""Dark themes: rules that reach dark notebooks only, and colours that can be read there."""

import pytest
from contrasts import contrast

from saework.views import themes
from saework.views.figure_style import COLOURS, GREY, INK, WHITE


def test_figures_change_on_a_screen_in_dark_notebooks_only():
    style = themes.FIGURES_IN_NOTEBOOKS
    assert style.startswith("<style>@media screen {") and style.endswith("</style>")
    rules = style.splitlines()[1:-1]
    assert all(rule.startswith(f"{themes.DARK_NOTEBOOKS} .js-plotly-plot ") for rule in rules)
    assert themes.HEATMAPS_IN_NOTEBOOKS.startswith(f"@media screen{{{themes.DARK_NOTEBOOKS} .sae")


def test_figures_change_anywhere_in_a_dark_page():
    rules = themes.dark_figures().splitlines()
    assert rules[0] == ".js-plotly-plot .main-svg { background: transparent !important; }"
    assert len(rules) == len(themes.dark_figures("main").splitlines()) > 5


@pytest.mark.parametrize("colour", [INK, WHITE])
def test_what_changes_are_the_colours_of_the_look(colour):
    red, green, blue = bytes.fromhex(colour[1:])
    assert f"rgb({red}, {green}, {blue})" in themes.dark_figures()


@pytest.mark.parametrize(
    "colour, page, least",
    [
        (INK, WHITE, 4.5),
        (themes.INK_ON_DARK, themes.DARK_PAPER, 4.5),
        (themes.INK_ON_DARK, "#383838", 4.5),  # Colab
        (GREY, themes.DARK_PAPER, 3),  # intervals
        *((colour, themes.DARK_PAPER, 3) for colour in COLOURS),
    ],
)
def test_texts_and_lines_stand_out(colour, page, least):
    assert contrast(bytes.fromhex(colour[1:]), bytes.fromhex(page[1:])) >= least
