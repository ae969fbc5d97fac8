"""A feature's examples: those of the scan, in their context, as they are in the text."""

from dataclasses import replace

import pytest
import torch
from conftest import slow_features

from saework import Workbook, scan
from saework.core.tokens import not_bos, str_tokens, whole_characters
from saework.views.explorer import examples
from saework.views.explorer.examples import Example, ExampleReader
from saework.views.heatmap import token_heatmap

FEATURE = 7


@pytest.fixture
def kept(book):
    """A scan of the workbook's tokens without BOS."""
    return scan(book, mask=not_bos(book.tokens, book.tokenizer), top_k=4, progress=False)


def example_at(book, row: int, pos: int) -> Example:
    values = slow_features(book.model, book.sae, book.tokens, book.hook)
    return Example(FEATURE, 1, 1, row, pos, float(values[row, pos, FEATURE]))


def test_the_strongest_come_from_the_scan_in_its_order(book, kept):
    found = ExampleReader(book, kept).strongest(kept, FEATURE)
    frame = kept.top_examples(FEATURE, book.tokens, book.tokenizer)
    assert [example.number for example in found] == [1, 2, 3, 4]
    assert {example.n_examples for example in found} == {4}
    assert [example.row for example in found] == frame["batch"].tolist()
    assert [example.pos for example in found] == frame["pos"].tolist()
    assert [example.activation for example in found] == frame["activation"].tolist()


def test_a_feature_that_never_fires_has_none(book, kept):
    assert ExampleReader(book, kept).strongest(kept, 0) == []


def test_a_scan_is_made_of_the_first_rows_without_bos(book, monkeypatch):
    monkeypatch.setattr(examples, "LAZY_SCAN_TOKENS", 45)  # rows have 20
    reader = ExampleReader(book, None)
    assert reader.scan is None
    made = reader.make_scan()
    assert reader.scan is made and made.n_tokens == 2 * 19
    rows = book.tokens[:2]
    mask = rows != book.tokenizer.bos_token_id
    expected = scan(book.model, book.sae, rows, mask=mask, progress=False)
    assert torch.equal(made.top_positions, expected.top_positions)


def test_one_row_is_scanned_even_if_it_is_longer(book, monkeypatch):
    monkeypatch.setattr(examples, "LAZY_SCAN_TOKENS", 5)
    assert ExampleReader(book, None).rows_to_scan.shape == (1, 20)


def test_an_example_is_shown_with_its_place_and_a_frame(book, kept):
    example = example_at(book, row=2, pos=5)
    html = ExampleReader(book, kept).html(example, max_value=9.0)
    words = f"Example 1 of 1: row 2, position 5, activation {example.activation:.3g}"
    values = slow_features(book.model, book.sae, book.tokens[2:3], book.hook)[0, 1:, FEATURE]
    strings = whole_characters(book.tokens[2], book.tokenizer)[1:]
    label = f"feature {FEATURE}, activation"
    heatmap = token_heatmap(strings, values, max_value=9.0, label=label, mark=4)
    assert html == f"<div>{words}</div>{heatmap._repr_html_()}"


@pytest.mark.parametrize("factor, is_doubted", [(1.0, False), (1.01, False), (1.05, True)])
def test_an_activation_that_differs_from_the_scans_is_doubted(book, kept, factor, is_doubted):
    example = example_at(book, *kept.top_positions[FEATURE, 0].tolist())
    html = ExampleReader(book, kept).html(replace(example, activation=factor * example.activation))
    assert ("was it made with other weights or text?" in html) == is_doubted


@pytest.mark.parametrize(
    "pos, start, stop",
    [
        (0, 0, 4),  # BOS only where the example is BOS
        (1, 1, 5),
        (3, 1, 7),
        (10, 8, 14),
        (19, 17, 20),
    ],
)
def test_the_context_is_cut_at_the_ends_of_the_row(book, kept, monkeypatch, pos, start, stop):
    monkeypatch.setattr(examples, "EXAMPLE_TOKENS_BEFORE", 2)
    monkeypatch.setattr(examples, "EXAMPLE_TOKENS_AFTER", 3)
    reader = ExampleReader(book, kept)
    text = reader.text(example_at(book, 1, pos)).text
    strings = str_tokens(book.tokens[1], book.tokenizer)
    assert text == "".join(strings[max(1, start) : stop]).strip("\ufffd")
    html = reader.html(example_at(book, 1, pos))
    assert html.count("<span title=") + html.count("<b title=") == stop - start


def test_the_text_of_an_example_points_at_its_token(tiny):
    words = "The area is the product of the two sides"
    tokens = tiny.model.to_tokens(words)
    book = Workbook(tiny.model, tiny.sae, tokens, tiny.tokenizer, tiny.hook)
    for pos in (1, 4):
        context = ExampleReader(book, None).text(Example(FEATURE, 1, 1, 0, pos, 0.0))
        assert context.text == words
        assert context.n_before == pos - 1, "BOS is put in front"
        assert context.token == tokens[0, pos]


def test_examples_of_one_row_run_the_model_once(book, kept):
    runs = []
    hook = book.model.blocks[0].register_forward_pre_hook(lambda *args: runs.append(1))
    reader = ExampleReader(book, kept)
    for pos in (3, 5):
        reader.html(Example(FEATURE, 1, 1, 2, pos, 0.0))
    assert len(runs) == 1
    reader.html(Example(FEATURE, 1, 1, 3, 5, 0.0))
    hook.remove()
    assert len(runs) == 2


def test_a_row_without_bos_shows_its_first_token(tiny):
    """Rows of an SAE that was trained without BOS begin with their text."""
    words = "The area is the product of the two sides"
    tokens = tiny.model.to_tokens(words)[:, 1:]
    book = Workbook(tiny.model, tiny.sae, tokens, tiny.tokenizer, tiny.hook)
    reader = ExampleReader(book, None)
    n_pos = tokens.shape[1]
    for pos in (0, 3):
        example = Example(FEATURE, 1, 1, 0, pos, 0.0)
        context = reader.text(example)
        assert context.text == words
        assert (context.n_before, context.token) == (pos, tokens[0, pos])
        html = reader.html(example)
        assert html.count("<span title=") + html.count("<b title=") == n_pos
