"""qresearch's SAE layout, of ``Llama-3.2-1B-Instruct-SAE-l9.pt``: two linear layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import WeightsError
from saework.loading.layouts.sae_layout import SaeLayout, known_hook, sae_of, tensors_of
from saework.loading.weights_files import as_floats, check_shapes, read_tensors

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor


class QResearch(SaeLayout):
    """``relu(encoder(x))``, then ``decoder(...)``; ``b_dec`` is not subtracted from the input."""

    name = "qresearch"
    looks_like = "NAME-lLAYER.pt (qresearch)"

    def files(self, place: str) -> tuple[str, ...]:
        """``place`` is a name that ends in the layer, such as ``Llama-3.2-1B-Instruct-SAE-l9``."""
        return (f"{place}.pt",)

    def find(self, path: Path) -> Sequence[Path]:
        """Any ``.pt`` file."""
        return (path,) if path.suffix == ".pt" else ()

    def hook_named_by(self, path: Path) -> str | None:
        """The file's name says the layer, and the SAE reads the layer's input."""
        layer = re.search(r"-l(\d+)$", path.stem)
        return f"blocks.{layer[1]}.hook_resid_pre" if layer else None

    def read(
        self, paths: Sequence[Path], *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """See ``SaeLayout.read``; ``scale`` is not used."""
        (path,) = paths
        hook = known_hook(hook, path)
        state = read_tensors(path)
        if "encoder.weight" not in state or state["encoder.weight"].ndim != 2:
            raise WeightsError(
                f"{path} has no matrix encoder.weight (it has {sorted(state)[:6]}); "
                "it is not of qresearch's layout"
            )
        d_sae, d_in = state["encoder.weight"].shape
        shapes = {
            "encoder.weight": (d_sae, d_in),
            "encoder.bias": (d_sae,),
            "decoder.weight": (d_in, d_sae),
            "decoder.bias": (d_in,),
        }
        check_shapes(state, shapes, path)
        renamed = {
            "W_enc": state["encoder.weight"].T,
            "W_dec": state["decoder.weight"].T,
            "b_enc": state["encoder.bias"],
            "b_dec": state["decoder.bias"],
        }
        floats = as_floats(renamed, path)
        weights = {name: value.contiguous() for name, value in floats.items()}
        return sae_of("standard", weights, hook=hook, subtract_b_dec=False)

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
        state = tensors_of(sae, architecture="standard", subtract_b_dec=False, dtype=dtype)
        layers = {
            "encoder.weight": state["W_enc"].T.contiguous(),
            "decoder.weight": state["W_dec"].T.contiguous(),
            "encoder.bias": state["b_enc"],
            "decoder.bias": state["b_dec"],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (file,) = self.files(place)
        torch.save(layers, folder / file)
        return (file,)


QRESEARCH = QResearch()
