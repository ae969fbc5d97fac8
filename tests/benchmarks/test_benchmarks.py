"""The benchmarks' ways agree on a tiny model: what they measure is the same work."""

from __future__ import annotations

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
    import importlib

    from jobs import JOBS

    job, results = JOBS[name], []
    for way, call in (job.theirs, job.ours):
        module, s = importlib.import_module(f"ways.{way}"), tiny_setting(hook)
        getattr(module, f"before_{call}", lambda s: None)(s)
        results.append(getattr(module, call)(s))
    near = lambda: importlib.import_module("ways.published").near_threshold(tiny_setting(hook))[
        "near"
    ]  # noqa: E731
    assert job.agree(*results, near)


@torch.no_grad()
def test_lists_and_plan(tiny_setting, tmp_path):
    """What they time is timed: each of the parts is called, and a part of a million tokens is as a scan's."""
    from jobs import JOBS
    from ways import ours

    s = tiny_setting(0)
    s.folder = tmp_path
    found = {"lists": ours.lists(s), "plan": ours.plan(s, blocks=2)}
    assert set(found["lists"]) == {"encoder_0", "collector_0", "encoder_20", "collector_20"}
    for name, values in found.items():
        assert all(value > 0 for value in values.values())
        runs = {"ours": [{"values": {n: float(v) for n, v in values.items()}, "threads": 1}]}
        assert {"lists": "on top of the encoder", "plan": "merging two takes"}[name] in JOBS[
            name
        ].note(JOBS[name], runs, values)
    part = ours._drawn_part(128, 0, 2)
    assert part.n_tokens == 2048 and part.mean_l0 == 25 and part.rows == ((0, 16),)
    assert part.count.min() > 20 and (part.top_positions[..., 0] >= 0).all()


def test_a_wrong_result_is_told(tiny_setting):
    from jobs import close, same_counts

    right = {"count": torch.tensor([3, 0, 5])}
    with pytest.raises(AssertionError, match="1 features' counts differ"):
        same_counts(right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.zeros(3))
    assert "1 differ" in same_counts(
        right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.ones(3)
    )
    with pytest.raises(AssertionError, match="count differs by 2.0e-01"):
        close(1e-3)(right, {"count": torch.tensor([3, 1, 5])}, None)
