"""Plain values, hostile ones among them, and where a text that holds none is wrong."""

from __future__ import annotations

import cProfile
import json
import math
import warnings

import numpy as np
import pytest

from saework.studies.saebench import ResultError
from saework.studies.saebench.literals import MAX_DEPTH, MAX_EXPRESSION, values_in


def refused(text: str) -> str:
    with pytest.raises(ResultError) as caught:
        list(values_in(text, "result.json", marks=("a",)))
    return str(caught.value)


@pytest.mark.parametrize(
    "literal, value",
    [
        ("{'a': (1, 2,), 'b': [],}", {"a": [1, 2], "b": []}),
        (
            "{'a': nan, 'b': -inf, 'c': 1e3, 'd': .5, 'e': -3}",
            {"a": math.nan, "b": -math.inf, "c": 1000.0, "d": 0.5, "e": -3},
        ),
        ("{'it\\'s': \"a '{\", 'x': '\\u00e9\\n'}", {"it's": "a '{", "x": "é\n"}),
        ('{"a": NaN, "b": "\\ud83d\\ude00", "c": true}', {"a": math.nan, "b": "😀", "c": True}),
        ("{'a': {1: 'one', None: True}}", {"a": {"1": "one", "null": True}}),
    ],
)
def test_what_a_value_may_hold(literal, value):
    ((place, found),) = values_in(f"so: {literal}.", "text", marks=())
    assert repr(found) == repr(value) and place == "text, line 1"


def test_the_values_of_a_text_come_in_order_with_their_lines():
    text = "{'a': 1} and {'b': 2}\n# Don't {stop}\n{\n 'c':\n 3}\n{'d': 4}"
    found = list(values_in(text, "text", marks=()))
    assert [place for place, _ in found] == [f"text, line {line}" for line in (1, 1, 3, 6)]
    assert [value for _, value in found] == [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}]


def test_a_value_without_a_mark_is_not_raised():
    ((_, error), (_, value)) = values_in("{'b': f()} {'a': 1}", "text", marks=("'a'",))
    assert isinstance(error, ResultError) and value == {"a": 1}


@pytest.mark.parametrize("seed", range(5))
def test_a_python_literal_gives_what_its_json_gives(seed):
    """Two ways through: the syntax tree, and the JSON decoder."""
    value = {"a": random_value(np.random.default_rng(seed), depth=5)}
    ((_, from_literal),) = values_in(f"{value!r}", "text", marks=())
    ((_, from_json),) = values_in(json.dumps(value), "text", marks=())
    assert from_literal == from_json == value


