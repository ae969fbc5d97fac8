"""Labels of tokens, read off a small document by eye."""

import pytest

from saework.loading import corpus
from tools.minis.labels import NAMES, python_labels

DOCUMENT = '''"""What this is."""
import os  # why

class Area:
    "Sides."
    def size(self, n=42):
        return "text" if n else None
'''
PROSE = "The cat sat on the mat, and it was 42 years old.\n"


def characters(texts, tokenizer, label):
    """The text that a label covers, token by token."""
    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tokenizer, length=2)
    marks = python_labels(texts, tokenizer, offsets)
    assert list(marks) == list(NAMES) and all(m.shape == rows.shape for m in marks.values())
    assert not any(m[:, 0].any() for m in marks.values())  # BOS
    return "".join(tokenizer.decode(rows[marks[label]].tolist()))


@pytest.mark.parametrize(
    "label, covered",
    [
        ("docstring", '"""Whatthisis.""""Sides."'),
        ("comment", "#why"),
        ("string", '"text"'),
        ("keyword", "importclassdefreturnifelse" + "None"),
        ("number", "42"),
        ("defined_name", "Areasize"),
    ],
)
def test_what_each_label_covers(tiny, label, covered):
    assert (
        characters([DOCUMENT], tiny.tokenizer, label).replace(" ", "").replace("\n", "") == covered
    )


def test_code_is_all_of_a_python_document_and_nothing_of_another(tiny):
    for texts in ([PROSE, DOCUMENT], [DOCUMENT, PROSE]):
        code = characters(texts, tiny.tokenizer, "code")
        assert "class Area:" in code and "cat" not in code and "|EOS|" not in code
    assert characters([PROSE, "x = (", "x + 1\n"], tiny.tokenizer, "code") == ""


def test_documents_of_a_second_batch_are_found_at_their_place(tiny):
    texts = ["no code here"] * 1000 + [DOCUMENT]
    assert characters(texts, tiny.tokenizer, "defined_name").replace(" ", "") == "Areasize"


def test_a_docstring_is_found_behind_letters_of_several_bytes(tiny):
    text = 'class Größe: "Sides."\n'
    assert "Sides" in characters([text], tiny.tokenizer, "docstring")
    assert characters([text], tiny.tokenizer, "string") == ""
