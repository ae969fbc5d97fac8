"""What is measured: each job's two ways, how their results must agree, its targets, its notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

FEATURES = list(range(0, 16_384, 64))  # 256 of them
ROW = 128  # tokens
# SAEDashboard looks for examples at these positions only
DASHBOARD_POSITIONS = range(6, ROW - 5)

Results: TypeAlias = dict[str, Any]
"""What a way returns: tensors by name."""
Runs: TypeAlias = dict[str, list[dict]]
"""Measurements of ``peer`` and ``saework``, or of ``saework`` alone; see ``speed.run``."""
Way: TypeAlias = tuple[str, str]
"""A file in ``ways/`` and a function in it. An environment of its own has the file's name."""


def nothing_to_compare(peer: Results, saework: Results, near: Callable) -> str:
    """For jobs without a peer, or whose two ways are meant to differ."""
    return ""


def no_note(job: Job, runs: Runs) -> str:
    """For jobs whose numbers speak for themselves."""
    return ""


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    title: str
    peer: str
    """Whose way saework is measured beside."""
    peer_way: Way | None
    saework_way: Way
    agree: Callable[[Results, Results, Callable], str] = nothing_to_compare
    """Says how the results agree; AssertionError if they do not."""
    note: Callable[[Job, Runs], str] = no_note
    """What else to say of the job."""
    shape: str = "gelu-1l"
    hook: int = 0
    rows: int = 64
    scale: int = 1
    """The peer's time is multiplied by this."""
    time_target: float | None = None
    """Time ratio (the peer's over saework's) at least."""
    memory_target: float | None = None
    """Memory ratio (saework's over the peer's) at most."""


def same_counts(peer: Results, saework: Results, near: Callable) -> str:
    """Counts may differ by pre-activations that rounding decides: ``near()`` of each feature."""
    apart = (peer["count"] - saework["count"]).abs()
    if apart.any():
        wrong = apart > near()
        n_wrong, examples = int(wrong.sum()), apart[wrong][:5].tolist()
        assert n_wrong == 0, f"{n_wrong} features' counts differ by more than rounding: {examples}"
    n_firings = int(saework["count"].sum())
    assert n_firings > 0, "nothing fired, so nothing was compared"
    return f"{n_firings:,} firings, {int(apart.sum())} differ"


def close(tolerance: float, *, absolute: float = 0.0, **looser: float) -> Callable:
    """Values agree to ``tolerance`` of the largest of their array, or to ``absolute``.

    ``looser`` gives names with a tolerance of their own.
    """

    def agree(peer: Results, saework: Results, near: Callable) -> str:
        apart = {}
        for name, value in peer.items():
            largest = float(value.abs().max())
            assert largest > 0, f"{name} is 0 everywhere, so nothing was compared"
            difference = (value.double() - saework[name].double()).abs()
            apart[name] = float(difference.max()) / largest
            allowed = looser.get(name, tolerance + absolute / largest)
            assert apart[name] <= allowed, (
                f"{name} differs by {apart[name]:.1e}: {value} and {saework[name]}"
            )
        others = [value for name, value in apart.items() if name not in looser]
        summary = f"{len(apart)} compared, equal to {max(others, default=0.0):.0e}"
        exceptions = [f"{name} to {apart[name]:.0e}" for name in looser]
        return ", ".join([summary, *exceptions])

    return agree


def same_examples(peer: Results, saework: Results, near: Callable) -> str:
    """Counts, maxima and examples agree.

    saework's examples, where SAEDashboard looks for any, must head its list, but for ties.
    """
    counts = same_counts(peer, saework, near)
    maxima_apart = (peer["max"] - saework["max"]).abs().max()
    assert maxima_apart <= 1e-4 * saework["max"].max(), "maxima differ"
    n_compared = 0
    lists = peer["top"].tolist(), saework["top"].tolist(), saework["top_values"].tolist()
    for peer_places, places, values in zip(*lists):
        examples = [
            (place, value)
            for place, value in zip(places, values)
            if place[1] in DASHBOARD_POSITIONS
        ]
        for (place, value), peer_place in zip(examples, peer_places):
            tied = any(
                other_place == peer_place and abs(value - other) <= 1e-4 * value
                for other_place, other in examples
            )
            assert place == peer_place or tied, (
                f"example {place} ({value}) is not where SAEDashboard has {peer_place}"
            )
            n_compared += 1
    return f"{counts}; {n_compared:,} top examples in the same order"


def limit(job: Job, runs: Runs) -> str:
    """The matrix products that are needed, at the rate that the machine gave for one of them.

    They are those of encoding, and of the model up to the hook.
    """
    import setting

    shape = setting.SHAPES[job.shape]
    model = shape["model"]
    d_model, d_mlp = model["d_model"], model["d_mlp"]
    d_attention = model["n_heads"] * model["d_head"]
    attention = 4 * d_model * d_attention + 2 * setting.LENGTH * d_attention
    per_token = attention + d_model * d_mlp + d_mlp * shape["d_sae"]
    gigaflop = 2 * job.rows * setting.LENGTH * per_token / 1e9
    shares = [gigaflop / run["gigaflops"] / run["seconds"] for run in runs["saework"]]
    rate = median(run["gigaflops"] for way in runs.values() for run in way)
    return (
        f"limit: {gigaflop:.0f} GFLOP at the probe's median rate are {gigaflop / rate:.2f} s; "
        f"saework reaches {median(shares):.0%} of its own probe (target 80%)"
    )


def stretch(job: Job, runs: Runs) -> str:
    """For the job that has no target."""
    return "a stretch goal of 1,000, no target"


