"""Resume a scan: save what is done, and refuse a checkpoint of another scan.

A digest tells whether two scans have the same SAE, model, tokens and settings.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.content import Content
from saework.core.errors import WeightsError
from saework.core.protocols import HookedModel, SparseAutoencoder
from saework.engine.digests import check_no_hooks, model_digest

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


class Checkpoint:
    """A ``FeatureScan`` file of the rows done so far, with the work's digest as its note.

    Args:
        path: the file; it need not exist.
        work: from ``work_digest``.

    Raises:
        ValueError: the file's folder cannot be written to.
    """

    def __init__(self, path: str | Path, work: str):
        self.path = Path(path)
        self.work = work
        try:  # before the first part is scanned, not after it
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be written ({error.strerror}); "
                "give a file in a folder that you may write to"
            ) from error

    def read(self) -> FeatureScan | None:
        """What is done, or None if there is no file yet.

        Raises:
            WeightsError: the file is damaged, or of another scan.
        """
        if not self.path.exists():
            return None
        scan, work = FeatureScan.load_with_note(self.path)
        if work != self.work:
            raise WeightsError(
                f"checkpoint {self.path} is of another scan: model, SAE, tokens, mask and settings "
                "must be the same; give another file, or delete this one"
            )
        return scan

    def write(self, scan: FeatureScan) -> None:
        """Keep what is done.

        If the file cannot be written, it warns, and the file stays as it was before.
        """
        try:
            scan.save(self.path, note=self.work)
        except OSError as error:
            warnings.warn(
                f"checkpoint {self.path} could not be written ({error}); the scan continues, "
                "and the file is as it was before",
                stacklevel=5,  # the line that called scan, which has two decorators
            )


def work_digest(
    model: HookedModel,
    sae: SparseAutoencoder,
    fingerprint: str,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"] | None,
    settings: dict,
) -> str:
    """64 hexadecimal digits of everything that a scan's result depends on.

    Args:
        model: the model.
        sae: the SAE.
        fingerprint: its ``sae_digest``.
        tokens: all rows.
        mask: of them.
        settings: what else was chosen.

    Raises:
        ValueError: a user's function is on at a hook: what it does cannot be told from a digest.
    """
    check_no_hooks(model, sae)
    content = Content()
    content.add("settings", settings)
    content.line("model", model_digest(model))
    content.line("SAE", fingerprint)
    content.add("tokens", tokens)
    content.add("mask", mask)
    return content.digest()
