"""The scan behind the pages: made here or checked, and which tokens it counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan as scan_tokens
from saework.core.tokens import not_bos
from saework.loading.workbook import Workbook
from saework.views.feature_page.examples import N_TOP, Places

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from torch import Tensor


ROUNDING = 0.01
"""By which a scan on another machine may differ; float32 on a GPU may be TF32."""
COARSE_ROUNDING = 0.1
"""The same in bfloat16 and float16."""


@dataclass(frozen=True)
class CountedTokens:
    """Which tokens the scan counted, as far as their number tells."""

    mask: Bool[Tensor, "batch pos"]
    description: str
    known: bool
    """False if the scan used a mask of its own, which it does not record."""

    @property
    def number(self) -> int:
        """Tokens in the mask."""
        return int(self.mask.sum())


def scan_for_pages(
    workbook: Workbook, features: Sequence[int], *, progress: bool = True
) -> FeatureScan:
    """Scan the workbook's tokens without BOS, with co-firing of the features."""
    mask = not_bos(workbook.tokens, workbook.tokenizer)
    return scan_tokens(
        workbook.model,
        workbook.sae,
        workbook.tokens,
        hook=workbook.hook,
        top_k=min(N_TOP, int(mask.sum())),
        mask=mask,
        cofiring=features,
        progress=progress,
    )


def check_scan(scan: FeatureScan, workbook: Workbook) -> None:
    """Check that a given scan can be of the workbook's SAE and tokens, and has positions.

    Raises:
        ValueError: it cannot.
    """
    scan.check_is_of(workbook)
    if scan.top_values.shape[1] == 0:
        raise ValueError(
            "this scan kept no positions (top_k=0, or a file that holds counts only), "
            "so a page would have no examples; "
            "scan workbook.tokens with top_k=10 or more, or leave scan= out"
        )


def counted_tokens(scan: FeatureScan, workbook: Workbook) -> CountedTokens:
    """Which tokens the scan counted: all of its rows, those without BOS, or unknown ones.

    A scan records only how many tokens it counted, so the number decides.
    """
    without_bos = not_bos(workbook.tokens, workbook.tokenizer)
    in_rows = torch.zeros_like(without_bos)
    for start, end in scan.rows:
        in_rows[start:end] = True
    n_rows = int(in_rows.any(1).sum())
    words = f"Counted on {scan.n_tokens:,} tokens of {n_rows:,} rows"
    bos = "the token that begins a row of text (BOS)"
    if scan.n_tokens == int((in_rows & without_bos).sum()):
        return CountedTokens(in_rows & without_bos, f"{words}; {bos} is left out.", known=True)
    if scan.n_tokens == int(in_rows.sum()):
        return CountedTokens(in_rows, f"{words}, {bos} among them.", known=True)
    words += ", chosen by a mask that the scan does not say."
    return CountedTokens(in_rows & without_bos, words, known=False)


def check_examples(
    places: Places, seen: Float[ndarray, " example"], dtype: torch.dtype = torch.float32
) -> None:
    """Check that the features fire where the scan says.

    Args:
        places: the scan's examples.
        seen: the features' activations there, in the workbook's tokens.
        dtype: of the model, whose rounding in other batches may move them.

    Raises:
        ValueError: another model was scanned.
    """
    relative = ROUNDING if dtype in (torch.float32, torch.float64) else COARSE_ROUNDING
    tolerance = relative * (1 + np.abs(places.activation))
    wrong = np.flatnonzero(np.abs(seen - places.activation) > tolerance)
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"the scan says that feature {places.feature[i]} is at {places.activation[i]:.3g} "
            f"in row {places.row[i]}, position {places.pos[i]}, but there it is at {seen[i]:.3g}: "
            "another model was scanned; make the scan with scan(workbook), or leave scan= out"
        )
