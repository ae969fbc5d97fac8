"""Numbers as they are shown: three significant digits, and when a last bit could show."""

import json
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.views.tables import RAW_MIME, near_rounding_edge, show, significant


@pytest.mark.parametrize(
    "value, shown",
    [
        (0.911234, "0.911"),
        (3.0, "3"),
        (-0.05, "-0.05"),
        (0.0, "0"),
        (12.345, "12.3"),
        (999.4, "999"),
        (999.9, "1,000"),
        (1234.6, "1,230"),
        (-54321.0, "-54,300"),
        (2345678.0, "2.35e+06"),
        (0.000012345, "1.23e-05"),
        (1234567, "1,234,567"),
        (np.int64(12345), "12345"),
        (np.float32(0.5), "0.5"),
        (float("nan"), "–"),
        (float("inf"), "inf"),
    ],
)
def test_significant(value, shown):
    assert significant(value) == shown


@settings(deadline=None)
@given(st.floats(1e-8, 1e8), st.integers(1, 6))
def test_what_is_shown_has_so_many_digits_and_is_near(value, digits):
    text = significant(value, digits).replace(",", "")
    assert float(text) == float(f"{Decimal(value):.{digits}g}")
    assert abs(float(text) - value) <= 0.5000001 * 10 ** (1 - digits) * value * 10


def test_a_mapping_becomes_a_table():
    table = show(
        {
            "loss": 3.25461,
            "tokens": 8192,
            "hook": "mlp",
            "scored": True,
            "bound": torch.tensor(0.12345),
        }
    )
    assert [line.split() for line in repr(table).split("\n")] == [
        ["value"],
        ["loss", "3.25"],
        ["tokens", "8192"],
        ["hook", "mlp"],
        ["scored", "True"],
        ["bound", "0.123"],
    ]


def test_a_mapping_to_lists_has_columns():
    table = show({"run1": [0.5, 12], "run2": (0.25, 7)}, columns=["score", "dead"])
    assert table.frame.columns.tolist() == ["score", "dead"]
    assert [line.split() for line in repr(table).split("\n")[1:]] == [
        ["run1", "0.5", "12"],
        ["run2", "0.25", "7"],
    ]


def test_digits_are_chosen():
    assert "3.2546" in repr(show({"loss": 3.25461}, digits=5))


def test_a_frame_keeps_its_columns_and_whole_numbers():
    table = show(
        pd.DataFrame({"n": [12345, 7], "rate": [0.00123456, np.nan], "token": ["·the", "<b>"]})
    )
    assert [line.split() for line in repr(table).split("\n")[1:]] == [
        ["0", "12345", "0.00123", "·the"],
        ["1", "7", "–", "<b>"],
    ]


def test_html_is_escaped():
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)
    parser.feed(show({"<i>": "<script>&lt;"})._repr_mimebundle_()["text/html"])
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td"}


def test_raw_numbers_are_the_rounded_ones_only():
    frame = pd.DataFrame(
        {"n": [12345, 6], "rate": [0.123456, np.nan], "dead": [True, False], "word": ["a", "b"]}
    )
    raw = show(frame, digits=4)._repr_mimebundle_()[RAW_MIME]
    assert raw == {"digits": 4, "numbers": [0.123456]}
    assert show(frame[["n", "rate"]])._repr_mimebundle_()[RAW_MIME]["numbers"] == [0.123456]
    json.dumps(raw)


@pytest.mark.parametrize(
    "number, edge",
    [
        (1.235, True),
        (1.23501, True),
        (1.2349, True),
        (1.2347, False),
        (1.23, False),
        (-1.235, True),
        (9.995, True),
        (0.0, False),
    ],
)
def test_near_rounding_edge(number, edge):
    assert near_rounding_edge(number) is edge


@settings(deadline=None)
@given(st.floats(0.001, 900_000), st.floats(-1e-4, 1e-4))
def test_a_number_off_the_edge_prints_the_same_when_it_wobbles(number, wobble):
    if not near_rounding_edge(number):
        assert significant(number) == significant(number * (1 + wobble))


@settings(deadline=None)
@given(st.integers(100, 998), st.integers(-6, 5))
def test_the_middle_between_two_printed_numbers_is_an_edge(digits, exponent):
    assert near_rounding_edge((digits + 0.5) * 10.0**exponent)
    assert not near_rounding_edge(digits * 10.0**exponent)


def test_what_is_no_table():
    with pytest.raises(ValueError, match="data is a str; give a frame, or a dict of numbers"):
        show("gelu-1l")


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ({"a": [1, 2]}, {}, "row 'a' has 2 values for 1 columns; give columns="),
        ({"a": torch.ones(3)}, {}, "row 'a' has 3 values for 1 columns"),
        ({"a": 1}, {"columns": 5}, "columns is 5; give a list of names"),
        ({"a": 1}, {"columns": ["x", "y"]}, "row 'a' has 1 values for 2 columns"),
        ({"a": 1.5}, {"digits": -1}, "digits is -1; give a whole number of at least 1"),
        ({"a": 1.5}, {"digits": "3"}, "digits is '3'; give a whole number"),
        ({"a": 1.5}, {"digits": 100}, "digits is 100; give 17 at most"),
    ],
)
def test_rows_and_digits_that_do_not_fit(data, options, words):
    with pytest.raises(ValueError, match=words):
        show(data, **options)


def test_arrays_and_tensors_are_rows_of_numbers():
    shown = show({"a": torch.tensor([1.0, 2.0]), "b": np.array([3, 4])}, columns=["x", "y"])
    assert shown.frame.values.tolist() == [[1.0, 2.0], [3, 4]]
