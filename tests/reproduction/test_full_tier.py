"""The cells that only the full releases run, on the minis' files in their place.

This proves that the code of that tier runs to its ledger, not that a published number comes out:
the verdicts here mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from stand_ins import NO_MODEL, text_of

from saework.core.ledger import NOT_RUN
from saework.loading.catalogue import release_named
from saework.reproduction import replay
from saework.reproduction.run import NOTEBOOKS, ledgers_in

FOLDER = Path(__file__).parents[2] / "notebooks"
GELU = """
from dataclasses import replace
from saework.loading import catalogue, corpus
all_batches = corpus.published_rows


def one_batch(n_rows, n_batches, **more):  # 64 rows are enough to run
    return all_batches(n_rows, 1, **more)


corpus.published_rows = one_batch
mini, full = catalogue._RELEASES["gelu-1l-mini"], catalogue._RELEASES["gelu-1l"]
catalogue._RELEASES["gelu-1l"] = replace(full, repositories=mini.repositories)
RELEASE = "gelu-1l"
"""
GEMMA_SCOPE = """
from dataclasses import replace
from saework.core.files import DATA
from saework.loading import catalogue
mini, full = catalogue._RELEASES["gemma-mini"], catalogue._RELEASES["gemma-scope-2b-pt-res"]
stand_in = dict(zip(full.shown[1:], [i for i in mini.ids() if "layer_2" in i] * 2))


def find(sae_id):
    return replace(mini.find(stand_in.get(sae_id, sae_id)), id=sae_id)


same = {"name": full.name, "notebooks": full.notebooks, "ids": full.ids, "shown": full.shown}
catalogue._RELEASES[full.name] = replace(mini, find=find, **same)
RELEASE, N_TOKENS, LOSS_TOKENS = full.name, 4096, 1024  # few, since only the code is tested
REFERENCE = str(DATA / "gemma-mini" / "reference.json")
"""
GEMMA_2B = """
from dataclasses import replace
from saework.loading import catalogue
mini, full = catalogue._RELEASES["gemma-mini"], catalogue._RELEASES["gemma-2b-res-jb"]


def find(sae_id):
    return replace(mini.find(sae_id.replace("blocks.6", "blocks.2")), id=sae_id)


catalogue._RELEASES[full.name] = replace(mini, name=full.name, find=find, ids=full.ids)
RELEASE, N_TOKENS = full.name, 1024
"""
LLAMA = """
from dataclasses import replace
import torch
from saework.loading import catalogue, corpus, text_sources
mini, full = catalogue._RELEASES["llama-mini"], catalogue._RELEASES["llama-3.2-1b-qresearch"]


def find(sae_id):
    return replace(mini.sae(), id=sae_id)


same = {"name": full.name, "notebooks": full.notebooks, "ids": full.ids}
catalogue._RELEASES[full.name] = replace(mini, text=text_sources.conversation, find=find, **same)


def chat_tokens(messages, tokenizer, **more):  # the mini has no chat template
    row = [tokenizer.bos_token_id]
    for message in messages:
        row += tokenizer(message["content"], add_special_tokens=False)["input_ids"]
        row.append(tokenizer.eos_token_id)
    return torch.tensor([row])


corpus.chat_tokens = chat_tokens
RELEASE, NEW_TOKENS, SEEDS = full.name, 8, (0,)
"""
GPT2 = """
from dataclasses import replace
from saework.core.files import DATA
from saework.loading import catalogue
mini, full = catalogue._RELEASES["llama-mini"], catalogue._RELEASES["gpt2-small-res-jb"]


def find(sae_id):
    return replace(mini.sae(), id=sae_id)


same = {name: getattr(full, name) for name in ("name", "notebooks", "ids", "family")}
catalogue._RELEASES[full.name] = replace(mini, find=find, feature=103, **same)
RELEASE, NEW_TOKENS, N_SAMPLES, N_PROMPTS, N_DIRECTIONS = full.name, 8, 1, 4, 4
"""
GEMMA_3 = """
from dataclasses import replace
from saework.loading import catalogue
from saework.loading.subject import Subject
mini, full = catalogue._RELEASES["gemma-mini"], catalogue._RELEASES["gemma-scope-2-270m-pt-res"]
stand_in = dict(zip(full.shown[1:], [i for i in mini.ids() if "layer_2" in i] * 2))


