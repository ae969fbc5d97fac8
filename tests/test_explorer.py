"""The explorer's widgets, changed as a reader would change them."""

import re

import pytest

from saework import Workbook
from saework._checks import UnknownNameError
from saework.explorer import explore, text_heatmap
from saework.heatmap import token_heatmap
from saework.features import feature_activations
from saework.tokens import str_tokens

TEXT = "def f(x): # a note"


@pytest.fixture(scope="module")
def workbook(tiny):
    return Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook)


@pytest.fixture
def box(workbook):
    return explore(workbook, feature=7, text=TEXT)


def test_text_heatmap_is_one_feature_on_one_text_without_bos(workbook):
    tokens = workbook.model.to_tokens(TEXT, prepend_bos=True)
    values = workbook.sae.encode(workbook.model.run_with_cache(tokens)[1][workbook.hook])[0, 1:, 7]
    heatmap = text_heatmap(workbook, TEXT, 7)
    assert "".join(heatmap.strings) == TEXT
    assert list(heatmap.values) == pytest.approx(values.tolist(), abs=1e-4)
    assert heatmap.max_value == max(map(abs, heatmap.values))
    assert text_heatmap(workbook, TEXT, 7, max_value=5.0).max_value == 5.0


def test_text_heatmap_of_no_text_shows_bos(workbook):
    assert text_heatmap(workbook, "", 7).strings == (workbook.tokenizer.bos_token,)


def test_it_begins_with_the_heatmap(workbook, box):
    assert box.output.value == text_heatmap(workbook, TEXT, 7)._repr_html_()
    assert (box.feature.value, box.text.value, box.maximum.value, box.message.value) == (7, TEXT, 0, "")
    assert (box.feature.min, box.feature.max) == (0, 47)


def test_each_control_updates_the_heatmap(workbook, box):
    box.text.value = "other words"
    assert box.output.value == text_heatmap(workbook, "other words", 7)._repr_html_()
    box.feature.value = 20
    assert box.output.value == text_heatmap(workbook, "other words", 20)._repr_html_()
    box.maximum.value = 3.5
    assert box.output.value == text_heatmap(workbook, "other words", 20, max_value=3.5)._repr_html_()
    box.maximum.value = 0
    assert box.output.value == text_heatmap(workbook, "other words", 20)._repr_html_()


@pytest.mark.parametrize(
    "text, message",
    [
        ("word " * 100, "the model's context is 32; cut the rows to 32 tokens"),
        ("a\ud800b", "a lone surrogate at character 1, .* remove it"),
    ],
)
def test_bad_text_is_said_and_the_last_heatmap_stays(box, text, message):
    before = box.output.value
    box.text.value = text
    assert re.search(message, box.message.value)
    assert box.output.value == before
    box.text.value = "good again"
    assert box.message.value == "" and box.output.value != before


def test_markup_in_the_text_is_inert(box):
    box.text.value = "<script>alert(1)</script>"
    assert "<script" not in box.output.value and "script" in box.output.value


def test_all_parts_are_core_widgets(box):
    from ipywidgets import Widget

    parts, modules = [box], set()
    while parts:
        part = parts.pop()
        parts += getattr(part, "children", ())
        assert isinstance(part, Widget)
        modules.add(type(part).__module__.split(".")[0])
    assert modules == {"ipywidgets"}
    assert box.output in box.children and box.message in box.children


@pytest.mark.parametrize("feature", [-1, 48])
def test_a_first_feature_that_does_not_exist(workbook, feature):
    with pytest.raises(ValueError, match=rf"feature {feature} does not exist; this SAE has features 0\.\.47"):
        explore(workbook, feature=feature, text=TEXT)


def test_a_first_text_that_cannot_be_run(workbook):
    with pytest.raises(ValueError, match="the model's context is 32"):
        explore(workbook, text="word " * 100)


def test_a_static_rendering_matches_the_packages_own_pieces(workbook):
    tokens = workbook.model.to_tokens(TEXT)[0]
    values = feature_activations(workbook.model, workbook.sae, tokens, 7)
    expected = token_heatmap(str_tokens(tokens, workbook.tokenizer)[1:], values[1:])
    assert text_heatmap(workbook, TEXT, 7) == expected


def test_a_workbook_on_a_hook_that_the_model_lacks(tiny):
    with pytest.raises(UnknownNameError, match="no hook 'blocks.0.mlp.hook_pots'. Did you mean 'blocks.0.mlp.hook_post'"):
        Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, "blocks.0.mlp.hook_pots")
