"""All firings of a few features in the counted tokens, or as many of them as are ablated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.analysis.scanning.firings import Firings, Shortlist, hash_of, place_of, row_and_pos
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine import forward
from saework.engine.encoder import encode_columns
from saework.views.feature_page.ablation import TOKENS_PER_BATCH
from saework.views.feature_page.examples import DRAWN_GROUP, Places

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from numpy import ndarray
    from torch import Tensor


@dataclass(frozen=True)
class DrawnFirings:
    """Firings of a few features: all of them, or a random sample of so many."""

    places: Places
    """In the group ``DRAWN_GROUP``."""
    n_firings: dict[int, int]
    """All firings of each feature in the counted tokens."""


@torch.no_grad()
def draw_firings(
    model: HookedModel,
    sae: SparseAutoencoder,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    features: Int[ndarray, " feature"],
    counted: Bool[Tensor, "batch pos"],
    *,
    most: int,
    progress: bool = True,
) -> DrawnFirings:
    """Each feature's firings in the counted tokens; of more than ``most``, a sample of that size.

    The sample is those whose place hashes lowest. So it is random, and the same in each call.

    Args:
        features: in ascending order, each once.
        counted: False on tokens that do not count.
        most: firings to keep of each feature.
        progress: whether to show a bar.

    Memory: 4,096 tokens times the features, 4 bytes each.
    """
    kept = Shortlist(len(features), most)
    n_firings = np.zeros(len(features), dtype=np.int64)
    rows = counted.any(1).nonzero()[:, 0].numpy()
    blocks = row_batches(rows, tokens.shape[1])
    columns = torch.from_numpy(features)
    for block in forward.progress_bar(blocks, show=progress, desc="firings"):
        x = forward.activations(model, tokens[block], hook)
        values = encode_columns(sae, x, columns.to(x.device)).float().cpu()
        fires = (values != 0) & counted[block].unsqueeze(-1)
        row, pos, column = fires.numpy().nonzero()
        place = place_of(block[row], pos)
        firings = Firings(
            group=column,
            score=hash_of(place),
            value=values.numpy()[row, pos, column],
            place=place,
        )
        n_firings += np.bincount(column, minlength=len(features))
        kept.add(firings)
    best = kept.best()
    row, pos = row_and_pos(best.place).T
    group = np.full(len(best), DRAWN_GROUP)
    places = Places(features[best.group], group, best.value, row, pos)
    return DrawnFirings(places, dict(zip(features.tolist(), n_firings.tolist())))


def row_batches(rows: Int[ndarray, " row"], n_pos: int) -> list[Int[ndarray, " some"]]:
    """The rows, ``TOKENS_PER_BATCH`` tokens at a time."""
    size = max(1, TOKENS_PER_BATCH // n_pos)
    parts = forward.row_blocks(len(rows), size)
    return [rows[part] for part in parts]
