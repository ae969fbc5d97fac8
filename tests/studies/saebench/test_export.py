"""An SAE and its script, as SAEBench takes them."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import torch

from saework import saebench


def test_an_exported_sae_is_the_same_and_its_script_says_how(tiny, tmp_path):
    from sae_lens import SAE

    script = saebench.export(
        tiny.sae, tmp_path / "out", name="it's mine", model_name="gpt2", dataset="rows", batches=7
    )
    assert script == tmp_path / "out" / "run_core.py"
    sae = SAE.load_from_disk(script.parent)
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sae.encode(x), tiny.sae.encode(x)) and torch.equal(sae.W_dec, tiny.sae.W_dec)
    assert (
        sae.cfg.metadata.hook_name,
        sae.cfg.metadata.model_name,
        sae.cfg.metadata.prepend_bos,
    ) == (tiny.hook, "gpt2", True)
    text = script.read_text(encoding="utf-8")
    compile(text, "run_core.py", "exec")
    assert 'pip install "sae-bench==0.6.0" "pyarrow<20"\nsaebench/bin/python run_core.py' in text
    assert (
        '"it\'s mine"' in text
        and "n_eval_reconstruction_batches=7" in text
        and "dataset='rows'" in text
    )
    assert tiny.sae.cfg.metadata.model_name is None, "the SAE itself is left as it was"


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(
        ValueError, match="a SimpleNamespace cannot be written; give an sae_lens.SAE, such as load"
    ):
        saebench.export(SimpleNamespace(), tmp_path, name="x", model_name="m")
    bare = SimpleNamespace(
        save_model=None, cfg=SimpleNamespace(metadata=SimpleNamespace(hook_name=None))
    )
    with pytest.raises(
        ValueError, match="this SAE does not say which hook it belongs to; give hook="
    ):
        saebench.export(bare, tmp_path, name="x", model_name="m")


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors", "run_core.py"])
def test_other_peoples_files_are_left_alone(tiny, tmp_path, name):
    options = dict(name="x", model_name="gpt2")
    saebench.export(tiny.sae, tmp_path / "own", **options)
    saebench.export(tiny.sae, tmp_path / "own", **options)  # over its own
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} is there already and of no export of saework's"):
        saebench.export(tiny.sae, other, **options)
    assert [path.name for path in other.iterdir()] == [name]
    assert (other / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batches": "1); import os; os.system('id') #"}, "batches is .*; give a whole number"),
        ({"batches": -1}, "batches is -1; give a whole number of at least 1"),
        ({"context_size": "128"}, "context_size is '128'; give a whole number of at least 2"),
        ({"name": None}, "name is None; give text"),
        ({"dataset": 5}, "dataset is 5; give a path"),
        ({"model_name": 5}, "model_name is 5; give text"),
        ({"hook": 5}, "hook is 5; give a hook's name"),
    ],
)
def test_what_would_become_code_of_the_script(tiny, tmp_path, change, words):
    options = {"name": "x", "model_name": "gpt2"}
    with pytest.raises(ValueError, match=words):
        saebench.export(tiny.sae, tmp_path / "own", **{**options, **change})
    assert not (tmp_path / "own").exists()


def test_words_in_the_script_stay_words(tiny, tmp_path):
    """Whatever a name or a folder holds, the script is the same program."""
    words = "a'); import os; os.system('id') #\n\"\"\""
    script = saebench.export(tiny.sae, tmp_path, name=words, model_name=words, dataset=words)
    tree = ast.parse(script.read_text())
    assert {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)} == {
        "torch"
    }
    assert (
        sum(isinstance(node, ast.Constant) and node.value == words for node in ast.walk(tree)) == 2
    )


def test_a_file_in_the_folders_place(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        saebench.export(tiny.sae, tmp_path / "file", name="x", model_name="gpt2")
