"""Real models, SAEs and tokenizers have what the protocols ask for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import random_sae
from stand_ins import IDENTITY, POST, RESID, top_k_sae

from saework.core.errors import HookError
from saework.core.files import PACKAGE
from saework.core.protocols import (
    HookedModel,
    SparseAutoencoder,
    Tokenizer,
    WorkbookParts,
    hook_of,
    sae_architecture,
    sae_metadata,
)


def asked_of(protocol) -> set[str]:
    """The names of a protocol's attributes and methods."""
    own = {name for name, value in vars(protocol).items() if is_member(name, value)}
    return own | set(inspect.get_annotations(protocol))


def is_member(name: str, value: object) -> bool:
    if name in ("__call__", "__len__"):
        return True
    return not name.startswith("_") and isinstance(value, (property, type(is_member)))


def missing(value: object, protocol) -> set[str]:
    return {name for name in asked_of(protocol) if not hasattr(value, name)}


def test_there_is_something_to_ask():
    assert asked_of(SparseAutoencoder) == {"W_enc", "W_dec", "encode", "decode"}
    assert {"cfg", "hook_dict", "W_U", "__call__", "hooks"} <= asked_of(HookedModel)
    assert {"__len__", "__call__", "bos_token_id", "batch_decode"} <= asked_of(Tokenizer)


@pytest.mark.parametrize("sae", [random_sae(4, 6, POST, torch.Generator()), top_k_sae(), IDENTITY])
def test_saes(sae):
    assert missing(sae, SparseAutoencoder) == set()
    assert sae.decode(sae.encode(torch.ones(2, sae.W_enc.shape[0]))).shape[0] == 2


@pytest.mark.parametrize("name", ["gpt2_bridge", "gemma2_bridge", "llama_bridge"])
def test_bridges(name, request):
    bridge = request.getfixturevalue(name)
    assert missing(bridge, HookedModel) == set()
    assert missing(bridge.tokenizer, Tokenizer) == set()


def test_a_hooked_transformer_and_a_workbook(tiny, book):
    assert missing(tiny.model, HookedModel) == set()
    assert missing(tiny.tokenizer, Tokenizer) == set()
    assert isinstance(book, WorkbookParts)
    assert not isinstance(tiny.model, WorkbookParts)


def test_what_is_missing_is_seen():
    assert missing(SimpleNamespace(W_enc=1, encode=abs), SparseAutoencoder) == {"W_dec", "decode"}


STATICALLY = """
import sae_lens, transformer_lens, transformers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from saework.core.protocols import HookedModel, SparseAutoencoder, Tokenizer

class Plain:
    W_enc: Tensor
    W_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, features: Tensor) -> Tensor:
        return features

def assign(
    plain: Plain,
    sae: sae_lens.SAE,
    hooked: transformer_lens.HookedTransformer,
    bridge: TransformerBridge,
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    saes: list[SparseAutoencoder] = [plain, sae]
    models: list[HookedModel] = [hooked, bridge]
    tokenizers: list[Tokenizer] = [tokenizer]
    wrong: SparseAutoencoder = hooked
"""


def test_the_type_checker_takes_the_real_classes(tmp_path):
    pytest.importorskip("mypy")
    path = tmp_path / "assignments.py"
    path.write_text(STATICALLY, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", str(path)]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    own_lines = [line for line in done.stdout.splitlines() if path.name in line]
    (error,) = [line for line in own_lines if ": error:" in line]
    assert "HookedTransformer" in error, "the one that is wrong"


def sae_with(config) -> SimpleNamespace:
    return SimpleNamespace(cfg=config)


def test_what_an_saes_config_says():
    sae = random_sae(4, 6, RESID, torch.Generator(), "jumprelu")
    sae.cfg.metadata.dataset_path = "some/text"
    assert sae_metadata(sae, "dataset_path") == "some/text"
    assert sae_metadata(sae, "no_such_thing") is None
    assert sae_architecture(sae) == "jumprelu"


@pytest.mark.parametrize("sae", [IDENTITY, sae_with(None), sae_with(SimpleNamespace())])
def test_an_sae_without_a_config(sae):
    assert sae_metadata(sae, "dataset_path") is None
    assert sae_architecture(sae) is None
    with pytest.raises(HookError, match="does not say which hook it belongs to; give hook=, such"):
        hook_of(sae)
    assert hook_of(sae, POST) == POST


def test_a_given_hook_comes_before_the_saes_own():
    sae = random_sae(4, 6, RESID, torch.Generator())
    assert hook_of(sae) == RESID
    assert hook_of(sae, POST) == POST
