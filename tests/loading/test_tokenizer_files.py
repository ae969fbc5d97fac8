"""Special tokens of published tokenizers, and every way in which their files can be wrong."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import weights_error
from local_hub import (
    LLAMA_TEMPLATE,
    TOKENIZER,
    write_byte_level_tokenizer,
    write_hf_tokenizer,
)

from saework.loading.tokenizer_files import read_tokenizer

END = "<|endoftext|>"


def test_tokenizer():
    tokenizer = read_tokenizer(TOKENIZER)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|BOS|>",
        "<|EOS|>",
        "<|PAD|>",
    )
    assert tokenizer.bos_token_id == 1
    text = "def f(x):\n\treturn  x ."
    assert (
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    )  # nothing cleaned up


@pytest.fixture
def tokenizer_folder(tmp_path):
    return shutil.copytree(TOKENIZER, tmp_path / "tokenizer")


def test_a_tokenizer_without_eos(tokenizer_folder):
    special = json.dumps({"bos_token": "<|BOS|>"})
    (tokenizer_folder / "special_tokens_map.json").write_text(special)
    text = weights_error(read_tokenizer, tokenizer_folder)
    assert str(tokenizer_folder) in text
    assert "no EOS" in text and "special_tokens_map.json" in text


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", ["", "{", "<html>", "[]"])
def test_damaged_tokenizer(tokenizer_folder, file, content):
    (tokenizer_folder / file).write_text(content)
    text = weights_error(read_tokenizer, tokenizer_folder)
    assert str(tokenizer_folder) in text and "download it again" in text


@pytest.mark.parametrize("family", ["gemma", "llama", "gpt2"])
def test_tokenizers_of_the_published_form(tmp_path, family):
    """Special tokens are stored as objects there; the mini's as text."""
    template = LLAMA_TEMPLATE if family == "llama" else None
    write_hf_tokenizer(tmp_path, family, template=template)
    tokenizer = read_tokenizer(tmp_path)
    bos = {"gemma": "<bos>", "llama": "<|begin_of_text|>", "gpt2": "<|endoftext|>"}[family]
    assert (
        tokenizer.bos_token,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ) == (bos, 1, 0, 2)
    assert (
        tokenizer(bos + "x", add_special_tokens=False)["input_ids"][0] == 1
        and len(tokenizer) == 4096
    )
    assert (tokenizer.chat_template == LLAMA_TEMPLATE) == (family == "llama")
    text = "def f(x):\n\treturn  x ."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def write_config(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))


def test_gpt2_as_it_is_published(tmp_path, capfd):
    """No file names its special tokens: they are those of transformers' class."""
    end_id = write_byte_level_tokenizer(tmp_path, "gpt2")
    write_config(tmp_path, model_type="gpt2", bos_token_id=end_id, eos_token_id=end_id)
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == (END, end_id)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, end_id)
    assert tokenizer.pad_token is None and capfd.readouterr() == ("", "")
    assert tokenizer(END + "x")["input_ids"][0] == end_id
    text = "def f(x):\n\treturn  x ."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_qwen_has_no_bos(tmp_path):
    """Its config gives a BOS id, that of its EOS; its tokenizer says that there is none."""
    end_id = write_byte_level_tokenizer(tmp_path, "qwen2")
    write_config(tmp_path, model_type="qwen2", bos_token_id=end_id, eos_token_id=end_id)
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == (None, None)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (end_id, end_id)


@pytest.mark.parametrize("bos_id,bos", [(7, 7), (None, None), ("eos", None)])
def test_ids_of_the_config_where_no_class_is_known(tmp_path, bos_id, bos):
    """EOS never takes the place of BOS."""
    end_id = write_byte_level_tokenizer(tmp_path, "gpt2")
    (tmp_path / "generation_config.json").unlink()
    bos_id = end_id if bos_id == "eos" else bos_id
    write_config(tmp_path, model_type="none such", bos_token_id=bos_id, eos_token_id=[end_id, 3])
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (bos, end_id)


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": [None, "own.Own"]}, ["own.Own", None]])
def test_python_code_of_a_repository_is_refused(tmp_path, auto_map, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked"))
    write_byte_level_tokenizer(tmp_path, "qwen2")
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = {"auto_map": auto_map, "tokenizer_class": "Own", "eos_token": END}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    check_refused(tmp_path, ran)


def check_refused(folder, ran):
    text = weights_error(read_tokenizer, folder)
    assert "auto_map" in text and "never runs such code" in text and "Workbook" in text
    assert not ran.exists()


def test_python_code_of_the_models_config_is_refused_with_the_tokenizer(tmp_path):
    """Before any weights are downloaded."""
    write_byte_level_tokenizer(tmp_path, "qwen2")
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    write_config(tmp_path, model_type="none such", auto_map={"AutoConfig": "own.Own"})
    check_refused(tmp_path, ran)
