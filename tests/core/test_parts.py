"""What each public function says of a model or an SAE that is none, before the model runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import PlainSAE

import saework
from saework.core.parts import check_model, check_sae

FUNCTIONS = {
    "recons_score": lambda model, sae, tokens: saework.recons_score(model, sae, tokens),
    "reconstruction_metrics": lambda *parts: saework.reconstruction_metrics(*parts),
    "scan": lambda model, sae, tokens: saework.scan(model, sae, tokens, progress=False),
    "find_site": lambda *parts: saework.find_site(*parts),
    "feature_activations": lambda *parts: saework.feature_activations(*parts, 0),
    "active_features": lambda model, sae, tokens: saework.active_features(model, sae, tokens[0]),
    "logit_effect": lambda model, sae, tokens: saework.logit_effect(model, sae, 0),
    "steer": lambda model, sae, tokens: saework.steer(model, sae, tokens[0], 0, strength=1.0),
    "write_reference": lambda model, sae, tokens: saework.write_reference(
        model, sae, "import os", path="none.json", source="here"
    ),
}
OF_AN_SAE = {
    "compare": lambda sae: saework.compare(sae, sae),
    "rare_features": lambda sae: saework.rare_features(sae, [0.1] * 48),
    "permute_features": lambda sae: saework.permute_features(sae, range(48)),
    "select_features": lambda sae: saework.select_features(sae, [3]),
}


class Wrapper(torch.nn.Module):
    """Somebody's own module around an SAE."""

    def __init__(self, sae):
        super().__init__()
        self.sae = sae


class Adapted(torch.nn.Module):
    """As PEFT's models look."""

    def merge_and_unload(self):
        raise NotImplementedError


def with_shapes(encoder, decoder, **more):
    sae = PlainSAE(None, None)
    sae.W_enc, sae.W_dec = torch.zeros(encoder), torch.zeros(decoder)
    return SimpleNamespace(**vars(sae), **more)


def bad_models(tiny, llama):
    compiled = torch.compile(copy.deepcopy(tiny.model))
    return {
        "None": (None, r"model is None; give a TransformerLens model"),
        "name": ("gpt2", r"model is 'gpt2'; give a TransformerLens model.*saework\.load"),
        "class": (type(tiny.model), r"model is the class HookedTransformer"),
        "Hugging Face": (llama, r"Hugging Face model \(LlamaForCausalLM\).*boot_transformers"),
        "plain module": (torch.nn.Linear(2, 2), r"model is a Linear without hook_dict, cfg, hooks"),
        "DataParallel": (torch.nn.DataParallel(tiny.model), r"wrapped \(DataParallel\).*\.module"),
        "compiled": (compiled, r"compiled \(OptimizedModule\).*model\._orig_mod"),
        "PEFT": (Adapted(), r"PEFT \(Adapted\).*merge_and_unload\(\)"),
        "Workbook": (
            saework.Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook),
            r"Workbook",
        ),
    }


def bad_saes(tiny):
    wrong_config = copy.deepcopy(tiny.sae)
    wrong_config.cfg.d_in = 25
    return {
        "None": (None, r"sae is None; give a sae_lens\.SAE, or an object of your own"),
        "class": (type(tiny.sae), r"sae is the class StandardSAE"),
        "wrapper": (Wrapper(tiny.sae), r"sae is wrapped \(Wrapper\).*give sae\.sae"),
        "DataParallel": (torch.nn.DataParallel(tiny.sae), r"\(DataParallel\).*give sae\.module"),
        "compiled": (torch.compile(tiny.sae), r"\(OptimizedModule\).*give sae\._orig_mod"),
        "unknown": (torch.nn.Linear(2, 2), r"a Linear without (encode, decode, )?W_dec"),
        "W_enc transposed": (
            with_shapes((48, 24), (48, 24)),
            r"W_enc is \[48, 24\] and W_dec \[48, 24\].*one of them is transposed",
        ),
        "W_dec transposed": (
            with_shapes((24, 48), (24, 48)),
            r"W_enc is \[24, 48\] and W_dec \[24, 48\].*one of them is transposed",
        ),
        "both transposed": (
            with_shapes((48, 24), (24, 48), b_enc=torch.zeros(48)),
            r"b_enc has 48 values.*must have 24.*transposed",
        ),
        "of two SAEs": (with_shapes((24, 50), (48, 24)), r"they belong to different SAEs"),
        "b_dec": (with_shapes((24, 48), (48, 24), b_dec=torch.zeros(16)), r"b_dec has 16 values"),
        "three axes": (with_shapes((24, 48), (48, 3, 24)), r"W_dec is of shape \[48, 3, 24\]"),
        "config": (wrong_config, r"sae\.cfg\.d_in is 25, but by its weights it is 24"),
    }


