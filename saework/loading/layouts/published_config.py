"""What sae_lens's loaders leave out of published configs: refused here, or mended in the SAE.

sae_lens reads many publishers' files, each by a loader of its own, and some of those pass over
fields that change the numbers. The formulas are the publishers' own code.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import WeightsError
from saework.core.files import read_json

if TYPE_CHECKING:
    from sae_lens import SAE

CONFIG = "cfg.json"
FILES = {
    "sae_lens": CONFIG,
    "sparsify": CONFIG,
    "dictionary_learning_1": "config.json",
    "llama_scope": "hyperparams.json",
    "llama_scope_r1_distill": "config.json",
}
"""By sae_lens's name of the loader: the publisher's config in the SAE's folder."""
DICTIONARIES = (
    "AutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)
"""The classes of dictionary_learning that sae_lens reads as what they are."""
SWITCHES = ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm")
OF_PLACE = ("model_name", "hook_name", "context_size", "prepend_bos")
R1_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
SCALE_TOLERANCE = 0.01  # relative; the table's factors are computed from rounded norms
REMEDY = "Load it by its publisher's code, and give saework an object with encode and decode"


@dataclass(frozen=True)
class PublishedConfig:
    """The config of one SAE of sae_lens's table, as its publisher wrote it."""

    loader: str
    """sae_lens's name of the function that reads its files."""
    path: str
    """Of the file; empty where the publisher has none that matters."""
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, release: str, sae_id: str) -> PublishedConfig:
        """Fetch it. The table's own overrides are applied, as sae_lens does.

        Raises: OSError if it cannot be downloaded.
        """
        from huggingface_hub import hf_hub_download
        from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name
        from sae_lens.loading.pretrained_saes_directory import (
            get_config_overrides,
            get_repo_id_and_folder_name,
        )

        loader = get_conversion_loader_name(release)
        if loader not in FILES:
            return cls(loader, "", {})
        repository, folder = get_repo_id_and_folder_name(release, sae_id)
        path = Path(hf_hub_download(repository, f"{folder}/{FILES[loader]}"))
        overrides = get_config_overrides(release, sae_id)
        own = read_json(path)
        _warn_of_overrides(release, path, own, overrides)
        return cls(loader, str(path), own | overrides)

    def check(self, scale: float | None = None) -> None:
        """Refuse what sae_lens would pass over.

        Args:
            scale: the activation norm factor of sae_lens's table.

        Raises: WeightsError, which names the field and the remedy.
        """
        if self.loader in CHECKS:
            CHECKS[self.loader](self)
        if self.loader == "llama_scope" and scale is not None:
            self._check_scale(scale)

    def _check_scale(self, scale: float) -> None:
        norm = self.fields["dataset_average_activation_norm"]["in"]
        own_scale = math.sqrt(self.fields["d_model"]) / norm
        if abs(own_scale / scale - 1) > SCALE_TOLERANCE:
            raise WeightsError(
                f"{self.path} says dataset_average_activation_norm {norm}, so activations are "
                f"multiplied by {own_scale:.4g}, but sae_lens's table says {scale:.4g} "
                f"(norm_scaling_factor). {REMEDY}"
            )

    def mend(self, sae: SAE[Any], scale: float | None = None) -> None:
        """Change the SAE where sae_lens's loader differs from the publisher's own code.

        - Llama Scope compares activations times the norm of their decoder row with the threshold
          (``sparsity_include_decoder_norm``), and sae_lens the activations alone.
        - sparsify always subtracts ``b_dec`` from the input; sae_lens does not where decoder rows
          were kept at norm one.
        - Llama Scope R1 is of the distilled model; sae_lens names the base model.
        - A layer of a cross-layer transcoder has a decoder for each later layer, and sae_lens adds
          them up: what it writes in its own layer is not known any more.

        Args:
            sae: it is changed.
            scale: the activation norm factor that is folded into its weights.
        """
        if self.fields.get("sparsity_include_decoder_norm"):
            published_norm = sae.W_dec.norm(dim=1) * (scale or 1.0)
            never = torch.finfo(sae.threshold.dtype).max  # a row of zeros does not fire
            sae.threshold.data = (sae.threshold / published_norm).clamp(max=never)
        if self.loader == "sparsify":
            sae.cfg.apply_b_dec_to_input = True
        if self.loader == "llama_scope_r1_distill":
            sae.cfg.metadata.model_name = R1_MODEL
        if self.loader == "mntss_clt_layer_transcoder":
            sae.cfg.metadata.decoder_summed_over_layers = True


