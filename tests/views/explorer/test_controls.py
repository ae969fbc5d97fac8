"""The explorer's controls: named, arranged, and silent when they are set by another one."""

from dataclasses import fields

import ipywidgets as widgets
import pytest

from saework.views.explorer.controls import (
    MAX_EXAMPLES,
    SEARCHES,
    Controls,
    ReaderChanges,
    check_example,
    check_maximum,
    make_controls,
    message_html,
    rounded_up,
    select,
    set_options,
)


@pytest.fixture
def controls() -> Controls:
    return make_controls(feature=7, text="a text", d_sae=48)


@pytest.fixture
def listing() -> widgets.Select:
    return widgets.Select(options=[("seven", 7), ("nine", 9)])


def parts_of(widget) -> list:
    children = getattr(widget, "children", ())
    return [widget, *(part for child in children for part in parts_of(child))]


def test_each_control_is_arranged_once(controls):
    arranged = [part for child in controls.arranged() for part in parts_of(child)]
    boxes = [part for part in arranged if isinstance(part, widgets.Box)]
    made = [getattr(controls, field.name) for field in fields(controls)]
    assert len(arranged) == len(boxes) + len(made)
    assert {id(part) for part in arranged} == {id(part) for part in boxes + made}


def test_each_control_has_a_label_of_its_own(controls):
    shown_only = {"output", "message", "example_output"}
    names = [field.name for field in fields(controls) if field.name not in shown_only]
    labels = [getattr(controls, name).description for name in names]
    assert all(labels) and len(set(labels)) == len(labels) == 15


def test_they_begin_with_what_was_asked_for(controls):
    assert (controls.text.value, controls.feature.value) == ("a text", 7)
    assert controls.search_by.options == SEARCHES
    assert controls.second.disabled and controls.edit.disabled


@pytest.mark.parametrize("feature, second", [(0, 1), (46, 47), (47, 0)])
def test_the_second_feature_is_the_next_one(feature, second):
    assert make_controls(feature=feature, text="", d_sae=48).second.value == second


def test_a_reaction_follows_a_reader_but_not_another_reaction(controls):
    heard = []
    changes = ReaderChanges(on_error=heard.append)

    def on_feature(change):
        heard.append(change["new"])
        controls.second.value = change["new"]

    changes.listen(controls.feature, on_feature)
    changes.listen(controls.second, lambda change: heard.append("second"))
    controls.feature.value = 20
    assert heard == [20] and controls.second.value == 20
    controls.second.value = 3
    assert heard == [20, "second"]
    with changes.ignored():
        with changes.ignored():
            controls.feature.value = 21
        controls.feature.value = 22
    assert heard == [20, "second"]
    controls.feature.value = 23
    assert heard == [20, "second", 23]


def test_an_error_is_handed_over_and_the_next_change_is_heard(controls):
    errors = []
    changes = ReaderChanges(on_error=lambda error: errors.append(str(error)))

    def fail(change):
        raise ValueError(f"no {change['new']}")

    changes.listen(controls.feature, fail)
    controls.feature.value = 1
    controls.feature.value = 2
    assert errors == ["no 1", "no 2"]


def test_a_list_gets_new_options_with_none_chosen(listing):
    listing.index = 1
    set_options(listing, [("one", 1), ("two", 2)])
    assert (listing.index, listing.value) == (None, None)
    assert listing.options == (("one", 1), ("two", 2))


def test_a_feature_is_chosen_where_it_is_listed(listing):
    select(listing, 9)
    assert listing.index == 1
    select(listing, 8)
    assert listing.index is None


def test_a_message_is_escaped_and_says_whether_it_is_an_error():
    assert message_html("", error=True) == ""
    assert message_html("a <b>'s", error=False) == '<div role="status">a &lt;b&gt;\'s</div>'
    assert message_html("no", error=True) == '<div role="alert">no</div>'


@pytest.mark.parametrize(
    "value, expected",
    [(3.0, 3.0), (3.001, 3.01), (0.012341, 0.0124), (99.99, 100.0), (1234.0, 1240.0)],
)
def test_a_scale_is_rounded_up(value, expected):
    assert rounded_up(value) == expected


def test_no_number_has_bounds_which_a_browser_would_put_in_its_place(controls):
    for name in ("feature", "second", "maximum", "example"):
        assert not hasattr(getattr(controls, name), "max"), name


def test_numbers_out_of_range():
    assert (check_maximum(0), check_maximum(2.5)) == (0, 2.5)
    assert (check_example(0), check_example(MAX_EXAMPLES)) == (0, 20)
    with pytest.raises(ValueError, match="Maximum is nan; give a positive number, or 0 for"):
        check_maximum(float("nan"))
    with pytest.raises(ValueError, match="Example is 21; give 1..20, or 0 for none"):
        check_example(21)
