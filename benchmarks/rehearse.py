"""A release's notebooks on stand-in weights of the published sizes, with limited memory.

python benchmarks/rehearse.py gpt2-small-res-jb

makes files of the published names, layouts and sizes with random numbers, serves them from a Hub
on loopback, and runs ``saework reproduce`` for one notebook after the other, in a process that is
ended where it holds more memory than the plan promises. It prints the rows of the table in
``docs/real-weights.md``. Values mean nothing, so the notebooks' own assertions are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
import psutil

ROOT = Path(__file__).parents[1]
for folder in (ROOT, ROOT / "tests"):  # also where only one of them is installed
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import stand_in_files  # noqa: E402, beside this file
from local_hub import LocalHub, client_environment  # noqa: E402

from saework.loading.catalogue import NOTEBOOKS, release_named  # noqa: E402
from saework.loading.needs import ITEM_BYTES, MODELS, need_of_notebook  # noqa: E402
from saework.loading.plans import Machine, Plan, plan_notebook  # noqa: E402
from saework.loading.release import Release  # noqa: E402

FOLDER = ROOT / "build" / "rehearsals"
DRIVER = """
import json, os, sys
from dataclasses import replace
from saework import cli
from saework.loading import catalogue
from saework.reproduction import kernel, run

name, notebook, out, parameters, *sae_ids = sys.argv[1:]
run.NOTEBOOKS[name] = (notebook,)
changed = {"notebooks": (notebook,)}
if sae_ids:  # only their files are there
    changed["shown"] = tuple(sae_ids)
catalogue._RELEASES[name] = replace(catalogue._RELEASES[name], **changed)
reproduce = run.reproduce


def with_parameters(name, out, **of_the_command):
    of_the_command["parameters"] |= json.loads(parameters)
    return reproduce(name, out, **of_the_command)


run.reproduce = with_parameters
kernel_arguments = kernel.kernel_arguments
kernel.kernel_arguments = lambda profile: kernel_arguments(os.environ["IPYTHONDIR"])
sys.exit(cli.main(["reproduce", name, "--out", out]))
"""
KERNEL = """
import ast
{machine}

class WithoutAssertions(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)

get_ipython().ast_transformers.append(WithoutAssertions())

from saework.loading import mutations
mutations._split = lambda claims, measured: (claims, [])  # of random weights, none holds
"""
WITHOUT_PRODUCTS = """
import torch

_linear, _addmm, _matmul = torch.nn.functional.linear, torch.addmm, torch.matmul

def _zeros(x, weight, bias=None):
    if x.numel() < 100 * x.shape[-1]:  # a few tokens
        return _linear(x, weight, bias)
    return x.new_empty(*x.shape[:-1], len(weight)).fill_(0)  # written, so that it is held

def _sum_of_few(bias, x, weight, **how):
    if len(x) < 100 or how:
        return _addmm(bias, x, weight, **how)
    return _addmm(bias, x[:, :16], weight[:16])

def _product_of_few(x, weight):
    n_inputs = x.shape[-1]
    if weight.ndim != 2 or n_inputs < 512 or x.numel() < 100 * n_inputs:
        return _matmul(x, weight)
    return _matmul(x[..., :16], weight[:16]).mul_((n_inputs / 16) ** 0.5)

torch.nn.functional.linear = _zeros
torch.addmm = _sum_of_few
torch.matmul = torch.Tensor.matmul = torch.Tensor.__matmul__ = _product_of_few
"""
"""Large products: their results are held, as zeros or (SAEs, losses) from 16 inputs."""
MACHINE = """
import psutil
_of_this_machine = psutil.virtual_memory
psutil.virtual_memory = lambda: _of_this_machine()._replace(total={n}, available={n})
"""
INTERVAL_S = 0.1
MAPPED_EVERY = 10
"""Files are looked at so much more seldom, since that takes as long as a hundred looks."""


@dataclass(frozen=True)
class Rehearsal:
    """What one notebook took."""

    release: str
    notebook: str
    machine_gb: float
    """The memory that the machine was said to have."""
    limit_gb: float
    """What the plan promises; beyond it the processes are ended."""
    plan: str
    download_mb: float
    """Bytes that the Hub on loopback sent, text included."""
    peak_gb: float
    """The most memory that all its processes held at one time.

    Weights that are used as they are stored stay in their mapped files, and are counted. Nothing
    else of files is: a machine with less memory lets it go.
    """
    cells_gb: dict[str, float]
    """The same of each cell that was seen running, by its number and first line."""
    minutes: float | None
    """None where the model's products were left out."""
    problem: str | None
    """Why it did not come to its end."""
    parameters: dict[str, Any]
    """Of the notebook, where they are not its own."""
    weights: str = "stand-in weights"

    def row(self) -> str:
        """A line of the table."""
        ended = self.problem or "ran to its end"
        others = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        notebook = self.notebook + (f" ({others})" if others else "")
        cells = [f"{self.machine_gb:g} GB", self.release, notebook, self.plan]
        cells += [f"{self.download_mb:,.0f} MB", f"{self.peak_gb:.1f} GB ({self.limit_gb:.1f})"]
        cells.append(f"`{max(self.cells_gb, key=self.cells_gb.__getitem__, default='')}`")
        minutes = "–" if self.minutes is None else f"{self.minutes:.1f}"
        return f"| {' | '.join([*cells, minutes, ended])} |"


