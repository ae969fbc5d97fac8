"""What preflight says of disk, memory, cache, access and token, before anything is downloaded."""

from __future__ import annotations

import math

import pytest
from local_hub import MODEL, SAE, TEXT, TOKENIZER_REPO, prepare_cache

import saework
from saework.core.errors import NotAvailableError
from saework.loading import catalogue, requirements
from saework.loading.requirements import check_memory, check_resources


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
    assert "gelu-1l: not ready" in repr(found) and all(
        f"! {problem}" in repr(found) for problem in found.problems
    )
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
    assert "GB of memory needed but 0.5 GB available" in problem and "use gelu-1l-mini" in problem
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
    check_resources(release, "anything", local=True)
    with pytest.raises(NotAvailableError, match="10.8 GB to download but 10.7 GB free"):
        check_resources(release, None)


def test_sizes_that_are_not_known_beforehand(empty_cache, machine):
    """A release that only sae_lens's table knows is never refused for its size."""
    machine(disk_gb=0.1, memory_gb=0.1)
    found = saework.preflight("gpt2-small-resid-post-v5-32k")
    assert math.isnan(found.memory_gb) and math.isnan(found.download_mb)
    assert repr(found).count("size not known beforehand") == 2 and "nan" not in repr(found)
    assert all("HF_HUB_OFFLINE" in problem for problem in found.problems)
    check_resources(catalogue.release_named("gpt2-small-resid-post-v5-32k"), None)


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
