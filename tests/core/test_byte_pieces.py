"""Pieces of a byte vocabulary: what is text, and what is only bytes."""

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from saework.core.byte_pieces import text_of_bytes


def test_every_byte_has_the_character_that_gpt2_gave_it():
    """Against transformers' own table, one byte at a time."""
    for number, character in bytes_to_unicode().items():
        expected = chr(number) if number < 128 else f"⟨0x{number:02X}⟩"
        assert text_of_bytes(character) == expected


@pytest.mark.parametrize("text", ["plain", " the", "é日👩", "\n\t", "\ufffd"])
def test_whole_text_comes_back(text):
    piece = "".join(bytes_to_unicode()[number] for number in text.encode())
    assert text_of_bytes(piece) == text


def test_what_is_cut_off_is_shown_as_bytes_beside_what_is_whole():
    table = bytes_to_unicode()
    piece = "".join(table[number] for number in b" a" + "日".encode()[:2])
    assert text_of_bytes(piece) == " a⟨0xE6⟩⟨0x97⟩"


@pytest.mark.parametrize("piece, text", [("<0xE6>", "⟨0xE6⟩"), ("<0x41>", "A"), ("▁日", None)])
def test_pieces_of_sentencepiece(piece, text):
    assert text_of_bytes(piece) == text
