"""A model's first blocks: which ones an SAE needs, their config, and their tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from saework.core.errors import HookError, NotAvailableError, WeightsError
from saework.core.protocols import SparseAutoencoder, hook_of, sae_metadata
from saework.loading.outside_code import refuse_own_code

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

FULL, HOOK, TEXT = DEPTHS = ("full", "hook", "text")
"""How much of a model is loaded: all; the embedding and the first blocks; or of the embedding only
the rows of a text's tokens."""
MODEL_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
TEXT_PARTS = {
    "gemma3": {
        r"^language_model\.model\.": "model.",
        r"^model\.language_model\.": "model.",
        r"^language_model\.lm_head\.": "lm_head.",
    }
}
"""By model_type: models that also read images, and their text part's names for the weights."""
_LLAMA_NAMES = ("model.norm.", "lm_head.")
BEHIND_BLOCKS = {
    "gemma": _LLAMA_NAMES,
    "gemma2": _LLAMA_NAMES,
    "gemma3_text": _LLAMA_NAMES,
    "gpt2": ("transformer.ln_f.", "lm_head."),
    "gpt_neox": ("gpt_neox.final_layer_norm.", "embed_out."),
    "llama": _LLAMA_NAMES,
    "mistral": _LLAMA_NAMES,
    "qwen2": _LLAMA_NAMES,
    "qwen3": _LLAMA_NAMES,
}
"""By model_type: how the names of what lies behind the blocks begin.

A test shows for each of them that its first blocks give the same activations alone.
"""
N_BLOCKS_KEY = "saework_n_blocks_of_whole_model"
"""In the config of a folder that holds the first blocks only."""
IN_BLOCK = re.compile(r"blocks\.(\d+)\.")
AT_EMBEDDING = re.compile(r"(hook_(pos_)?embed|(pos_)?embed\.hook_\w+)")


def blocks_needed(sae: SparseAutoencoder) -> int:
    """How many of the model's first blocks must run for what an SAE reads and writes.

    Raises:
        HookError: it reads or writes behind the last block.
    """
    hooks = {hook_of(sae), sae_metadata(sae, "hook_name_out") or hook_of(sae)}
    n_blocks = 1
    for hook in hooks:
        block = IN_BLOCK.match(hook)
        if block:
            n_blocks = max(n_blocks, int(block[1]) + 1)
        elif not AT_EMBEDDING.fullmatch(hook):
            raise HookError(
                f"{hook} is in no block of the model, so nothing can be left out behind it; "
                'load with depth="full"'
            )
    return n_blocks


@dataclass(frozen=True)
class EmbeddingRows:
    """Some tokens' rows of an embedding."""

    token_ids: tuple[int, ...]
    """The tokens, in the order of the rows."""
    values: Float[Tensor, "row d_model"]
    """As they are stored."""
    d_vocab: int
    """Rows of the whole embedding."""


