"""The markup of a heatmap: colours that can be read, values that are hidden but not lost."""

import re

import pytest
from contrasts import contrast

from saework.views.heatmap_markup import (
    DARK_STYLE,
    HEATMAP_STYLE,
    NEGATIVE,
    NEGATIVE_ON_DARK,
    POSITIVE,
    POSITIVE_ON_DARK,
    ROOT_STYLE,
    STRONGEST,
    adaptive,
    escaped_label,
    html_with_value,
    is_right_to_left,
    number_text,
    page,
    style_attribute,
    swatch,
    text_with_value,
    token_style,
)
from saework.views.themes import BRIGHTER

THEMES = {  # text and background of where notebooks are read
    "black on white": ("000000", "ffffff"),
    "white on black": ("ffffff", "000000"),
    "browser dark": ("ffffff", "121212"),
    "JupyterLab light": ("212121", "ffffff"),
    "JupyterLab dark": ("ffffff", "111111"),
    "VS Code light": ("3b3b3b", "ffffff"),
    "VS Code dark": ("cccccc", "1f1f1f"),
    "Colab dark": ("d5d5d5", "383838"),
    "GitHub dark": ("f0f6fc", "0d1117"),
}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("value", [-1.0, -0.5, 0.5, 1.0, 100.0])
def test_text_is_readable_at_every_strength_in_light_and_dark(theme, value):
    text, page_colour = (bytes.fromhex(colour) for colour in THEMES[theme])
    *colour, opacity = map(float, re.findall(r"[\d.]+", token_style(1.0, value)[0]))
    assert contrast(text, on_page(colour, opacity, page_colour)) >= 4.5


def on_page(colour, opacity, page_colour) -> list:
    """A colour of some opacity on a page's."""
    return [
        opacity * channel + (1 - opacity) * page_channel
        for channel, page_channel in zip(colour, page_colour)
    ]


# Pages that saework writes: of heatmaps (a browser's own colours), of features, of notebooks.
DARK_PAGES = [("ffffff", "121212"), ("e4e5e7", "16181b"), ("ffffff", "111111")]


@pytest.mark.parametrize("text, page_colour", DARK_PAGES)
@pytest.mark.parametrize(
    "plain, bright", [(POSITIVE, POSITIVE_ON_DARK), (NEGATIVE, NEGATIVE_ON_DARK)]
)
def test_on_dark_pages_weak_levels_are_seen_and_strong_ones_read(text, page_colour, plain, bright):
    text, page_colour = bytes.fromhex(text), bytes.fromhex(page_colour)
    plain, bright = ([int(channel) for channel in colour.split(",")] for colour in (plain, bright))
    assert contrast(text, on_page(bright, STRONGEST, page_colour)) >= 4.5
    weak = STRONGEST / 4
    before = contrast(on_page(plain, weak, page_colour), page_colour)
    assert contrast(on_page(bright, weak, page_colour), page_colour) > before


@pytest.mark.parametrize("theme", ["JupyterLab dark", "VS Code dark", "Colab dark"])
@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE])
def test_in_dark_notebooks_weak_levels_are_brighter_and_strong_ones_read(theme, colour):
    text, page_colour = (bytes.fromhex(colour) for colour in THEMES[theme])
    plain = [int(channel) for channel in colour.split(",")]
    bright = [min(255, BRIGHTER * channel) for channel in plain]
    text = [min(255, BRIGHTER * channel) for channel in text]
    assert contrast(text, on_page(bright, STRONGEST, page_colour)) >= 4.5
    weak = STRONGEST / 4
    before = contrast(on_page(plain, weak, page_colour), page_colour)
    assert contrast(on_page(bright, weak, page_colour), page_colour) > before


def test_only_a_heatmaps_backgrounds_adapt():
    span = f'<span style="background:rgba({POSITIVE},.28)">'
    assert adaptive(span) == (
        f'<span style="background:rgba(var(--saework-positive,{POSITIVE}),.28)">'
    )
    assert f"--saework-negative,{NEGATIVE}" in adaptive(f"background:rgba({NEGATIVE},.5)")
    figure = f'{{"fillcolor": "rgba({POSITIVE},.28)"}}'
    assert adaptive(figure) == figure
    assert adaptive(adaptive(span)) == adaptive(span)
    assert f"--saework-positive:{POSITIVE_ON_DARK};" in DARK_STYLE


