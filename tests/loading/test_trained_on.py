"""The model and the rows that an SAE's own config names."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import random_sae

from saework import load
from saework.core.errors import WeightsError
from saework.core.files import DATA
from saework.loading import catalogue, workbook
from saework.loading.hub import Repository
from saework.loading.layouts.sae_lens import Registered
from saework.loading.trained_on import (
    LONGEST_ROW,
    rows_of_training,
    warn_of_other_hook,
    warn_of_other_training,
    with_own_model,
)

GPT2 = "gpt2-small-res-jb", "blocks.8.hook_resid_pre"


def sae(**metadata):
    return SimpleNamespace(cfg=SimpleNamespace(metadata=SimpleNamespace(**metadata)))


@pytest.mark.parametrize(
    "metadata,expected",
    [
        ({}, (128, True)),
        ({"prepend_bos": None, "context_size": None}, (128, True)),
        ({"prepend_bos": True, "context_size": 1024}, (1024, True)),
        ({"prepend_bos": False, "context_size": 32}, (32, False)),
    ],
)
def test_rows_as_the_sae_was_trained(metadata, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert rows_of_training(sae(**metadata), catalogue.release_named(GPT2[0])) == expected


@pytest.mark.parametrize(
    "name,context_size,length",
    [
        (GPT2[0], 1, 128),
        (GPT2[0], "32", 128),
        (GPT2[0], 8192, LONGEST_ROW),
        ("gemma-mini", 129, 128),
    ],
)
def test_a_context_size_that_is_not_honoured_is_named(name, context_size, length):
    release = catalogue.release_named(name)
    with pytest.warns(UserWarning, match=f"context_size {context_size!r}.*rows have {length} "):
        assert rows_of_training(sae(context_size=context_size), release) == (length, True)


@pytest.mark.parametrize("name", ["gemma-mini", "gelu-1l-mini"])
def test_load_cuts_rows_as_the_sae_says(tmp_path, name):
    """An SAE of this machine that was trained on rows of 32 tokens without a BOS in front."""
    book = load(name, n_tokens=512, check=False)
    own = copy.deepcopy(book.sae)
    own.cfg.metadata.prepend_bos = False
    own.cfg.metadata.context_size = 32
    own.save_model(tmp_path)
    for text in (None, "import os " * 100):
        rows = load(name, str(tmp_path), n_tokens=512, text=text, check=False).tokens
        assert rows.shape[1] == 32 and (rows[:, 0] != book.tokenizer.bos_token_id).any()


def test_the_model_of_the_table_where_the_sae_agrees():
    release = catalogue.release_named(GPT2[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in ("gpt2-small", "gpt2", "openai-community/gpt2", None):
            assert with_own_model(release, GPT2[1], sae(model_name=name)) is release
        # A path on this machine, and a release of the catalogue: the reader chose the model.
        assert with_own_model(release, "/some/path", sae(model_name="gemma-2b")) is release
        mini = catalogue.release_named("gemma-mini")
        assert with_own_model(mini, mini.ids()[0], sae(model_name="gemma-2b")) is mini


def test_the_saes_own_model_comes_before_the_tables():
    release = catalogue.release_named(GPT2[0])
    with pytest.warns(UserWarning) as caught:
        own = with_own_model(release, GPT2[1], sae(model_name="gemma-2-9b-it"))
    text = str(caught[0].message)
    assert "gpt2-small-res-jb" in text and "gemma-2-9b-it" in text and "model_name" in text
    for part in ("model", "tokenizer"):
        assert own.repositories[part].name == "google/gemma-2-9b-it"
    assert own.repositories["sae"] is release.repositories["sae"]


def test_a_model_that_is_not_known_is_only_warned_of():
    release = catalogue.release_named(GPT2[0])
    with pytest.warns(UserWarning, match="no-such-model.*does not list that one.*may be off"):
        assert with_own_model(release, GPT2[1], sae(model_name="no-such-model")) is release


def test_load_takes_the_saes_own_model(tmp_path, monkeypatch):
    """Model and tokenizer are asked for by the name that the SAE gives."""
    asked = []

    def fetch_folder(repository, patterns, *, also=()):
        asked.append(repository.name)
        return DATA / "gelu-1l-mini" / "tokenizer"

    monkeypatch.setattr(Repository, "fetch_folder", fetch_folder)
    monkeypatch.setattr(Repository, "fetch", lambda repository, file: tmp_path / file)
    here = SimpleNamespace(device="cpu")
    monkeypatch.setattr(workbook, "plan_of_load", lambda *given, **options: here)
    own = random_sae(8, 20, GPT2[1], torch.Generator().manual_seed(0))
    own.cfg.metadata.model_name = "gemma-2-9b-it"
    monkeypatch.setattr(Registered, "read", lambda *given, **options: own)
    with pytest.warns(UserWarning, match="gemma-2-9b-it is taken"), pytest.raises(WeightsError):
        load(*GPT2, text="a", check=False)  # the folder holds no model
    assert asked[-1] == "google/gemma-2-9b-it" and asked.count("google/gemma-2-9b-it") == 2


def test_another_sae_on_rows_that_it_was_not_trained_on(tmp_path):
    book = load("gemma-mini", "blocks.0.hook_resid_post", n_tokens=512, check=False)
    own = copy.deepcopy(book.sae)
    own.cfg.metadata.prepend_bos = False
    own.cfg.metadata.context_size = 32
    own.save_model(tmp_path)
    with pytest.warns(UserWarning) as caught:
        book.with_sae(str(tmp_path))
    text = str(caught[0].message)
    assert "prepend_bos False (here True), context_size 32 (here 128)" in text
    assert "model_name" not in text
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        book.with_sae("blocks.2.hook_resid_post")
        warn_of_other_training(sae(model_name="gpt2"), sae())


@pytest.mark.parametrize(
    "field,value",
    [
        ("sequence_separator_token", "eos"),
        ("sequence_separator_token", None),
        ("disable_concat_sequences", True),
        ("seqpos_slice", [1, None]),
        ("exclude_special_tokens", True),
        ("exclude_special_tokens", [0, 1]),
    ],
)
def test_rows_and_positions_that_are_not_followed_are_told(field, value):
    release = catalogue.release_named(GPT2[0])
    with pytest.warns(UserWarning, match=f"{field} .*not followed.*mask="):
        assert rows_of_training(sae(**{field: value}), release) == (128, True)


def test_rows_and_positions_as_they_are_here_are_not_told():
    usual = {
        "sequence_separator_token": "bos",
        "disable_concat_sequences": False,
        "seqpos_slice": (None,),
        "exclude_special_tokens": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows_of_training(sae(**usual), catalogue.release_named(GPT2[0]))


@pytest.mark.parametrize(
    "name,sae_id,own,words",
    [
        (*GPT2, "blocks.7.hook_resid_pre", "8 for 7"),
        (*GPT2, "blocks.8.hook_resid_post", "resid_pre for resid_post"),
        ("llama_scope_lxr_8x", "l10r_8x", "blocks.9.hook_resid_post", "10 for 9"),
        ("qwen-scope-3-1.7b-base-w32k-l50", "layer3", "blocks.2.hook_resid_post", "3 for 2"),
        (
            "gemma-scope-2b-pt-mlp",
            "layer_0/width_16k/average_l0_119",
            "blocks.1.hook_mlp_out",
            "0 for 1",
        ),
    ],
)
def test_a_table_that_names_another_hook(name, sae_id, own, words):
    release = catalogue.release_named(name)
    with pytest.warns(UserWarning) as caught:
        warn_of_other_hook(release, sae_id, sae(hook_name=own))
    text = str(caught[0].message)
    assert sae_id in text and f"{own} is taken" in text and words in text


@pytest.mark.parametrize(
    "name,sae_id,own",
    [
        (*GPT2, GPT2[1]),
        ("gpt2-small-hook-z-kk", "blocks.3.hook_z", "blocks.3.attn.hook_z"),
        (
            "gpt2-small-res-jb-feature-splitting",
            "blocks.8.hook_resid_pre_768",
            "blocks.8.hook_resid_pre",
        ),
        ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6", "hook_embed"),
        (
            "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109",
            "blocks.12.hook_resid_post__trainer_0",
            "blocks.12.hook_resid_post",
        ),
        ("gemma-mini", "layer_1/width_1k/average_l0_9", "blocks.0.hook_resid_post"),
        (*GPT2, None),
    ],
)
def test_a_table_that_names_the_same_hook(name, sae_id, own):
    """Of an SAE of this package, or one that names no hook, nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_other_hook(catalogue.release_named(name), sae_id, sae(hook_name=own))
