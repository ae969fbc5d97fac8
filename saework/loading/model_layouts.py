"""Published model layouts, one object each: which files, how they are read, how they are written.

To add a layout, add an object here and name it in the catalogue.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.loading.cut_models import FirstBlocks
from saework.loading.models import (
    CPU,
    NEEL_CONFIG_KEYS,
    huggingface_model,
    neel_model,
    neel_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer
    from transformers import PreTrainedModel

    from saework.core.protocols import HookedModel, Tokenizer


class ModelLayout(ABC):
    """How one publisher stores a language model."""

    name: str
    files: tuple[str, ...]
    """File names, or patterns, in the model's folder."""
    can_be_cut: bool = False
    """Whether the first blocks can be read without the others."""

    @abstractmethod
    def read(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | None,
        *,
        dtype: torch.dtype = torch.float32,
        centred: bool = False,
        blocks: FirstBlocks | None = None,
        device: torch.device = CPU,
    ) -> HookedModel:
        """The model of a folder, ready to run.

        Memory: the weights once, in ``dtype``.

        Args:
            folder: with the layout's files.
            tokenizer: the model's, see ``read_tokenizer``.
            dtype: of the weights in memory.
            centred: centre what is written to the residual stream, as ``HookedTransformer`` does by
                default, for SAEs that were trained on that (their config says so). Neel Nanda's
                models are always centred.
            blocks: hold only these; None holds all. Neel Nanda's layout cannot be cut.
            device: where the weights go.

        Raises:
            WeightsError: for damaged files, or those of another layout.
        """

    @abstractmethod
    def write(
        self,
        model: Any,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Store a model so that ``read`` gives back the same function.

        Args:
            model: of the class that the layout is for.
            folder: made if it does not exist.
            dtype: of the stored weights.
            record: what else ``config.json`` says.
        """

    def __repr__(self) -> str:
        return self.name


class Neel(ModelLayout):
    """Neel Nanda's (``NeelNanda/GELU_1L512W_C4_Code``), read with the published processing."""

    name = "neel"
    files = ("config.json", "model_final.pth")

    def read(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | None,
        *,
        dtype: torch.dtype = torch.float32,
        centred: bool = False,
        blocks: FirstBlocks | None = None,
        device: torch.device = CPU,
    ) -> HookedModel:
        """See ``ModelLayout.read``."""
        if blocks is not None:
            raise ValueError("a file of Neel Nanda's layout is read whole; leave blocks= out")
        config, weights = (Path(folder) / file for file in self.files)
        model = neel_model(config, weights, tokenizer)
        model.to(dtype, print_details=False)
        model.to(device, print_details=False)
        return model

    def write(
        self,
        model: HookedTransformer,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``ModelLayout.write``; a ``HookedTransformer`` with LayerNorm."""
        config = _neel_config(model) | dict(record or {})
        state = model.state_dict()
        stored: dict[str, Tensor] = {}
        for name, shape in neel_shapes(config).items():
            # A processed model has its norms folded into the next weights: identity norms remain.
            identity = torch.ones(shape) if name.endswith(".w") else torch.zeros(shape)
            stored[name] = state.get(name, identity).to("cpu", dtype)
        config_path, weights_path = (Path(folder) / file for file in self.files)
        config_path.parent.mkdir(parents=True, exist_ok=True)
        config_path.write_text(json.dumps(config, indent=1))
        torch.save(stored, weights_path)


class HuggingFace(ModelLayout):
    """A folder of Hugging Face's transformers, read as it is: nothing is folded."""

    name = "huggingface"
    can_be_cut = True
    files = ("config.json", "*.safetensors")

    def read(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | None,
        *,
        dtype: torch.dtype = torch.float32,
        centred: bool = False,
        blocks: FirstBlocks | None = None,
        device: torch.device = CPU,
    ) -> HookedModel:
        """See ``ModelLayout.read``."""
        return huggingface_model(
            folder, tokenizer, dtype=dtype, centred=centred, blocks=blocks, device=device
        )

    def write(
        self,
        model: PreTrainedModel,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``ModelLayout.write``; a model of transformers, which is changed to ``dtype``."""
        for key, value in (record or {}).items():
            setattr(model.config, key, value)
        model.to(dtype)  # type: ignore[arg-type]  # transformers wraps the method
        model.save_pretrained(folder)


NEEL, HUGGINGFACE = Neel(), HuggingFace()


def _neel_config(model: HookedTransformer) -> dict[str, Any]:
    """``config.json`` of a model with LayerNorm."""
    config = {key: getattr(model.cfg, key) for key in NEEL_CONFIG_KEYS}
    shortformer = model.cfg.positional_embedding_type == "shortformer"
    return config | {"normalization": "LN", "shortformer_pos": shortformer}
