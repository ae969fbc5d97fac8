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
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from saework.core.arguments import check_finite
from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.core.machine_errors import check_not_the_machine
from saework.core.protocols import hook_of
from saework.engine.architectures import reconstructs
from saework.loading.hub import explained
from saework.loading.layouts.published_config import CONFIG, PublishedConfig
from saework.loading.layouts.sae_layout import SaeLayout, tensors_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor

WEIGHTS, SPARSITY = "sae_weights.safetensors", "sparsity.safetensors"
UNREADABLE = (AttributeError, KeyError, RuntimeError, TypeError, ValueError, UnpicklingError)
SAID_OTHERWISE = (
    r"\s*This SAE has non-empty model_from_pretrained_kwargs",
    "This loads the CLT layer",
)
"""How warnings of sae_lens begin that do not hold here: the first is honoured, the second told."""
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
        config = PublishedConfig("sae_lens", str(folder / CONFIG), read_json(folder / CONFIG))
        config.check()
        try:
            with warnings.catch_warnings():
                # Older configs have keys that sae_lens has renamed since, and it warns of each.
                warnings.simplefilter("ignore", UserWarning)
                sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            check_not_the_machine(error)
            raise WeightsError(
                f"{folder} is not a whole SAE of sae_lens's layout "
                f"({type(error).__name__}: {error}); download it again"
            ) from error
        _check_floats(paths[0])
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
            WeightsError: for damaged files, or a config with fields that sae_lens passes over.
        """
        from sae_lens import SAE
        from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor
        from safetensors import SafetensorError

        scale = get_norm_scaling_factor(self.release, self.sae_id)
        try:
            published = PublishedConfig.of(self.release, self.sae_id)
            published.check(scale)
            with warnings.catch_warnings():
                for said_otherwise in SAID_OTHERWISE:
                    warnings.filterwarnings("ignore", said_otherwise, UserWarning)
                sae = SAE.from_pretrained(self.release, self.sae_id)
        except OSError as error:
            raise explained(error, f"the SAE {self.sae_id}", self.release) from None
        except WeightsError:
            raise
        except (SafetensorError, *UNREADABLE) as error:
            raise WeightsError(
                f"{self.release}, {self.sae_id}: its files are not of the layout that sae_lens "
                f"reads for this release ({type(error).__name__}: {error}); download them again, "
                "or look for a newer sae_lens"
            ) from error
        published.mend(sae, scale)
        if not reconstructs(sae):
            warnings.warn(
                f"{self.release}, {self.sae_id} is one layer of a cross-layer transcoder: its "
                "features and what they write are right, but alone it reconstructs nothing, so "
                "scores, splices and steering are refused",
                stacklevel=5,
            )
        for name, value in sae.state_dict().items():
            check_finite(value, f"{self.release}, {self.sae_id}: {name}")
        return sae.eval().requires_grad_(False)


def _check_floats(path: Path) -> None:
    """Refuse integers: quantised weights, whose scale sae_lens does not know.

    Raises: WeightsError, which names the tensor.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
    for name, kind in kinds.items():
        if not kind.startswith(("F", "BF")):
            raise WeightsError(
                f"{path}: {name} is stored as {kind}, and weights are floats; if they were "
                "quantised, multiply them by their scale and save them as float32"
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
