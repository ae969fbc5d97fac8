"""The explorer's widgets, changed as a reader would change them."""

import math
import re
from dataclasses import fields, replace
from html import unescape

import pytest
import torch
from conftest import slow_features

from saework import Workbook, logit_effect, scan, text_heatmap
from saework.core.tokens import str_tokens, visible, whole_characters
from saework.views.explorer import examples
from saework.views.explorer.controls import Controls
from saework.views.explorer.explorer import explore
from saework.views.explorer.feature_search import features_on
from saework.views.explorer.keyboard import BOX, KeyboardGuard
from saework.views.heatmap import token_heatmap

TEXT = "def f(x): # a note"


@pytest.fixture
def box(book):
    return explore(book, feature=7, text=TEXT)


@pytest.fixture
def runs(book):
    """A list that grows by one each time the model runs."""
    logit_effect(book, 0)  # the first one tries how the hook joins the stream
    counted = []
    handle = book.model.blocks[0].register_forward_pre_hook(lambda *args: counted.append(1))
    yield counted
    handle.remove()


def all_features(book, tokens) -> torch.Tensor:
    """``[pos, d_sae]``, of one text or row."""
    tokens = (
        book.model.to_tokens(tokens, prepend_bos=True) if isinstance(tokens, str) else tokens[None]
    )
    return slow_features(book.model, book.sae, tokens, book.hook)[0]


def words_of(box) -> str:
    """The words of the message, without their markup."""
    return unescape(re.sub("<[^>]*>", "", box.message.value))


def test_it_begins_with_the_heatmap(book, box):
    assert box.output.value == text_heatmap(book, TEXT, 7)._repr_html_()
    assert (box.feature.value, box.text.value, box.maximum.value, box.message.value) == (
        7,
        TEXT,
        0,
        "",
    )


def test_each_control_updates_the_heatmap(book, box):
    box.text.value = "other words"
    assert box.output.value == text_heatmap(book, "other words", 7)._repr_html_()
    box.feature.value = 20
    assert box.output.value == text_heatmap(book, "other words", 20)._repr_html_()
    box.maximum.value = 3.5
    assert box.output.value == text_heatmap(book, "other words", 20, max_value=3.5)._repr_html_()
    box.maximum.value = 0
    assert box.output.value == text_heatmap(book, "other words", 20)._repr_html_()


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\ud800b", "a lone surrogate at character 1, .* remove it"),
    ],
)
def test_bad_text_is_said_and_the_last_heatmap_stays(box, text, message):
    before = box.output.value
    box.text.value = text
    assert re.search(message, words_of(box)) and 'role="alert"' in box.message.value
    assert box.output.value == before and box.text.value == text
    box.feature.value = (
        20  # the last text that could be read is still explored, and the error still stands
    )
    assert box.output.value == text_heatmap(box._workbook, TEXT, 20)._repr_html_() and re.search(
        message, words_of(box)
    )
    box.text.value = "good again"
    assert box.message.value == "" and box.output.value != before


def test_markup_in_the_text_is_inert(box):
    box.text.value = "<script>alert(1)</script>"
    assert "<script" not in box.output.value and "script" in box.output.value


def parts_of(widget) -> list:
    return [
        widget,
        *(part for child in getattr(widget, "children", ()) for part in parts_of(child)),
    ]


def test_all_parts_but_the_keyboard_guard_are_core_widgets(box):
    """Drawn by what each front end has already."""
    guards = [part for part in parts_of(box) if isinstance(part, KeyboardGuard)]
    assert len(guards) == 1 and BOX in box._dom_classes
    parts = [part for part in parts_of(box) if part not in guards]
    assert {(part._view_module, part._model_module) for part in parts} == {
        ("@jupyter-widgets/controls",) * 2
    }
    assert not any(type(part).__name__ in ("Output", "Widget") for part in parts)


def test_each_control_is_shown_once_and_named(box):
    controls = [getattr(box, field.name) for field in fields(Controls)]
    assert all(parts_of(box).count(part) == 1 for part in controls)
    shown_only = (box.output, box.message, box.example_output)
    labels = [control.description for control in controls if control not in shown_only]
    assert all(labels) and len(set(labels)) == len(labels) == 15


