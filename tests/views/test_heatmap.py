"""Any text goes into the heatmap, and comes out visible, inert, and of the right colour."""

import re
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saework.core.tokens import visible
from saework.views.heatmap import TokenHeatmap, token_heatmap
from saework.views.heatmap_markup import HEATMAP_STYLE, NEGATIVE, POSITIVE, STRONGEST, adaptive

MARKUP = [
    "<script>alert(1)</script>",
    "&lt;",
    "&amp;lt;",
    '" onmouseover="x',
    "'>",
    "</span></div>",
    "<!--",
    "]]>",
    "{x}",
]
NASTY = [*MARKUP, "👩\u200d👧", "\ud800", "\u202e\u200f", "\0\x1b", "\n\n", "\r\n", "\t "]
tokens = st.lists(
    st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec=None), max_size=5)),
    min_size=1,
    max_size=6,
)


class Reader(HTMLParser):
    """What a browser would see: tags, attributes, tokens, the values behind them, the legend."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.titles, self.text, self.open = set(), set(), [], "", []
        self.values, self.legend = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in ("br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "sub" in self.open:
            self.values.append(data)
        elif "small" in self.open:
            self.legend += data
        elif "style" not in self.open:
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
    assert (
        seen.tags <= {"div", "span", "small", "br", "wbr", "bdi", "sub", "style"}
        and seen.open == []
    )
    assert seen.attributes <= {"style", "title", "dir", "class"}
    assert seen.text == "".join(map(visible, strings))
    assert seen.titles == [f"{visible(s)}: {i}" for i, s in enumerate(strings)]
    assert seen.values == [f"[{i}]" for i in range(1, len(strings))]
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


def test_a_line_breaks_where_the_token_does_and_the_value_stays_on_the_tokens_line():
    heatmap = token_heatmap(["a:\n    ", "b", "\n", "\n\n"], [1.0, 0.0, 0.5, 1.0])
    html = heatmap._repr_html_()
    assert "a:↩<br>····<sub>[1]</sub></span>" in html
    assert "↩<sub>[0.5]</sub><br></span>" in html and "↩<br>↩<sub>[1]</sub><br></span>" in html
    assert repr(heatmap).startswith("a:↩\n····[1]b↩[0.5]\n↩\n↩[1]\n\n(")


def test_a_line_may_be_broken_before_a_visible_space_and_nowhere_else_within_words():
    html = token_heatmap([" a", "b", " c", "\td", "\n", " e"], [0.0] * 6)._repr_html_()
    assert re.findall(r"<wbr><span[^>]*>([^<]*)", html) == ["·c", "→d", "·e"]
    assert "overflow-wrap:anywhere" in html  # what has no space at all is broken all the same


def backgrounds(heatmap: TokenHeatmap) -> list[tuple[str, float] | None]:
    """``(colour, opacity)`` of each token, None where it has none."""
    spans = re.findall(r'<(?:span|b) title="[^"]*"(?: style="([^"]*)")?>', heatmap._repr_html_())
    found = [re.search(r"background:rgba\((\d+,\d+,\d+),([\d.]+)\)", style) for style in spans]
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
    heatmap = token_heatmap(
        ("a", "b"), torch.tensor([[1.0, -3.0]], dtype=torch.bfloat16, requires_grad=True)
    )
    assert heatmap == TokenHeatmap(strings=("a", "b"), values=(1.0, -3.0), max_value=3.0)


def test_the_legend_says_what_the_value_is_and_where_it_is_largest():
    legend = Reader(
        token_heatmap([" a", "<b>"], [0.5, 2.0], label="feature <7>, activation")._repr_html_()
    ).legend
    assert legend == "feature <7>, activation 0 0.5 1 1.5 2; largest 2 on <b>"
    legend = Reader(token_heatmap([" a", "b"], [1.0, -2.0])._repr_html_()).legend
    assert legend == "value -2 -1 0 1 2; largest -2 on b; dashed line above: below zero"
    assert (
        "largest 40 on b, beyond the scale"
        in Reader(token_heatmap("ab", [1.0, 40.0], max_value=4)._repr_html_()).legend
    )
    assert Reader(token_heatmap("ab", [0.0, 0.0])._repr_html_()).legend.endswith(
        "; zero everywhere"
    )


@pytest.mark.parametrize("label", NASTY)
def test_a_label_is_as_inert_as_a_token(label, tmp_path):
    heatmap = token_heatmap("a", [1.0], label=label, second=[1.0], second_label=label)
    seen = Reader(heatmap._repr_html_())
    assert seen.tags <= {"div", "span", "small", "bdi", "sub", "style"} and seen.open == []
    assert seen.attributes <= {"style", "title", "dir", "class"}
    page = heatmap.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and page.count("<h1>") == page.count("</title>") == 1


def test_a_sign_is_seen_without_colour():
    styles = re.findall(
        r'<span title="[^"]*" style="([^"]*)"', token_heatmap("ab", [1.0, -1.0])._repr_html_()
    )
    assert ["dashed" in style for style in styles] == [False, True]


def test_two_values_a_token_are_a_colour_and_a_bar():
    heatmap = token_heatmap(
        "abcd",
        [4.0, 0.0, 1.0, 0.0],
        second=torch.tensor([0.0, 2.0, -0.1, 0.0]),
        label="one",
        second_label="two",
    )
    html = heatmap._repr_html_()
    assert heatmap.max_value == 4.0 and heatmap.second == pytest.approx((0.0, 2.0, -0.1, 0.0))
    assert re.findall(r"border-bottom:(\d)px (\w+)", html) == [
        ("3", "solid"),
        ("1", "dashed"),
    ]  # 5 px at 4
    seen = Reader(html)
    assert seen.values == ["[4|0]", "[0|2]", "[1|-0.1]"]
    assert seen.titles == ["a: 4 | 0", "b: 0 | 2", "c: 1 | -0.1", "d: 0 | 0"]
    assert seen.legend.endswith("bar below, as thick: two; largest 2 on b")
    assert (
        repr(heatmap) == "a[4|0]b[0|2]c[1|-0.1]d\n(one; strongest colour at 4; behind the bar: two)"
    )
    assert token_heatmap("ab", [1.0, 0.0], second=[0.0, 8.0]).max_value == 8.0  # one scale for both


def test_a_marked_token_has_a_frame():
    html = token_heatmap("abc", [0.0, 1.0, 0.0], mark=1)._repr_html_()
    assert re.findall(
        r'<b title="([^"]*)" style="[^"]*outline:2px solid;outline-offset:1px"', html
    ) == ["b: 1"]
    assert html.count("outline:") == 1


def test_each_line_has_the_direction_of_its_own_text():
    html = token_heatmap(["של", "ום", "\n", " a"], [1.0, 0.0, 0.0, 2.0])._repr_html_()
    assert '<div dir="auto" style="unicode-bidi:plaintext">' in html
    assert html.count("<sub dir=ltr>") == 2  # a number's sign stays in front
    # letters join, and words keep their order, across tokens
    assert "isolate" not in html.replace(HEATMAP_STYLE, "")
    assert "<sub dir" not in token_heatmap(["a"], [1.0])._repr_html_()


def test_repr_gives_values_but_for_those_near_zero():
    assert (
        repr(token_heatmap([" a", "\n", "b"], [1.234, 0.004, -0.5]))
        == "·a[1.23]↩\nb[-0.5]\n(strongest colour at 1.23)"
    )
    assert Reader(token_heatmap([" a", "\n", "b"], [1.234, 0.004, -0.5])._repr_html_()).values == [
        "[1.23]",
        "[-0.5]",
    ]


def test_a_thousand_tokens_stay_small():
    strings, values = [" token"] * 1000, [(-1) ** i * (1 + i / 7) for i in range(1000)]
    assert (
        len(token_heatmap(strings, [abs(value) for value in values])._repr_html_().encode())
        < 130_000
    )
    assert len(token_heatmap(strings, values)._repr_html_().encode()) < 150_000
    assert len(token_heatmap(strings, [0.0] * 1000)._repr_html_().encode()) < 60_000


def test_a_saved_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    heatmap = token_heatmap(NASTY, range(len(NASTY)))
    path = heatmap.save(tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    body = adaptive(heatmap.html(style=False))
    assert (
        html.startswith("<!doctype html>")
        and body in html
        and "<style" not in body
        and HEATMAP_STYLE in html.split("</head>")[0]
    )
    page = html.replace(body, "")
    assert re.findall(r"<(script|link|img|iframe)|https?:|src=|href=|url\(", page) == []
    assert "color-scheme:light dark" in page


def test_html_is_the_same_each_time():
    assert (
        token_heatmap(NASTY, range(len(NASTY)))._repr_html_()
        == token_heatmap(NASTY, range(len(NASTY)))._repr_html_()
    )


@pytest.mark.parametrize(
    "strings, values, max_value, message",
    [
        (["a", "b"], [1.0], None, "2 strings but 1 values; give one value per string"),
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


@pytest.mark.parametrize(
    "more, message",
    [
        ({"second": [1.0]}, "2 strings but 1 values"),
        ({"second": []}, "nothing to show"),
        ({"second": [1.0, float("nan")]}, "values hold NaN"),
        ({"mark": 2}, r"mark is 2, but there are 2 tokens; give 0\.\.1"),
        ({"mark": -1}, "mark is -1"),
    ],
)
def test_a_bad_second_value_or_mark(more, message):
    with pytest.raises(ValueError, match=message):
        token_heatmap("ab", [1.0, 2.0], **more)


@pytest.mark.parametrize(
    ("strings", "values", "options", "words"),
    [
        (None, [1], {}, "strings are None; give a list"),
        ([1], [1], {}, "strings hold 1; give the text of each token"),
        ([b"a"], [1], {}, "strings hold b'a'; give the text"),
        (["a"], None, {}, "values is None; give a tensor"),
        (["a"], ["1"], {}, r"values is \['1'\]; give a tensor"),
        (["a"], [1j], {}, "values is torch.complex64.*; give real numbers"),
        (["a"], [1], {"max_value": "1"}, "max_value is '1'; give a positive number"),
        (["a"], [1], {"mark": 0.5}, "mark is 0.5; give a whole number"),
        (["a"], [1], {"label": 5}, "label is 5; give text"),
        (["a"], [1], {"second": [1], "second_label": 5}, "second_label is 5; give text"),
    ],
)
def test_arguments_of_another_kind(strings, values, options, words):
    with pytest.raises(ValueError, match=words):
        token_heatmap(strings, values, **options)
