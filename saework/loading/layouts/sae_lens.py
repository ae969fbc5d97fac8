"""sae_lens's own SAE layout: a folder with ``cfg.json`` and ``sae_weights.safetensors``.

Joseph Bloom's SAEs are of it. So are the SAEs of sae_lens's table in any other form, which
its own loader brings into it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.arguments import check_finite
from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.core.protocols import hook_of
from saework.loading.hub import explained
from saework.loading.layouts.sae_layout import SaeLayout, tensors_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
LOWEST_RATE = 1e-10  # a feature that never fired is stored as log10 of this


class SaeLens(SaeLayout):
    """Whatever sae_lens can load; the hook is in its config.

    An SAE that was trained on scaled activations gets the scale folded into its weights.
    """

    name = "sae_lens"
    looks_like = "a folder with cfg.json and sae_weights.safetensors (sae_lens)"

    def files(self, place: str) -> tuple[str, ...]:
        """``place`` is a folder. The last file holds log10 of the firing rates, as Bloom's do."""
        return tuple(f"{place}/{file}" for file in (WEIGHTS, CONFIG, SPARSITY))

    def find(self, path: Path) -> Sequence[Path]:
        """Of any folder, so that the error about a missing ``cfg.json`` names the file."""
        if path.is_dir() or path.name in (CONFIG, WEIGHTS):
            folder = path if path.is_dir() else path.parent
            return folder / WEIGHTS, folder / CONFIG
        return ()

    def read(
        self, paths: Sequence[Path], *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """See ``SaeLayout.read``; ``hook`` is not used, since the config says it."""
        from sae_lens import SAE
        from safetensors import SafetensorError

        folder = paths[0].parent
        _check_config(read_json(folder / CONFIG), folder)
        try:
            with warnings.catch_warnings():
                # Older configs have keys that sae_lens has renamed since, and it warns of each.
                warnings.simplefilter("ignore", UserWarning)
                sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{folder} is not a whole SAE of sae_lens's layout "
                f"({type(error).__name__}: {error}); download it again"
            ) from error
        for name, value in sae.state_dict().items():
            check_finite(value, f"{folder}: {name}")
        _fold_scale(sae, scale, folder)
        return sae.eval().requires_grad_(False)

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
        """See ``SaeLayout.write``. As Joseph Bloom's: ReLU SAEs, a ``scaling_factor`` of ones.

        For an SAE of another kind use ``sae.save_model(folder)``, which ``read`` reads as well.
        """
        from safetensors.torch import save_file

        subtract_b_dec = bool(sae.cfg.apply_b_dec_to_input)
        state = tensors_of(sae, architecture="standard", subtract_b_dec=subtract_b_dec, dtype=dtype)
        d_in, d_sae = sae.W_enc.shape
        hook = hook_of(sae)
        config = {
            "architecture": "standard",
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": "float32",
            "hook_name": hook,
            "hook_layer": int(hook.split(".")[1]),
            "hook_head_index": None,
            "activation_fn_str": "relu",
            "apply_b_dec_to_input": subtract_b_dec,
            "finetuning_scaling_factor": False,
            "normalize_activations": "none",
            "prepend_bos": True,
            **(record or {}),
        }
        target = folder / place
        target.mkdir(parents=True, exist_ok=True)
        (target / CONFIG).write_text(json.dumps(config, indent=1))
        save_file(state | {"scaling_factor": torch.ones(d_sae, dtype=dtype)}, target / WEIGHTS)
        if firing_rate is None:
            return self.files(place)[:-1]
        log10_rate = (firing_rate + LOWEST_RATE).log10().float()
        save_file({"sparsity": log10_rate}, target / SPARSITY)
        return self.files(place)


SAE_LENS = SaeLens()


@dataclass(frozen=True)
class Registered:
    """One SAE of sae_lens's table, by sae_lens's own loader, which fetches its files too."""

    release: str
    sae_id: str
    name = "registry"

    def read(
        self, paths: Sequence[Path] = (), *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """The SAE; sae_lens knows where its files are, its hook and its scale.

        Raises:
            NotAvailableError: if it cannot be downloaded.
            WeightsError: for an older config with fields that sae_lens drops.
        """
        from sae_lens import SAE

        try:
            self._check_config()
            sae = SAE.from_pretrained(self.release, self.sae_id)
        except OSError as error:
            raise explained(error, f"the SAE {self.sae_id}", self.release) from None
        return sae.eval().requires_grad_(False)

    def _check_config(self) -> None:
        """``_check_config`` of the published file, for SAEs of sae_lens's own layout."""
        from huggingface_hub import hf_hub_download
        from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name
        from sae_lens.loading.pretrained_saes_directory import (
            get_config_overrides,
            get_repo_id_and_folder_name,
        )

        if get_conversion_loader_name(self.release) != "sae_lens":
            return
        repository, folder = get_repo_id_and_folder_name(self.release, self.sae_id)
        path = Path(hf_hub_download(repository, f"{folder}/{CONFIG}"))
        config = read_json(path) | get_config_overrides(self.release, self.sae_id)
        _check_config(config, path.parent)


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse fields of older configs that change the numbers, and that sae_lens 6 drops."""
    activation = config.get("activation_fn_str", config.get("activation_fn")) or "relu"
    options = config.get("activation_fn_kwargs") or {}
    k = options.get("k", config.get("k"))
    if activation not in ("relu", "topk"):
        raise WeightsError(
            f"{folder}/{CONFIG} says that the activation function is {activation!r}; relu and topk "
            "(with k) are read, and sae_lens would take any other for relu. Load this SAE with the "
            "sae_lens that trained it, and give saework an object with encode and decode"
        )
    if activation == "topk" and k is None:
        raise WeightsError(
            f"{folder}/{CONFIG} says that the activation function is 'topk' but not how many are "
            'kept; add "activation_fn_kwargs": {"k": ...} to it'
        )
    if config.get("finetuning_scaling_factor"):
        raise WeightsError(
            f"{folder}/{CONFIG} says finetuning_scaling_factor: activations are multiplied by the "
            "scaling_factor of its weights before they are decoded, which sae_lens 6 does not do. "
            "Multiply each row of W_dec by its scaling_factor, and set "
            "finetuning_scaling_factor to false"
        )


def _fold_scale(sae: SAE[Any], scale: float | None, folder: Path) -> None:
    """Fold the activation norm factor into the weights, if the SAE needs one."""
    # ``true`` in older files becomes this name
    if sae.cfg.normalize_activations != "expected_average_only_in":
        return
    if scale is None:
        warnings.warn(
            f"{folder} was trained on activations scaled to norm sqrt(d_in), and the factor is "
            "not known: features will be off. "
            "Use its release's name and id, whose table has the factor",
            stacklevel=4,
        )
    else:
        sae.fold_activation_norm_scaling_factor(scale)
