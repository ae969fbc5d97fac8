"""Loading gelu-1l through a Hub on loopback, from caches and folders, and what preflight says."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from local_hub import (
    MODEL,
    MODEL_COMMIT,
    PARQUET,
    REAL,
    SAE,
    SMALL,
    TEXT,
    TEXT_COMMIT,
    TOKENIZER,
    TOKENIZER_COMMIT,
    TOKENIZER_REPO,
    TRIED,
    LocalHub,
    documents,
    prepare_cache,
    result_of,
    serve_gelu,
    write_gelu,
    write_model,
    write_sae,
    write_text,
)
from tokenizers import Tokenizer

import saework
from saework.core.errors import HookError, NotAvailableError, UnknownNameError, WeightsError
from saework.loading import catalogue
from saework.loading.hub import Repository

HOOK = "blocks.0.mlp.hook_post"


def published_rows(texts: list[str]) -> torch.Tensor:
    """``tokenize_and_concatenate`` of TransformerLens 2 and ``shuffle(42)``, by datasets itself."""
    from datasets import Dataset

    encode = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    bos, pad = encode.token_to_id("<|BOS|>"), encode.token_to_id("<|PAD|>")

    def tokenize(examples):
        full_text = "<|EOS|>".join(examples["text"])
        chunk_length = (len(full_text) - 1) // 20 + 1
        chunks = [full_text[i * chunk_length : (i + 1) * chunk_length] for i in range(20)]
        tokens = np.concatenate(
            [encode.encode(chunk, add_special_tokens=False).ids for chunk in chunks]
        ).astype(int)
        tokens = tokens[tokens != pad]
        rows = tokens[: len(tokens) // 127 * 127].reshape(-1, 127)
        return {"tokens": np.concatenate([np.full((len(rows), 1), bos), rows], axis=1)}

    rows = Dataset.from_dict({"text": texts}).map(
        tokenize, batched=True, batch_size=1000, remove_columns=["text"]
    )
    return torch.tensor(rows.shuffle(42)["tokens"][:])


# ---- through a Hub ----

DRIVER = (
    TRIED
    + """
import hashlib
import torch
import saework


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def described(workbook):
    return {
        "sae_id": workbook.sae_id,
        "sae": {
            name: digest(getattr(workbook.sae, name))
            for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        },
        "model": {name: digest(value) for name, value in workbook.model.state_dict().items()},
        "logits": digest(workbook.model(workbook.tokens[:2])),
        "tokens": workbook.tokens.tolist(),
        "hook": workbook.hook,
        "dtypes": sorted(
            {str(p.dtype) for p in [*workbook.model.parameters(), *workbook.sae.parameters()]}
        ),
    }


def asked(*arguments):
    found = saework.preflight("gelu-1l", *arguments)
    return {
        "download_mb": found.download_mb,
        "cached_mb": found.cached_mb,
        "problems": found.problems,
        "token": found.token,
        "text": repr(found),
    }


def loaded(sae_id=None, **keywords):
    return described(saework.load("gelu-1l", sae_id, check=False, **keywords))
"""
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small files of the published layout, served once; all that one process then loads."""
    root, cache = write_gelu(tmp_path_factory.mktemp("published")), tmp_path_factory.mktemp("cache")
    with LocalHub() as hub:
        serve_gelu(hub, root)
        answers = result_of(
            DRIVER
            + """
before, no_checkpoint = asked(), asked(99)
run1 = loaded()
from transformer_lens import HookedTransformer

reference = HookedTransformer.from_pretrained("gelu-1l", device="cpu")
workbook = saework.load("gelu-1l", check=False)
difference = (
    (reference(workbook.tokens[:2]) - workbook.model(workbook.tokens[:2])).abs().max().item()
)
report(
    {
        "before": before,
        "before, 99": no_checkpoint,
        "run1": run1,
        "named": loaded("run1"),
        "run2": loaded("run2"),
        "12": loaded(12),
        "as text": loaded("12"),
        "switched": described(workbook.with_sae("run2")),
        "99": tried(loaded, 99),
        "misspelt": tried(loaded, "run3"),
        "difference": difference,
        "after": asked(),
        "after, 47": asked("run2"),
        "text": repr(workbook),
    }
)
""",
            cache=cache,
            endpoint=hub.url,
        )
    return SimpleNamespace(
        root=root, cache=cache, requests=hub.requests, downloads=hub.downloads(), of=answers
    )


