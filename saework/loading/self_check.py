"""Do model, SAE and text belong together? One batch against what was published, with warnings."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from saework.analysis.sites import find_site
from saework.core.formulas import variance_explained
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.engine.site import site_of

if TYPE_CHECKING:
    from saework.core.protocols import WorkbookParts

L0_FACTOR, LOWEST_VARIANCE = 3.0, 0.5
CHECK_VALUES = 2**26  # features held at once: 256 MB
REMEDY = (
    "a wrong hook, SAE, or text? Run saework.find_site(...) to rank the model's hooks for this SAE"
)
RANKED_ROWS, RANKED_TOKENS = 4, 128  # on these the hooks are ranked for a warning


def self_check(
    workbook: WorkbookParts, *, published_l0: float | None = None, n_rows: int = 16
) -> None:
    """Warn if L0 or the variance explained of one batch is far off.

    Memory: a few times 256 MB of features at most, whatever the SAE's width: a wide SAE is checked
    on fewer tokens.

    Args:
        workbook: what to check.
        published_l0: mean L0; off by more than a factor of three is warned of. None: not checked.
        n_rows: the batch.
    """
    d_sae = workbook.sae.W_dec.shape[0]
    row_length = workbook.tokens.shape[1]
    max_tokens = max(2, CHECK_VALUES // d_sae)
    n_rows = min(n_rows, math.ceil(max_tokens / row_length))
    rows = workbook.tokens[:n_rows]
    site = site_of(workbook.model, workbook.sae, workbook.hook)
    x = forward.sae_input(workbook.model, workbook.sae, rows, workbook.hook)
    replaced = x  # what the SAE's output stands for
    if site.is_transcoder:
        replaced = forward.activations(workbook.model, rows, site.writes)
    if row_length > 1:
        x, replaced = x[:, 1:], replaced[:, 1:]  # without BOS
    x = x.flatten(0, 1)[:max_tokens]
    replaced = replaced.flatten(0, 1)[:max_tokens]
    with torch.no_grad():
        reconstruction = Encoder(workbook.sae).reconstruct(x[None])
    l0 = float(reconstruction.l0.double().mean())
    if published_l0 and not _is_near(l0, published_l0):
        warnings.warn(
            f"mean L0 is {l0:.3g} on {len(x)} tokens "
            f"where {published_l0:.3g} was published: {REMEDY}",
            stacklevel=3,
        )
    explained = math.nan
    if len(x) > 1:
        # Of several heads, each token's activations count as one vector.
        x_hat = reconstruction.x_hat[0].flatten(1)
        explained = float(variance_explained(replaced.flatten(1), x_hat))
    if explained < LOWEST_VARIANCE:
        warnings.warn(
            f"the SAE explains {explained:.2f} of the variance on {len(x)} tokens (BOS left out), "
            f"below {LOWEST_VARIANCE}: {REMEDY}. "
            f"On a few of them these leave least unexplained: {_ranking(workbook)}",
            stacklevel=3,
        )


def _is_near(l0: float, published_l0: float) -> bool:
    lowest = published_l0 / L0_FACTOR
    highest = published_l0 * L0_FACTOR
    return lowest <= l0 <= highest


def _ranking(workbook: WorkbookParts, *, n: int = 3) -> str:
    """The hooks that fit best on a few tokens, such as ``blocks.2.hook_resid_pre (15%)``."""
    tokens = workbook.tokens[:RANKED_ROWS, :RANKED_TOKENS]
    sites = find_site(workbook.model, workbook.sae, tokens)
    best = sites.head(n)
    return ", ".join(
        f"{hook} ({unexplained:.0%})" for hook, unexplained in zip(best.hook, best.unexplained)
    )
