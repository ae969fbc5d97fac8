"""Anything goes into the heatmap, and comes out visible, inert, and of the right colour."""

import re
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saework.heatmap import NEGATIVE, POSITIVE, STRONGEST, TokenHeatmap, token_heatmap
from saework.tokens import visible

MARKUP = ["<script>alert(1)</script>", "&lt;", "&amp;lt;", '" onmouseover="x', "'>", "</span></div>", "<!--", "]]>", "{x}"]
NASTY = [*MARKUP, "👩\u200d👧", "\ud800", "\u202e\u200f", "\0\x1b", "\n\n", "\r\n", "\t "]
tokens = st.lists(st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec=None), max_size=5)), min_size=1, max_size=6)


class Reader(HTMLParser):
    """What a browser would see: tags, attributes, and the text outside the legend."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.titles, self.text, self.open = set(), set(), [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title"]
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "small" not in self.open:
            self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment came out: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


@settings(deadline=None)
@given(tokens)
@example(NASTY)
def test_any_text_comes_out_visible_and_inert(strings):
    html = token_heatmap(strings, range(len(strings)))._repr_html_()
    seen = Reader(html)
    assert seen.tags <= {"div", "span", "small", "br"} and seen.open == []
    assert seen.attributes <= {"style", "title"}
    assert seen.text == "".join(map(visible, strings))
    assert seen.titles == [f"{visible(s)}: {i}" for i, s in enumerate(strings)]
    assert html.count("<br>") == sum(s.count("\n") for s in strings)
    html.encode()  # no lone surrogate is left


@settings(deadline=None)
@given(tokens)
@example(NASTY)
def test_any_text_prints(strings):
    text = repr(token_heatmap(strings, [0.0] * len(strings), max_value=1))
    lines = ["↩\n".join(map(visible, string.split("\n"))) for string in strings]
    assert text == "".join(lines) + "\n(strongest colour at 1)"
    text.encode()


def test_a_line_breaks_where_the_token_does():
    heatmap = token_heatmap(["a:\n    ", "b"], [1.0, 0.0])
    assert "a:↩<br>····</span>" in heatmap._repr_html_()
    assert repr(heatmap).startswith("a:↩\n····[1]b")


def backgrounds(heatmap: TokenHeatmap) -> list[tuple[str, float] | None]:
    """``(colour, opacity)`` of each token, None where it has none."""
    spans = re.findall(r'<span title="[^"]*" style="([^"]*)"', heatmap._repr_html_())
    found = [re.match(r"background-color:rgba\((\d+,\d+,\d+),([\d.]+)\)", style) for style in spans]
    return [(match[1], float(match[2])) if match else None for match in found]


def test_colour_says_sign_and_size():
    assert backgrounds(token_heatmap("abcd", [2.0, 1.0, 0.0, -2.0])) == [
        (POSITIVE, STRONGEST),
        (POSITIVE, pytest.approx(STRONGEST / 2, abs=0.01)),
        None,
        (NEGATIVE, STRONGEST),
    ]


def test_a_maximum_makes_heatmaps_comparable():
    assert backgrounds(token_heatmap("ab", [1.0, 40.0], max_value=4.0)) == [
        (POSITIVE, pytest.approx(STRONGEST / 4, abs=0.01)),
        (POSITIVE, STRONGEST),  # beyond the maximum nothing gets stronger
    ]


def test_all_zero_has_no_colour_and_does_not_divide():
    heatmap = token_heatmap("ab", [0.0, 0.0])
    assert heatmap.max_value == 1.0
    assert backgrounds(heatmap) == [None, None]


def test_values_come_as_tensors_of_any_shape():
    heatmap = token_heatmap(("a", "b"), torch.tensor([[1.0, -3.0]], dtype=torch.bfloat16, requires_grad=True))
    assert heatmap == TokenHeatmap(strings=("a", "b"), values=(1.0, -3.0), max_value=3.0)


def test_the_legend_shows_a_negative_end_only_where_there_is_one():
    assert "-2" not in token_heatmap("ab", [0.0, 2.0])._repr_html_()
    assert ">-2</span>" in token_heatmap("ab", [-1.0, 2.0])._repr_html_()


def test_repr_gives_values_but_for_those_near_zero():
    assert repr(token_heatmap([" a", "\n", "b"], [1.234, 0.004, -0.5])) == "·a[1.23]↩\nb[-0.5]\n(strongest colour at 1.23)"


def test_a_saved_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    heatmap = token_heatmap(NASTY, range(len(NASTY)))
    path = heatmap.save(tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and heatmap._repr_html_() in html
    page = html.replace(heatmap._repr_html_(), "")
    assert re.findall(r"<(script|link|img|iframe)|https?:|src=|href=|url\(", page) == []
    assert "color-scheme:light dark" in page


def test_html_is_the_same_each_time():
    assert token_heatmap(NASTY, range(len(NASTY)))._repr_html_() == token_heatmap(NASTY, range(len(NASTY)))._repr_html_()


@pytest.mark.parametrize(
    "strings, values, max_value, message",
    [
        (["a", "b"], [1.0], None, "2 strings but 1 values; give one value a string"),
        ([], [], None, "nothing to show: .* give at least one token"),
        (["a"], [float("nan")], None, "values hold NaN or infinity; a colour needs finite numbers"),
        (["a"], torch.tensor([float("inf")]), None, "values hold NaN or infinity"),
        (["a"], [1.0], 0, "max_value is 0; give a positive number, or leave it out"),
        (["a"], [1.0], -2.5, "max_value is -2.5; give a positive number"),
        (["a"], [1.0], float("nan"), "max_value is nan; give a positive number"),
        (["a"], [1.0], float("inf"), "max_value is inf; give a positive number"),
    ],
)
def test_bad_input(strings, values, max_value, message):
    with pytest.raises(ValueError, match=message):
        token_heatmap(strings, values, max_value=max_value)