HEAD = """\
| machine | release | notebook | plan | download | peak (promised) | in cell | minutes | |
|---|---|---|---|---|---|---|---|---|"""


def held_bytes(process: psutil.Process) -> int:
    """Memory of a process and all that it started, without files that are mapped."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            total += sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
        except (OSError, KeyError):  # it has ended, or a system without /proc
            if not Path("/proc/self/status").exists():
                total += one.memory_info().rss
    return total


def mapped_bytes(process: psutil.Process, folder: Path) -> int:
    """What a process and all that it started have in memory of a folder's mapped files."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/smaps").read_text().splitlines()
        except OSError:  # it has ended, or a system without /proc
            continue
        is_of_folder = False
        for line in lines:
            if not line[0].isupper():  # an address: the next mapping
                is_of_folder = str(folder) in line
            elif is_of_folder and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def run_limited(
    command: Sequence[str],
    environment: dict[str, str],
    *,
    limit_bytes: float,
    log: Path,
    most_mapped: float = 0,
    most_minutes: float = math.inf,
) -> tuple[list[tuple[datetime, float]], str | None]:
    """Run a command; returns when it held how many bytes, and why it was ended early, if it was.

    No cgroup is needed: the processes are looked at ten times a second.

    Args:
        command: what is run.
        environment: its variables.
        limit_bytes: what it may hold.
        log: what takes its output; its folder's mapped files are looked at.
        most_mapped: bytes of weights that are used in their mapped files. More of these files is
            in memory while they are read, and is let go where memory is short.
        most_minutes: what it may take.
    """
    ends = time.monotonic() + 60 * most_minutes
    held: list[tuple[datetime, float]] = []
    mapped = 0.0
    with log.open("w") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        process = psutil.Process(started.pid)
        try:
            while started.poll() is None:
                try:
                    if most_mapped and len(held) % MAPPED_EVERY == 0:
                        mapped = min(most_mapped, mapped_bytes(process, log.parent))
                    held.append((datetime.now(timezone.utc), held_bytes(process) + mapped))
                except psutil.NoSuchProcess:
                    break
                if held[-1][1] > limit_bytes:
                    return held, "passed the limit"
                if time.monotonic() > ends:
                    return held, f"stopped after {most_minutes:g} minutes"
                time.sleep(INTERVAL_S)
        finally:
            _end(process)
            started.wait()
    return held, None


def _end(process: psutil.Process) -> None:
    """End a process and what it started."""
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def rehearse(
    name: str,
    hub: LocalHub,
    folder: Path,
    notebooks: Sequence[str],
    *,
    machine_gb: float,
    limit_gb: float | None = None,
    sae_ids: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    products: bool = True,
    most_minutes: float = math.inf,
) -> list[Rehearsal]:
    """Run notebooks of a release whose stand-ins the Hub serves, one after the other.

    Args:
        name: of the release.
        hub: the Hub on loopback.
        folder: for the cache, the results and the logs.
        notebooks: by their names. They share one cache, so the first downloads the model.
        machine_gb: the memory that the machine is said to have, to the command and the notebook.
        limit_gb: in place of what the plan of each notebook promises.
        sae_ids: the only SAEs that the Hub serves, if not all.
        parameters: of the notebooks, in place of their own.
        products: without them the model's linear layers give zeros for 100 tokens or more, and
            the products of SAEs and losses come from 16 numbers of each input: the memory is the
            same (but for what a library takes inside a product), and hours become minutes. What
            blocks write to the residual stream is next to nothing anyway.
        most_minutes: of each notebook.
    """
    machine = MACHINE.format(n=int(machine_gb * 1e9))
    kernel = KERNEL.format(machine=machine) + ("" if products else WITHOUT_PRODUCTS)
    environment = _environment(folder, hub, kernel)
    parameters = parameters or {}
    found = []
    for notebook in notebooks:
        plan, fits = plan_notebook(release_named(name), notebook, Machine(machine_gb))
        limit = plan.memory_gb if limit_gb is None else limit_gb
        out, log = folder / "out", folder / f"{notebook}.log"
        command = [sys.executable, "-c", machine + DRIVER, name, notebook, str(out)]
        command += [json.dumps(parameters), *sae_ids]
        n_before, started = len(hub.requests), time.monotonic()
        held, ended = run_limited(
            command,
            environment,
            limit_bytes=limit * 1e9,
            log=log,
            most_mapped=_used_in_files(release_named(name), notebook, plan),
            most_minutes=most_minutes,
        )
        executed = out / f"{notebook}.ipynb"
        running = out / f".{notebook}-running.ipynb"  # what is left of one that was ended
        sent = [r.size for r in hub.requests[n_before:] if r.method == "GET" and r.status < 300]
        problem = ended or _problem(executed, log)
        found.append(
            Rehearsal(
                release=name,
                notebook=notebook,
                machine_gb=machine_gb,
                limit_gb=round(limit, 2),
                plan=f"{plan}{'' if fits else ' (does not fit)'}",
                download_mb=round(sum(sent) / 1e6, 1),
                peak_gb=round(max(n_bytes for _, n_bytes in held) / 1e9, 2),
                cells_gb=_by_cell(executed if executed.exists() else running, held),
                minutes=round((time.monotonic() - started) / 60, 2) if products else None,
                problem=problem,
                parameters=parameters,
            )
        )
    return found


