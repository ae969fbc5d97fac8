"""saework beside its peers on the same weights and tokens: time, peak memory, equal results.

    python benchmarks/speed.py --peers DIR                  # all jobs, five rounds; see peers.sh
    python benchmarks/speed.py rates recons --rounds 3      # these need no other environment
    python benchmarks/speed.py --peers DIR --table table.md

Each measurement is a process of its own (one.py), which reads the weights, and then does one job
once. The two ways take turns. Before each, a matrix product shows what the machine gives at that
moment. Imports and weights are not in the time. Peak memory is the process's, weights included,
from the moment the job starts. 1 GB is 1e9 bytes.
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
from typing import Any

import setting
from jobs import FEATURES, JOBS, Job, Runs, Way

HERE = Path(__file__).resolve().parent
OTHER_ENVIRONMENTS = ("saedashboard", "saebench")
MEDIANS_HEAD = """\
| job | peer | time: peer, saework | ratio (target) | peak: peer, saework | ratio (target) |
|---|---|---|---|---|---|"""
RANGES_HEAD = """\
| job | peer's time, peak | saework's time, peak | results |
|---|---|---|---|"""


def python_of(way: str, peers: Path | None) -> str:
    """The interpreter of a way's environment.

    Raises:
        FileNotFoundError: that environment was not made.
    """
    if way not in OTHER_ENVIRONMENTS:
        return sys.executable
    python = Path(peers or "") / way / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(
            f"{python} is missing: make it with `bash benchmarks/peers.sh DIR`, "
            "and give --peers DIR"
        )
    return str(python)


def run(job: Job, way: Way, folder: Path, peers: Path | None) -> dict[str, Any]:
    """One measurement.

    Returns:
        ``seconds``, ``peak_gb``, ``gigaflops`` and ``threads``. ``result``: the tensors.
        ``values``: those of them that are one number.
    """
    from safetensors.torch import load_file

    file, call = way
    out = folder / f"{file}-{call}"
    request = {
        "way": file,
        "call": call,
        "shape": job.shape,
        "hook": job.hook,
        "rows": job.rows,
        "folder": str(folder),
        "out": str(out),
        "features": FEATURES,
        "tokenizer": "features" in call,
    }
    command = [python_of(file, peers), str(HERE / "one.py"), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{file}.{call} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    measurement = json.loads(done.stdout.strip().split("\n")[-1])
    result = load_file(out)
    values = {name: float(value) for name, value in result.items() if value.ndim == 0}
    return {**measurement, "values": values, "result": result}


def near_threshold(job: Job, folder: Path) -> Any:
    """How many pre-activations of each feature that the job counts lie at the threshold."""
    near = run(job, ("published", "near_threshold"), folder, None)["result"]["near"]
    _, call = job.saework_way
    return near[FEATURES] if "features" in call else near


def measure(job: Job, rounds: int, folder: Path, peers: Path | None) -> tuple[Runs, str]:
    """The runs of ``peer`` and ``saework``, which took turns, and how their results agree.

    Each turn's results must agree; the words are of the last one.
    """
    ways = {"saework": job.saework_way}
    if job.peer_way:
        ways = {"peer": job.peer_way, **ways}
    for file, _ in ways.values():
        python_of(file, peers)  # before the first minute is spent
    setting.make(job.shape, folder)
    runs: Runs = {name: [] for name in ways}
    agreement = ""
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(run(job, way, folder, peers))
        if job.peer_way:
            agreement = job.agree(
                runs["peer"][-1]["result"],
                runs["saework"][-1]["result"],
                lambda: near_threshold(job, folder),
            )
    return runs, agreement


class Report:
    """A job's runs, in words."""

    def __init__(self, job: Job, runs: Runs, agreement: str):
        self.job = job
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, list[float]] = {}
        self.probes: list[float] = []
        for name, measurements in runs.items():
            scale = job.scale if name == "peer" else 1
            self.seconds[name] = [run["seconds"] * scale for run in measurements]
            self.peaks[name] = [run["peak_gb"] for run in measurements]
            self.probes += [run["gigaflops"] for run in measurements]
        remarks = (
            agreement,
            job.note(job, runs),
        )
        self.remarks = list(filter(None, remarks))

    def time_ratio(self) -> str:
        """The peer's median time over saework's; empty without a peer."""
        if not self.job.peer_way:
            return ""
        target = self.job.time_target
        if target is None and self.job.memory_target is not None:
            return "-"  # a job about memory, whose two ways differ in their work
        ratio = median(self.seconds["peer"]) / median(self.seconds["saework"])
        return verdict(ratio, target, target is not None and ratio >= target)

    def memory_ratio(self) -> str:
        """saework's median peak over the peer's; empty without a peer."""
        if not self.job.peer_way:
            return ""
        ratio = median(self.peaks["saework"]) / median(self.peaks["peer"])
        target = self.job.memory_target
        return verdict(ratio, target, target is not None and ratio <= target)

    def range_of(self, name: str) -> str:
        """Time and peak memory of one way, with the lowest and the highest."""
        if name not in self.seconds:
            return ""
        seconds = spread(self.seconds[name], "s")
        peak = spread(self.peaks[name], "GB")
        return f"{seconds}, {peak}"

    def print(self) -> None:
        """Show all of it."""
        print(f"\n{self.job.title}")
        for name in self.seconds:
            title = self.job.peer if name == "peer" else name
            print(f"  {title:26} {self.range_of(name)}")
        if self.job.peer_way:
            turns = zip(self.seconds["peer"], self.seconds["saework"])
            ratios = [peer / saework for peer, saework in turns]
            print(
                f"  time ratio (target) {self.time_ratio()}, "
                f"turn by turn {min(ratios):.3g} to {max(ratios):.3g}; "
                f"memory ratio (target) {self.memory_ratio()}"
            )
        slowest, fastest = min(self.probes), max(self.probes)
        print(f"  matrix product {slowest:.0f} to {fastest:.0f} GFLOP/s")
        for words in self.remarks:
            print(f"  {words}")
        sys.stdout.flush()

    def medians_row(self) -> str:
        """Of the short table."""
        times = [number(median(values)) for values in self.seconds.values()]
        peaks = [number(median(values)) for values in self.peaks.values()]
        cells = [
            self.job.title,
            self.job.peer,
            f"{', '.join(times)} s",
            self.time_ratio(),
            f"{', '.join(peaks)} GB",
            self.memory_ratio(),
        ]
        return table_row(cells)

    def ranges_row(self) -> str:
        """Of the long table."""
        cells = [
            self.job.title,
            self.range_of("peer"),
            self.range_of("saework"),
            "; ".join(self.remarks),
        ]
        return table_row(cells)