@pytest.mark.parametrize(
    "value, second, expected",
    [
        (0.0, 0.0, []),
        (2.0, 0.0, [f"background:rgba({POSITIVE},.55)"]),
        (1.0, 0.0, [f"background:rgba({POSITIVE},.28)"]),  # half of .55, two digits
        (-2.0, 0.0, [f"background:rgba({NEGATIVE},.55)", "border-top:1px dashed"]),
        (9.0, 0.0, [f"background:rgba({POSITIVE},.55)"]),  # beyond the scale
        (0.0, 2.0, ["border-bottom:5px solid"]),
        (0.0, -0.5, ["border-bottom:2px dashed"]),  # 1.25 px, rounded up
        (0.009, 0.009, []),  # below 0.005 of the maximum
        (0.01, 0.01, [f"background:rgba({POSITIVE},.00)", "border-bottom:1px solid"]),
    ],
)
def test_a_value_is_a_colour_and_a_second_one_a_bar(value, second, expected):
    assert token_style(2.0, value, second) == expected
    assert STRONGEST == 0.55


def test_declarations_become_one_attribute():
    assert style_attribute([]) == ""
    assert style_attribute(["a:1", "b:2"]) == ' style="a:1;b:2"'


def test_a_swatch_shows_a_number_in_its_colour():
    assert swatch(0.0, 4.0) == '<span style="padding:0 .6em">0</span>'
    colour = f"background:rgba({POSITIVE},.55)"
    assert swatch(4.0, 4.0) == f'<span style="padding:0 .6em;{colour}">4</span>'


@pytest.mark.parametrize(
    "token, text, html",
    [
        ("a", "a[1]", "a[1]"),
        ("", "[1]", "[1]"),
        (" <b>", "·<b>[1]", "·&lt;b&gt;[1]"),
        ("\n", "↩[1]\n", "↩[1]<br>"),
        ("x\ny", "x↩\ny[1]", "x↩<br>y[1]"),
        ("x\n\n", "x↩\n↩[1]\n", "x↩<br>↩[1]<br>"),
    ],
)
def test_a_value_stands_behind_its_token_and_before_a_final_line_end(token, text, html):
    assert text_with_value(token, "[1]") == text
    assert html_with_value(token, "[1]") == html


@pytest.mark.parametrize(
    "text, expected",
    [("abc", False), ("", False), ("1, 2!", False), ("עברית", True), ("a ن", True)],
)
def test_text_that_is_written_from_right_to_left(text, expected):
    assert is_right_to_left(text) is expected


def test_a_number_has_three_significant_digits():
    assert [number_text(value) for value in (0.0, 1.2345, -1234.5)] == ["0", "1.23", "-1.23e+03"]


def test_a_label_keeps_its_spaces_and_hides_nothing():
    assert escaped_label("feature <7>, a\u202eb") == "feature &lt;7&gt;, a⟨U+202E⟩b"


def test_the_style_sheet_is_one_line_that_says_what_the_file_says():
    assert "\n" not in HEATMAP_STYLE
    assert HEATMAP_STYLE.count("{") == HEATMAP_STYLE.count("}") == 8
    assert HEATMAP_STYLE.startswith(".saework-heat [title]{box-shadow:inset 1px 0 rgba(")


def test_values_are_hidden_on_a_screen_only_and_only_by_the_style_sheet():
    """So that paper, forced colours, GitHub (which drops styles) and text browsers show them."""
    hiding = re.findall(r"@media ([^{]*)\{[^}]*clip-path:inset", HEATMAP_STYLE)
    assert hiding == ["screen"]
    shown_again = r"@media screen and \(forced-colors:active\)\{[^}]*clip-path:none"
    assert re.search(shown_again, HEATMAP_STYLE)
    # a screen reader would skip these
    assert "display:none" not in HEATMAP_STYLE and "visibility" not in HEATMAP_STYLE
    assert "print-color-adjust:exact" in ROOT_STYLE


def test_a_page_has_its_title_twice_and_its_body_once():
    html = page('a <b> & "c"', "<div>body</div>")
    assert html.count("a &lt;b&gt; &amp; &quot;c&quot;") == 2
    assert html.count("<div>body</div>") == 1
    assert HEATMAP_STYLE in html.split("</head>")[0]
