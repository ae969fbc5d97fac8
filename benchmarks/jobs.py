"""What is measured: each job's setting, its two ways, how their results must agree, and what to say beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

FEATURES = list(range(0, 16_384, 64))  # 256 of them


@dataclass(frozen=True)
class Job:
    """``theirs`` and ``ours`` are ``(file in ways/, function)``; the file's name is also its environment's, if it has one."""

    title: str
    peer: str
    theirs: tuple[str, str] | None
    ours: tuple[str, str]
    agree: Callable = lambda theirs, ours, near: ""
    note: Callable = lambda job, runs, ours: ""
    shape: str = "gelu-1l"
    hook: int = 0
    rows: int = 64
    scale: int = 1
    """The peer's time is multiplied by this."""
    must: tuple[float | None, float | None] = (None, None)
    """Time ratio (the peer's over ours) at least, memory ratio (ours over the peer's) at most."""


# ---- equal results ----


def same_counts(theirs: dict, ours: dict, near: Callable) -> str:
    """Counts may differ only by pre-activations below 1e-5 in size, of which each feature has ``near()`` many."""
    apart = (theirs["count"] - ours["count"]).abs()
    if apart.any():
        wrong = apart > near()
        assert not wrong.any(), (
            f"{int(wrong.sum())} features' counts differ by more than rounding: {apart[wrong][:5].tolist()}"
        )
    assert ours["count"].any(), "nothing fired, so nothing was compared"
    return f"{int(ours['count'].sum()):,} firings, {int(apart.sum())} differ"


def close(tolerance: float, *, absolute: float = 0.0, **looser: float) -> Callable:
    """Values agree to ``tolerance`` of the largest of their array, or to ``absolute``; those named in ``looser`` to theirs."""

    def agree(theirs: dict, ours: dict, near: Callable) -> str:
        apart = {}
        for name, value in theirs.items():
            size = float(value.abs().max())
            assert size > 0, f"{name} is 0 everywhere, so nothing was compared"
            apart[name] = float((value.double() - ours[name].double()).abs().max()) / size
            allowed = looser.get(name, tolerance + absolute / size)
            assert apart[name] <= allowed, (
                f"{name} differs by {apart[name]:.1e}: {value} and {ours[name]}"
            )
        rest = max((value for name, value in apart.items() if name not in looser), default=0.0)
        return f"{len(apart)} compared, equal to {rest:.0e}" + "".join(
            f", {name} to {apart[name]:.0e}" for name in looser
        )

    return agree


def same_examples(theirs: dict, ours: dict, near: Callable) -> str:
    """Counts, maxima, and examples: ours where SAEDashboard looks for any must head its list, but for ties."""
    told = same_counts(theirs, ours, near)
    assert (theirs["max"] - ours["max"]).abs().max() <= 1e-4 * ours["max"].max(), "maxima differ"
    compared = 0
    for top, own, values in zip(
        theirs["top"].tolist(), ours["top"].tolist(), ours["top_values"].tolist()
    ):
        own = [(place, value) for place, value in zip(own, values) if 6 <= place[1] < 128 - 5]
        for (place, value), other in zip(own, top):
            tied = any(abs(value - another) <= 1e-4 * value for p, another in own if p == other)
            assert place == other or tied, (
                f"example {place} ({value}) is not where SAEDashboard has {other}"
            )
            compared += 1
    return f"{told}; {compared:,} top examples in the same order"


# ---- what else to say ----


def limit(job: Job, runs: dict, ours: dict) -> str:
    """The needed matrix products, encoding and the model up to the hook, at the rate of the probe."""
    import setting

    m = setting.SHAPES[job.shape]["model"]
    width = m["n_heads"] * m["d_head"]
    model = 4 * m["d_model"] * width + 2 * setting.LENGTH * width + m["d_model"] * m["d_mlp"]
    gigaflop = (
        2
        * job.rows
        * setting.LENGTH
        * (model + m["d_mlp"] * setting.SHAPES[job.shape]["d_sae"])
        / 1e9
    )
    shares = [gigaflop / run["gigaflops"] / run["seconds"] for run in runs["ours"]]
    seconds = gigaflop / median(run["gigaflops"] for runs_ in runs.values() for run in runs_)
    share = f"ours reaches {median(shares):.0%} of its own probe (must 80%)"
    return f"limit: {gigaflop:.0f} GFLOP at the probe's median rate are {seconds:.2f} s; {share}"