def test_runs_and_checkpoints(published):
    digests = {
        name: published.of[name]["sae"]["W_enc"]
        for name in ("run1", "named", "run2", "12", "as text", "switched")
    }
    assert (
        digests["run1"] == digests["named"]
        and digests["run2"] == digests["switched"]
        and digests["12"] == digests["as text"]
    )
    assert len({digests["run1"], digests["run2"], digests["12"]}) == 3
    assert [published.of[name]["sae_id"] for name in ("run1", "run2", "12", "switched")] == [
        "run1",
        "run2",
        "12",
        "run2",
    ]
    assert published.of["run1"]["model"] == published.of["switched"]["model"]
    assert (
        published.of["run1"]["dtypes"] == ["torch.float32"] and published.of["run1"]["hook"] == HOOK
    )


def test_weights_are_those_of_the_files(published):
    for name, number in (("run1", 25), ("run2", 47), ("12", 12)):
        state = torch.load(published.root / "sae" / f"{number}.pt", weights_only=True)
        assert published.of[name]["sae"] == {
            key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in state.items()
        }


def test_model_is_transformer_lens_own(published):
    """``HookedTransformer.from_pretrained("gelu-1l")`` from the same Hub gives the same logits."""
    assert published.of["difference"] <= 1e-5


def test_rows_are_the_published_ones(published):
    expected = published_rows(documents())
    assert expected.shape[0] > 10  # enough rows for an order to be wrong
    assert torch.equal(torch.tensor(published.of["run1"]["tokens"]), expected)


def test_pinned_revisions_are_asked_for(published):
    """And only what a load reads is downloaded, each file once.

    (TransformerLens, which drops the revision, came later and found it all.)
    """
    parts = {
        f"/{MODEL}/resolve/{MODEL_COMMIT}/": ["config.json", "model_final.pth"],
        f"/{TOKENIZER_REPO}/resolve/{TOKENIZER_COMMIT}/": [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ],
        f"/{SAE}/resolve/main/": [
            f"{number}{end}" for number in (25, 47, 12) for end in ("_cfg.json", ".pt")
        ],
        f"/datasets/{TEXT}/resolve/{TEXT_COMMIT}/": [PARQUET],
    }
    assert sorted(published.downloads) == sorted(
        start + file for start, files in parts.items() for file in files
    )


def test_checkpoint_that_does_not_exist(published):
    answer = published.of["99"]
    assert answer["error"] == "NotAvailableError"
    assert (
        SAE in answer["text"]
        and "no file 99_cfg.json" in answer["text"]
        and "check the id (a checkpoint's number" in answer["text"]
    )
    assert published.of["misspelt"]["error"] == "UnknownNameError"
    assert (
        "'run3'" in published.of["misspelt"]["text"]
        and "'run2'" in published.of["misspelt"]["text"]
    )


def test_preflight_before_and_after(published):
    before, after = published.of["before"], published.of["after"]
    assert (
        before["download_mb"] == pytest.approx(213 + 2 + 269 + 43, abs=1)
        and before["cached_mb"] == 0
    )
    assert after["download_mb"] == 0 and after["cached_mb"] == before["download_mb"]
    assert published.of["after, 47"]["download_mb"] == 0
    assert "gelu-1l: not ready" in published.of["before, 99"]["text"]
    assert any(
        "no file 99_cfg.json" in problem for problem in published.of["before, 99"]["problems"]
    )
    hub_problems = [problem for problem in before["problems"] if "NeelNanda" in problem]
    assert not hub_problems and before["token"] is False
    assert (
        "526 MB (0 MB are here already)" in before["text"]
        and "0 MB (526 MB are here already)" in after["text"]
    )
    assert (
        "not stated by the repositories' owner" in before["text"]
        and "gate      none; token absent" in before["text"]
    )


def test_preflight_downloads_nothing(published):
    first = next(
        i for i, r in enumerate(published.requests) if r.method == "GET" and "/resolve/" in r.path
    )
    asked = published.requests[:first]
    assert {r.method for r in asked if "/resolve/" in r.path} == {"HEAD"}
    assert {
        repository
        for repository in (MODEL, TOKENIZER_REPO, SAE, TEXT)
        if any(repository in r.path for r in asked)
    } == {
        MODEL,
        TOKENIZER_REPO,
        SAE,
        TEXT,
    }


