"""Rehearsals on narrow stand-ins: each release loads, and what a notebook takes is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from local_hub import LocalHub, result_of

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
LOAD_ALL = """
import os, warnings
import torch
import saework

warnings.simplefilter("ignore")
torch.set_grad_enabled(False)
answers = {}
for name in os.environ["NAMES"].split():
    book = saework.load(name, n_tokens=2048, check=False)
    rows = book.tokens[:8, :32]
    score = saework.recons_score(book.model, book.sae, rows, progress=False)
    x = saework.activations(book.model, rows, book.hook)
    l0 = (book.sae.encode(x[:, 1:]) != 0).sum(-1).double().mean()
    answers[name] = {
        "hook": book.hook,
        "layers": book.model.cfg.n_layers,
        "losses": [score.loss, score.recons_loss],
        "l0": float(l0),
        "finite": bool(torch.isfinite(x).all()),
    }
report(answers)
"""
WANTS = {
    "gelu-1l": ("blocks.0.mlp.hook_post", 1),
    "gpt2-small-res-jb": ("blocks.10.hook_resid_pre", 12),
    "gemma-scope-2-270m-pt-res": ("blocks.12.hook_resid_post", 18),
    "gemma-scope-2b-pt-res": ("blocks.0.hook_resid_post", 26),
    "gemma-2b-res-jb": ("blocks.0.hook_resid_post", 18),
    "llama-3.2-1b-qresearch": ("blocks.9.hook_resid_pre", 16),
}


@pytest.fixture(scope="module")
def rehearsing():
    """The two files of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import rehearse
        import stand_in_files

        yield rehearse, stand_in_files


def test_stand_ins_of_each_release_load(rehearsing, tmp_path):
    _, stand_in_files = rehearsing
    assert set(stand_in_files.RELEASES) == set(WANTS)
    with LocalHub() as hub:
        for name in WANTS:
            stand_in_files.make(name, tmp_path / name, hub, small=True)
        found = result_of(
            LOAD_ALL,
            cache=tmp_path / "cache",
            endpoint=hub.url,
            HF_TOKEN=stand_in_files.TOKEN,
            NAMES=" ".join(WANTS),
        )
    for name, wanted in WANTS.items():
        assert (found[name]["hook"], found[name]["layers"]) == wanted
        assert found[name]["finite"] and all(0 < loss < 40 for loss in found[name]["losses"])
        if name != "gelu-1l":  # its narrow SAE has no thresholds
            assert 2 < found[name]["l0"] < 25, "of 8 that were asked for"


