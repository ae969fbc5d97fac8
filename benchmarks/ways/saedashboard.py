"""SAEDashboard's feature data with its default layout, but no pages written; in an environment of its own (peers.sh)."""

from __future__ import annotations

import torch
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner


def features(s):
    data = SaeVisRunner(SaeVisConfig(hook_point=s.hook, features=s.features)).run(
        encoder=s.sae, model=s.model, tokens=s.tokens
    )
    top = [data.feature_data_dict[i].sequence_data[0].seq_data for i in s.features]
    return {
        "count": torch.tensor(
            [sum(data.feature_data_dict[i].acts_histogram_data.bar_heights) for i in s.features]
        ),
        "max": torch.tensor(data.feature_stats.max),
        "top": torch.tensor(
            [
                [(example.original_index, example.qualifying_token_index) for example in examples]
                for examples in top
            ]
        ),
    }
