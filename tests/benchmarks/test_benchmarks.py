"""The benchmarks' ways agree on a tiny model: what they measure is the same work."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

CASES = [
    ("rates", 0),
    ("rates", 1),
    ("recons", 0),
    ("recons-8", 1),
    ("feature", 0),
    ("kept", 1),
    ("metrics", 0),
]  # and the hook


@pytest.fixture(scope="module")
def tiny_setting(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import setting

        folder = tmp_path_factory.mktemp("setting")
        setting.make("tiny", folder)
        yield lambda hook: setting.load("tiny", folder, hook, rows=8)


@pytest.mark.filterwarnings("ignore::UserWarning:sae_lens")
@pytest.mark.parametrize("name, hook", CASES)
@torch.no_grad()
def test_the_ways_agree(tiny_setting, name, hook):
    from jobs import JOBS
    from one import nothing
    from ways import published

    job, results = JOBS[name], []
    for way, call in (job.peer_way, job.saework_way):
        module = importlib.import_module(f"ways.{way}")
        s = tiny_setting(hook)
        prepare = getattr(module, f"before_{call}", nothing)
        prepare(s)
        results.append(getattr(module, call)(s))
    assert job.agree(*results, lambda: published.near_threshold(tiny_setting(hook))["near"])


@torch.no_grad()
def test_lists_and_plan(tiny_setting, tmp_path):
    """Each of the parts that they time is called, and a part of drawn firings is as a scan's."""
    from jobs import JOBS
    from ways import saework as saework_way

    s = tiny_setting(0)
    s.folder = tmp_path
    results = {"lists": saework_way.lists(s), "plan": saework_way.plan(s, blocks=2)}
    assert set(results["lists"]) == {"encoder_0", "collector_0", "encoder_20", "collector_20"}
    words = {"lists": "on top of the encoder", "plan": "merging two takes"}
    for name, result in results.items():
        values = {key: float(value) for key, value in result.items()}
        assert all(value > 0 for value in values.values())
        runs = {"saework": [{"values": values, "threads": 1}]}
        assert words[name] in JOBS[name].note(JOBS[name], runs)
    part = saework_way.drawn_part(128, 0, 2)
    assert part.n_tokens == 2048 and part.mean_l0 == 25 and part.rows == ((0, 16),)
    assert part.count.min() > 20 and (part.top_positions[..., 0] >= 0).all()


def test_a_wrong_result_is_refused(tiny_setting):
    from jobs import close, same_counts

    right = {"count": torch.tensor([3, 0, 5])}
    with pytest.raises(AssertionError, match="1 features' counts differ"):
        same_counts(right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.zeros(3))
    assert "1 differ" in same_counts(
        right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.ones(3)
    )
    with pytest.raises(AssertionError, match="count differs by 2.0e-01"):
        close(1e-3)(right, {"count": torch.tensor([3, 1, 5])}, None)


def measurement(seconds, peak_gb):
    return {"seconds": seconds, "peak_gb": peak_gb, "gigaflops": 200.0, "threads": 2}


def test_a_report_of_medians_ranges_and_targets(tiny_setting):
    from jobs import Job
    from speed import Report

    job = Job(
        "a job",
        "a peer",
        ("published", "rates"),
        ("saework", "rates"),
        scale=2,
        time_target=4,
        memory_target=0.4,
    )
    runs = {
        "peer": [measurement(1, 2.0), measurement(3, 2.2), measurement(2, 2.1)],
        "saework": [measurement(0.5, 1.0), measurement(1.0, 1.1), measurement(1.5, 1.05)],
    }
    report = Report(job, runs, "all equal")
    assert report.medians_row() == (
        "| a job | a peer | 4, 1 s | 4.00 (4) | 2.1, 1.05 GB | 0.50 (0.4: MISSED) |"
    )
    assert report.ranges_row() == (
        "| a job | 4 s (2 to 6), 2.1 GB (2 to 2.2) | 1 s (0.5 to 1.5), 1.05 GB (1 to 1.1) "
        "| all equal |"
    )


def test_a_report_without_a_peer(tiny_setting):
    from jobs import JOBS
    from speed import Report

    run = measurement(1, 1.0)
    run["values"] = {"scan_seconds": 2.0, "merge_seconds": 0.5, "part_bytes": 3e7}
    report = Report(JOBS["plan"], {"saework": [run]}, "")
    assert report.medians_row() == "| constants for planning |  | 1 s |  | 1 GB |  |"
    assert "4,096 tokens a second and core" in report.ranges_row()
