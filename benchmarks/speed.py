"""saework beside its peers on the same weights and tokens: time, peak memory, and whether the results are equal.

    python benchmarks/speed.py --peers DIR                  # all jobs, five rounds; DIR as made by peers.sh
    python benchmarks/speed.py rates recons --rounds 3      # these need no other environment
    python benchmarks/speed.py --peers DIR --table table.md

Each measurement is a process of its own (one.py), which reads the weights, and then does one job once. The two
ways take turns; before each, a matrix product shows what the machine gives at that moment. Imports and weights are
not in the time; peak memory is the process's, weights included, from the moment the job starts. 1 GB is 1e9 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import setting
from jobs import FEATURES, JOBS, Job

HERE = Path(__file__).resolve().parent
OTHER_ENVIRONMENTS = ("saedashboard", "saebench")
HEAD = "| job | peer | peer's time, peak | saework's | time ratio | memory ratio | results |\n|---|---|---|---|---|---|---|"


def python_of(way: str, peers: Path | None) -> str:
    """The interpreter of a way's environment. Raises: FileNotFoundError if that was not made."""
    if way not in OTHER_ENVIRONMENTS:
        return sys.executable
    python = Path(peers or "") / way / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(
            f"{python} is missing: make it with `bash benchmarks/peers.sh DIR`, and give --peers DIR"
        )
    return str(python)


def run(job: Job, way: tuple[str, str], folder: Path, peers: Path | None) -> dict:
    """One measurement; ``values`` are the scalars of its result, ``out`` is the file of all of it."""
    from safetensors.torch import load_file

    out = folder / "-".join(way)
    asked = {
        "way": way[0],
        "call": way[1],
        "shape": job.shape,
        "hook": job.hook,
        "rows": job.rows,
        "folder": str(folder),
        "out": str(out),
    }
    asked |= {"features": FEATURES, "tokenizer": "features" in way[1]}
    done = subprocess.run(
        [python_of(way[0], peers), HERE / "one.py", json.dumps(asked)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"{way[0]}.{way[1]} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    result = load_file(out)
    values = {name: float(value) for name, value in result.items() if value.ndim == 0}
    return {**json.loads(done.stdout.strip().split("\n")[-1]), "values": values, "result": result}


def near_threshold(job: Job, folder: Path):
    """How many pre-activations of each feature lie at the threshold, of the features that the job counts."""
    near = run(job, ("published", "near_threshold"), folder, None)["result"]["near"]
    return near[FEATURES] if "features" in job.ours[1] else near


def measure(job: Job, rounds: int, folder: Path, peers: Path | None) -> tuple[dict, str]:
    """``{"theirs": runs, "ours": runs}`` that took turns, and how the results of the last turn agree; those of each turn must."""
    ways = {"theirs": job.theirs, "ours": job.ours} if job.theirs else {"ours": job.ours}
    for way in ways.values():
        python_of(way[0], peers)  # before the first minute is spent
    setting.make(job.shape, folder)
    runs, told = {who: [] for who in ways}, ""
    for _ in range(rounds):
        for who, way in ways.items():
            runs[who].append(run(job, way, folder, peers))
        if job.theirs:
            told = job.agree(
                runs["theirs"][-1]["result"],
                runs["ours"][-1]["result"],
                lambda: near_threshold(job, folder),
            )
    return runs, told


def spread(values: list[float], unit: str) -> str:
    middle, low, high = (
        f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
        for value in (median(values), min(values), max(values))
    )
    return f"{middle} {unit} ({low} to {high})"


def verdict(ratio: float, must: float | None, reached: bool) -> str:
    return f"{ratio:.2f}" + (
        f" (must {must}: {'reached' if reached else 'MISSED'})" if must else ""
    )


def report(job: Job, runs: dict, told: str) -> str:
    """Prints a job; returns its row of the table."""
    note = job.note(job, runs, runs["ours"][-1]["result"])
    seconds = {
        who: [run["seconds"] * (job.scale if who == "theirs" else 1) for run in runs[who]]
        for who in runs
    }
    peaks = {who: [run["peak_gb"] for run in runs[who]] for who in runs}
    cells = {who: f"{spread(seconds[who], 's')}, {spread(peaks[who], 'GB')}" for who in runs}
    faster = smaller = ""
    print(f"\n{job.title}")
    for who, cell in cells.items():
        print(f"  {'saework' if who == 'ours' else job.peer:26} {cell}")
    if job.theirs:
        time_ratio = median(seconds["theirs"]) / median(seconds["ours"])
        memory_ratio = median(peaks["ours"]) / median(peaks["theirs"])
        pairs = [a / b for a, b in zip(seconds["theirs"], seconds["ours"])]
        faster = (
            verdict(time_ratio, job.must[0], time_ratio >= (job.must[0] or 0))
            if job.must[0]
            else "-"
        )
        smaller = verdict(memory_ratio, job.must[1], memory_ratio <= (job.must[1] or 0))
        print(
            f"  time ratio {faster}, turn by turn {min(pairs):.3g} to {max(pairs):.3g}; memory ratio {smaller}"
        )
    probes = [run["gigaflops"] for who in runs for run in runs[who]]
    print(f"  matrix product {min(probes):.0f} to {max(probes):.0f} GFLOP/s")
    for words in filter(None, (told, note)):
        print(f"  {words}")
    sys.stdout.flush()
    words = "; ".join(filter(None, (told, note)))
    return f"| {job.title} | {job.peer} | {cells.get('theirs', '')} | {cells['ours']} | {faster} | {smaller} | {words} |"


def machine() -> str:
    """This machine, and what was measured on it, in a line."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({model}), {memory:.0f} GB, torch {torch.__version__}, on the CPU"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers", type=Path, help="folder of the other environments, made by peers.sh"
    )
    parser.add_argument("--table", type=Path, help="write a markdown table as well")
    arguments = parser.parse_args()
    unknown = set(arguments.jobs) - JOBS.keys()
    if unknown or arguments.rounds < 1:
        parser.error(
            f"{arguments.rounds} rounds of {', '.join(sorted(unknown))}: give one or more of {', '.join(JOBS)}"
        )
    print(machine())
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.jobs or JOBS:
            try:
                rows.append(
                    report(
                        JOBS[name],
                        *measure(JOBS[name], arguments.rounds, Path(folder), arguments.peers),
                    )
                )
            except (FileNotFoundError, RuntimeError, AssertionError) as error:
                failed.append(name)
                print(f"\n{JOBS[name].title}: not measured, or not equal. {error}", flush=True)
            if arguments.table:  # after each job, so that a break loses none
                words = f"Medians of {arguments.rounds} rounds, lowest to highest. {machine()}. Not measured on a GPU."
                arguments.table.write_text("\n".join([words, "", HEAD, *rows]) + "\n")
    if failed:
        print(f"\nwithout a result: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