def test_another_feature_token_scale_or_search_runs_no_model(box, runs):
    box.feature.value = 20
    box.maximum.value = 2.0
    box.pin.value = False
    box.compare.value = True
    box.second.value = 9
    box.token.value = 2
    box.fires.index = 0
    box.search_by.value = "logit"
    box.search.value = "return"
    box.found.index = 1
    assert runs == []
    box.text.value = "new text"
    assert len(runs) == 1
    box.text.value = "a\ud800b"  # no text: not run at all
    assert len(runs) == 1


def test_a_pinned_scale_stays_while_text_and_feature_change(book, box):
    largest = float(all_features(book, TEXT)[1:, 7].max())
    box.pin.value = True
    assert largest <= box.maximum.value <= largest * 1.01
    pinned = box.maximum.value
    box.text.value = "other words"
    box.feature.value = 20
    assert box.heatmap == text_heatmap(book, "other words", 20, max_value=pinned)
    box.pin.value = False
    assert box.maximum.value == 0 and box.heatmap == text_heatmap(book, "other words", 20)
    box.maximum.value = 3.0
    assert box.pin.value
    box.maximum.value = 0
    assert not box.pin.value


def test_a_second_feature_stands_beside_the_first(book, box):
    assert box.second.disabled and box.heatmap.second is None
    box.compare.value, box.second.value = True, 20
    features = all_features(book, TEXT)[1:]
    assert not box.second.disabled
    assert box.heatmap.values == pytest.approx(features[:, 7].tolist(), abs=1e-4)
    assert box.heatmap.second == pytest.approx(features[:, 20].tolist(), abs=1e-4)
    assert box.heatmap.max_value == pytest.approx(float(features[:, [7, 20]].max()), abs=1e-4)
    assert (
        "feature 7, activation" in box.output.value and "feature 20, activation" in box.output.value
    )
    box.compare.value = False
    assert box.heatmap == text_heatmap(book, TEXT, 7)


def test_the_slider_lists_what_fires_on_its_token(book, box):
    features = all_features(book, TEXT)
    strings = str_tokens(book.model.to_tokens(TEXT)[0], book.tokenizer)
    assert [label for label, _ in box.token.options] == [
        f"{i}: {visible(strings[i])}" for i in range(1, len(strings))
    ]
    for pos in (1, len(strings) - 1, 3):
        box.token.value = pos
        order = sorted(
            (i for i in range(48) if features[pos, i] > 0), key=lambda i: -features[pos, i]
        )[:20]
        assert [value for _, value in box.fires.options] == order
        assert box.fires.options[0][0] == f"{order[0]}: {features[pos, order[0]]:.3g}"
        assert box.heatmap.mark == pos - 1


def test_what_fires_is_chosen_and_follows_the_feature(book, box):
    box.token.value = 3
    assert box.fires.value in (None, 7)
    second = box.fires.options[1][1]
    box.fires.index = 1
    assert (
        box.feature.value == second
        and box.heatmap.values == text_heatmap(book, TEXT, second).values
    )
    box.feature.value = box.fires.options[0][1]
    assert box.fires.index == 0
    box.feature.value = next(i for i in range(48) if i not in dict(box.fires.options).values())
    assert box.fires.index is None


def test_the_slider_stays_at_its_token_and_within_the_text(box):
    box.token.value = 3
    box.text.value = TEXT + " and more"
    assert box.token.value == 3 and box.heatmap.mark == 2
    box.text.value = "x"
    assert (
        box.token.value == len(box.token.options)
        and box.heatmap.mark == len(box.heatmap.strings) - 1
    )
    box.text.value = ""  # BOS alone
    assert [value for _, value in box.token.options] == [0] and box.heatmap.mark == 0