def find(sae_id):
    return replace(mini.find(stand_in.get(sae_id, sae_id)), id=sae_id)


same = {name: getattr(full, name) for name in ("name", "notebooks", "ids", "shown", "family")}
subject = Subject(("data",), "sort the data by key")
catalogue._RELEASES[full.name] = replace(mini, find=find, subject=subject, **same)
RELEASE, N_TOKENS, LOSS_TOKENS = full.name, 4096, 1024  # few, since only the code is tested
NEW_TOKENS, N_SAMPLES, N_PROMPTS, N_DIRECTIONS = 8, 1, 4, 4
"""
WITH_A_RELU = """
from dataclasses import replace
from saework.loading import catalogue
from saework.loading.subject import Subject
mini, full = catalogue._RELEASES["gemma-mini"], catalogue._RELEASES["gpt2-small-res-jb"]


def find(sae_id):
    return replace(mini.find("blocks.2.hook_resid_post"), id=sae_id)


same = {name: getattr(full, name) for name in ("name", "notebooks", "ids", "family")}
more = {"subject": Subject(("data",), "sort the data by key"), "default": find(full.sae().id)}
catalogue._RELEASES[full.name] = replace(mini, find=find, feature=103, **same, **more)
RELEASE = full.name
"""
STAND_INS = {
    "gelu-1l": GELU,
    "gemma-scope-2b-pt-res": GEMMA_SCOPE,
    "gemma-scope-2-270m-pt-res": GEMMA_3,
    "gpt2-small-res-jb": GPT2,
    "gemma-2b-res-jb": GEMMA_2B,
    "llama-3.2-1b-qresearch": LLAMA,
}
OTHERS = {("gpt2-small-res-jb", "05_gemma_scope_validation"): WITH_A_RELU}
"""In place of the release's stand-ins: an SAE in Bloom's layout."""
FASTER = {
    "01": "STEPS = 100",
    "02": "N_ROWS, SEARCHED = 32, 110_000",
    "03": "EVERY, N_TOKENS = 4, 4096",
    "06": "N_PARENTS = 60",
    "07": "FIRING_TOKENS = 8192",
}
"""By notebook: less text and training than its own."""
LONG = "N_SHORT = 300"
"""Of notebook 01, in a cell that is no parameter."""
WITHOUT_CLAIMS = ("00_start_here", "01_train_an_sae")
OF_NOBODY = [("gemma-scope-2-270m-pt-res", number) for number in ("02", "05", "08")]
"""Nothing was published that these could compare."""
CASES = [(release, name) for release in STAND_INS for name in NOTEBOOKS[release]]


@pytest.mark.parametrize(
    ("release", "name"), CASES, ids=[f"{release}-{name[:2]}" for release, name in CASES]
)
def test_the_full_branch_runs_to_its_ledger_and_again_from_its_pack(release, name, tmp_path):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    parameters = next(
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    stand_in = OTHERS.get((release, name), STAND_INS[release]) + FASTER.get(name[:2], "")
    if name == "01_train_an_sae":
        (short,) = [cell for cell in notebook.cells if LONG in cell.source]
        short.source = short.source.replace(LONG, "N_SHORT = 20")
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(stand_in))
    pack = tmp_path / f"{name}.safetensors"
    executed = replay.watched(notebook, pack, name=name, licence="see the release", parameters={})
    execute(executed, tmp_path)
    own = [
        entry
        for ledger in ledgers_in(executed)
        for entry in ledger.entries
        if entry.claim.tier == release
    ]
    assert [entry.claim.id for entry in own if entry.verdict == NOT_RUN] == []
    assert bool(own) != (name in WITHOUT_CLAIMS or (release, name[:2]) in OF_NOBODY)
    assert pack.stat().st_size < 4e6
    if release_named(release).gated:  # what a class reruns
        again = replay.without_weights(notebook, pack)
        again.cells.append(nbformat.v4.new_code_cell(NO_MODEL))
        execute(again, tmp_path)
        assert text_of(again) == text_of(executed)


def execute(notebook, folder):
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
