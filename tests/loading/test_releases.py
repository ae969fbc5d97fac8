"""Gemma Scope, gemma-2b, qresearch's Llama and other releases, loaded through a local Hub."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from local_hub import (
    GEMMA_SCOPE,
    GEMMA_SCOPE_ID,
    JBLOOM,
    LLAMA_TEMPLATE,
    QRESEARCH,
    QRESEARCH_FILE,
    TRIED,
    LocalHub,
    documents,
    hf_config,
    run_client,
    write_byte_level_tokenizer,
    write_gemma_scope,
    write_hf_model,
    write_hf_tokenizer,
    write_jbloom,
    write_qresearch,
)
from tokenizers import Tokenizer

import saework
from saework.core.errors import HookError, UnknownNameError, WeightsError
from saework.loading import catalogue
from saework.loading.hub import Repository

OWNER, STRANGER, STALE = "hf_whoAcceptedTheLicence", "hf_whoDidNot", "hf_whoseTokenWasTakenBack"
PILE, FINEWEB = "monology/pile-uncopyrighted", "HuggingFaceFW/fineweb"
PILE_COMMIT, FINEWEB_COMMIT = "c" * 40, "e" * 40
JB_FOLDER = "gemma_2b_blocks.{}.hook_resid_post_16384"
LAYER_12 = "blocks.12.hook_resid_post"
SCALE = 0.21381938399317255  # what sae_lens lists for layer 12


def write_parquet(path, texts: list[str], column: str = "text") -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({column: texts, "meta": ["{}"] * len(texts)})
    parquet.write_table(table, path, row_group_size=100, compression=None, use_dictionary=False)


def many_documents() -> list[str]:
    """Twelve megabytes, of which a load reads the first."""
    generator = random.Random(0)
    words = " ".join(documents(60)).split(" ")
    return [" ".join(generator.choices(words, k=600)) for _ in range(3000)]


def packed(
    texts: list[str], tokenizer_file, length: int, n_rows: int, *, bos: int = 1
) -> list[list[int]]:
    """sae_lens's rows, token by token: BOS in front of each row, and between documents."""
    encode, rows, row = Tokenizer.from_file(str(tokenizer_file)), [], []
    for text in texts:
        for token in [bos] * bool(row) + encode.encode(text, add_special_tokens=False).ids:
            row = [*(row or [bos]), token]
            if len(row) == length:
                rows, row = [*rows, row], []
        if len(rows) >= n_rows:
            return rows[:n_rows]
    raise AssertionError("too few documents")


# ---- small files: how it behaves ----

CLIENT = (
    TRIED
    + """
import copy, hashlib, json, os, sys
from importlib import metadata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import psutil, shutil
import torch
import saework
from saework.loading import catalogue, documents
from saework.engine import forward
import transformers

ROOT = Path(os.environ["ROOT"])
answers = {}
programs = []


def note_programs(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        programs.append(f"{event} {arguments}"[:200])


def installed():
    return sorted(f"{found.name} {found.version}" for found in metadata.distributions())


sys.addaudithook(note_programs)
packages = installed()


def described(workbook):
    return {
        "hook": workbook.hook,
        "sae_id": workbook.sae_id,
        "tokens": workbook.tokens.tolist(),
        "text": repr(workbook),
        "model": type(workbook.model).__name__,
        "shape": list(workbook.sae.W_enc.shape),
    }


def asked(name, *arguments):
    found = saework.preflight(name, *arguments)
    return {
        "ok": found.ok,
        "token": found.token,
        "accepted": found.token_accepted,
        "problems": found.problems,
        "text": repr(found),
        "download_mb": found.download_mb,
        "memory_gb": found.memory_gb,
    }


def loaded(name, *arguments, **keywords):
    return described(saework.load(name, *arguments, **keywords))


def downloaded():
    return sorted(
        p.name for p in Path(os.environ["HF_HUB_CACHE"]).rglob("snapshots/*/**/*") if p.is_file()
    )


@torch.no_grad()
def layer_of(workbook, folder):
    # which of transformers' hidden states is at the hook, and how far off it is
    hf = transformers.AutoModelForCausalLM.from_pretrained(ROOT / folder)
    tokens = workbook.tokens[:2, :40]
    found, x = (
        hf(tokens, output_hidden_states=True).hidden_states,
        forward.activations(workbook.model, tokens, workbook.hook),
    )
    off = [float((x - state).abs().max()) for state in found]
    return {
        "layer": min(range(len(off)), key=off.__getitem__),
        "off": min(off),
        "others": sorted(off)[1],
    }


def any_machine():
    psutil.virtual_memory = lambda: SimpleNamespace(available=10**15)
    shutil.disk_usage = lambda path: SimpleNamespace(free=10**15)


def report():
    answers["programs"] = programs
    answers["packages changed"] = installed() != packages
    print("\\n" + json.dumps(answers))
"""
)