def table_time(job: Job, runs: dict, ours: dict) -> str:
    table = f"one feature's table in context took {float(ours['table']) * 1e3:.0f} ms"
    return (
        f"the peer's time is that of 256 features times {job.scale}; ours makes no tables, {table}"
    )


def lists_share(job: Job, runs: dict, ours: dict) -> str:
    """Of the collector's time, what it takes longer with lists, beside the encoder's in the same scan."""
    values = [run["values"] for run in runs["ours"]]
    shares = [(each["collector_20"] - each["collector_0"]) / each["encoder_20"] for each in values]
    seconds = {
        name: median(each[name] for each in values)
        for name in ("encoder_20", "collector_0", "collector_20")
    }
    share, times = (
        median(shares),
        ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()),
    )
    return f"{times}: the lists are {share:.1%} on top of the encoder's own time ({min(shares):.1%} to {max(shares):.1%}; must 5%)"


def constants(job: Job, runs: dict, ours: dict) -> str:
    """For planning: see README."""
    rate = median(
        job.rows * 128 / run["values"]["scan_seconds"] / run["threads"] for run in runs["ours"]
    )
    merge = median(run["values"]["merge_seconds"] for run in runs["ours"])
    flop = 2 * 2048 * 16_384 * rate / 1e9
    return (
        f"{rate:,.0f} tokens a second and core (the encoder's share of it: {flop:.0f} GFLOP/s a core); a part of a million tokens "
        f"is a file of {float(ours['part_bytes']) / 1e6:.1f} MB; merging two takes {merge:.2f} s"
    )


def published(call: str, own: str | None = None) -> tuple:
    """Peer and ways of a job beside the published notebook's way."""
    return "published notebook's way", ("published", call), ("ours", own or call)


JOBS = {
    "rates": Job(
        "firing rates, exact counts, 8,192 tokens",
        *published("rates"),
        same_counts,
        limit,
        must=(1.9, 0.55),
    ),
    "recons": Job("recons score, 8,192 tokens", *published("recons"), close(1e-5), must=(1.5, 0.4)),
    "recons-2": Job(
        "recons score, 12 layers, hook at 2",
        *published("recons"),
        close(1e-5),
        shape="12 layers",
        must=(1.4, 0.45),
    ),
    "recons-8": Job(
        "recons score, 12 layers, hook at 8",
        *published("recons"),
        close(1e-5),
        shape="12 layers",
        hook=1,
        must=(1.7, 0.45),
    ),
    "metrics": Job(
        "all reconstruction metrics, 8,192 tokens",
        "sae_lens `run_evals`",
        ("sae_lens_evals", "metrics"),
        ("ours", "metrics"),
        close(
            1e-3, kl_div_spliced=2e-2, kl_div_ablated=2e-2
        ),  # theirs counts each row's last token too
        must=(3.2, 0.2),
    ),
    "saebench": Job(
        "all reconstruction metrics, 8,192 tokens",
        "SAEBench core",
        ("saebench", "metrics"),
        ("ours", "metrics"),
        close(1e-3, kl_div_spliced=2e-2, kl_div_ablated=2e-2),
        must=(2.8, 0.2),
    ),
    "feature": Job(
        "one feature, 16,384 tokens",
        *published("feature"),
        close(1e-5, absolute=1e-5),
        rows=128,
        must=(15, 0.35),
    ),
    "kept": Job(
        "the same, activations kept",
        *published("feature", "kept"),
        close(1e-5, absolute=1e-5),
        lambda job, runs, ours: "a stretch of 1,000, no must",
        rows=128,
    ),
    "dashboard": Job(
        "statistics and top examples of 256 features, 65,536 tokens",
        "SAEDashboard",
        ("saedashboard", "features"),
        ("ours", "features"),
        same_examples,
        rows=512,
        must=(1.8, 0.8),
    ),
    "dashboards": Job(
        "the same of all 16,384 features",
        "SAEDashboard, scaled",
        ("saedashboard", "features"),
        ("ours", "all_features"),
        same_examples,
        table_time,
        rows=512,
        scale=64,
        must=(10, 0.9),
    ),
    "lists": Job(
        "top-20 lists in the scan, 32,768 tokens",
        "the encoder's own time",
        None,
        ("ours", "lists"),
        note=lists_share,
        rows=256,
    ),
    "memory": Job(
        "scan of 200,064 tokens beside 50,048, SAE 512 to 4,096",
        "saework, a quarter of the tokens",
        ("ours", "short"),
        ("ours", "long"),
        shape="small",
        rows=1563,
        must=(None, 1.1),
    ),
    "plan": Job("constants for planning", "", None, ("ours", "plan"), note=constants, rows=128),
}
