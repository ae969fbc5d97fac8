"""The lines that a notebook's first cell says on Colab."""

from __future__ import annotations

import pytest

from saework import plans_here
from saework.core.errors import UnknownNameError
from saework.loading import notebook_plans
from saework.loading.plans import Gpu, Machine

COLAB_CPU = Machine(11.5)
COLAB_T4 = Machine(11.5, Gpu("Tesla T4", 15.6, False))


@pytest.fixture
def on_machine(monkeypatch):
    def on(machine: Machine) -> None:
        monkeypatch.setattr(notebook_plans, "this_machine", lambda: machine)

    return on


def test_the_lines_on_a_free_colab(on_machine):
    on_machine(COLAB_T4)
    assert plans_here("06_gemma_scope_frontier").splitlines()[:2] == [
        "This machine: 11.5 GB of memory, and a GPU (Tesla T4) with 15.6 GB.",
        "gemma-mini: fits (1.0 GB), nothing is downloaded",
    ]
    assert 'gemma-scope-2b-pt-res: fits with DEVICE = "cuda", DTYPE = "bfloat16" (' in plans_here(
        "06_gemma_scope_frontier"
    )
    on_machine(COLAB_CPU)
    found = plans_here("06_gemma_scope_frontier")
    assert found.startswith("This machine: 11.5 GB of memory, no CUDA GPU.\n")
    assert 'gemma-scope-2b-pt-res: fits with DEVICE = "cpu", DTYPE = "bfloat16" (' in found


def test_what_does_not_fit_is_said(on_machine):
    on_machine(Machine(2.0))
    assert "llama-3.2-1b-qresearch: does not fit; bfloat16 on the cpu needs " in plans_here(
        "08_llama_steering"
    )


def test_a_study_needs_no_release(on_machine):
    on_machine(COLAB_CPU)
    assert plans_here("10_reading_saebench") == "This machine: 11.5 GB of memory, no CUDA GPU."


def test_every_notebook_has_its_lines():
    from saework.reproduction.run import notebook_folder

    for path in notebook_folder().glob("*.ipynb"):
        assert plans_here(path.stem).startswith("This machine: ")


def test_a_notebook_that_does_not_exist():
    with pytest.raises(UnknownNameError, match="there is no notebook '00_start'. Did you mean"):
        plans_here("00_start")


def test_replaced_packages_are_said_first(monkeypatch):
    def replaced() -> None:
        raise RuntimeError("restart the session")

    monkeypatch.setattr(notebook_plans, "check_versions", replaced)
    with pytest.raises(RuntimeError, match="restart the session"):
        plans_here("00_start_here")


def test_no_server_is_asked(monkeypatch):
    import socket

    def no_network(*arguments, **named):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert plans_here("08_llama_steering")