def test_a_search_ranks_features_by_their_direct_effect_on_the_tokens_logit(book, box):
    ids = [
        book.tokenizer(form, add_special_tokens=False)["input_ids"]
        for form in ("return", " return")
    ]
    assert [len(form) for form in ids] == [1, 1]
    (bare,), (spaced,) = ids
    effects = torch.stack([logit_effect(book.model, book.sae, feature) for feature in range(48)])
    box.search_by.value = "logit"
    box.search.value = "return"
    best = effects[:, [bare, spaced]].max(1).values
    assert [value for _, value in box.found.options] == best.argsort(descending=True)[:20].tolist()
    assert re.fullmatch(
        rf"{int(best.argmax())}: \+{best.max():.3g} on ·?return", box.found.options[0][0]
    )
    assert words_of(box) == "return or ·return: 20 features, strongest first"
    for typed in ("·return", " return"):
        box.search.value = typed
        assert [value for _, value in box.found.options] == effects[:, spaced].argsort(
            descending=True
        )[:20].tolist()
    assert words_of(box).startswith("·return: ") and box.feature.value == 7
    box.found.index = 4
    assert box.feature.value == box.found.options[4][1]


def test_a_search_counts_the_strongest_examples_on_the_token(book):
    kept = scan(book.model, book.sae, book.tokens, top_k=5, progress=False)
    places = [
        [tuple(place) for place in kept.top_positions[feature].tolist() if place[0] >= 0]
        for feature in range(48)
    ]
    listed = [int(book.tokens[place]) for found in places for place in found]
    texts = {token: book.tokenizer.decode([token]) for token in listed}
    token = next(
        i
        for i, text in texts.items()
        if text[0] == " " and book.tokenizer(text, add_special_tokens=False)["input_ids"] == [i]
    )
    counts = {
        feature: sum(int(book.tokens[place]) == token for place in found)
        for feature, found in enumerate(places)
    }
    expected = sorted(
        (feature for feature in counts if counts[feature]), key=lambda feature: -counts[feature]
    )[:20]
    found = features_on(kept, book.tokens, [token])
    assert found["index"].tolist() == expected
    assert found["value"].tolist() == [counts[feature] for feature in expected]
    assert found["of"].tolist() == [len(places[feature]) for feature in expected]
    box = explore(book, 7, TEXT, scan=kept)
    box.search.value = texts[token]
    assert [value for _, value in box.found.options] == expected
    label, feature = box.found.options[0]
    ids = [int(book.tokens[place]) for place in places[feature]]
    most = max(ids.count(i) for i in ids)
    first = next(i for i in ids if ids.count(i) == most)
    assert f"(top tokens: {visible(str_tokens([first], book.tokenizer)[0])}" in label


@pytest.mark.parametrize(
    "typed, message",
    [
        ("two words", r"two·words is \d tokens here: two\|·words; type one of them"),
        ("<b>&x", "<b>&x is .* tokens here"),
    ],
)
def test_what_is_no_single_token_is_said_and_loses_nothing(box, typed, message):
    shown = box.output.value
    box.search.value = typed
    assert re.search(message, words_of(box)) and "<b>" not in box.message.value
    assert (box.output.value, box.search.value, box.found.options, box.feature.value) == (
        shown,
        typed,
        (),
        7,
    )
    box.search.value = ""
    assert box.message.value == ""


def masked_scan(book, **kwargs):
    mask = book.tokens != book.tokenizer.bos_token_id
    return scan(book.model, book.sae, book.tokens, mask=mask, progress=False, **kwargs)


def test_examples_are_stepped_through_in_their_context(book):
    kept = masked_scan(book, top_k=4)
    box = explore(book, 7, TEXT, scan=kept)
    examples = kept.top_examples(7, book.tokens, book.tokenizer)
    assert box.example_output.value == "" and box.edit.disabled
    box.previous.click()
    assert box.example.value == 0
    for number in (1, 2, 3, 4):
        box.next.click()
        row, pos, activation = (
            examples.loc[number - 1, name] for name in ("batch", "pos", "activation")
        )
        assert box.example.value == number
        assert (
            f"Example {number} of 4: row {row}, position {pos}, activation {activation:.3g}</div>"
            in box.example_output.value
        )
        strings = whole_characters(book.tokens[row], book.tokenizer)[1:]
        values = all_features(book, book.tokens[row])[1:, 7]
        heatmap = token_heatmap(strings, values, label="feature 7, activation", mark=pos - 1)
        assert box.example_output.value.endswith(heatmap._repr_html_())
    box.next.click()
    assert box.example.value == 4 and words_of(box).startswith(
        "feature 7 has 4 examples in the 114 tokens scanned"
    )
    box.previous.click()
    assert box.example.value == 3 and not box.edit.disabled
    box.feature.value = 20
    assert (box.example.value, box.example_output.value, box.edit.disabled) == (0, "", True)