SMALL_STEPS = """
GEMMA, JB, LLAMA = "gemma-scope-2b-pt-res", "gemma-2b-res-jb", "llama-3.2-1b-qresearch"
os.environ["HF_TOKEN"] = OWNER
any_machine()
psutil.virtual_memory = lambda: SimpleNamespace(available=int(5e9))
answers["little memory"], answers["little memory, asked"] = tried(loaded, GEMMA), asked(GEMMA)
any_machine()
shutil.disk_usage = lambda path: SimpleNamespace(free=int(3e9))
answers["little disk"], answers["little disk, asked"] = tried(loaded, GEMMA), asked(GEMMA)
any_machine()
for who, token in (("nobody", ""), ("stale", STALE), ("stranger", STRANGER)):
    os.environ["HF_TOKEN"] = token
    answers[who], answers[who + ", asked"] = tried(loaded, GEMMA), asked(GEMMA)
os.environ["HF_TOKEN"] = OWNER
answers["before"] = downloaded()
answers["owner, asked"] = asked(GEMMA)
for bad in (
    "layer_0/width_17k/average_l0_105",
    "layer_26/width_16k/average_l0_105",
    "layer_0/width_16k/average_l0_106",
    "nonsense",
):
    answers[bad] = tried(loaded, GEMMA, bad)
answers["still"] = downloaded()

workbook = saework.load(GEMMA, n_tokens=2048, check=False)
answers["gemma"] = described(workbook) | layer_of(workbook, "gemma2")
answers["gemma switched"] = described(workbook.with_sae("layer_0/width_16k/average_l0_46"))
answers["gemma wider"] = tried(
    lambda: described(workbook.with_sae("layer_1/width_16k/average_l0_10"))
)
answers["gemma twice"] = asked(GEMMA)
answers["gemma all"] = loaded(GEMMA, check=False)
answers["gemma text"] = loaded(GEMMA, text="import os", check=False)
answers["gemma checked"] = tried(loaded, GEMMA, n_tokens=1024)
local = ROOT / "scope" / "layer_0/width_16k/average_l0_46"
paths = {
    "file": local / "params.npz",
    "folder": local,
    "qresearch": ROOT / "qresearch" / "other-l1.pt",
    "sae_lens": ROOT / "jb" / "local",
}
for name, path in paths.items():
    answers["local " + name] = loaded(GEMMA, str(path), text="import os", check=False)
answers["local unknown"] = tried(loaded, GEMMA, str(ROOT / "scope"))

workbook = saework.load(JB, LAYER_12, n_tokens=1024, check=False)
answers["jb"] = described(workbook) | layer_of(workbook, "gemma")
from safetensors.torch import load_file

w = load_file(ROOT / "jb" / JB_FOLDER.format(12) / "sae_weights.safetensors")
x = forward.activations(workbook.model, workbook.tokens, workbook.hook)[0]
features = torch.relu((SCALE * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
output = (features @ w["W_dec"] + w["b_dec"]) / SCALE
pairs = ((workbook.sae.encode(x), features), (workbook.sae(x), output))
answers["jb formula"] = [
    float((ours - plain).abs().max() / plain.abs().max()) for ours, plain in pairs
]
from sae_lens import SAE

own = SAE.from_pretrained(JB, LAYER_12)
answers["jb own loader"] = float((own.encode(x) - workbook.sae.encode(x)).abs().max())
answers["jb default"] = loaded(JB, n_tokens=1024, check=False)

workbook = saework.load(LLAMA, check=False)
answers["llama"] = described(workbook) | layer_of(workbook, "llama")
answers["llama prompt"] = workbook.tokenizer.decode(workbook.tokens[0])
path = ROOT / "llama" / "tokenizer_config.json"

answers["gpt2, asked"] = asked("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
workbook = saework.load("gpt2-small-res-jb", "blocks.8.hook_resid_pre", n_tokens=256, check=False)
answers["gpt2"] = described(workbook) | {
    "bos": workbook.tokenizer.bos_token_id,
    "prompt": forward.as_tokens(workbook.model, "import os").tolist(),
    "mean": float(
        forward.activations(workbook.model, workbook.tokens, workbook.hook).mean(-1).abs().max()
    )
}
answers["gpt2 default"] = loaded("gpt2-small-res-jb", n_tokens=256, check=False)
answers["gpt2 no such"] = tried(loaded, "gpt2-small-res-jb", "blocks.3.hook_resid_pre")
answers["gpt2 misspelt"] = tried(loaded, "gpt2-small-res-jb", "blocks.99.hook_resid_pre")
answers["gpt2 score"] = saework.recons_score(
    workbook.model, workbook.sae, workbook.tokens, progress=False
).n_tokens

answers["no set"] = tried(lambda: documents.streamed_texts("owner/nothing"))
answers["set without parquet"] = tried(lambda: documents.streamed_texts("owner/raw"))
answers["set without text"] = tried(lambda: documents.streamed_texts("owner/other"))
texts, _ = documents.streamed_texts(PILE)
next(texts)
(
    ROOT / "pile converted" / "default" / "train" / "0000.parquet"
).unlink()  # the last step: the Hub loses it while it is read
answers["set that goes away"] = tried(lambda: sum(1 for _ in texts))
report()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Narrow models and SAEs of each layout; layer 12 of Gemma and layer 9 of Llama exist."""
    root = tmp_path_factory.mktemp("releases")
    write_hf_model(root / "gemma2", hf_config("gemma2", d_model=32), shards=2)
    write_hf_model(root / "gemma", hf_config("gemma", d_model=16, n_layers=14))
    write_hf_model(root / "llama", hf_config("llama", d_model=16, n_layers=10))
    end_id = write_byte_level_tokenizer(root / "gpt2", "gpt2")
    ids = {"vocab_size": end_id + 1, "bos_token_id": end_id, "eos_token_id": end_id}
    write_hf_model(root / "gpt2", hf_config("gpt2", d_model=32, n_layers=11, **ids))
    for folder, family in (
        ("gemma2", "gemma"),
        ("gemma", "gemma"),
        ("llama", "llama"),
    ):
        write_hf_tokenizer(
            root / folder, family, template=LLAMA_TEMPLATE if family == "llama" else None
        )
    write_gemma_scope(root / "scope", d_in=32, d_sae=64)
    write_gemma_scope(root / "scope", "layer_0/width_16k/average_l0_46", d_in=32, d_sae=96, seed=7)
    write_gemma_scope(root / "scope", "layer_1/width_16k/average_l0_10", d_in=48, d_sae=64)
    (root / "scope" / "README.md").write_text("Gemma Scope")
    write_jbloom(
        root / "jb" / JB_FOLDER.format(12),
        LAYER_12,
        d_in=16,
        d_sae=64,
        normalize_activations="expected_average_only_in",
    )
    write_jbloom(
        root / "jb" / (JB_FOLDER.format(0) + "_anthropic"),
        "blocks.0.hook_resid_post",
        d_in=16,
        d_sae=64,
        seed=3,
    )
    write_jbloom(root / "jb" / "local", "blocks.1.hook_resid_pre", d_in=32, d_sae=64)
    write_qresearch(root / "qresearch", d_in=16, d_sae=64)
    write_qresearch(root / "qresearch", "other-l1.pt", d_in=32, d_sae=64)
    for layer in (8, 10):
        hook = f"blocks.{layer}.hook_resid_pre"
        write_jbloom(
            root / "gpt2 saes" / hook,
            hook,
            d_in=32,
            d_sae=64,
            model_name="gpt2-small",
            context_size=128,
            dataset_path="Skylion007/openwebtext",
        )
    write_parquet(root / "pile converted" / "default" / "train" / "0000.parquet", many_documents())
    write_parquet(root / "pile converted" / "default" / "test" / "0000.parquet", ["not this"])
    write_parquet(
        root / "pile converted" / "default" / "train" / "0001.parquet", ["not this either"]
    )
    for folder in ("pile", "raw"):
        (root / folder).mkdir()
        (root / folder / "train.jsonl.zst").write_bytes(b"not parquet")
    write_parquet(
        root / "fineweb" / "data" / "CC-MAIN-2013-20" / "000_00000.parquet", documents(400)
    )
    write_parquet(root / "openwebtext" / "data" / "train.parquet", documents(300)[::-1])
    write_parquet(root / "other" / "data" / "train.parquet", ["a"], column="content")
    return root