def table_row(cells: list[str]) -> str:
    """One line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def spread(values: list[float], unit: str) -> str:
    """Median, lowest and highest."""
    middle = number(median(values))
    lowest = number(min(values))
    highest = number(max(values))
    return f"{middle} {unit} ({lowest} to {highest})"


def verdict(ratio: float, target: float | None, reached: bool) -> str:
    """A ratio, and its target if there is one."""
    if target is None:
        return f"{ratio:.2f}"
    missed = "" if reached else ": MISSED"
    return f"{ratio:.2f} ({target}{missed})"


def machine() -> str:
    """This machine, and what was measured on it, in a line."""
    import torch

    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(": ")[1]
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({model}), {memory:.0f} GB, "
        f"torch {torch.__version__}, on the CPU"
    )


def write_tables(path: Path, rounds: int, reports: list[Report]) -> None:
    """The two tables of README."""
    words = (
        f"Medians of {rounds} rounds, lowest to highest. {machine()}. Not measured on a GPU. "
        "A ratio's target stands behind it."
    )
    medians = [report.medians_row() for report in reports]
    ranges = [report.ranges_row() for report in reports]
    lines = [words, "", MEDIANS_HEAD, *medians, "", RANGES_HEAD, *ranges]
    path.write_text("\n".join(lines) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(JOBS)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {names}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, help="folder of the other environments (peers.sh)")
    parser.add_argument("--table", type=Path, help="write markdown tables as well")
    arguments = parser.parse_args()
    unknown = ", ".join(sorted(set(arguments.jobs) - JOBS.keys()))
    if unknown:
        parser.error(f"no job is named {unknown}; give one or more of {names}")
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; give 1 or more")
    return arguments


def main() -> int:
    """Measure the jobs one after the other; the exit code is 1 if one gave no result."""
    arguments = parsed()
    print(machine())
    reports, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.jobs or JOBS:
            job = JOBS[name]
            try:
                runs, agreement = measure(job, arguments.rounds, Path(folder), arguments.peers)
                reports.append(Report(job, runs, agreement))
                reports[-1].print()
            except (FileNotFoundError, RuntimeError, AssertionError) as error:
                failed.append(name)
                print(f"\n{job.title}: not measured, or not equal. {error}", flush=True)
            if arguments.table:  # after each job, so that an interruption loses none
                write_tables(arguments.table, arguments.rounds, reports)
    if failed:
        print(f"\nwithout a result: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