def test_without_a_scan_one_is_made_once_when_examples_are_asked_for(book, monkeypatch):
    made = []
    monkeypatch.setattr(
        examples,
        "scan_tokens",
        lambda *args, **kwargs: made.append(scan(*args, **kwargs)) or made[-1],
    )
    box = explore(book, 7, TEXT)
    box.search_by.value = "logit"
    box.search.value = "return"
    assert box.found.options and made == []
    box.next.click()
    kept = masked_scan(book)
    assert made[0].n_tokens == kept.n_tokens and torch.equal(
        made[0].top_positions, kept.top_positions
    )
    assert box.example.value == 1
    box.next.click()
    box.search_by.value = "examples"
    assert words_of(box) == "return or ·return: 0 features, none has its strongest examples there"
    assert len(made) == 1 and box._examples.scan is made[0]


def test_a_feature_without_examples_is_said(book):
    box = explore(book, 0, TEXT, scan=masked_scan(book))  # feature 0 never fires
    box.next.click()
    assert box.example.value == 0 and box.example_output.value == "" and box.edit.disabled
    assert words_of(box) == "feature 0 has 0 examples in the 114 tokens scanned"


def test_an_example_becomes_the_text_and_the_slider_points_at_its_token(tiny):
    text = "The area is the product of the two sides"
    tokens = tiny.model.to_tokens(text)
    book = Workbook(tiny.model, tiny.sae, tokens, tiny.tokenizer, tiny.hook)
    box = explore(book, 7, TEXT)
    box.next.click()
    pos = box._shown_example.pos
    box.edit.click()
    assert box.text.value == text and box.token.value == pos and box.heatmap.mark == pos - 1
    assert box.heatmap.values == pytest.approx(all_features(book, text)[1:, 7].tolist(), abs=1e-4)
    activation = f"{box._shown_example.activation:.3g}"
    assert words_of(box).startswith(f"activation {activation} in its row, {activation} here")
    box.text.value += ", of course"
    assert box.heatmap == replace(text_heatmap(book, text + ", of course", 7), mark=pos - 1)


def test_a_scan_without_positions_is_said(book):
    box = explore(book, 7, TEXT, scan=masked_scan(book, top_k=0))
    box.next.click()
    assert "kept no positions" in words_of(box) and (
        box.example.value,
        box.example_output.value,
    ) == (
        0,
        "",
    )
    box.search_by.value, box.search.value = "examples", "return"
    assert "kept no positions" in words_of(box) and box.found.options == ()


def test_a_scan_of_other_weights_is_doubted(book):
    kept = masked_scan(book)
    box = explore(book, 7, TEXT, scan=replace(kept, top_values=kept.top_values * 2))
    box.next.click()
    assert "was it made with other weights or text?" in box.example_output.value


def test_a_scan_of_another_width(book):
    kept = masked_scan(book)
    with pytest.raises(
        ValueError, match="the scan has 40 features and this SAE 48; give a scan of this SAE"
    ):
        explore(book, scan=replace(kept, count=kept.count[:40]))


def test_the_last_state_can_be_read_without_a_kernel(book, box):
    box.text.value = "<i>other</i> words"
    box.token.value = 2
    bundle = box._repr_mimebundle_(include=None, exclude=None)
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert (
        bundle["text/html"] == box.output.value == box.heatmap._repr_html_()
        and "<i>" not in bundle["text/html"]
    )
    assert bundle["text/plain"] == f"explore(feature=7)\n{box.heatmap!r}" == repr(box)


def test_jupyter_is_given_both(box):
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(box)
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/html"] == box.output.value


def test_hostile_tokens_are_inert_in_every_part(box):
    box.text.value = '<script>alert(1)</script> "\u202e & \0'
    for number in range(1, len(box.token.options) + 1):
        box.token.value = number
        assert "<script" not in box.output.value and "\u202e" not in box.output.value
    assert all(
        "\u202e" not in label and "\0" not in label for label, _ in box.token.options
    )  # as text, which the front end escapes


