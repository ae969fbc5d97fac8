"""Tokens as people read them, against the published notebook's own functions."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saework.core.tokens import (
    decode_each,
    not_bos,
    str_tokens,
    token_names,
    visible,
    whole_characters,
)

any_text = st.text(
    st.characters(codec=None) | st.sampled_from(" \n\t\r\0\u200f\u200d\ufeff\ud800\udfff\u2028<&")
)


@pytest.mark.parametrize(
    "text, seen",
    [
        (" the\n\tcat", "·the↩→cat"),
        ("plain", "plain"),
        ("", ""),
        ("<b>&lt;", "<b>&lt;"),
        ("a\r\nb", "a⟨U+000D⟩↩b"),
        ("\u200fשלום", "⟨U+200F⟩שלום"),
        ("\ud83d", "⟨U+D83D⟩"),
        ("\x1b[31m\0", "⟨U+001B⟩[31m⟨U+0000⟩"),
        ("\u00a0\u2028", "⟨U+00A0⟩⟨U+2028⟩"),
        ("👩\u200d👧", "👩⟨U+200D⟩👧"),
    ],
)
def test_visible(text, seen):
    assert visible(text) == seen


@settings(deadline=None)
@given(any_text)
def test_visible_hides_nothing_and_changes_nothing_else(text):
    named = {" ": "·", "\n": "↩", "\t": "→"}
    expected = "".join(
        named.get(c) or (c if c.isprintable() else f"⟨U+{ord(c):04X}⟩") for c in text
    )
    assert visible(text) == expected
    assert visible(expected) == expected
    expected.encode()  # no lone surrogate is left


@pytest.mark.parametrize("value, kind", [(5, "int"), (b"x", "bytes"), (None, "NoneType")])
def test_visible_needs_text(value, kind):
    with pytest.raises(ValueError, match=f"takes text, not {kind}; decode tokens with str_tokens"):
        visible(value)


def test_str_tokens_decodes_each_token_alone(tiny):
    row = tiny.tokens[0]
    assert str_tokens(row, tiny.tokenizer) == [tiny.tokenizer.decode([i]) for i in row.tolist()]


@pytest.mark.parametrize(
    "text", ["plain words", "a 日本 b", "👩\u200d👧", "ñandú é", "x\ufffdy", ""]
)
def test_characters_of_several_tokens_stand_once(tiny, text):
    ids = tiny.tokenizer(f"a{text}", add_special_tokens=False)["input_ids"]
    shown = whole_characters(ids, tiny.tokenizer)
    alone = str_tokens(ids, tiny.tokenizer)
    assert len(shown) == len(alone)
    for part, own in zip(shown, alone):
        assert part == own or "\ufffd" in own, "whole tokens stay as they are"
    if "\ufffd" not in text:
        assert "".join(shown).replace("←", "") == f"a{text}"
    assert not any("\ufffd" in part for part in shown)


def test_a_character_that_is_cut_off_is_bytes(tiny):
    ids = tiny.tokenizer("a日", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    cut = ["a", "⟨0xE6⟩", "⟨0x97⟩"]
    assert whole_characters(ids[:-1], tiny.tokenizer) == cut
    assert whole_characters([*ids[:-1], ids[0]], tiny.tokenizer) == [*cut, "a"]
    assert whole_characters(ids[-1:], tiny.tokenizer) == ["⟨0xA5⟩"]


def test_a_stripped_space_in_front_of_a_split_character_is_put_back():
    class Stripping:
        """Decodes as Llama 2's does: without the space in front."""

        def __len__(self):
            return 3

        def batch_decode(self, rows, **options):
            known = {(0,): "\ufffd", (1,): "\ufffd", (0, 1): "日"}
            return [known[tuple(row)] for row in rows]

        def convert_ids_to_tokens(self, ids):
            return [["▁\udce6", "\udc97", "x"][i] for i in ids]

    assert whole_characters([0, 1], Stripping()) == [" 日", "←"]


def test_a_part_of_a_character_stays_unknown_where_pieces_are_no_bytes(tiny):
    class Opaque:
        """Knows no pieces of bytes."""

        def __len__(self):
            return 1

        def batch_decode(self, rows, **options):
            return ["\ufffd" for _ in rows]

        def convert_ids_to_tokens(self, ids):
            return ["▁日" for _ in ids]

    assert token_names([0], Opaque()) == ["·\ufffd"]


def test_an_id_beyond_the_tokenizer_is_empty_text(tiny):
    assert decode_each([len(tiny.tokenizer), 5], tiny.tokenizer) == ["", tiny.tokenizer.decode([5])]


def test_not_bos():
    tokens = torch.tensor([[1, 7, 1], [1, 8, 9]])
    assert not_bos(tokens, SimpleNamespace(bos_token_id=1)).tolist() == [
        [False, True, False],
        [False, True, True],
    ]
    for nothing_else in (SimpleNamespace(bos_token_id=None), SimpleNamespace()):
        assert not_bos(tokens, nothing_else).all()
    assert not_bos(tokens[:1, :1], SimpleNamespace(bos_token_id=1)).tolist() == [[True]]


def test_a_decoder_that_strips_a_leading_space(tiny):
    """Llama 2's and Mistral's: each token is decoded as if a text began with it."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "▁", "the", "▁the", "▁▁", "<0x41>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")
    assert tokenizer.decode([4]) == "the", "nothing is tested"
    expected = ["<unk>", "<s>", " ", "the", " the", "  ", "A", ""]
    assert decode_each(range(8), tokenizer) == expected


@pytest.mark.parametrize("mini", ["gelu-1l-mini", "gemma-mini", "llama-mini"])
def test_other_decoders_are_left_as_they_are(mini):
    from saework.core.files import DATA
    from saework.loading.tokenizer_files import read_tokenizer

    tokenizer = read_tokenizer(DATA / mini / "tokenizer")
    n = len(tokenizer)
    plain = tokenizer.batch_decode([[i] for i in range(n)], clean_up_tokenization_spaces=False)
    assert decode_each(range(n), tokenizer) == plain


def test_str_tokens_takes_one_row(tiny):
    with pytest.raises(ValueError, match=r"tokens have 2 rows; give one row, such as tokens\[0\]"):
        str_tokens([[1], [2]], tiny.tokenizer)


def test_a_tokenizer_that_gives_too_few_texts(tiny):
    class Short:
        def __len__(self):
            return 10

        def batch_decode(self, rows, **options):
            return ["a"] * (len(rows) - 1)

        def convert_ids_to_tokens(self, ids):
            return ["a"] * len(ids)

    with pytest.raises(
        ValueError, match="the tokenizer gave 1 texts for 2 tokens; give the model's"
    ):
        str_tokens([1, 2], Short())


def test_no_tokens_have_no_texts(tiny):
    assert decode_each([], tiny.tokenizer) == []