def test_published_sizes(rehearsing):
    """Written out here: parameters of each model, as published."""
    import torch
    from transformers import AutoModelForCausalLM

    published = {
        "gpt2": 124_439_808,
        "google/gemma-3-270m": 268_098_176,
        "google/gemma-2-2b": 2_614_341_888,
        "google/gemma-2b": 2_506_172_416,
        "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    }
    _, stand_in_files = rehearsing
    for stand_in in stand_in_files.STAND_INS.values():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(stand_in.config(small=False))
        assert sum(p.numel() for p in model.parameters()) == published[stand_in.model]


def test_a_notebook_is_measured(rehearsing, tmp_path, monkeypatch, capsys):
    """Its download, its memory and its end; its assertions are left out."""
    rehearse, _ = rehearsing
    code = "import saework\nassert False, 'random weights'\nsaework.load(RELEASE, check=False)"
    out = _rehearsed(rehearse, tmp_path, monkeypatch, code, limit=3)
    assert out["problem"] is None and out["limit_gb"] == 3
    assert out["download_mb"] > 0.5 and 0.2 < out["peak_gb"] < 3
    shown = capsys.readouterr().out
    assert f"| 8 GB | {out['release']} | one (N 3) | " in shown and "stand-in weights" in shown
    assert not (tmp_path / "there" / out["release"]).exists(), "deleted afterwards"


def test_what_holds_too_much_is_ended(rehearsing, tmp_path, monkeypatch):
    rehearse, _ = rehearsing
    code = "kept = bytearray(b'1' * 10**9)\nimport time\ntime.sleep(60)"
    out = _rehearsed(rehearse, tmp_path, monkeypatch, code, limit=1)
    assert out["problem"] == "passed the limit" and out["peak_gb"] >= 1
    peaks = out["cells_gb"]
    assert max(peaks, key=peaks.get).endswith(": kept = bytearray(b'1' * 10**9)")


def test_the_plan_of_the_pretended_machine_is_run(rehearsing, tmp_path, monkeypatch):
    """A notebook that fails says what it was given; float32 takes more than 5 GB for Llama."""
    rehearse, _ = rehearsing
    code = "import psutil\nraise ValueError(DEVICE, DTYPE, N, psutil.virtual_memory().available)"
    out = _rehearsed(rehearse, tmp_path, monkeypatch, code, limit=3, machine=5)
    assert out["plan"] == "cpu, bfloat16, full"
    assert out["problem"].endswith("ValueError: ('cpu', 'bfloat16', 3, 5000000000)")


def test_a_machine_that_is_too_small(rehearsing, tmp_path, monkeypatch):
    rehearse, _ = rehearsing
    out = _rehearsed(rehearse, tmp_path, monkeypatch, "1", limit=3, machine=2)
    assert out["plan"] == "cpu, bfloat16, full (does not fit)"
    assert "about 6.5 GB of memory needed but 2.0 GB available" in out["problem"]


def test_mapped_weights_are_counted(rehearsing, tmp_path):
    """Of a file of 30 MB, as much as is used where it lies."""
    rehearse, _ = rehearsing
    path = tmp_path / "weights"
    path.write_bytes(b"1" * 30_000_000)
    code = (
        "import mmap, sys, time\nfile = open(sys.argv[1], 'rb')\n"
        "kept = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\nkept.find(b'2')\n"
        "time.sleep(1.5)"
    )
    peaks = []
    for most_mapped in (0, 1e9, 2e7):
        held, ended = rehearse.run_limited(
            [sys.executable, "-c", code, str(path)],
            {},
            limit_bytes=1e9,
            log=tmp_path / "log",
            most_mapped=most_mapped,
        )
        peaks.append(max(n_bytes for _, n_bytes in held))
        assert ended is None
    none, whole, part = peaks
    assert abs(whole - none - 3e7) < 3e6 and abs(part - none - 2e7) < 3e6


def test_what_takes_too_long_is_ended(rehearsing, tmp_path):
    rehearse, _ = rehearsing
    command = [sys.executable, "-c", "import time\ntime.sleep(60)"]
    limits = {"limit_bytes": 1e9, "most_minutes": 0.01}
    held, ended = rehearse.run_limited(command, {}, log=tmp_path / "log", **limits)
    assert held and ended == "stopped after 0.01 minutes"


def test_weights_of_the_stored_dtype_stay_in_their_files(rehearsing):
    from saework import release_named
    from saework.loading.plans import Plan

    rehearse, _ = rehearsing
    release, notebook = release_named("gemma-scope-2b-pt-res"), "06_gemma_scope_frontier"
    as_stored, half = (Plan("cpu", dtype, "full", 1.0) for dtype in ("float32", "bfloat16"))
    of_saes = rehearse.need_of_notebook(release, notebook).sae_values
    in_files = rehearse._used_in_files(release, notebook, as_stored)
    assert in_files == (2_614_341_888 + of_saes) * 4
    assert rehearse._used_in_files(release, notebook, half) == 0


def test_products_left_out_are_held(rehearsing, monkeypatch):
    """Of many tokens: zeros of the same shape and dtype; for losses and SAEs, of 16 inputs."""
    import torch

    rehearse, _ = rehearsing
    product = torch.nn.functional.linear
    names = [(torch.nn.functional, "linear"), (torch, "addmm"), (torch, "matmul")]
    names += [(torch.Tensor, "matmul"), (torch.Tensor, "__matmul__")]
    for place, name in names:  # put back afterwards
        monkeypatch.setattr(place, name, getattr(place, name))
    exec(rehearse.WITHOUT_PRODUCTS, {})
    x, weight = torch.ones(2, 128, 3, dtype=torch.bfloat16), torch.ones(5, 3, dtype=torch.bfloat16)
    left_out = torch.nn.functional.linear(x, weight)
    assert torch.equal(left_out, torch.zeros_like(product(x, weight)))
    assert left_out.dtype == torch.bfloat16
    few = x[:, :49]
    assert torch.equal(torch.nn.functional.linear(few, weight), product(few, weight))
    states, bias = torch.arange(300.0 * 20).reshape(300, 20), torch.ones(2)
    columns = torch.ones(20, 2)
    assert torch.equal(torch.addmm(bias, states, columns), states[:, :16] @ columns[:16] + 1)
    assert torch.equal(torch.addmm(bias, states[:9], columns), states[:9] @ columns + 1)
    inputs, columns = torch.ones(300, 1024), torch.ones(1024, 4)
    assert torch.equal(inputs @ columns, torch.full((300, 4), 16 * 8.0)), "as long as 1,024 random"
    assert torch.equal(inputs[:99] @ columns, torch.full((99, 4), 1024.0))


def _rehearsed(rehearse, folder, monkeypatch, code, *, limit, machine=8):
    """The record of a notebook of one cell, on Llama's narrow stand-ins."""
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    settings = "RELEASE = N = None\nDEVICE = None\nDTYPE = None"
    head = nbformat.v4.new_code_cell(settings, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [head, nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), notebooks / "one.ipynb")
    found_in = f"run.notebook_folder = lambda: __import__('pathlib').Path({str(notebooks)!r})"
    monkeypatch.setattr(
        rehearse, "DRIVER", rehearse.DRIVER.replace("run.NOTEBOOKS", f"{found_in}\nrun.NOTEBOOKS")
    )
    name = "llama-3.2-1b-qresearch"
    command = [name, "--notebook", "one", "--small", "--folder", str(folder / "there")]
    command += ["--limit", str(limit), "--machine", str(machine), "--parameter", "N=3"]
    rehearse.main(command)
    (found,) = json.loads((folder / "there" / f"{name}.json").read_text())
    return found
