"""What is done of a scan, kept in a file, and whether that file is of this scan."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.errors import WeightsError

SAMPLED = 1_000  # values read of each of the model's weights


class Checkpoint:
    """A ``FeatureScan`` file of the rows done so far, with a fingerprint of the whole work as its note."""

    def __init__(self, path: str | Path, work: str):
        self.path, self.work = Path(path), work
        try:  # a place that cannot be written is said before the first block, not after the last
            self.path.with_name(self.path.name + ".partial").touch()
        except OSError as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be written ({error}); give a file in a folder that you may write to"
            ) from error
        self.path.with_name(self.path.name + ".partial").unlink()

    def read(self) -> FeatureScan | None:
        """What is done, or None. Raises: WeightsError if the file is damaged, or of another scan."""
        if not self.path.exists():
            return None
        scan, work = FeatureScan.load_with_note(self.path)
        if work != self.work:
            raise WeightsError(
                f"checkpoint {self.path} is of another scan: model, SAE, tokens, mask and settings must be the same; give another file, or delete this one"
            )
        return scan

    def write(self, scan: FeatureScan) -> None:
        """Keep what is done; warns if the disk does not take it, and the last file that it took stays."""
        try:
            scan.save(self.path, note=self.work)
        except OSError as error:
            warnings.warn(
                f"checkpoint {self.path} could not be written ({error}); the scan goes on, and the file is as it was before",
                stacklevel=3,
            )


def sae_fingerprint(sae, hook: str) -> str:
    """Sixteen hex digits of the hook's name, and of every 97th weight (each bias and threshold) of the SAE."""
    digest = hashlib.sha256(hook.encode())
    for name, step in (("W_enc", 97), ("W_dec", 97), ("b_enc", 1), ("b_dec", 1), ("threshold", 1)):
        weights = getattr(sae, name, None)
        if weights is not None:
            digest.update(
                weights.detach().float().cpu().flatten()[::step].contiguous().numpy().tobytes()
            )
    return digest.hexdigest()[:16]


def model_fingerprint(model) -> str:
    """Sixteen hex digits of the names and shapes of the model's weights, and of up to 1,000 values of each."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.named_parameters()):
        flat = weights.detach().flatten()
        digest.update(f"{name} {tuple(weights.shape)}".encode())
        digest.update(flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def work_fingerprint(
    model, sae, hook: str, tokens: torch.Tensor, mask: torch.Tensor | None, settings: dict
) -> str:
    """Of all that a scan's result hangs on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in (model_fingerprint(model), sae_fingerprint(sae, hook), tuple(tokens.shape)):
        digest.update(str(part).encode())
    for values in (tokens, mask):
        digest.update(b"none" if values is None else values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