def test_repr_names_revisions(published):
    assert f"{MODEL} (revision {MODEL_COMMIT[:8]})" in published.of["text"]
    assert f"{SAE} (revision main)" in published.of["text"]
    assert f"{SMALL.d_mlp} to {SMALL.d_sae} features at {HOOK}, float32" in published.of["text"]


def test_filled_cache_without_network(published):
    """The Hub has been stopped; HF_HUB_OFFLINE=1."""
    found = result_of(
        DRIVER
        + """
report(
    {
        "run1": loaded(),
        "run2": loaded("run2"),
        "12": tried(loaded, 12),
        "1": tried(loaded, 1),
        "preflight": asked(),
        "preflight 1": asked(1),
    }
)
""",
        cache=published.cache,
        endpoint="http://127.0.0.1:9",
        offline=True,
    )
    for name in ("run1", "run2"):
        assert found[name] == published.of[name]
    assert found["12"] == {"value": published.of["12"], "warnings": []}
    assert found["1"]["error"] == "NotAvailableError"
    for part in (
        "1_cfg.json of NeelNanda/sparse_autoencoder",
        "HF_HUB_OFFLINE",
        "one of the minis",
    ):
        assert part in found["1"]["text"]
    assert found["preflight"]["download_mb"] == 0
    assert found["preflight 1"]["download_mb"] == pytest.approx(269, abs=1)
    assert any(
        "1_cfg.json of NeelNanda/sparse_autoencoder" in problem
        for problem in found["preflight 1"]["problems"]
    )


@pytest.mark.real_size
def test_real_sizes(tmp_path):
    """Random weights of the published sizes, 213 and 269 MB: shapes, losses and peak memory."""
    write_model(tmp_path / "model", REAL)
    state = write_sae(tmp_path / "sae", 25, REAL)
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    texts = write_text(tmp_path / "text")
    row, column = state["W_enc"][7].tolist(), state["W_dec"][:, 11].tolist()
    del state
    assert round((tmp_path / "model" / "model_final.pth").stat().st_size / 1e6) == 213
    assert round((tmp_path / "sae" / "25.pt").stat().st_size / 1e6) == 269
    with LocalHub() as hub:
        serve_gelu(hub, tmp_path)
        found = result_of(
            """
            import warnings

            warnings.simplefilter("ignore")
            import saework

            workbook = saework.load("gelu-1l", n_tokens=256)
            score = saework.recons_score(
                workbook.model, workbook.sae, workbook.tokens, progress=False
            )
            report(
                {
                    "W_enc": list(workbook.sae.W_enc.shape),
                    "row": workbook.sae.W_enc[7].tolist(),
                    "column": workbook.sae.W_dec[:, 11].tolist(),
                    "W_U": list(workbook.model.W_U.shape),
                    "W_out": list(workbook.model.W_out.shape),
                    "n_ctx": workbook.model.cfg.n_ctx,
                    "tokens": workbook.tokens.tolist(),
                    "losses": [score.loss, score.recons_loss, score.ablated_loss],
                    "n_tokens": score.n_tokens,
                    "effect": list(saework.logit_effect(workbook.model, workbook.sae, 16383).shape),
                    "peak_gb": int(
                        next(
                            line.split()[1]
                            for line in open("/proc/self/status")
                            if line.startswith("VmHWM")
                        )
                    )
                    / 1e6,
                }
            )
            """,
            cache=tmp_path / "cache",
            endpoint=hub.url,
        )
    assert (found["W_enc"], found["W_out"], found["W_U"]) == (
        [2048, 16384],
        [1, 2048, 512],
        [512, 48262],
    )
    assert (found["row"], found["column"]) == (row, column)
    assert found["n_ctx"] == 1024 and found["effect"] == [48262]
    assert torch.equal(torch.tensor(found["tokens"]), published_rows(texts)[:2])
    assert found["n_tokens"] == 2 * 127 and all(
        9 < loss < 20 for loss in found["losses"]
    )  # ln 48262 is 10.8
    print(f"peak {found['peak_gb']:.2f} GB")
    assert found["peak_gb"] < 4


# ---- from folders, in this process ----


