"""Parts of a page as text, and the chart's geometry."""

from __future__ import annotations

import math

import pytest
from page_checks import html_of, tree

from saework.views.feature_page.parts import Bars, Grid, Section, decimals, percent, signed

SVG = "{http://www.w3.org/2000/svg}"


def test_a_grid_as_text():
    rows = (("·def", "1.25", "no"), ("a", "-10.5", "yes"))
    grid = Grid("Tokens", ("token", "logit", "word"), rows, words=(2,), tokens=(0,))
    assert grid.text() == ("Tokens\n  token  logit  word\n  ·def    1.25  no\n  a      -10.5  yes")
    assert [grid.column_class(i) for i in range(3)] == ["token", "", "left"]


def bars(counts, **options):
    edges = tuple(str(i) for i in range(len(counts) + 1))
    return Bars("Histogram", "activation", edges, tuple(counts), **options)


def test_bars_as_text_and_as_a_table():
    chart = bars([1, 0, 1200])
    assert chart.text() == (
        "Histogram (activation)\n"
        f"  0 to 1  {'█':30}  1\n"
        f"  1 to 2  {'':30}  0\n"
        f"  2 to 3  {'█' * 30}  1200"
    )
    assert chart.grid().columns == ("from", "to", "firings")
    assert chart.grid().rows[2] == ("2", "3", "1,200")
    assert chart.spoken() == (
        "Histogram: 3 bars, activation from 0 to 3; the highest, 2 to 3, holds 1200."
    )


def test_bars_fill_the_chart_and_are_to_scale():
    drawn = bars([1, 4, 2]).drawn()
    assert [bar.height for bar in drawn] == [32, 128, 64]
    assert [bar.y + bar.height for bar in drawn] == [150, 150, 150]
    assert drawn[0].x == pytest.approx(8.5)
    assert drawn[-1].x + drawn[-1].width == pytest.approx(640 - 8.5)
    assert all(bar.has_number for bar in drawn)


def test_where_there_is_no_room_only_the_highest_has_its_number():
    drawn = bars([1_000_000, *[1] * 19, 1_000_000]).drawn()
    assert [i for i, bar in enumerate(drawn) if bar.has_number] == [0, 20]


def test_few_bars_have_a_label_at_each_edge_and_many_at_each_second():
    assert [tick.label for tick in bars([1] * 3).ticks()] == ["0", "1", "2", "3"]
    many = bars([1] * 11, label_from=3)
    assert [tick.label for tick in many.ticks()] == ["1", "3", "5", "7", "9", "11"]
    anchors = [tick.anchor for tick in bars([1] * 3).ticks()]
    assert anchors == ["start", "middle", "middle", "end"]


def test_the_histogram_is_drawn_to_scale(pages, tmp_path):
    svg = next(tree(html_of(pages[7], tmp_path)).iter(f"{SVG}svg"))
    heights = [float(bar.get("height")) for bar in svg.iter(f"{SVG}rect")]
    counts = [n for n in pages[7].histogram["firings"] if n]
    expected = [max(max(heights) * n / max(counts), 1.0) for n in counts]
    assert heights == pytest.approx(expected, abs=0.06)
    assert f"holds {max(counts)}." in svg.get("aria-label")


def test_a_bar_of_few_is_seen_and_those_below_zero_are_apart():
    drawn = bars([1, 1_000_000, 5], n_below=1).drawn()
    assert [bar.height >= 1 for bar in drawn] == [True] * 3
    assert [bar.is_below for bar in drawn] == [True, False, False]
    assert [bar.is_highest for bar in drawn] == [False, True, False]


def test_a_phone_has_room_for_every_third_label():
    ticks = bars([1] * 8, label_from=2).ticks()
    assert [tick.label for tick in ticks if tick.is_shown_on_phones] == ["2", "5", "8"]


def test_a_table_of_many_columns_is_scrolled():
    assert Grid("A", ("b", "c", "d", "e"), ()).is_wide and not Grid("A", ("b", "c"), ()).is_wide


def test_a_section_as_text():
    section = Section("Near", ("One.",), (Grid("A", ("b",), (("c",),)),), ("Small print.",))
    assert section.text() == "NEAR\nOne.\nA\n  b\n  c\nSmall print."


def test_numbers_as_words():
    values = (0.0004, -0.0004, 0.0126, -1.0, math.nan)
    assert [signed(v) for v in values] == ["0.000", "0.000", "+0.013", "-1.000", "–"]
    assert [decimals(v, 2) for v in values] == ["0.00", "0.00", "0.01", "-1.00", "–"]
    assert [percent(v) for v in (0.5, 0.0136, 1.0, math.nan)] == ["50%", "1.36%", "100%", "–"]