@dataclass(frozen=True)
class FirstBlocks:
    """What a model's first blocks consist of, from its config alone."""

    config: Any
    """transformers' config of these blocks; it says how many the whole model has."""
    n_blocks: int
    """Blocks to hold."""
    n_blocks_of_whole: int
    """Blocks of the whole model."""
    shapes: dict[str, tuple[int, ...]]
    """The tensors, by transformers' names."""
    behind: frozenset[str]
    """The names of the tensors behind the blocks, which are left out."""
    text_names: Mapping[str, str]
    """Patterns in published names, and what replaces them."""
    embedding: str
    """The name of the tokens' embedding."""
    rows: EmbeddingRows | None = None
    """What is held of it, where it is not one of the tensors."""

    @property
    def n_values(self) -> int:
        """Numbers in all the tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def depth(self) -> str:
        """As ``load`` takes it."""
        return HOOK if self.embedding in self.shapes else TEXT

    def without_embedding(self) -> FirstBlocks:
        """These blocks alone; their config has room for one row, whose place others will take."""
        values = self.config.to_dict() | {"vocab_size": 1, "pad_token_id": None}
        shapes = {name: shape for name, shape in self.shapes.items() if name != self.embedding}
        return replace(self, config=type(self.config).from_dict(values), shapes=shapes)

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """From transformers' name to the published one, which may lack the base model's prefix.

        Args:
            names: all that are published.

        Raises:
            WeightsError: a tensor is missing, or two names mean the same.
        """
        prefixes = {name.partition(".")[0] for name in self.shapes}
        found: dict[str, str] = {}
        for published in names:
            text_name = published
            for pattern, replacement in self.text_names.items():
                text_name = re.sub(pattern, replacement, text_name)
            candidates = [text_name, *(f"{prefix}.{text_name}" for prefix in prefixes)]
            for name in candidates:
                if name not in self.shapes:
                    continue
                if name in found:
                    raise WeightsError(
                        f"the files hold {name} twice, as {found[name]} and as {published}"
                    )
                found[name] = published
        missing = sorted(self.shapes.keys() - found.keys())
        if missing:
            raise WeightsError(
                f"the files lack {len(missing)} tensors of the first {self.n_blocks} blocks "
                f"({missing[0]}, for example); they belong to another model, or are not whole"
            )
        return found


def first_blocks(folder: str | Path, n_blocks: int) -> FirstBlocks:
    """What the first blocks of the model in a folder consist of; only its config is read.

    Raises:
        NotAvailableError: not known to work for this kind of model.
        HookError: the model has fewer blocks.
        WeightsError: a damaged config, or one that names code of its own.
    """
    from transformers import AutoConfig

    raw = refuse_own_code(Path(folder) / "config.json", MODEL_CLASSES)
    model_type = raw.get("model_type", "none")
    text_names = TEXT_PARTS.get(model_type, {})
    if model_type not in BEHIND_BLOCKS and not text_names:
        raise _not_known(model_type)
    try:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        ).get_text_config()
    except Exception as error:
        raise WeightsError(
            f"{folder}/config.json cannot be read ({error}); delete it and download it again"
        ) from error
    n_of_whole = getattr(config, N_BLOCKS_KEY, config.num_hidden_layers)
    if n_blocks > config.num_hidden_layers:
        raise HookError(
            f"the SAE needs block {n_blocks - 1}, and the model has {config.num_hidden_layers} "
            "blocks, from 0: the SAE belongs to another model"
        )
    cut = cut_config(config, n_blocks, n_of_whole)
    model, whole = _without_weights(cut), _without_weights(config)
    difference = _difference(model, whole)
    if difference:
        raise _not_known(config.model_type, f": {difference}")
    behind = BEHIND_BLOCKS[config.model_type]
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    left_out = frozenset(name for name in shapes if name.startswith(behind))
    inputs = cast("Any", model).get_input_embeddings()
    (embedding,) = [name for name, module in model.named_modules() if module is inputs]
    return FirstBlocks(
        config=cut,
        n_blocks=n_blocks,
        n_blocks_of_whole=n_of_whole,
        shapes={name: shape for name, shape in shapes.items() if name not in left_out},
        behind=left_out,
        text_names=text_names,
        embedding=f"{embedding}.weight",
    )


def cut_config(config: Any, n_blocks: int, n_blocks_of_whole: int) -> Any:
    """A config of the first blocks. The unembedding is tied, so that it takes no memory."""
    values = config.to_dict()
    number = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    values[number] = n_blocks
    values["tie_word_embeddings"] = True
    values[N_BLOCKS_KEY] = n_blocks_of_whole
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:n_blocks]
    return type(config).from_dict(values)


def _without_weights(config: Any) -> torch.nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def _difference(cut: torch.nn.Module, whole: torch.nn.Module) -> str:
    """Where the first blocks are other modules, or have other settings, than in the whole model.

    The whole model may have more settings: a rotary embedding for a kind of block that is cut off.
    """
    in_whole = dict(whole.named_modules())
    for name, module in cut.named_modules():
        other = in_whole.get(name)
        if type(other) is not type(module):
            return f"{name} is of another kind without the later blocks"
        settings = _settings(other)
        for setting, value in _settings(module).items():
            if setting not in settings or settings[setting] != value:
                return f"{name}'s {setting} is {value} without the later blocks"
    return ""


def _settings(module: Any) -> dict[str, object]:
    plain = (bool, int, float, str, tuple, type(None))
    settings: dict[str, object] = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_")
    }
    for name, value in module._parameters.items():
        settings[f"shape of {name}"] = None if value is None else tuple(value.shape)
    return settings


def _not_known(model_type: object, why: str = "") -> NotAvailableError:
    known = ", ".join(sorted([*BEHIND_BLOCKS, *TEXT_PARTS]))
    return NotAvailableError(
        f"a model of type {model_type!r} cannot be loaded in part{why}; load it with "
        f'depth="full" (depth="hook" takes {known})'
    )
