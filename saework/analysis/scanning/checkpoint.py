"""Resume a scan: save what is done, and refuse a checkpoint of another scan.

Fingerprints tell whether two scans have the same SAE, model, tokens and settings.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.errors import WeightsError
from saework.core.files import digest
from saework.core.protocols import HookedModel, SparseAutoencoder

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

VALUES_PER_WEIGHT = 1_000  # read of each of the model's weights
# which values of an SAE's weights are read: every 97th, or all
SAE_STEPS = {"W_enc": 97, "W_dec": 97, "b_enc": 1, "b_dec": 1, "threshold": 1}


class Checkpoint:
    """A ``FeatureScan`` file of the rows done so far, with the work's fingerprint as its note.

    Args:
        path: the file; it need not exist.
        work: from ``work_fingerprint``.

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


def sae_fingerprint(sae: SparseAutoencoder, hook: str) -> str:
    """Sixteen hexadecimal digits of the hook's name and of a part of the SAE's weights."""
    parts: list[bytes] = []
    for name, step in SAE_STEPS.items():
        weights = getattr(sae, name, None)
        if weights is not None:
            parts.append(_content(weights.detach().float().flatten()[::step]))
    return digest(hook, *parts)


def model_fingerprint(model: HookedModel) -> str:
    """Sixteen hexadecimal digits of the names, shapes and some values of the model's weights."""
    parts: list[str | bytes] = []
    for name, weights in sorted(cast(torch.nn.Module, model).named_parameters()):
        step = max(1, weights.numel() // VALUES_PER_WEIGHT)
        parts.append(f"{name} {tuple(weights.shape)}")
        parts.append(_content(weights.detach().flatten()[::step].float()))
    return digest(*parts)


def work_fingerprint(
    model: HookedModel,
    sae: SparseAutoencoder,
    hook: str,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"] | None,
    settings: dict,
) -> str:
    """Fingerprint of everything that a scan's result depends on: 64 hexadecimal digits."""
    parts = [
        json.dumps(settings, sort_keys=True).encode(),
        model_fingerprint(model).encode(),
        sae_fingerprint(sae, hook).encode(),
        str(tuple(tokens.shape)).encode(),
        _content(tokens),
        b"none" if mask is None else _content(mask),
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _content(values: torch.Tensor) -> bytes:
    """The bytes of a tensor's values."""
    return values.cpu().contiguous().numpy().tobytes()