@pytest.fixture
def still_model(tiny, monkeypatch):
    """A model that must not run."""
    monkeypatch.setattr(tiny.model, "forward", None)
    return tiny.model


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_model_that_is_none(function, tiny, llama):
    for name, (model, words) in bad_models(tiny, llama).items():
        with pytest.raises(ValueError, match=f"(?s){words}"):
            FUNCTIONS[function](model, tiny.sae, tiny.tokens)
            pytest.fail(f"{function} took {name}")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_sae_that_is_none(function, tiny, still_model):
    for name, (sae, words) in bad_saes(tiny).items():
        with pytest.raises(ValueError, match=words):
            FUNCTIONS[function](still_model, sae, tiny.tokens)
            pytest.fail(f"{function} took {name}")


@pytest.mark.parametrize("function", OF_AN_SAE)
def test_functions_of_an_sae_alone(function, tiny):
    for name, (sae, words) in bad_saes(tiny).items():
        with pytest.raises(ValueError, match=words):
            OF_AN_SAE[function](sae)
            pytest.fail(f"{function} took {name}")


def test_a_workbook_of_them(tiny, llama):
    """The parts of pages and of the explorer, which take a Workbook only."""
    parts = (tiny.tokens, tiny.tokenizer, tiny.hook)
    for model, words in bad_models(tiny, llama).values():
        with pytest.raises(ValueError, match=f"(?s){words}"):
            saework.Workbook(model, tiny.sae, *parts)
    for sae, words in bad_saes(tiny).values():
        with pytest.raises(ValueError, match=words):
            saework.Workbook(tiny.model, sae, *parts)


def test_the_line_for_a_hugging_face_model_works(llama, tiny):
    """What the error says is run as it stands."""
    hugging_face = copy.deepcopy(llama).eval()
    tokens = tiny.tokens[:2, :8]
    with torch.no_grad():
        expected = hugging_face(tokens).logits
    with pytest.raises(ValueError) as caught:
        check_model(hugging_face)
    _, *lines = str(caught.value).split("\n")
    names = {"model": hugging_face, "tokenizer": copy.deepcopy(tiny.tokenizer)}
    exec("\n".join(lines), names)
    check_model(names["model"])
    assert torch.allclose(names["model"](tokens), expected, atol=1e-5)


def test_what_is_one_passes(tiny):
    check_model(tiny.model)
    check_sae(tiny.sae)
    check_sae(PlainSAE(None, None))
    tied = PlainSAE(None, None)
    del tied.W_enc
    check_sae(tied)


def test_an_own_object_without_encoder_weights(lively):
    """Its encoder is its decoder: it is encoded whole, and what needs more says so."""
    decoder = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    tied = PlainSAE(lambda x: torch.relu(x @ decoder.T), lambda features: features @ decoder)
    tied.W_dec = decoder
    del tied.W_enc
    hook = "blocks.0.mlp.hook_post"
    x = lively.model.run_with_cache(lively.tokens)[1][hook]
    found = saework.feature_activations(lively.model, tied, lively.tokens, 3, hook=hook)
    assert torch.allclose(found, torch.relu(x @ decoder[3]), atol=1e-5)
    counts = saework.scan(lively.model, tied, lively.tokens, hook=hook, progress=False).count
    assert torch.equal(counts, (torch.relu(x @ decoder.T) != 0).sum((0, 1)))
    with pytest.raises(ValueError, match="no cfg of sae_lens"):
        saework.select_features(tied, [3])
    with pytest.raises(ValueError, match="no torch module"):
        saework.permute_features(tied, range(40))
    with pytest.raises(saework.HookError, match="does not say which hook.*give hook="):
        saework.recons_score(lively.model, tied, lively.tokens)


