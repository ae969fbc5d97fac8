"""Do model, SAE and text belong together? One batch against what was published, with warnings."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from saework.analysis.sites import find_site
from saework.core.formulas import variance_explained
from saework.engine import forward
from saework.engine.architectures import encode, reconstructs
from saework.engine.encoder import Encoder
from saework.engine.left_out import left_out
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

    Only L0 is checked of an SAE that cannot be spliced: one layer of a cross-layer transcoder, or
    a temporal SAE.

    Memory: a few times 256 MB of features at most, whatever the SAE's width: a wide SAE is checked
    on fewer tokens.

    Args:
        workbook: what to check.
        published_l0: mean L0; off by more than a factor of three is warned of. None: not checked.
        n_rows: the batch.
    """
    l0, explained, n_tokens = _batch(workbook, n_rows)
    if published_l0 and not _is_near(l0, published_l0):
        warnings.warn(
            f"mean L0 is {l0:.3g} on {n_tokens} tokens "
            f"where {published_l0:.3g} was published: {REMEDY}",
            stacklevel=3,
        )
    if explained < LOWEST_VARIANCE:
        warnings.warn(
            f"the SAE explains {explained:.2f} of the variance on {n_tokens} tokens (BOS left "
            f"out), below {LOWEST_VARIANCE}: {REMEDY}. {_ranking(workbook)}",
            stacklevel=3,
        )


@torch.no_grad()
def _batch(workbook: WorkbookParts, n_rows: int) -> tuple[float, float, int]:
    """Mean L0 and variance explained (NaN where unknown) of some tokens, and their number."""
    sae = workbook.sae
    row_length = workbook.tokens.shape[1]
    max_tokens = max(2, CHECK_VALUES // sae.W_dec.shape[0])
    n_rows = min(n_rows, math.ceil(max_tokens / row_length))
    rows = workbook.tokens[:n_rows]
    site = site_of(workbook.model, sae, workbook.hook)
    x = forward.sae_input(workbook.model, sae, rows, workbook.hook)
    if site.code == "over positions":  # such features need whole rows, and nothing else is asked
        features = encode(sae, x[:, :max_tokens])
        l0 = (features[:, 1:] if row_length > 1 else features).count_nonzero(-1)
        return float(l0.double().mean()), math.nan, l0.numel()
    replaced = x  # what the SAE's output stands for
    if site.is_transcoder:
        replaced = forward.activations(workbook.model, rows, site.writes)
    if row_length > 1:
        x, replaced = x[:, 1:], replaced[:, 1:]  # without BOS
    x = x.flatten(0, 1)[:max_tokens]
    replaced = replaced.flatten(0, 1)[:max_tokens]
    reconstruction = Encoder(sae).reconstruct(x[None])
    l0 = reconstruction.l0.double().mean()
    explained = math.nan
    if len(x) > 1 and reconstructs(sae):
        # Of several heads, each token's activations count as one vector.
        x_hat = reconstruction.x_hat[0].flatten(1)
        explained = float(variance_explained(replaced.flatten(1), x_hat))
    return float(l0), explained, len(x)


def _is_near(l0: float, published_l0: float) -> bool:
    lowest = published_l0 / L0_FACTOR
    highest = published_l0 * L0_FACTOR
    return lowest <= l0 <= highest


def _ranking(workbook: WorkbookParts, *, n: int = 3) -> str:
    """The hooks that fit best on a few tokens, in words; of a whole model only."""
    if left_out(workbook.model) is not None:
        return 'That ranks the hooks of a model loaded with depth="full" only'
    tokens = workbook.tokens[:RANKED_ROWS, :RANKED_TOKENS]
    sites = find_site(workbook.model, workbook.sae, tokens)
    best = sites.head(n)
    named = ", ".join(
        f"{hook} ({unexplained:.0%})" for hook, unexplained in zip(best.hook, best.unexplained)
    )
    return f"On a few of them these leave least unexplained: {named}"
