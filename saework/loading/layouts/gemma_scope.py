"""Gemma Scope's SAE layout: ``layer_5/width_16k/average_l0_20/params.npz``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saework.core.errors import WeightsError
from saework.loading.layouts.sae_layout import (
    SaeLayout,
    known_hook,
    sae_of,
    sae_shapes,
    tensors_of,
)
from saework.loading.weights_files import check_shapes, read_arrays

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor

FILE = "params.npz"


class GemmaScope(SaeLayout):
    """``a = x W_enc + b_enc``, kept where ``a > threshold``; then ``a W_dec + b_dec``.

    The width comes from the file, where sae_lens takes it from the folder's name.
    Source: Lieberum et al., "Gemma Scope" (2024).
    """

    name = "gemma_scope"
    looks_like = "params.npz (Gemma Scope)"

    def files(self, place: str) -> tuple[str, ...]:
        """``place`` is a folder."""
        return (f"{place}/{FILE}",)

    def find(self, path: Path) -> Sequence[Path]:
        """The file itself, or the one in a folder."""
        if path.is_dir():
            path = path / FILE
        return (path,) if path.suffix == ".npz" and path.exists() else ()

    def hook_named_by(self, path: Path) -> str | None:
        """A residual SAE's folder says its layer, and it reads the layer's output."""
        # Links are not followed: in the Hub's cache they lead to files without a name.
        layer = re.search(r"layer_(\d+)/", path.absolute().as_posix())
        return f"blocks.{layer[1]}.hook_resid_post" if layer else None

    def read(
        self, paths: Sequence[Path], *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """See ``SaeLayout.read``; ``scale`` is not used."""
        (path,) = paths
        hook = known_hook(hook, path)
        state = read_arrays(path)
        if "W_enc" not in state or state["W_enc"].ndim != 2:
            raise WeightsError(
                f"{path} has no matrix W_enc (it has {sorted(state)}); "
                "it is not of Gemma Scope's layout"
            )
        d_in, d_sae = state["W_enc"].shape
        check_shapes(state, sae_shapes(d_in, d_sae) | {"threshold": (d_sae,)}, path)
        return sae_of("jumprelu", state, hook=hook, subtract_b_dec=False)

    def write(
        self,
        sae: SAE[Any],
        folder: Path,
        place: str,
        *,
        dtype: torch.dtype = torch.float32,
        record: Mapping[str, Any] | None = None,
        firing_rate: Float[Tensor, " d_sae"] | None = None,
    ) -> tuple[str, ...]:
        """See ``SaeLayout.write``; neither a record nor a firing rate is stored."""
        state = tensors_of(sae, architecture="jumprelu", subtract_b_dec=False, dtype=dtype)
        (folder / place).mkdir(parents=True, exist_ok=True)
        arrays = {name: value.numpy() for name, value in state.items()}
        np.savez(folder / place / FILE, **arrays)  # type: ignore[arg-type]  # numpy's keywords
        return self.files(place)


GEMMA_SCOPE = GemmaScope()