def table_time(job: Job, runs: Runs) -> str:
    """What the two ways of all features do not have in common."""
    milliseconds = 1e3 * float(runs["saework"][-1]["values"]["table"])
    return (
        f"the peer's time is that of 256 features times {job.scale}; saework makes no tables, "
        f"one feature's table in context took {milliseconds:.0f} ms"
    )


def lists_share(job: Job, runs: Runs) -> str:
    """What the collector takes longer with lists, beside the encoder in the same scan."""
    values = [run["values"] for run in runs["saework"]]
    shares = []
    for run in values:
        longer = run["collector_20"] - run["collector_0"]
        shares.append(longer / run["encoder_20"])
    names = ("encoder_20", "collector_0", "collector_20")
    times = [f"{name} {median(run[name] for run in values):.2f} s" for name in names]
    return (
        f"{', '.join(times)}: the lists are {median(shares):.1%} on top of the encoder's own time "
        f"({min(shares):.1%} to {max(shares):.1%}; target 5%)"
    )


def constants(job: Job, runs: Runs) -> str:
    """For planning: see README."""
    rates, merges = [], []
    for run in runs["saework"]:
        values = run["values"]
        rates.append(job.rows * ROW / values["scan_seconds"] / run["threads"])
        merges.append(values["merge_seconds"])
    rate = median(rates)
    encoder_rate = 2 * 2048 * 16_384 * rate / 1e9
    megabytes = runs["saework"][-1]["values"]["part_bytes"] / 1e6
    return (
        f"{rate:,.0f} tokens a second and core "
        f"(the encoder's share of it: {encoder_rate:.0f} GFLOP/s a core); "
        f"a part of a million tokens is a file of {megabytes:.1f} MB; "
        f"merging two takes {median(merges):.2f} s"
    )


NOTEBOOK = "published notebook's way"
# the peers count each row's last token too
METRICS_AGREE = close(1e-3, kl_div_spliced=2e-2, kl_div_ablated=2e-2)

JOBS = {
    "rates": Job(
        "firing rates, exact counts, 8,192 tokens",
        peer=NOTEBOOK,
        peer_way=("published", "rates"),
        saework_way=("saework", "rates"),
        agree=same_counts,
        note=limit,
        time_target=1.9,
        memory_target=0.55,
    ),
    "recons": Job(
        "recons score, 8,192 tokens",
        peer=NOTEBOOK,
        peer_way=("published", "recons"),
        saework_way=("saework", "recons"),
        agree=close(1e-5),
        time_target=1.5,
        memory_target=0.4,
    ),
    "recons-2": Job(
        "recons score, 12 layers, hook at 2",
        peer=NOTEBOOK,
        peer_way=("published", "recons"),
        saework_way=("saework", "recons"),
        agree=close(1e-5),
        shape="12 layers",
        time_target=1.4,
        memory_target=0.45,
    ),
    "recons-8": Job(
        "recons score, 12 layers, hook at 8",
        peer=NOTEBOOK,
        peer_way=("published", "recons"),
        saework_way=("saework", "recons"),
        agree=close(1e-5),
        shape="12 layers",
        hook=1,
        time_target=1.7,
        memory_target=0.45,
    ),
    "metrics": Job(
        "all reconstruction metrics, 8,192 tokens",
        peer="sae_lens `run_evals`",
        peer_way=("sae_lens_evals", "metrics"),
        saework_way=("saework", "metrics"),
        agree=METRICS_AGREE,
        time_target=3.2,
        memory_target=0.2,
    ),
    "saebench": Job(
        "all reconstruction metrics, 8,192 tokens",
        peer="SAEBench core",
        peer_way=("saebench", "metrics"),
        saework_way=("saework", "metrics"),
        agree=METRICS_AGREE,
        time_target=2.8,
        memory_target=0.2,
    ),
    "feature": Job(
        "one feature, 16,384 tokens",
        peer=NOTEBOOK,
        peer_way=("published", "feature"),
        saework_way=("saework", "feature"),
        agree=close(1e-5, absolute=1e-5),
        rows=128,
        time_target=15,
        memory_target=0.35,
    ),
    "kept": Job(
        "the same, activations kept",
        peer=NOTEBOOK,
        peer_way=("published", "feature"),
        saework_way=("saework", "kept"),
        agree=close(1e-5, absolute=1e-5),
        note=stretch,
        rows=128,
    ),
    "dashboard": Job(
        "statistics and top examples of 256 features, 65,536 tokens",
        peer="SAEDashboard",
        peer_way=("saedashboard", "features"),
        saework_way=("saework", "features"),
        agree=same_examples,
        rows=512,
        time_target=1.8,
        memory_target=0.8,
    ),
    "dashboards": Job(
        "the same of all 16,384 features",
        peer="SAEDashboard, scaled",
        peer_way=("saedashboard", "features"),
        saework_way=("saework", "all_features"),
        agree=same_examples,
        note=table_time,
        rows=512,
        scale=64,
        time_target=10,
        memory_target=0.9,
    ),
    "lists": Job(
        "top-20 lists in the scan, 32,768 tokens",
        peer="the encoder's own time",
        peer_way=None,
        saework_way=("saework", "lists"),
        note=lists_share,
        rows=256,
    ),
    "memory": Job(
        "scan of 200,064 tokens beside 50,048, SAE 512 to 4,096",
        peer="saework, a quarter of the tokens",
        peer_way=("saework", "short"),
        saework_way=("saework", "long"),
        shape="small",
        rows=1563,
        memory_target=1.1,
    ),
    "plan": Job(
        "constants for planning",
        peer="",
        peer_way=None,
        saework_way=("saework", "plan"),
        note=constants,
        rows=128,
    ),
}
