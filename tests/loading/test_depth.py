"""``load(..., depth="hook")``: what it downloads, what it gives, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from every_sae import build
from local_hub import (
    GEMMA_SCOPE,
    LLAMA_TEMPLATE,
    QRESEARCH,
    TRIED,
    LocalHub,
    hf_config,
    result_of,
    write_byte_level_tokenizer,
    write_gemma_scope,
    write_hf_model,
    write_hf_tokenizer,
    write_jbloom,
    write_qresearch,
)

import saework
from saework.core.errors import HookError, NotAvailableError
from saework.engine import forward
from saework.loading.self_check import self_check

GPT2_SAES = "jbloom/GPT2-Small-SAEs-Reformatted"
BLOCK_5 = "blocks.5.hook_resid_pre"
LAST_BLOCK = "blocks.8.hook_resid_pre"
CASES = ("gemma", "llama", "gpt2")

CLIENT = (
    TRIED
    + """
import json, shutil, sys
from types import SimpleNamespace
import psutil, torch
import saework
from saework.engine import forward

psutil.virtual_memory = lambda: SimpleNamespace(available=10**15)
shutil.disk_usage = lambda path: SimpleNamespace(free=10**15)
TEXT = ["import os and sys", "def main(): pass"] * 20
PLACES = {
    "gemma": ("gemma-scope-2b-pt-res", None),
    "llama": ("llama-3.2-1b-qresearch", None),
    "gpt2": ("gpt2-small-res-jb", "blocks.5.hook_resid_pre"),
}

def loaded(case, **options):
    name, sae_id = PLACES[case]
    return saework.load(name, sae_id, text=TEXT, n_tokens=200, check=False, **options)

def compared(case, depth):
    part = loaded(case, depth=depth)
    whole = loaded(case)
    x = forward.activations(part.model, part.tokens, part.hook)
    equal = torch.equal(x, forward.activations(whole.model, whole.tokens, whole.hook))
    scans = [saework.scan(book, progress=False).count.tolist() for book in (part, whole)]
    return {
        "text": repr(part),
        "equal": equal,
        "mean": float(x.mean(-1).abs().max()),
        "fired alike": scans[0] == scans[1] and sum(scans[0]) > 0,
        "values": [sum(p.numel() for p in book.model.parameters()) for book in (part, whole)],
    }

def other_text():
    book = loaded("gemma", depth="text")
    absent = max(set(range(book.model.cfg.d_vocab)) - set(book.tokens.flatten().tolist()))
    row = book.tokens[:1].clone()
    row[0, 3] = absent
    return saework.activations(book.model, row, book.hook)

def with_little_memory():
    plain = psutil.virtual_memory
    psutil.virtual_memory = lambda: SimpleNamespace(available=400_000)
    try:
        return tried(loaded, "gemma", depth="hook")
    finally:
        psutil.virtual_memory = plain
"""
)


def write_files(root) -> None:
    """Gemma 2 in shards, Llama with an unembedding of its own, GPT-2 in one file."""
    write_hf_model(root / "gemma", hf_config("gemma2", d_model=32, n_layers=4), shards=3)
    untied = {"tie_word_embeddings": False}
    write_hf_model(root / "llama", hf_config("llama", d_model=16, n_layers=12, **untied))
    write_hf_tokenizer(root / "gemma", "gemma")
    write_hf_tokenizer(root / "llama", "llama", template=LLAMA_TEMPLATE)
    end_id = write_byte_level_tokenizer(root / "gpt2", "gpt2")
    ids = {"vocab_size": end_id + 1, "bos_token_id": end_id, "eos_token_id": end_id}
    write_hf_model(root / "gpt2", hf_config("gpt2", d_model=32, n_layers=9, **ids))
    write_gemma_scope(root / "scope", d_in=32, d_sae=64)
    write_qresearch(root / "qresearch", d_in=16, d_sae=64)
    for hook in (BLOCK_5, LAST_BLOCK):
        write_jbloom(
            root / "gpt2 saes" / hook,
            hook,
            d_in=32,
            d_sae=64,
            model_name="gpt2-small",
            context_size=64,
            model_from_pretrained_kwargs={"center_writing_weights": True},
        )


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("releases")
    write_files(root)
    with LocalHub() as hub:
        hub.add("google/gemma-2-2b", root / "gemma", gated=403, key="hf_owner")
        hub.add(GEMMA_SCOPE, root / "scope")
        hub.add("meta-llama/Llama-3.2-1B-Instruct", root / "llama")
        hub.add(QRESEARCH, root / "qresearch")
        hub.add("gpt2", root / "gpt2")
        hub.add(GPT2_SAES, root / "gpt2 saes")
        answers = result_of(
            CLIENT
            + f"""