def _warn_of_overrides(
    release: str, path: Path, own: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    """Warn where sae_lens's table replaces what the SAE's own config says of its place."""
    differences = [
        f"{name} {own[name]!r} by {overrides[name]!r}"
        for name in OF_PLACE
        if own.get(name) is not None and name in overrides and own[name] != overrides[name]
    ]
    if differences:
        warnings.warn(
            f"sae_lens's table ({release}) replaces {', '.join(differences)} of {path}; if the "
            "SAE's own config is right, load its folder instead",
            stacklevel=7,
        )


def check_sae_lens(config: PublishedConfig) -> None:
    """Refuse fields of older configs that change the numbers, and that sae_lens 6 drops."""
    fields = config.fields
    for name in SWITCHES:
        if fields.get(name) not in (True, False, None):
            raise WeightsError(
                f"{config.path} says {name} {fields[name]!r}, and sae_lens would take any word for "
                "true; set it to true or false"
            )
    activation = fields.get("activation_fn_str", fields.get("activation_fn")) or "relu"
    options = fields.get("activation_fn_kwargs") or {}
    k = options.get("k", fields.get("k"))
    if activation not in ("relu", "topk"):
        raise WeightsError(
            f"{config.path} says that the activation function is {activation!r}; relu and topk "
            "(with k) are read, and sae_lens would take any other for relu. Load this SAE with the "
            "sae_lens that trained it, and give saework an object with encode and decode"
        )
    if activation == "topk" and k is None:
        raise WeightsError(
            f"{config.path} says that the activation function is 'topk' but not how many are "
            'kept; add "activation_fn_kwargs": {"k": ...} to it'
        )
    if fields.get("finetuning_scaling_factor"):
        raise WeightsError(
            f"{config.path} says finetuning_scaling_factor: activations are multiplied by the "
            "scaling_factor of its weights before they are decoded, which sae_lens 6 does not do. "
            "Multiply each row of W_dec by its scaling_factor, and set "
            "finetuning_scaling_factor to false"
        )


def _check_sparsify(config: PublishedConfig) -> None:
    fields = config.fields
    for name in ("transcode", "skip_connection", "signed"):
        _check_field(config, name, fields.get(name, False), (False,))
    _check_field(config, "activation", fields.get("activation", "topk"), ("topk",))


def _check_dictionary_learning(config: PublishedConfig) -> None:
    trainer = config.fields.get("trainer") or {}
    _check_field(config, "trainer: dict_class", trainer.get("dict_class"), DICTIONARIES)


def _check_llama_scope(config: PublishedConfig) -> None:
    fields = config.fields
    hook = fields.get("hook_point_in")
    for name in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        _check_field(config, name, fields.get(name, False), (False,))
    _check_field(config, "hook_point_out", fields.get("hook_point_out", hook), (hook,))
    norm = fields.get("norm_activation", "dataset-wise")
    _check_field(config, "norm_activation", norm, ("dataset-wise",))


def _check_field(config: PublishedConfig, name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        known = " or ".join(map(repr, allowed))
        raise WeightsError(
            f"{config.path} says {name} {value!r}, which sae_lens's loader passes over; "
            f"it reads {known}. {REMEDY}"
        )


CHECKS: dict[str, Callable[[PublishedConfig], None]] = {
    "sae_lens": check_sae_lens,
    "sparsify": _check_sparsify,
    "dictionary_learning_1": _check_dictionary_learning,
    "llama_scope": _check_llama_scope,
    "llama_scope_r1_distill": _check_llama_scope,
}
