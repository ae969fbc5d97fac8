"""What is typed at a terminal, as values."""

from __future__ import annotations

import pytest

from saework import cli
from saework.core.typed import feature_numbers


@pytest.mark.parametrize(
    ("words", "numbers"),
    [("7", [7]), ("7 0-2", [7, 0, 1, 2]), ("3-5 4 3", [3, 4, 5]), ("9-9", [9])],
)
def test_features_as_they_are_typed(words, numbers):
    assert feature_numbers(words.split()) == numbers


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("0-9999999", "'0-9999999' asks for 10,000,000 pages; give at most 100,000 at a time"),
        ("9" * 5000, "999' is no feature; give a number such as 7"),
        ("٣", "'٣' is no feature; give a number such as 7"),
        ("5-3", "'5-3' is no feature"),
        ("1e3", "'1e3' is no feature"),
        ("", "'' is no feature"),
    ],
)
def test_what_is_no_feature_or_too_many(word, words, capsys):
    assert cli.main(["page", "gelu-1l-mini", word]) == 2
    assert words in capsys.readouterr().err
