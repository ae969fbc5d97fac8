"""An SAE and its script, as SAEBench takes them."""

from __future__ import annotations

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