@pytest.fixture
def altered(release, folders, monkeypatch, tmp_path):
    """Registers ``small`` again with a copy of one repository; returns the copy's folder."""

    def copy(part):
        shutil.copytree(folders / part, tmp_path / part)
        parts = release.repositories | {part: Repository(f"ours/{part}", folder=tmp_path / part)}
        monkeypatch.setitem(catalogue._RELEASES, "small", replace(release, repositories=parts))
        return tmp_path / part

    return copy


@pytest.fixture(scope="module")
def rows():
    return published_rows(documents())


def load(*arguments, check=False, **keywords):
    return saework.load("small", *arguments, check=check, **keywords)


def test_load(release, rows, capsys):
    workbook = load()
    assert capsys.readouterr().out == ""  # the notebooks do the printing
    assert torch.equal(workbook.tokens, rows) and workbook.tokens.dtype == torch.long
    assert (workbook.hook, workbook.sae_id, workbook.release.name) == (HOOK, "run1", "small")
    assert workbook.model.cfg.d_mlp == SMALL.d_mlp and workbook.tokenizer.bos_token_id == 1
    assert "Workbook small run1" in repr(
        workbook
    ) and f"{len(rows)} rows of 128 ({rows.numel():,} tokens)" in repr(workbook)


@pytest.mark.parametrize("given,taken", [(1, 1), (128, 1), (129, 2), (256, 2), (10**9, None)])
def test_n_tokens(release, rows, given, taken):
    assert torch.equal(load(n_tokens=given).tokens, rows[:taken])


@pytest.mark.parametrize("bad", [0, -128, 1.5, True])
def test_bad_n_tokens(release, bad):
    with pytest.raises(ValueError, match=f"n_tokens is {bad!r}; give a whole number of at least 1"):
        load(n_tokens=bad)


def test_seed_draws_another_order(release, rows):
    first, again, other = load(seed=1).tokens, load(seed=1).tokens, load(seed=2).tokens
    assert (
        torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, rows)
    )

    assert sorted(first.tolist()) == sorted(other.tolist()) == sorted(rows.tolist())
    assert torch.equal(
        load(seed=1, n_tokens=200).tokens, first[:2]
    )  # drawn from all rows, then cut


def test_short_text(release):
    text = "import os\n\nprint(os)  # done"
    tokens = load(text=text).tokens
    encode = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    assert tokens.tolist() == [[1, *encode.encode(text, add_special_tokens=False).ids]]


def test_documents_as_text(release):
    """A list is joined by EOS and cut as the corpus is, in the order given (not shuffled)."""
    texts = documents(40)
    workbook = load(text=texts)
    eos = workbook.tokenizer.eos_token_id
    assert (
        workbook.tokens.shape[1] == 128
        and (workbook.tokens[:, 0] == 1).all()
        and (workbook.tokens == eos).any()
    )
    decoded = workbook.tokenizer.decode(workbook.tokens[:, 1:].flatten())
    assert "<|EOS|>".join(texts).startswith(decoded[:2000])
    assert torch.equal(load(text=iter(texts)).tokens, workbook.tokens)
    two = load(text=["a b", "c"]).tokens[0]
    assert workbook.tokenizer.decode(two) == "<|BOS|>a b<|EOS|>c"


@pytest.mark.parametrize("text", ["", " \n", [], ["", ""]])
def test_empty_text(release, text):
    with pytest.raises(ValueError, match="text is empty; give text, or leave text= out"):
        load(text=text)


def test_dtype(release):
    workbook = load(dtype=torch.bfloat16)
    assert {p.dtype for p in [*workbook.model.parameters(), *workbook.sae.parameters()]} == {
        torch.bfloat16
    }
    assert workbook.with_sae("run2").sae.W_dec.dtype == torch.bfloat16


def test_with_sae_keeps_the_rest(release):
    workbook = load()
    other = workbook.with_sae("run2")
    assert (
        other.model is workbook.model
        and torch.equal(other.tokens, workbook.tokens)
        and other.release is workbook.release
    )
    assert other.sae_id == "run2" and workbook.sae_id == "run1"
    assert torch.equal(other.sae.W_enc, load("run2").sae.W_enc) and not torch.equal(
        other.sae.W_enc, workbook.sae.W_enc
    )
    assert workbook.with_sae(12).sae_id == "12"
    with pytest.raises(UnknownNameError, match="no SAE id 'rum2'. Did you mean 'run2'"):
        workbook.with_sae("rum2")
    with pytest.raises(NotAvailableError, match="13_cfg.json does not exist"):
        workbook.with_sae(13)


