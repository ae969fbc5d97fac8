"""The collector, fed with single blocks, against counts and sorts of all firings at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stand_ins import assert_same

from saework import FeatureScan
from saework.analysis.scanning import firings
from saework.analysis.scanning.collector import Collector
from saework.analysis.scanning.firings import BINS, SAMPLES_PER_BIN, Firings, place_of
from saework.engine.encoder import Active

TOP_K = 5


def every_firing(features: torch.Tensor) -> Active:
    token, feature = features.nonzero(as_tuple=True)
    return Active(token, feature, features[token, feature])


@pytest.mark.parametrize(("pending", "taken_in"), [(1, 0.1), (3_000, 0.1), (500_000, 1)])
def test_lists_that_are_cut_down_on_the_way(monkeypatch, pending, taken_in):
    """Firings that cannot be listed any more are dropped, and no new ones of that kind are kept.

    ``taken_in``: the share of a later block's firings that a list may take in; all, if nothing was
    cut down before.
    """
    monkeypatch.setattr(firings, "PENDING", pending)
    n_taken = []
    part_of = Firings.__getitem__

    def counted(self, index):
        if index.dtype == bool:  # what comes in is chosen by a mask
            n_taken.append(index.sum())
        return part_of(self, index)

    monkeypatch.setattr(Firings, "__getitem__", counted)
    features = torch.rand(3, 600, 300, generator=torch.Generator().manual_seed(0)) ** 3
    features[2, 0] = features[0, 0]  # ties between the first block and the last
    places = place_of(*np.divmod(np.arange(1800), 20)).reshape(3, 600)
    together, parts = Collector(300, TOP_K), []
    for i in range(3):
        n_taken.clear()
        together.add(every_firing(features[i]), places[i])
        n_firings = features[i].numel()
        assert len(n_taken) == 2 and max(n_taken) <= n_firings * (taken_in if i else 1)
        assert i or min(n_taken) == n_firings
        together.end_part()
        alone = Collector(300, TOP_K)
        alone.add(every_firing(features[i]), places[i])
        alone.end_part()
        parts.append(FeatureScan.of(alone.arrays(), ((30 * i, 30 * i + 30),), torch.arange(30), ""))
    n_kept = sum(
        len(part)
        for shortlist in (together._top, together._samples)
        for part in (shortlist._best, *shortlist._pending)
    )
    assert 0 < n_kept <= 300 * (TOP_K + SAMPLES_PER_BIN * BINS)
    together = FeatureScan.of(together.arrays(), ((0, 90),), torch.arange(30).repeat(3), "")
    assert_same(together, sum(parts[1:], parts[0]))  # sums too: parts are added in their order
    assert torch.equal(together.top_values, features.flatten(0, 1).topk(TOP_K, dim=0).values.T)


def test_pairs_of_a_block_whose_tokens_have_none_one_and_many_firings():
    on = torch.rand(40, 12, generator=torch.Generator().manual_seed(1)) < 0.3
    on[:3] = False
    on[7] = True
    chosen = [5, 0, 11]
    collector = Collector(12, 0, chosen)
    collector.add(every_firing(on.float()), np.arange(40))
    expected = on.T.long() @ on.long()
    assert collector.cofiring.tolist() == expected[chosen].tolist()
    assert collector.cofiring[0, 5] == collector.count[5]


def test_an_empty_block_counts_its_tokens():
    collector = Collector(4, 2, [1])
    collector.add(every_firing(torch.zeros(3, 4)), np.arange(3))
    collector.end_part()
    arrays = collector.arrays()
    assert arrays["n_tokens"] == 3 and arrays["l0_histogram"].tolist() == [3, 0, 0, 0, 0]
    assert not arrays["count"].any() and len(arrays["sample_value"]) == 0
    assert (arrays["top_positions"] == -1).all()


def test_what_was_handed_out_stays_as_it_was():
    """A checkpoint is written while the scan continues."""
    collector = Collector(3, 1, [0])
    collector.add(every_firing(torch.eye(3)), np.arange(3))
    collector.end_part()
    arrays = collector.arrays()
    before = {name: np.copy(value) for name, value in arrays.items()}
    collector.add(every_firing(5 * torch.eye(3)), np.arange(3, 6))
    collector.end_part()
    for name, value in before.items():
        assert np.array_equal(arrays[name], value), name


def test_a_value_that_is_not_finite_says_its_row():
    features = torch.zeros(40, 3)
    features[25, 1] = float("inf")
    places = place_of(*np.divmod(np.arange(40), 10))
    with pytest.raises(ValueError, match="hold 1 NaN or infinite values out of 1, in rows 2;"):
        Collector(3, 0).add(every_firing(features), places)