answers = {{"little memory": with_little_memory()}}
answers |= {{case: compared(case, "hook") for case in reversed({CASES!r})}}
answers |= {{case + ", text": compared(case, "text") for case in {CASES!r}}}
answers["other text"] = tried(other_text)
answers["deeper"] = tried(lambda: loaded("gpt2", depth="hook").with_sae({LAST_BLOCK!r}))
report(answers)
""",
            cache=tmp_path_factory.mktemp("cache"),
            endpoint=hub.url,
            HF_TOKEN="hf_owner",
        )
        return answers, hub.requests


@pytest.mark.parametrize("ending", ["", ", text"])
@pytest.mark.parametrize("case", CASES)
def test_activations_are_the_whole_models(session, case, ending):
    answer = session[0][case + ending]
    assert answer["equal"] and answer["fired alike"], answer
    assert (answer["mean"] < 1e-5) == (case == "gpt2"), "its SAEs were trained on a centred stream"
    part, whole = answer["values"]
    assert part < whole


@pytest.mark.parametrize("depth", ["hook", "text"])
@pytest.mark.parametrize(
    ("case", "layers"),
    [("gemma", "1 of 4"), ("llama", "10 of 12"), ("gpt2", "6 of 9")],
)
def test_a_workbook_says_how_much_it_holds(session, case, layers, depth):
    answer = session[0][case if depth == "hook" else f"{case}, text"]
    assert f'TransformerBridge: {layers} layers (depth="{depth}")' in answer["text"]


def test_of_the_embedding_only_the_rows_of_the_text_are_held(session):
    answers, _ = session
    for case in CASES:
        with_embedding, _ = answers[case]["values"]
        without, _ = answers[f"{case}, text"]["values"]
        assert without < with_embedding, case


def test_a_token_of_another_text(session):
    answer = session[0]["other text"]
    assert answer["error"] == "HookError"
    assert answer["text"].startswith("token ")
    assert (
        'is not in the text that this model was loaded for (depth="text": it holds '
        in answer["text"]
    )
    assert 'load it with the text that you need (text=...), or with depth="hook"' in answer["text"]


def test_what_is_downloaded(session):
    """The first load: of Llama's one file neither the last two blocks nor the unembedding."""
    _, requests = session
    answers = [
        request.size
        for request in requests
        if request.method == "GET" and request.path.endswith("model.safetensors")
        if "Llama" in request.path
    ]
    *ranges, whole = answers  # the last is depth="full"
    assert sum(ranges) < 0.6 * whole
    n_values, _ = session[0]["llama"]["values"]
    assert sum(ranges) < 4 * n_values + 20_000


def test_too_little_memory_is_told_before_the_download(session):
    answers, requests = session
    answer = answers["little memory"]
    assert answer["error"] == "NotAvailableError"
    assert "GB of memory needed but 0.0 GB available" in answer["text"]
    assert "gemma" not in requests[0].path, "the first request comes with the next load"


def test_an_sae_behind_what_is_here(session):
    answer = session[0]["deeper"]
    assert answer["error"] == "HookError"
    assert "holds 6 of its 9 blocks" in answer["text"] and 'depth="full"' in answer["text"]


@pytest.fixture
def part():
    return saework.load("gemma-mini", n_tokens=256, check=False, depth="hook")


@pytest.fixture
def whole():
    return saework.load("gemma-mini", n_tokens=256, check=False)


def test_a_mini_needs_no_copy(part, whole):
    assert torch.equal(
        forward.activations(part.model, part.tokens, part.hook),
        forward.activations(whole.model, whole.tokens, whole.hook),
    )
    assert part.model.cfg.n_layers < whole.model.cfg.n_layers


@pytest.mark.parametrize("depth", ["hook", "text"])
@pytest.mark.parametrize(
    "hook", ["blocks.3.hook_resid_post", "blocks.3.attn.hook_z", "blocks.1.attn.hook_z"]
)
def test_an_sae_at_the_last_block_or_on_attention(tmp_path, hook, depth):
    """Four heads of 32 are read as one axis; behind the last of four blocks is no block."""
    build("standard", hook, hook, tmp_path, d_in=128).save_model(tmp_path)
    options = {"text": "import os\n" * 20, "n_tokens": 128, "check": False}
    part = saework.load("gemma-mini", tmp_path, depth=depth, **options)
    full = saework.load("gemma-mini", tmp_path, **options)
    assert part.hook == hook and part.model.cfg.n_layers == int(hook[7]) + 1
    features = [saework.scan(book, progress=False).total_activation for book in (part, full)]
    assert torch.equal(*features) and features[0].sum() > 0
    with pytest.raises(HookError, match=f'depth="{depth}": .* load it with depth="full"'):
        saework.recons_score(part)


@pytest.mark.parametrize("depth", ["hook", "text"])
def test_an_sae_behind_the_blocks(tmp_path, depth):
    hook = "ln_final.hook_normalized"
    build("standard", hook, hook, tmp_path, d_in=128).save_model(tmp_path)
    with pytest.raises(HookError, match=f'{hook} is in no block .* load with depth="full"'):
        saework.load("gemma-mini", tmp_path, depth=depth, check=False)


def test_the_check_of_a_batch_runs_without_logits(recwarn):
    saework.load("gemma-mini", n_tokens=512, depth="hook")
    assert not [w for w in recwarn if "variance" in str(w.message)]


def test_the_check_of_a_wrong_sae_ranks_no_hooks(part):
    """The right hook may be in a block that is not here."""
    other = copy.deepcopy(part.sae)
    other.W_dec.data *= -1
    with pytest.warns(UserWarning, match='variance .* a model loaded with depth="full" only'):
        self_check(replace(part, sae=other))


@pytest.mark.parametrize("depth", ["Hook", None, 1])
def test_another_word(depth):
    with pytest.raises(ValueError, match='depth is .*; give "full", "hook" or "text"'):
        saework.load("gemma-mini", depth=depth)


@pytest.mark.parametrize("name", ["gelu-1l-mini", "gelu-1l"])
def test_a_model_that_is_read_whole(name):
    with pytest.raises(NotAvailableError, match=f'model of {name} is one file .*depth="full"'):
        saework.load(name, depth="hook")