def test_unknown_names(release):
    with pytest.raises(
        UnknownNameError,
        match=r"no release 'gelu-1l-mimi'. Did you mean 'gelu-1l-mini'.*saework.releases\(\) lists "
        "the curated ones; any release of sae_lens loads",
    ):
        saework.load("gelu-1l-mimi")
    with pytest.raises(UnknownNameError, match="no release 'gelu_1l'. Did you mean 'gelu-1l'"):
        saework.preflight("gelu_1l")
    with pytest.raises(
        UnknownNameError,
        match="no SAE id 'run3'. Did you mean .*'run1'.*"
        "small has a checkpoint's number, run1, run2.",
    ):
        load("run3")
    with pytest.raises(UnknownNameError, match="no SAE id -1. small has a checkpoint's number"):
        load(-1)
    with pytest.raises(UnknownNameError, match="no release 'zzz'"):
        saework.claims_of("zzz")


def test_file_that_is_missing(altered):
    (altered("sae") / "25.pt").unlink()
    with pytest.raises(
        NotAvailableError, match="25.pt does not exist; reinstall saework, or build the mini again"
    ):
        load()


def test_damaged_files(altered):
    damaged = altered("model") / "model_final.pth"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        load()


def test_damaged_text(altered):
    damaged = altered("text") / PARQUET
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(ValueError, match="not a readable parquet file.*download it again"):
        load()


def test_sae_of_another_model(altered):
    write_sae(altered("sae"), 25, replace(SMALL, d_mlp=64, dict_mult=4))
    with pytest.raises(
        HookError,
        match="blocks.0.mlp.hook_post is 32 wide, but this SAE reads 64: "
        "it belongs to another model",
    ):
        load()


def test_with_sae_of_another_model(altered):
    write_sae(altered("sae"), 47, replace(SMALL, d_mlp=64, dict_mult=4))
    with pytest.raises(HookError, match="is 32 wide, but this SAE reads 64"):
        load().with_sae("run2")


def test_model_of_another_width(altered):
    write_model(altered("model"), replace(SMALL, d_mlp=64))
    with pytest.raises(HookError, match="is 64 wide, but this SAE reads 32"):
        load()


def test_tokenizer_of_another_model(altered):
    write_model(altered("model"), replace(SMALL, d_vocab=300))
    with pytest.raises(ValueError, match=r"out of the vocabulary \(0..299\)"):
        load()


# ---- a workbook from own parts ----


def test_own_parts(tiny):
    workbook = saework.Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook)
    assert (
        workbook.release is None
        and workbook.model is tiny.model
        and torch.equal(workbook.tokens, tiny.tokens)
    )
    assert (
        "own parts" in repr(workbook)
        and "6 rows of 20 (120 tokens)" in repr(workbook)
        and "24 to 48 features" in repr(workbook)
    )
    with pytest.raises(ValueError, match="built from your own parts.*build another Workbook"):
        workbook.with_sae("run2")
    with pytest.raises(ValueError, match="labels exist for a mini's bundled text only"):
        workbook.labels()
    with pytest.raises(
        ValueError, match=r"no scan was recorded.*make one with scan\(model, sae, tokens\)"
    ):
        workbook.recorded_scan()


def test_own_parts_take_lists_and_one_row(tiny):
    workbook = saework.Workbook(
        tiny.model, tiny.sae, tiny.tokens[0].tolist(), tiny.tokenizer, tiny.hook
    )
    assert torch.equal(workbook.tokens, tiny.tokens[:1]) and workbook.tokens.dtype == torch.long


@pytest.mark.parametrize(
    "tokens,expected",
    [
        (torch.ones(2, 4), "torch.float32; give integers"),
        (torch.ones(2, 4, dtype=torch.bool), "torch.bool; give integers"),
        (torch.full((2, 4), 4096), r"token 4096 is out of the vocabulary \(0..4095\)"),
        (torch.tensor([[1, -1]]), r"token -1 is out of the vocabulary \(0..4095\)"),
        (torch.ones(0, 4, dtype=torch.long), "tokens are empty"),
        (
            torch.ones(1, 33, dtype=torch.long),
            "33 tokens long, but the model's context is 32; cut the rows to 32",
        ),
        (torch.ones(1, 2, 3, dtype=torch.long), r"shape \(1, 2, 3\); give \[batch, pos\]"),
    ],
)
def test_bad_tokens(tiny, tokens, expected):
    with pytest.raises(ValueError, match=expected):
        saework.Workbook(tiny.model, tiny.sae, tokens, tiny.tokenizer, tiny.hook)