@pytest.mark.parametrize("feature", [-1, 48])
def test_a_first_feature_that_does_not_exist(book, feature):
    with pytest.raises(
        ValueError, match=rf"feature {feature} does not exist; this SAE has features 0\.\.47"
    ):
        explore(book, feature=feature, text=TEXT)


def test_a_first_text_that_cannot_be_run(book):
    with pytest.raises(ValueError, match="a lone surrogate at character 1"):
        explore(book, text="a\ud800b")
    with pytest.raises(ValueError, match="text is a int; give words to read"):
        explore(book, text=7)


def test_what_is_no_workbook_is_told():
    with pytest.raises(ValueError, match="workbook is the name 'gelu-1l-mini'; load it first"):
        explore("gelu-1l-mini", 7)


def test_a_long_text_is_read_as_far_as_the_context_goes(book, box):
    box.text.value = "word " * 100
    tokens = book.model.to_tokens("word " * 100, truncate=False)
    n_more = tokens.shape[1] - 32
    assert words_of(box) == (
        f"the model's context is 32 tokens: the text's first 31 are read, {n_more} are not"
    )
    assert box.heatmap.values == pytest.approx(
        all_features(book, tokens[0, :32])[1:, 7].tolist(), abs=1e-4
    )
    box.feature.value = 20
    assert words_of(box).startswith("the model's context is 32 tokens")
    box.text.value = "short again"
    assert words_of(box) == ""
    assert words_of(explore(book, text="word " * 100)).startswith("the model's context is 32")


@pytest.mark.parametrize("number", [-1, 48, 99999])
def test_a_feature_out_of_range_is_told_and_the_last_one_stays(book, box, number):
    box.feature.value = number
    message = f"feature {number} does not exist; this SAE has features 0..47"
    assert words_of(box) == message and 'role="alert"' in box.message.value
    assert box.feature.value == number, "what was typed stays"
    assert box.heatmap == text_heatmap(book, TEXT, 7)
    box.text.value = "other words"
    assert words_of(box) == message and box.heatmap == text_heatmap(book, "other words", 7)
    box.feature.value = 20
    assert words_of(box) == "" and box.heatmap == text_heatmap(book, "other words", 20)


def test_a_second_feature_out_of_range_is_told_while_it_counts(book, box):
    box.compare.value = True
    box.second.value = 48
    message = "Second feature: feature 48 does not exist; this SAE has features 0..47"
    assert words_of(box) == message and len(box.heatmap.second) > 0
    box.compare.value = False
    assert words_of(box) == ""
    box.compare.value = True
    assert words_of(box) == message
    box.second.value = 3
    assert words_of(box) == ""


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_maximum_out_of_range_is_told(book, box, value):
    box.maximum.value = value
    message = f"Maximum is {value}; give a positive number, or 0 for the largest shown"
    assert words_of(box) == message and box.heatmap == text_heatmap(book, TEXT, 7)
    box.maximum.value = 3.0
    assert words_of(box) == "" and box.heatmap.max_value == 3.0


def test_an_example_out_of_range_is_told(book):
    box = explore(book, 7, TEXT, scan=masked_scan(book, top_k=4))
    box.example.value = 2
    shown = box.example_output.value
    for number in (21, -1):
        box.example.value = number
        assert words_of(box) == f"Example is {number}; give 1..20, or 0 for none"
        assert box.example_output.value == shown


def test_a_character_of_several_tokens_stands_once_across_them(book):
    box = explore(book, 7, "a 日 b")
    n_tokens = book.model.to_tokens("a 日 b").shape[1] - 1
    strings = [string.strip() for string in box.heatmap.strings if string.strip()]
    assert strings == ["a", "日", "←", "←", "b"]
    assert len(box.heatmap.values) == n_tokens == len(box.token.options)
    assert "\ufffd" not in repr(box)


def test_a_scan_of_other_text_is_refused(book):
    other = replace(book, tokens=book.tokens.flip(0))
    with pytest.raises(ValueError, match="row 0 holds other tokens than those that were scanned"):
        explore(book, 7, TEXT, scan=masked_scan(other))
    explore(book, 7, TEXT, scan=masked_scan(other, top_k=0))  # it has nothing to look up