OF_A_WORKBOOK = {
    "feature_page": lambda book: saework.feature_page(book, 7),
    "feature_pages": lambda book: saework.feature_pages(book, [7]),
    "explore": lambda book: saework.explore(book, 7),
    "find_features": lambda book: saework.find_features(book, "import"),
    "text_heatmap": lambda book: saework.text_heatmap(book, "import os", 7),
}


@pytest.mark.parametrize("name", OF_A_WORKBOOK)
def test_what_is_no_workbook(name, tiny, book):
    call = OF_A_WORKBOOK[name]
    load_it = r"workbook is the name 'gelu-1l'; load it first: workbook = load\('gelu-1l'\)"
    with pytest.raises(ValueError, match=load_it):
        call("gelu-1l")
    with pytest.raises(ValueError, match="workbook is a HookedTransformer; give what load"):
        call(tiny.model)
    with pytest.raises(ValueError, match="workbook is a NoneType; give what load"):
        call(None)
    with pytest.raises(ValueError, match="workbook is a type; give what load"):
        call(saework.Workbook)
    hugging_face = SimpleNamespace(generate=print, config=SimpleNamespace(name_or_path="gpt2"))
    with pytest.raises(ValueError, match="is a Hugging Face model .*; wrap it"):
        call(replace(book, model=hugging_face))
    transposed = copy.deepcopy(book.sae)
    transposed.W_enc = torch.nn.Parameter(book.sae.W_enc.T.contiguous())
    with pytest.raises(ValueError, match="one of them is transposed: give its .T"):
        call(replace(book, sae=transposed))


@pytest.mark.parametrize("name", OF_AN_SAE)
def test_a_workbook_in_an_saes_place(name, book):
    with pytest.raises(ValueError, match="sae is a Workbook; give its SAE, workbook.sae"):
        OF_AN_SAE[name](book)


def test_a_workbook_alone_brings_what_a_run_of_the_model_needs(book):
    found = saework.activations(book)
    torch.testing.assert_close(found, saework.activations(book.model, book.tokens, book.hook))
    losses = saework.token_losses(book)
    torch.testing.assert_close(losses, saework.token_losses(book.model, book.tokens))
    with pytest.raises(ValueError, match="activations was given a Workbook and another positional"):
        saework.activations(book, book.tokens)
    with pytest.raises(ValueError, match="token_losses was given a Workbook and another posi"):
        saework.token_losses(book, "import os")


def test_weights_that_are_no_tensors_of_floats(tiny):
    for weights, words in {
        "numpy": (
            np.ones((48, 24)),
            r"sae.W_dec is an ndarray of shape \(48, 24\); give torch.from",
        ),
        "whole": (torch.ones(48, 24).long(), "sae.W_dec is torch.int64.*must hold floats"),
        "meta": (torch.ones(48, 24, device="meta"), "sae.W_dec is on device meta"),
        "sparse": (torch.ones(48, 24).to_sparse(), "sae.W_dec is torch.float32, torch.sparse"),
        "none": (torch.ones(0, 24), r"sae.W_dec is empty \(shape \[0, 24\]\)"),
    }.values():
        sae = PlainSAE(None, None)
        sae.W_dec = weights
        with pytest.raises(ValueError, match=words):
            saework.compare(sae, tiny.sae)


def test_an_sae_whose_method_is_none(tiny):
    sae = PlainSAE(None, None)
    sae.decode = 5
    with pytest.raises(ValueError, match="sae.decode is 5; it must be a method of the SAE"):
        check_sae(sae)


def test_an_sae_made_smaller_than_it_casts_its_input_to(tiny):
    sae = copy.deepcopy(tiny.sae).half()
    words = r"weights are torch.float16, but it casts its input to torch.float32 .*sae.to\(dtype="
    with pytest.raises(ValueError, match=words):
        check_sae(sae)
    check_sae(sae.to(dtype=torch.float16))