def test_unknown_hook(tiny):
    with pytest.raises(
        UnknownNameError,
        match="no hook 'blocks.0.mlp.hook_pos'. Did you mean .*'blocks.0.mlp.hook_post'",
    ):
        saework.Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, "blocks.0.mlp.hook_pos")


# ---- the check of one batch ----


def test_the_check_knows_what_was_published(release, monkeypatch):
    """L0 of the release's own SAE; none of one from a file."""
    seen = []
    monkeypatch.setattr(
        "saework.loading.workbook.self_check",
        lambda workbook, published_l0: seen.append((workbook.sae_id, published_l0)),
    )
    sae = release.find("run1")
    small = replace(release, find=lambda sae_id: replace(sae, l0=7.5) if sae_id == "run1" else None)
    monkeypatch.setitem(catalogue._RELEASES, "small", small)
    load(check=True)
    path = str(release.repositories["sae"].folder / "25.pt")
    load(path, check=True)
    assert seen == [("run1", 7.5), (path, None)]


def test_load_checks_and_can_be_told_not_to(release, recwarn):
    load(check=False)
    assert not [w for w in recwarn if w.category is UserWarning]
    with pytest.warns(UserWarning, match="of the variance on .* tokens"):
        load(check=True)  # random weights explain nothing


# ---- labels and the recorded scan ----


def test_labels_and_scans_are_the_minis_own(release):
    for workbook in (load(), load(text="import os"), load(seed=3)):
        with pytest.raises(
            ValueError, match="labels exist for a mini's bundled text only.*without text= or seed="
        ):
            workbook.labels()
        with pytest.raises(
            ValueError, match="no scan was recorded for this SAE; make one with scan"
        ):
            workbook.recorded_scan()


def test_load_from_a_cache_laid_out_by_hand(release, empty_cache, folders, machine):
    """Plain files in ``snapshots/COMMIT``, copied from another machine, are enough."""
    machine()
    with pytest.raises(
        NotAvailableError,
        match="tokenizer.json of NeelNanda/gpt-neox-tokenizer-digits is not in the cache",
    ):
        saework.load("gelu-1l")
    prepare_cache(empty_cache, folders)
    workbook, expected = saework.load("gelu-1l", "run2", check=False), load("run2")
    assert torch.equal(workbook.tokens, expected.tokens) and torch.equal(
        workbook.sae.W_dec, expected.sae.W_dec
    )
    assert torch.equal(workbook.model(workbook.tokens[:2]), expected.model(workbook.tokens[:2]))


# ---- the table ----


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"text": 3}, "text is 3; give one string, or a list of strings"),
        ({"text": ["a", 3]}, "give one string, or a list of strings"),
        ({"dtype": "float31"}, "dtype is 'float31'; give a dtype of floats, such as 'float32'"),
        ({"dtype": "load"}, "dtype is 'load'; give a dtype of floats"),
        ({"device": "gpu"}, "device is 'gpu'; give 'cpu', 'cuda'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        saework.load("gelu-1l-mini", **arguments)


@pytest.mark.parametrize("text", [{"text": ["a"]}, pd.DataFrame({"text": ["a"]})])
def test_text_with_names_is_no_text(release, text):
    with pytest.raises(ValueError, match=r"text is a (dict|DataFrame); give .*list\(frame"):
        load(text=text)


def test_a_device_without_numbers_and_no_sae(release):
    with pytest.raises(ValueError, match="device is 'meta', which holds no numbers"):
        load(device="meta")
    with pytest.raises(ValueError, match="with_sae takes the id of an SAE, .* and got None"):
        load().with_sae(None)


def test_a_dtype_by_its_name():
    named = saework.load("gelu-1l-mini", n_tokens=128, dtype="bfloat16", check=False)
    assert named.sae.W_dec.dtype is torch.bfloat16
    assert next(named.model.parameters()).dtype is torch.bfloat16
