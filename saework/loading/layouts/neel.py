"""Neel Nanda's SAE layout, of ``NeelNanda/sparse_autoencoder``: ``25_cfg.json`` and ``25.pt``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.layouts.sae_layout import (
    SaeLayout,
    known_hook,
    sae_of,
    sae_shapes,
    tensors_of,
)
from saework.loading.weights_files import as_floats, check_shapes, read_tensors

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor


class Neel(SaeLayout):
    """``relu((x - b_dec) W_enc + b_enc) W_dec + b_dec``, equal to the published ``AutoEncoder``.

    Decoder rows are not of unit norm (a known bug of that training) and are left as they are.
    The file gives no hook.
    """

    name = "neel"
    looks_like = "NUMBER.pt beside NUMBER_cfg.json (Neel Nanda)"

    def files(self, place: str) -> tuple[str, ...]:
        """``place`` is a checkpoint's number."""
        return f"{place}_cfg.json", f"{place}.pt"

    def find(self, path: Path) -> Sequence[Path]:
        """The weights with their config beside them."""
        config = path.with_name(f"{path.stem}_cfg.json")
        return (config, path) if path.suffix == ".pt" and config.exists() else ()

    def read(
        self, paths: Sequence[Path], *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """See ``SaeLayout.read``; ``scale`` is not used."""
        config_path, weights_path = paths
        hook = known_hook(hook, weights_path)
        config = read_json(config_path)
        missing = [key for key in ("d_mlp", "dict_mult") if key not in config]
        if missing:
            raise WeightsError(
                f"{config_path} lacks {', '.join(missing)}; "
                "it is not of the layout of NeelNanda/sparse_autoencoder"
            )
        d_in = config["d_mlp"]
        d_sae = d_in * config["dict_mult"]
        state = as_floats(read_tensors(weights_path), weights_path)
        check_shapes(state, sae_shapes(d_in, d_sae), weights_path)
        return sae_of("standard", state, hook=hook, subtract_b_dec=True)

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
        """See ``SaeLayout.write``; d_sae must be a multiple of d_in. Stores no firing rate."""
        state = tensors_of(sae, architecture="standard", subtract_b_dec=True, dtype=dtype)
        d_in, d_sae = sae.W_enc.shape
        dict_mult, remainder = divmod(d_sae, d_in)
        if remainder:
            raise ValueError(
                f"d_sae is {d_sae} and d_in {d_in}; this layout needs a multiple of d_in"
            )
        config = {**(record or {}), "dict_mult": dict_mult, "d_mlp": d_in, "enc_dtype": "fp32"}
        config_file, weights_file = self.files(place)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / config_file).write_text(json.dumps(config, indent=1))
        torch.save(state, folder / weights_file)
        return config_file, weights_file


NEEL = Neel()
