"""SAEDashboard's feature data with its default layout, but no pages written.

It runs in an environment of its own (peers.sh).
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner


def features(s: SimpleNamespace) -> dict:
    """Counts, maxima, and the places of the strongest examples."""
    runner = SaeVisRunner(SaeVisConfig(hook_point=s.hook, features=s.features))
    data = runner.run(encoder=s.sae, model=s.model, tokens=s.tokens)
    counts, places = [], []
    for i in s.features:
        feature = data.feature_data_dict[i]
        counts.append(sum(feature.acts_histogram_data.bar_heights))
        strongest = feature.sequence_data[0].seq_data
        places.append(
            [(example.original_index, example.qualifying_token_index) for example in strongest]
        )
    return {
        "count": torch.tensor(counts),
        "max": torch.tensor(data.feature_stats.max),
        "top": torch.tensor(places),
    }
