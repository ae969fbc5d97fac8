"""The benchmarks' ways agree on a tiny model: what they measure is the same work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CASES = [("rates", 0), ("rates", 1), ("recons", 0), ("recons-8", 1), ("feature", 0), ("kept", 1), ("metrics", 0)]  # and the hook


@pytest.fixture(scope="module")
def tiny_setting(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
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
    near = lambda: importlib.import_module("ways.published").near_threshold(tiny_setting(hook))["near"]  # noqa: E731
    assert job.agree(*results, near)


def test_a_wrong_result_is_told(tiny_setting):
    from jobs import close, same_counts

    right = {"count": torch.tensor([3, 0, 5])}
    with pytest.raises(AssertionError, match="1 features' counts differ"):
        same_counts(right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.zeros(3))
    assert "1 differ" in same_counts(right, {"count": torch.tensor([3, 1, 5])}, lambda: torch.ones(3))
    with pytest.raises(AssertionError, match="count differs by 2.0e-01"):
        close(1e-3)(right, {"count": torch.tensor([3, 1, 5])}, None)