def _environment(folder: Path, hub: LocalHub, kernel: str) -> dict[str, str]:
    """Variables of the command: this Hub, no GPU, and what each kernel runs at its start."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-rehearsal.py").write_text(kernel)
    return client_environment(
        folder / "cache",
        hub.url,
        IPYTHONDIR=str(folder / "ipython"),
        HF_TOKEN=stand_in_files.TOKEN,
        CUDA_VISIBLE_DEVICES="",
    )


def _used_in_files(release: Release, notebook: str, plan: Plan) -> float:
    """Bytes of weights that may stay in their mapped files: those of the stored dtype."""
    size, item_bytes = MODELS[release.repositories["model"].name], ITEM_BYTES[plan.dtype]
    need = need_of_notebook(release, notebook)
    of_model = need.model_values if item_bytes == size.stored_bytes else 0
    of_saes = need.sae_values if plan.dtype == "float32" else 0  # all are stored so
    return (of_model + of_saes) * item_bytes


def _by_cell(executed: Path, held: Sequence[tuple[datetime, float]]) -> dict[str, float]:
    """The most GB that were held while each cell ran."""
    if not executed.exists():
        return {}
    begun = []
    for number, cell in enumerate(nbformat.read(executed, as_version=4).cells):
        when = cell.metadata.get("papermill", {}).get("start_time")
        if when:
            start = datetime.fromisoformat(when).replace(tzinfo=timezone.utc)
            begun.append((start, f"{number}: {cell.source.partition(chr(10))[0][:60]}"))
    peaks: dict[str, float] = {}
    for now, n_bytes in held:
        names = [name for start, name in begun if start <= now]
        if names:
            peaks[names[-1]] = max(peaks.get(names[-1], 0), round(n_bytes / 1e9, 2))
    return peaks


def _problem(executed: Path, log: Path) -> str | None:
    """What stopped a notebook, or None."""
    if not executed.exists():
        said = log.read_text().rpartition("saework: ")[2]
        return " ".join(said.split()) or "nothing was written"
    for number, cell in enumerate(nbformat.read(executed, as_version=4).cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {number}: {output.ename}: {output.evalue}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 if a notebook did not come to its end."""
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__ or ""))
    parser.add_argument("name", choices=stand_in_files.RELEASES)
    parser.add_argument("--notebook", action="append", help="only this one; may be repeated")
    parser.add_argument("--machine", type=float, default=16, metavar="GB", help="its memory")
    parser.add_argument("--limit", type=float, metavar="GB", help="not what the plan promises")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for each notebook")
    parser.add_argument("--sae", action="append", default=[], metavar="ID", help="only its files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the stand-ins")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=JSON", help="of the notebooks"
    )
    parser.add_argument(
        "--without-products",
        action="store_true",
        help="leave out most of the model's arithmetic: the same memory, in less time",
    )
    parser.add_argument("--small", action="store_true", help="narrow stand-ins, to try it out")
    parser.add_argument("--keep", action="store_true", help="leave the stand-ins and the logs")
    arguments = parser.parse_args(argv)
    name = arguments.name
    parameters = [given.split("=", 1) for given in arguments.parameter]
    notebooks = arguments.notebook or list(NOTEBOOKS[name])
    folder = arguments.folder.resolve() / name
    if folder.exists():
        parser.error(f"{folder} is there from another rehearsal; delete it, or give --folder DIR")
    folder.mkdir(parents=True)
    try:
        with LocalHub() as hub:
            more = {"sae_ids": tuple(arguments.sae)} if arguments.sae else {}
            stand_in_files.make(name, folder / "files", hub, small=arguments.small, **more)
            found = rehearse(
                name,
                hub,
                folder,
                notebooks,
                machine_gb=arguments.machine,
                limit_gb=arguments.limit,
                sae_ids=arguments.sae,
                parameters={key: json.loads(value) for key, value in parameters},
                products=not arguments.without_products,
                most_minutes=arguments.minutes,
            )
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    kept = arguments.folder / f"{name}.json"
    kept.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    print("\n".join([HEAD, *(one.row() for one in found)]))
    print(f"\nstand-in weights, {os.cpu_count()} cores; also in {kept}")
    return int(any(one.problem for one in found))


if __name__ == "__main__":
    sys.exit(main())