def serve(hub: LocalHub, root) -> None:
    for name, folder in (
        ("google/gemma-2-2b", "gemma2"),
        ("google/gemma-2b", "gemma"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama"),
    ):
        if (root / folder).exists():
            hub.add(name, root / folder, gated=403, key=OWNER)
    for name, folder in (
        (GEMMA_SCOPE, "scope"),
        (JBLOOM, "jb"),
        (QRESEARCH, "qresearch"),
        ("gpt2", "gpt2"),
        ("jbloom/GPT2-Small-SAEs-Reformatted", "gpt2 saes"),
    ):
        hub.add(name, root / folder)
    hub.add(
        PILE,
        root / "pile",
        kind="dataset",
        branches={"refs/convert/parquet": (PILE_COMMIT, root / "pile converted")},
    )
    hub.add(FINEWEB, root / "fineweb", kind="dataset", commits=(FINEWEB_COMMIT,))
    for name, folder in (
        ("Skylion007/openwebtext", "openwebtext"),
        ("owner/raw", "raw"),
        ("owner/other", "other"),
    ):
        hub.add(name, root / folder, kind="dataset")
    hub.refused.add(STALE)


@pytest.fixture(scope="module")
def session(root, tmp_path_factory):
    """Everything one process asks of one Hub; the tests below read the answers."""
    names = {
        "OWNER": OWNER,
        "STALE": STALE,
        "STRANGER": STRANGER,
        "LAYER_12": LAYER_12,
        "JB_FOLDER": JB_FOLDER,
        "SCALE": SCALE,
        "PILE": PILE,
    }
    prelude = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    with LocalHub() as hub:
        serve(hub, root)
        done = run_client(
            prelude + CLIENT + SMALL_STEPS,
            cache=tmp_path_factory.mktemp("cache"),
            endpoint=hub.url,
            ROOT=str(root),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return SimpleNamespace(
        of=answers,
        shown=done.stdout + done.stderr,
        requests=hub.requests,
        downloads=hub.downloads(),
        root=root,
    )


def test_gemma_scope(session):
    found = session.of["gemma"]
    assert (found["hook"], found["sae_id"], found["model"]) == (
        "blocks.0.hook_resid_post",
        GEMMA_SCOPE_ID,
        "TransformerBridge",
    )
    assert found["shape"] == [32, 64] and session.of["gemma switched"]["shape"] == [32, 96]
    assert (
        found["layer"] == 1 and found["off"] == 0 and found["others"] > 0.1
    )  # bit-equal to hidden_states[1]
    assert session.of["gemma switched"]["tokens"] == found["tokens"]


def test_the_corpus_is_streamed_from_its_parquet_copy(session):
    """Rows as sae_lens packs them; the repr has the commit; only two blocks are read."""
    expected = packed(many_documents(), session.root / "gemma2" / "tokenizer.json", 1024, 16)
    assert session.of["gemma"]["tokens"] == expected[:2]
    assert session.of["gemma all"]["tokens"] == expected  # 16,384 tokens by default
    assert f"text       {PILE} (revision {PILE_COMMIT[:8]})" in session.of["gemma"]["text"]
    assert "model      google/gemma-2-2b (revision main)" in session.of["gemma"]["text"]
    read = [
        r
        for r in session.requests
        if r.path.startswith(f"/datasets/{PILE}/resolve/") and r.method == "GET"
    ]
    assert {r.path for r in read} == {
        f"/datasets/{PILE}/resolve/{PILE_COMMIT}/default/train/0000.parquet"
    } and {r.status for r in read} == {206, 404}
    assert (
        sum(len(text.encode()) for text in many_documents()) > 12e6
        and sum(r.size for r in read) < 4 * 9e6
    )  # read four times: a block at the end, where the index is, and one at the beginning


def test_the_corpus_is_streamed_from_main_where_there_is_no_copy(session):
    found = session.of["jb"]
    assert found["tokens"] == packed(
        documents(400), session.root / "gemma" / "tokenizer.json", 1024, 1
    )
    assert f"{FINEWEB} (revision {FINEWEB_COMMIT[:8]})" in found["text"]


def test_a_corpus_that_cannot_be_streamed(session):
    assert (
        "no dataset owner/nothing" in session.of["no set"]["text"]
        and session.of["no set"]["error"] == "NotAvailableError"
    )
    assert (
        "owner/raw has no parquet file on the Hub; give text= instead"
        in session.of["set without parquet"]["text"]
    )
    assert (
        session.of["set that goes away"]["error"] == "NotAvailableError"
        and PILE in session.of["set that goes away"]["text"]
    )
    assert "site-packages" not in session.of["set that goes away"]["traceback"]
    assert (
        "owner/other has no column 'text' (it has ['content', 'meta']); give text= instead"
        in session.of["set without text"]["text"]
    )


def test_own_text_needs_no_corpus(session):
    encode = Tokenizer.from_file(str(session.root / "gemma2" / "tokenizer.json"))
    assert session.of["gemma text"]["tokens"] == [
        [1, *encode.encode("import os", add_special_tokens=False).ids]
    ]
    assert "text       given by the caller (on this machine)" in session.of["gemma text"]["text"]


def test_a_norm_factor_is_taken_from_the_table(session):
    found = session.of["jb"]
    assert (found["hook"], found["sae_id"]) == (LAYER_12, LAYER_12)
    assert found["layer"] == 13 and found["off"] < 1e-3 * found["others"]
    assert max(session.of["jb formula"]) < 1e-5 and session.of["jb own loader"] == 0
    assert session.of["jb default"]["hook"] == "blocks.0.hook_resid_post"


def test_llama_reads_the_input_of_layer_9(session):
    found = session.of["llama"]
    assert (found["hook"], found["sae_id"], found["shape"]) == (
        "blocks.9.hook_resid_pre",
        "l9",
        [16, 64],
    )
    assert found["layer"] == 9 and found["off"] < 1e-4 and found["others"] > 0.01
    prompt = session.of["llama prompt"]
    assert (
        prompt.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>")
        and "Today Date: 22 Jan 2025" in prompt
    )
    assert (
        "<|start_header_id|>user<|end_header_id|>\n\nRoleplay as a pirate<|eot_id|>" in prompt
        and prompt.endswith("me hearty?<|eot_id|>")
    )
    assert (
        len(found["tokens"]) == 1
        and found["tokens"][0].count(1) == 1
        and found["tokens"][0][0] == 1
    )  # one BOS


def test_gpt2_small(session):
    """Corpus and processing (a centred residual stream) from the SAE's own files."""
    found = session.of["gpt2"]
    assert (found["hook"], found["sae_id"], found["shape"]) == (
        "blocks.8.hook_resid_pre",
        "blocks.8.hook_resid_pre",
        [32, 64],
    )
    assert found["mean"] < 1e-6
    assert session.of["gpt2 default"]["hook"] == "blocks.10.hook_resid_pre"
    tokenizer_file = session.root / "gpt2" / "tokenizer.json"
    bos = Tokenizer.from_file(str(tokenizer_file)).token_to_id("<|endoftext|>")
    assert found["bos"] == bos and found["prompt"][0][0] == bos
    assert found["tokens"] == packed(documents(300)[::-1], tokenizer_file, 128, 2, bos=bos)
    assert session.of["gpt2 score"] == 2 * 127
    assert (
        "700 MB" in session.of["gpt2, asked"]["text"]  # as published
        and session.of["gpt2, asked"]["ok"]
    )
    assert (
        session.of["gpt2 no such"]["error"] == "NotAvailableError"
    )  # listed by sae_lens, but not on this Hub
    assert (
        "GPT2-Small-SAEs-Reformatted has no file" in session.of["gpt2 no such"]["text"]
        and "blocks.3.hook_resid_pre" in session.of["gpt2 no such"]["text"]
    )
    assert (
        session.of["gpt2 misspelt"]["error"] == "UnknownNameError"
        and "Did you mean" in session.of["gpt2 misspelt"]["text"]
    )


@pytest.mark.parametrize(
    "name,hook,shape",
    [
        ("file", "blocks.0.hook_resid_post", [32, 96]),
        ("folder", "blocks.0.hook_resid_post", [32, 96]),
        ("qresearch", "blocks.1.hook_resid_pre", [32, 64]),
        ("sae_lens", "blocks.1.hook_resid_pre", [32, 64]),
    ],
)
def test_an_sae_on_this_machine(session, name, hook, shape):
    found = session.of[f"local {name}"]
    assert (found["hook"], found["shape"]) == (hook, shape)
    assert (
        f"sae        {found['sae_id']} (on this machine)" in found["text"]
        and str(session.root) in found["sae_id"]
    )


def test_a_path_that_holds_no_sae(session):
    answer = session.of["local unknown"]
    assert (
        answer["error"] == "WeightsError"
        and str(session.root / "scope") in answer["text"]
        and "cfg.json does not exist" in answer["text"]
    )


def test_an_sae_of_another_width(session):
    answer = session.of["gemma wider"]
    assert answer["error"] == "HookError"
    assert (
        "blocks.1.hook_resid_post is 32 wide, but this SAE reads 48: it belongs to another model"
        in answer["text"]
    )


def test_the_check_says_what_to_run(session):
    """Random weights explain nothing."""
    found = session.of["gemma checked"]["warnings"]
    assert any(
        "of the variance on 1023 tokens" in text
        and "Run saework.find_site(...) to rank the model's hooks" in text
        for text in found
    )


def test_only_what_a_load_reads_is_downloaded(session):
    names = {path.split("/")[-1] for path in session.downloads if "/datasets/" not in path}
    assert "README.md" not in names and QRESEARCH_FILE in names and "other-l1.pt" not in names
    once = [path for path in session.downloads if path.endswith((".npz", ".pt", ".safetensors"))]
    assert len(once) == len(set(once))
    assert session.of["gemma twice"]["download_mb"] == 0


def test_no_load_starts_a_program_or_changes_the_environment(session):
    assert session.of["programs"] == [] and not session.of["packages changed"]


# ---- what stands in the way ----


def test_not_enough_memory_or_disk(session):
    """Said before anything is downloaded."""
    memory, disk = session.of["little memory"], session.of["little disk"]
    assert memory["error"] == disk["error"] == "NotAvailableError"
    assert memory["text"] == (
        "about 11.8 GB of memory needed but 5.0 GB available (cpu, float32, full); what fits: "
        'depth="hook" (4.0 GB) or dtype="bfloat16", depth="hook" (2.5 GB); or close programs, use '
        "gemma-mini, or force it (force=True, --force)"
    )
    assert (
        "10.8 GB to download but 3.0 GB free" in disk["text"]
        and "make room, or set HF_HOME to another disk" in disk["text"]
    )
    for case in ("memory", "disk"):
        assert session.of[f"little {case}, asked"]["problems"] == [
            session.of[f"little {case}"]["text"]
        ]
    assert session.of["before"] == []


def test_a_gate_without_a_token(session):
    answer, asked = session.of["nobody"], session.of["nobody, asked"]
    assert answer["error"] == "NotAvailableError"
    for text in (answer["text"], *asked["problems"]):
        assert (
            "google/gemma-2-2b is gated: accept its licence on its page on the Hub" in text
            and "HF_TOKEN" in text
        )
    assert (asked["ok"], asked["token"], asked["accepted"], len(asked["problems"])) == (
        False,
        False,
        None,
        1,
    )
    assert (
        "token absent" in asked["text"]
        and "licence to accept on the Hub" in asked["text"]
        and "Gemma licence" in asked["text"]
    )


def test_a_token_that_is_refused(session):
    answer, asked = session.of["stale"], session.of["stale, asked"]
    assert answer["error"] == "NotAvailableError"
    assert (
        "the Hub refuses the token that is set on this machine" in answer["text"]
        and "make a new one" in answer["text"]
    )
    assert (asked["ok"], asked["token"], asked["accepted"]) == (
        False,
        True,
        False,
    ) and "token present, refused" in asked["text"]
    assert all("refuses the token" in problem for problem in asked["problems"])


def test_a_token_whose_owner_did_not_accept(session):
    answer, asked = session.of["stranger"], session.of["stranger, asked"]
    assert "is gated: accept its licence" in answer["text"]
    assert (asked["ok"], asked["token"], asked["accepted"]) == (
        False,
        True,
        True,
    ) and "token present, accepted" in asked["text"]


def test_a_token_that_opens_the_gate(session):
    asked = session.of["owner, asked"]
    assert asked["ok"] and asked["accepted"] is True and asked["problems"] == []
    assert asked["download_mb"] == pytest.approx(10_500 + 302 + 18, abs=1)


def test_nothing_was_downloaded_until_then(session):
    assert session.of["before"] == session.of["still"] == []
    first = next(
        i
        for i, r in enumerate(session.requests)
        if r.method == "GET" and "/resolve/" in r.path and r.status in (200, 206)
    )
    assert sum(r.status in (401, 403) for r in session.requests[:first]) >= 6 and not any(
        r.status == 403 for r in session.requests[first:]
    )


@pytest.mark.parametrize(
    "case", ["nobody", "stale", "stranger", "little disk", "layer_0/width_17k/average_l0_105"]
)
def test_errors_are_short(session, case):
    """No forty lines of the libraries below."""
    shown = session.of[case]["traceback"]
    assert shown.count("Traceback (most recent call last)") == 1 and "site-packages" not in shown
    assert len(shown.splitlines()) < 25


@pytest.mark.parametrize(
    "given,there_is",
    [
        ("layer_0/width_17k/average_l0_105", "has under layer_0/: width_16k, width_65k"),
        ("layer_26/width_16k/average_l0_105", "layer_24, layer_25."),
        (
            "layer_0/width_16k/average_l0_106",
            "average_l0_13, average_l0_25, average_l0_46, average_l0_105, average_l0_226",
        ),
        ("nonsense", "gemma-scope-2b-pt-res has embedding, layer_0, layer_1, layer_2"),
    ],
)
def test_an_id_that_the_release_does_not_have(session, given, there_is):
    answer = session.of[given]
    assert (
        answer["error"] == "UnknownNameError"
        and f"no SAE id {given!r}" in answer["text"]
        and there_is in answer["text"]
    )


def test_no_token_is_ever_shown(session):
    """Nor in a traceback, a preflight or a log."""
    assert any(r.authorized for r in session.requests)
    assert not any(token in session.shown for token in (OWNER, STALE, STRANGER))


# ---- from folders, in this process ----


@pytest.fixture
def llama(root, monkeypatch, tmp_path):
    """qresearch's release in folders; the model's may be changed."""
    folder = shutil.copytree(root / "llama", tmp_path / "llama")
    model = Repository("ours/llama", folder=folder)
    parts = {
        "model": model,
        "tokenizer": model,
        "sae": Repository("ours/sae", folder=root / "qresearch"),
    }
    release = catalogue._RELEASES["llama-3.2-1b-qresearch"]
    monkeypatch.setitem(
        catalogue._RELEASES,
        "ours",
        replace(release, name="ours", repositories=release.repositories | parts),
    )
    return folder


def test_a_chat_template_that_is_missing(llama):
    """Said before the model is read; own text needs none."""
    write_hf_tokenizer(llama, "llama")
    (llama / "model.safetensors").unlink()
    with pytest.raises(
        ValueError,
        match="tokenizer of .*llama has no chat template; "
        "use that of an -Instruct model, or give plain text",
    ):
        saework.load("ours")


def test_own_text_needs_no_chat_template(llama):
    write_hf_tokenizer(llama, "llama")
    assert saework.load("ours", text="Ahoy", check=False).tokens.shape[0] == 1


def test_a_chat_template_in_a_file_of_its_own(llama):
    """As newer repositories have it."""
    expected = saework.load("ours", check=False).tokens
    write_hf_tokenizer(llama, "llama")
    (llama / "chat_template.jinja").write_text(LLAMA_TEMPLATE)
    assert torch.equal(saework.load("ours", check=False).tokens, expected)


def test_a_model_of_another_width(llama):
    write_hf_model(llama, hf_config("llama", d_model=32, n_layers=10))
    with pytest.raises(
        HookError,
        match="blocks.9.hook_resid_pre is 32 wide, but this SAE reads 16: "
        "it belongs to another model",
    ):
        saework.load("ours")


def test_a_model_with_too_few_layers(llama):
    write_hf_model(llama, hf_config("llama", d_model=16, n_layers=2))
    with pytest.raises(UnknownNameError, match="no hook 'blocks.9.hook_resid_pre'"):
        saework.load("ours")


def test_a_download_that_was_cut_short(llama, root):
    damaged = llama / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged.*download them again"):
        saework.load("ours")


# ---- the real sizes ----

REAL_STEPS = """
import gc

os.environ["HF_TOKEN"] = OWNER
any_machine()
warnings.simplefilter("ignore")
llama = catalogue._RELEASES["llama-3.2-1b-qresearch"]
second_layer = replace(llama.sae(), hook="blocks.1.hook_resid_pre")
catalogue._RELEASES[llama.name] = replace(
    llama, find=lambda sae_id: second_layer, default=None
)  # this model has two layers


def peak_gb():
    return (
        int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        / 1e6
    )


for name in json.loads(os.environ["NAMES"]):
    open("/proc/self/clear_refs", "w").write("5")  # a new peak for each
    workbook = saework.load(name, n_tokens=1024, check=name == "gemma-scope-2b-pt-res")
    score = saework.recons_score(
        workbook.model, workbook.sae, workbook.tokens[:, :32], progress=False
    )
    answers[name] = {
        "hook": workbook.hook,
        "W_enc": list(workbook.sae.W_enc.shape),
        "W_U": list(workbook.model.W_U.shape),
        "n_layers": workbook.model.cfg.n_layers,
        "row": workbook.sae.W_enc[7].tolist(),
        "column": workbook.sae.W_dec[:, 11].tolist(),
        "tokens": list(workbook.tokens.shape),
        "losses": [score.loss, score.recons_loss, score.ablated_loss],
        "model": type(workbook.model).__name__,
        "dtypes": sorted(
            {str(p.dtype) for p in [*workbook.model.parameters(), *workbook.sae.parameters()]}
        ),
        "peak_gb": peak_gb(),
    }
    del workbook
    gc.collect()
report()
"""


@pytest.mark.real_size
def test_real_sizes(tmp_path):
    """Random SAEs of the published sizes, and models of the real widths with two layers.

    Checked are shapes, weights, losses and memory.
    """
    half = torch.bfloat16
    write_hf_model(
        tmp_path / "gemma2", hf_config("gemma2", d_model=2304, real=True), dtype=half, shards=2
    )
    write_hf_model(tmp_path / "gemma", hf_config("gemma", d_model=2048, real=True), dtype=half)
    write_hf_model(tmp_path / "llama", hf_config("llama", d_model=2048, real=True), dtype=half)
    for folder, family in (("gemma2", "gemma"), ("gemma", "gemma"), ("llama", "llama")):
        write_hf_tokenizer(
            tmp_path / folder, family, template=LLAMA_TEMPLATE if family == "llama" else None
        )
    written = {
        "gemma-scope-2b-pt-res": write_gemma_scope(tmp_path / "scope", d_in=2304, d_sae=16384),
        "gemma-2b-res-jb": write_jbloom(
            tmp_path / "jb" / (JB_FOLDER.format(0) + "_anthropic"),
            "blocks.0.hook_resid_post",
            d_in=2048,
            d_sae=16384,
        ),
        "llama-3.2-1b-qresearch": write_qresearch(tmp_path / "qresearch", d_in=2048, d_sae=32768),
    }
    written = {
        name: (
            state["W_enc"][7].tolist(),
            state["W_dec"][:, 11].tolist(),
            list(state["W_enc"].shape),
        )
        for name, state in written.items()
    }
    sizes = {"scope": 302, "jb": 269, "qresearch": 537}
    assert {
        part: round(sum(f.stat().st_size for f in (tmp_path / part).rglob("*")) / 1e6)
        for part in sizes
    } == sizes
    for folder in ("pile", "gpt2", "gpt2 saes", "openwebtext", "raw", "other"):
        (tmp_path / folder).mkdir()
    write_parquet(
        tmp_path / "pile converted" / "default" / "train" / "0000.parquet", documents(400)
    )
    write_parquet(tmp_path / "fineweb" / "data" / "0.parquet", documents(400))
    with LocalHub() as hub:
        serve(hub, tmp_path)
        environment = {"ROOT": str(tmp_path), "NAMES": json.dumps(list(written))}
        done = run_client(
            f"OWNER = {OWNER!r}\n" + CLIENT + REAL_STEPS,
            cache=tmp_path / "cache",
            endpoint=hub.url,
            **environment,
        )
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # two gigabytes
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, (row, column, shape) in written.items():
        found = answers[name]
        print(f"{name}: peak {found['peak_gb']:.2f} GB")
        assert (found["row"], found["column"], found["W_enc"]) == (row, column, shape)
        assert (found["model"], found["W_U"], found["n_layers"]) == (
            "TransformerBridge",
            [shape[0], 4096],
            2,
        )
        assert found["dtypes"] == ["torch.float32"] and found["peak_gb"] < 4
        assert all(5 < loss < 40 for loss in found["losses"])  # ln 4096 is 8.3
    assert answers["llama-3.2-1b-qresearch"]["tokens"][0] == 1 and answers["gemma-2b-res-jb"][
        "tokens"
    ] == [1, 1024]
