"""What preflight says of disk, memory, cache, access and token, before anything is downloaded."""

from __future__ import annotations

import math

import pytest
import torch
from local_hub import MODEL, SAE, TEXT, TOKENIZER_REPO, prepare_cache

import saework
from saework.core.errors import NotAvailableError
from saework.loading import catalogue, requirements
from saework.loading.hub import Repository
from saework.loading.plans import Gpu, Machine
from saework.loading.requirements import check_memory, plan_of_load


def test_preflight_of_folders(release, machine):
    found = saework.preflight("small")
    assert found.ok and found.problems == () and found.download_mb == 0
    assert repr(found).startswith("small: ready")
    assert (found.disk_free_gb, found.memory_free_gb) == (1000, 1000)


def test_preflight_of_an_empty_cache(empty_cache, machine):
    found = saework.preflight("gelu-1l", "run2")
    assert not found.ok and (found.download_mb, found.cached_mb) == (pytest.approx(527, abs=1), 0)
    assert len(found.problems) == 4  # one a repository
    for problem, part in zip(found.problems, (MODEL, TOKENIZER_REPO, TEXT, SAE)):
        assert part in problem and "HF_HUB_OFFLINE" in problem
    shown = " ".join(repr(found).split())
    assert "gelu-1l: not ready" in shown
    # what to do is the same for all four, so it is said once
    heads = [problem.partition("; ")[0] for problem in found.problems]
    assert all(f"! {head}" in shown for head in heads)
    assert shown.count("connect once and load again") == 1
    assert not list((empty_cache / "hub").rglob("*.*"))


def test_preflight_of_a_filled_cache(empty_cache, machine, folders):
    prepare_cache(empty_cache, folders)
    found = saework.preflight("gelu-1l")
    assert found.ok and (found.download_mb, found.cached_mb) == (0, pytest.approx(527, abs=1))
    machine(disk_gb=0.0)
    assert saework.preflight(
        "gelu-1l"
    ).ok  # nothing is to be downloaded, so a full disk is no matter


def test_preflight_of_a_small_disk(empty_cache, machine):
    machine(disk_gb=0.3)
    problem = saework.preflight("gelu-1l").problems[-1]
    assert "0.5 GB to download but 0.3 GB free" in problem and str(empty_cache / "hub") in problem
    assert "make room, or set HF_HOME to another disk" in problem


def test_preflight_of_a_small_memory(release, machine):
    machine(memory_gb=0.5)
    found = saework.preflight("small")
    assert not found.ok and found.memory_free_gb == 0.5
    (problem,) = found.problems
    assert (
        "about 1.3 GB of memory needed but 0.5 GB available" in problem
        and "use gelu-1l-mini" in problem
    )
    machine(memory_gb=2.8)
    assert saework.preflight("small").ok


def test_preflight_of_a_missing_checkpoint(release, machine):
    found = saework.preflight("small", 99)
    assert not found.ok and "99_cfg.json" in found.problems[0]


def test_preflight_says_whether_there_is_a_token_and_never_which(release, machine, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsASecret")
    found = saework.preflight("small")
    assert (
        found.token is True
        and "token present" in repr(found)
        and "hf_" not in repr(found)
        and "hf_" not in str(vars(found))
    )


def test_an_sae_on_this_machine_is_not_counted(empty_cache, machine):
    """The model alone is 10.5 GB; with the SAE it does not fit on this disk."""
    release = catalogue.release_named("gemma-scope-2b-pt-res")
    machine(disk_gb=10.7)
    plan_of_load(release, "anything", local=True, dtype=torch.float32)
    with pytest.raises(NotAvailableError, match="10.8 GB to download but 10.7 GB free"):
        plan_of_load(release, None, dtype=torch.float32)


def test_sizes_that_are_not_known_beforehand(empty_cache, machine):
    """A release that only sae_lens's table knows is never refused for its size."""
    machine(disk_gb=0.1, memory_gb=0.1)
    found = saework.preflight("gpt2-small-resid-post-v5-32k")
    assert math.isnan(found.memory_gb) and math.isnan(found.download_mb)
    assert repr(found).count("size not known beforehand") == 2 and "nan" not in repr(found)
    assert all("HF_HUB_OFFLINE" in problem for problem in found.problems)
    unknown = catalogue.release_named("gpt2-small-resid-post-v5-32k")
    plan_of_load(unknown, None, dtype=torch.float32)


def test_a_home_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "_cache", lambda: str(tmp_path / "no" / "home"))
    assert requirements._disk_free_gb() > 0


def test_first_blocks_that_do_not_fit(machine):
    """Of a model that is not in the table of sizes: known when its config is here."""
    machine(memory_gb=2.0)
    check_memory(1_900_000_000)
    with pytest.raises(
        NotAvailableError, match="blocks up to the SAE's hook need 2.1 GB of memory"
    ):
        check_memory(2_100_000_000)