def random_value(random, depth):
    n = random.integers(4)
    if depth and n == 0:
        return [random_value(random, depth - 1) for _ in range(4)]
    if depth and n == 1:
        return {f"it's {i}": random_value(random, depth - 1) for i in range(4)}
    scalars = [None, True, 0, -17, 0.1, -2.5e-7, 1e300, "", "é 😀", 'say "x"', "it's", "{\n\\"]
    return scalars[random.integers(len(scalars))]


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "x\n{'eval_type_id': 'core', 'm': [1, 2",
            "begins at result.json, line 2, column 1 is not closed: "
            "the text ends at line 2 with 2 bracket",
        ),
        (
            "{'eval_type_id': 'co",
            "line 1, column 18: the string that begins here does not end on its line. "
            "Is the file whole?",
        ),
        ('{"eval_ty', "line 1, column 2: the string that begins here"),
        ("{'a': [1, 2}}", "line 1, column 12: '}' closes a bracket of another kind"),
        (
            "{'a': __import__('os').system('true')}",
            "line 1, column 7: '__import__' is a call, and nothing is evaluated here",
        ),
        ("{'a':\n np.float64(0.5)}", "line 2, column 2: 'np.float64' is a call"),
        ("\n {'é😀':\n\n 'é', 'a': [f()]}", "line 4, column 13: 'f' is a call"),
        ("{'a': x}", "line 1, column 7: 'x' is no plain value"),
        (
            "{'a': 1 + 1}",
            "line 1, column 7: '1 + 1' is no plain value, and nothing is evaluated here; "
            "write strings, numbers, lists and mappings only",
        ),
        ("{'a': b'x'}", "\"b'x'\" is no plain value"),
        ("{'a': {1, 2}}", "line 1, column 7: '{1, 2}' is no plain value"),
        ("{'a': f'{x}'}", "is no plain value"),
        ("{'a': 1j}", "'1j' is no plain value"),
        ("{'a': ...}", "'...' is no plain value"),
        ("{'a': -True}", "'-True' is no plain value"),
        ("{'a': ~1}", "'~1' is no plain value"),
        ("{'a': 1, **b}", "'b' is no plain value"),
        ("{'a': [*b]}", "'*b' is no plain value"),
        ("{'a': 1, (1, 2): 3}", "line 1, column 10: '(1, 2)' is no plain value"),
        ("{'a': [x for x in y]}", "'[x for x in y]' is no plain value"),
        ("{'a': <object at 0x7f>}", "line 1, column 7: this is no literal"),
        ("{'a': '\\x'}", "this is no literal ((unicode error)"),
        ("{'a': '\0', 'b': \0}", "null bytes"),
        (
            "{'a': 1,\n 'a': 2}",
            "line 2, column 2: the key 'a' is given twice; one of the two values would be lost",
        ),
        ("{'a': {'1': 1, 1: 2}}", "line 1, column 16: the key '1' is given twice"),
        ('{"a": 1, "a": 2}', "begins at result.json, line 1, column 1: the key 'a' is given twice"),
        ("{'a': " + "9" * 5000 + "}", "4300"),
        ('{"a": ' + "9" * 5000 + "}", "4300"),
    ],
)
def test_a_text_that_holds_no_plain_value_says_where_and_why(text, words):
    assert words in refused(text)


def test_an_unknown_escape_is_kept_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, value),) = values_in(r"{'a': '\d'}", "text", marks=())
    assert value == {"a": r"\d"}


@pytest.mark.parametrize("opening", ["{'a': ", "[", '{"a":[', "{'a': ("])
def test_a_million_brackets_are_refused_at_once(opening):
    words = refused(f"{{'a': {opening * 10**6}")
    assert f"nested more than {MAX_DEPTH} deep" in words and "line 1, column" in words


@pytest.mark.parametrize(
    "expression",
    [
        "{}1".format("-" * 10**6),
        "1{}".format("+1" * 10**6),
        "f{}".format("()" * 10**6),
        "f{}".format("(1,)" * 10**5),
        "f{}".format("[0:1]" * 10**5),
        "f{}".format(".a" * 10**6),
        "'b'{}".format("+'b'" * 10**5),
        "not {}1".format("not " * 10**5),
        "lambda:" * 10**5 + "1",
        "1{}".format("+1" * (MAX_EXPRESSION // 2 - 10)),  # short enough for the parser
        "-" * (MAX_EXPRESSION - 10) + "1",
    ],
    ids=lambda expression: expression[:8],
)
def test_a_deep_expression_without_deep_brackets_is_refused(expression):
    """A syntax tree of a million levels crashes Python 3.10."""
    words = refused(f"{{'a': {expression}}}")
    assert words.startswith(
        ("result.json, line 1, column", "the value that begins at result.json, line 1, column 1")
    )


def test_a_long_literal_of_plain_values_is_read():
    value = {"a": [-1.5e-7, "x" * 2 * MAX_EXPRESSION, None] * 10_000}
    ((_, found),) = values_in(repr(value), "text", marks=())
    assert found == value


def test_twice_the_text_is_twice_the_work():
    """Calls of functions, which no other program on the machine changes."""

    def calls(n: int) -> int:
        profile = cProfile.Profile()
        values = profile.runcall(list, values_in("{'a': 1}\n" * n, "text", marks=()))
        assert len(values) == n
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(4000) == pytest.approx(2 * calls(2000), rel=0.05)
