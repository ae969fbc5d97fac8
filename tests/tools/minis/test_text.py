"""What the minis are trained on: the standard library, and held-out documents."""

from __future__ import annotations

import sysconfig

import pytest

from saework.loading.tokenizer_files import read_tokenizer
from tools.minis import text
from tools.minis.text import standard_library


def test_the_standard_library_is_read_in_order(tmp_path, monkeypatch):
    files = {f"m{i:03}.py": f"x = {i}\n".encode() for i in range(100)}
    files |= {
        "b/__init__.py": b"# b\n",
        "empty.py": b" \n",
        "broken.py": b"\xff",
        "site-packages/other.py": b"y = 1\n",
        "note.txt": b"no",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    sources = standard_library()
    assert [name for name, _ in sources] == ["b/__init__.py", *(f"m{i:03}.py" for i in range(100))]
    assert sources[0][1] == "# b\n" and sources[42][1] == "x = 41\n"


def test_a_python_without_sources(tmp_path, monkeypatch):
    (tmp_path / "only.py").write_text("x = 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match="holds 1 Python sources; .* Give text= instead, or use a Python that has its sources",
    ):
        standard_library()


def test_a_documents_name_decides_whether_it_is_held_out(monkeypatch):
    named = [(f"m{i}.py", f"x = {i}") for i in range(500)]
    monkeypatch.setattr(text, "_package_documents", lambda: iter(()))
    monkeypatch.setattr(text, "standard_library", lambda: named)
    train, held_out = text.training_text()
    assert sorted(train + held_out) == sorted(source for _, source in named)
    assert 500 / 60 < len(held_out) < 500 / 10  # one in 25
    monkeypatch.setattr(text, "standard_library", lambda: named[::2])
    assert set(text.training_text()[1]) == set(held_out) & {source for _, source in named[::2]}


@pytest.mark.parametrize("architecture", text.SPECIAL_TOKENS)
def test_a_tokenizer_has_single_digits_and_its_special_tokens(tmp_path, architecture):
    documents = ["def area(width, height):\n    return 1234 * width\n"] * 50
    text.train_tokenizer(documents, tmp_path, d_vocab=300, architecture=architecture)
    tokenizer = read_tokenizer(tmp_path)
    special = text.SPECIAL_TOKENS[architecture]
    assert (tokenizer.bos_token, tokenizer.eos_token) == (
        special["bos_token"],
        special["eos_token"],
    )
    ids = tokenizer("1234", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == ["1", "2", "3", "4"]
    own_bos = tokenizer("1234")["input_ids"][0] == tokenizer.bos_token_id
    assert own_bos == (architecture != "gelu")