def test_what_is_too_large_is_told_with_what_would_fit(empty_cache, machine):
    release = catalogue.release_named("gemma-scope-2b-pt-res")
    machine(memory_gb=8.0)
    with pytest.raises(NotAvailableError) as refused:
        plan_of_load(release, None, dtype=torch.float32)
    words = str(refused.value)
    assert "about 11.8 GB of memory needed but 8.0 GB available (cpu, float32, full)" in words
    assert 'what fits: dtype="bfloat16" (6.4 GB) or depth="hook" (4.0 GB)' in words
    assert "use gemma-mini, or force it (force=True, --force)" in words
    plan = plan_of_load(release, None, dtype=torch.bfloat16)
    assert str(plan) == "cpu, bfloat16, full" and plan.memory_gb == pytest.approx(6.38, abs=0.01)


def test_forced(empty_cache, machine, monkeypatch):
    release = catalogue.release_named("gemma-scope-2b-pt-res")
    machine(memory_gb=8.0, disk_gb=1.0)
    with pytest.warns(UserWarning) as warned:
        plan = plan_of_load(release, None, dtype=torch.float32, force=True)
    assert plan.device == "cpu"
    assert ["GB" in str(warning.message) for warning in warned] == [True, True]
    monkeypatch.setenv(requirements.FORCE, "1")
    machine(memory_gb=8.0)
    with pytest.warns(UserWarning, match="about 11.8 GB of memory needed"):
        plan_of_load(release, None, dtype=torch.float32)


def test_float16_of_a_model_that_overflows_is_warned_of(empty_cache, machine):
    release = catalogue.release_named("gemma-2b-res-jb")
    with pytest.warns(UserWarning, match="can pass 65,504, the largest number of float16"):
        plan_of_load(release, None, dtype=torch.float16)


def test_preflight_says_a_plan_for_each_notebook_in_eighty_columns(empty_cache, machine):
    machine(memory_gb=12.0)
    found = saework.preflight("gemma-scope-2b-pt-res")
    lines = repr(found).splitlines()
    assert "  05_gemma_scope_validation    cpu, float32, hook: 3.9 GB" in lines
    assert "  06_gemma_scope_frontier      cpu, bfloat16, full: 9.6 GB" in lines
    assert max(map(len, lines)) <= 80
    machine(memory_gb=7.0)
    found = saework.preflight("gemma-scope-2b-pt-res")
    assert found.too_large == ("06_gemma_scope_frontier",)
    assert "full: 9.6 GB  too large" in repr(found) and "about 11.8 GB" in found.problems[-1]
    first_block = pytest.approx(2671 + 18 + 302, abs=1)
    assert found.download_mb == first_block, "only notebook 05 fits"
    assert "download is that of the notebooks that fit: first blocks" in repr(found)
    shown = catalogue.release_named("gemma-scope-2b-pt-res").shown
    assert saework.preflight("gemma-scope-2b-pt-res", *shown).download_mb == first_block
    whole = saework.preflight("gemma-scope-2b-pt-res", force=True)
    assert whole.download_mb == pytest.approx(10_500 + 18 + 302, abs=1)
    part = saework.preflight("gemma-scope-2b-pt-res", dtype="bfloat16", depth="hook")
    assert part.memory_problem == "" and str(part.plan) == "cpu, bfloat16, hook"
    assert part.download_mb == first_block


def test_a_load_that_does_not_fit_the_gpu_goes_to_the_cpu_and_says_so(
    empty_cache, machine, monkeypatch
):
    small = Machine(30.0, Gpu("Small GPU", 8.0, True))
    monkeypatch.setattr(requirements, "this_machine", lambda device=None: small)
    release = catalogue.release_named("gemma-scope-2b-pt-res")
    with pytest.warns(UserWarning, match="the Small GPU has 8.0 GB free, so it runs on the CPU"):
        assert plan_of_load(release, None, dtype=torch.float32).device == "cpu"
    assert plan_of_load(release, None, dtype=torch.bfloat16).device == "cuda"
    with pytest.raises(NotAvailableError, match="8.0 GB available .cuda, float32, full.; what fit"):
        plan_of_load(release, None, device=torch.device("cuda"), dtype=torch.float32)


def test_a_missing_token_is_told_without_asking_the_hub(empty_cache, machine, monkeypatch):
    """The model is gated for everyone; only the SAEs' repository is asked for."""
    asked = []
    monkeypatch.setattr(
        Repository, "access_problem", lambda repository, file: asked.append(repository.name)
    )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (problem,) = saework.preflight("gemma-scope-2b-pt-res").problems
    assert "google/gemma-2-2b is gated: accept its licence" in problem and "HF_TOKEN" in problem
    assert "google/gemma-2-2b" not in asked
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert saework.preflight("gemma-scope-2b-pt-res").ok
    assert "google/gemma-2-2b" in asked  # a mirror may have no gate
