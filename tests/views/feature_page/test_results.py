"""An example's own words."""

from __future__ import annotations

from saework.views.feature_page.results import Example


def test_an_example_shows_what_is_hidden():
    example = Example(
        strings=(" a", "\n", "b", "\t"),
        values=(0.0, 1.5, 0.0, 0.0),
        at=1,
        activation=1.5,
        loss_change=0.1,
        row=3,
        pos=1,
    )
    assert example.token == "↩"
    assert example.context == "·a|↩|b→"
