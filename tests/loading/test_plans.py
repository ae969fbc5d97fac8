"""Plans on machines that are described by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from saework.core.errors import NotAvailableError
from saework.loading import plans
from saework.loading.catalogue import release_named
from saework.loading.needs import need_of_load
from saework.loading.plans import Gpu, Machine, candidates, plan_load, plan_notebook, remark

LAPTOP_8, LAPTOP_16 = Machine(6.5), Machine(14.0)
COLAB_CPU = Machine(11.5)
T4 = Gpu("Tesla T4", 15.6, False)
COLAB_T4 = Machine(11.5, T4)
GEMMA, LLAMA = "gemma-scope-2b-pt-res", "llama-3.2-1b-qresearch"
VALIDATION, FRONTIER = "05_gemma_scope_validation", "06_gemma_scope_frontier"
STEERING = "08_llama_steering"


@pytest.mark.parametrize(
    ("machine", "release", "notebook", "plan"),
    [
        (LAPTOP_8, GEMMA, VALIDATION, "cpu, float32, hook"),
        (LAPTOP_8, GEMMA, FRONTIER, None),
        (Machine(5.5), LLAMA, STEERING, None),
        (LAPTOP_8, LLAMA, STEERING, "cpu, bfloat16, full"),
        (LAPTOP_16, GEMMA, FRONTIER, "cpu, bfloat16, full"),
        (LAPTOP_16, "gemma-2b-res-jb", "07_gemma_2b_residual_saes", "cpu, float32, full"),
        (COLAB_CPU, GEMMA, FRONTIER, "cpu, bfloat16, full"),
        (COLAB_T4, GEMMA, FRONTIER, "cuda, bfloat16, full"),
        (COLAB_T4, GEMMA, VALIDATION, "cuda, float32, hook"),
        (LAPTOP_8, "gelu-1l", "04_gelu_1l_rare_features", "cpu, float32, full"),
    ],
)
def test_the_plan_of_a_notebook(machine, release, notebook, plan):
    found, fits = plan_notebook(release_named(release), notebook, machine)
    assert fits == (plan is not None)
    assert plan in (None, str(found))


def test_what_was_asked_for_is_kept():
    release = release_named(GEMMA)
    found, fits = plan_notebook(release, VALIDATION, COLAB_T4, device="cpu", dtype="bfloat16")
    assert (str(found), fits) == ("cpu, bfloat16, hook", True)
    found, fits = plan_notebook(release, FRONTIER, COLAB_CPU, dtype="float32")
    assert (str(found), fits) == ("cpu, float32, full", False)
    mini, fits = plan_notebook(release_named("gemma-mini"), FRONTIER, Machine(0.1))
    assert (mini.dtype, fits) == ("float32", False)


def test_a_gpu_needs_some_of_the_hosts_memory_too():
    release = release_named(GEMMA)
    plan, refusal = plan_load(release, None, Machine(2.0, T4), device="cuda")
    assert plan.host_gb == 3.0 and plan.memory_gb == pytest.approx(11.76, abs=0.01)
    assert "about 3.0 GB of memory needed but 2.0 GB available (the host, beside cuda" in refusal
    _, refusal = plan_load(release, None, Machine(4.0, T4), device="cuda")
    assert refusal == ""


def test_a_refusal_names_the_nearest_plans():
    release = release_named(GEMMA)
    _, refusal = plan_load(release, None, COLAB_CPU)
    assert 'what fits: dtype="bfloat16" (6.4 GB) or depth="hook" (4.0 GB); or' in refusal
    _, refusal = plan_load(release, None, LAPTOP_8, depth="hook", dtype="float64", item_bytes=8)
    assert (
        'fits: dtype="bfloat16" (2.5 GB) or dtype="bfloat16", depth="text" (1.3 GB); or' in refusal
    )
    _, refusal = plan_load(release, None, Machine(2.0))
    assert (
        'what fits: depth="text" (1.6 GB) or dtype="bfloat16", depth="text" (1.3 GB); or' in refusal
    )
    _, refusal = plan_load(release, None, Machine(1.0))
    assert "what fits" not in refusal and "close programs, use gemma-mini, or force" in refusal
    gelu = release_named("gelu-1l")
    _, refusal = plan_load(gelu, None, Machine(1.3))
    assert 'what fits: dtype="bfloat16" (1.2 GB); or' in refusal and "hook" not in refusal
    _, refusal = plan_load(release, None, Machine(30.0, Gpu("Small", 7.0, True)), device="cuda")
    assert 'what fits: device="cpu" (11.8 GB) or dtype="bfloat16" (6.4 GB); or' in refusal


def test_what_is_not_known_beforehand_is_not_refused():
    release = release_named("pythia-70m-deduped-mlp-sm")
    plan, refusal = plan_load(release, None, Machine(0.1))
    assert math.isnan(plan.memory_gb) and refusal == ""


def test_candidates_are_in_order():
    need = need_of_load(release_named(GEMMA), None)
    found = [str(plan) for plan in candidates(need, COLAB_T4)]
    assert found == [
        "cuda, float32, full",
        "cpu, float32, full",
        "cuda, bfloat16, full",
        "cpu, bfloat16, full",
    ]


def test_remarks():
    gemma, llama = release_named(GEMMA), release_named(LLAMA)
    (half,) = candidates(need_of_load(gemma, None), COLAB_CPU, dtypes=["float16"])
    assert "65,504" in remark(gemma, half, COLAB_CPU) and remark(llama, half, COLAB_CPU) == ""
    on_t4, on_cpu = candidates(need_of_load(gemma, None), COLAB_T4, dtypes=["bfloat16"])
    assert remark(gemma, on_t4, COLAB_T4) == (
        "the Tesla T4 has no bfloat16 of its own: torch emulates it, more slowly"
    )
    assert remark(gemma, on_cpu, COLAB_T4) == ""
    assert remark(gemma, on_cpu, Machine(11.5, has_bfloat16=False)) == (
        "this processor does not compute in bfloat16: a model takes several times as long as in "
        "float32"
    )


def test_devices_that_are_not_there():
    plans.check_device(None, COLAB_CPU)
    plans.check_device("cpu", COLAB_CPU)
    plans.check_device("cuda:0", COLAB_T4)
    with pytest.raises(NotAvailableError, match="device is 'cuda', and torch sees no CUDA GPU"):
        plans.check_device("cuda", COLAB_CPU)


def test_what_this_machine_has(machine, monkeypatch):
    machine(memory_gb=7.0)
    cuda = SimpleNamespace(
        is_available=lambda: False,
        mem_get_info=lambda device: (10**9 * (4 if device == "cuda:1" else 2), 10**10),
        get_device_name=lambda device: f"GPU {device}",
        is_bf16_supported=lambda including_emulation: False,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert plans.this_machine() == Machine(7.0, has_bfloat16=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert plans.this_machine() == Machine(7.0)
    assert plans.this_machine().free_gb("cuda") == 0
    cuda.is_available = lambda: True
    assert plans.this_machine() == Machine(7.0, Gpu("GPU cuda", 2.0, False))
    assert plans.this_machine("cuda:1").free_gb("cuda:1") == 4.0
