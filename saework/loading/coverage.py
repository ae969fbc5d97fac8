"""What works with each release of sae_lens's table: the kinds of its SAEs, and their refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from saework.loading.refusals import (
    CLT_LAYER,
    JOINT,
    JUMPRELU_TRANSCODERS,
    PER_FEATURE,
    PLACES,
    Refusal,
    in_words,
    refusals,
)
from saework.loading.sae_ids import registry


@dataclass(frozen=True)
class Kind:
    """What decides which functions work with a registered SAE."""

    architectures: tuple[str, ...]
    """Those that it can have; which one, only its own config says."""
    place: str

    @property
    def architecture(self) -> str:
        """In words."""
        if len(self.architectures) > 2:
            return "as its config says"
        return " or ".join(self.architectures)

    def refused(self) -> dict[str, Refusal]:
        """What any of the architectures refuses."""
        found: dict[str, Refusal] = {}
        for architecture in self.architectures:
            found = refusals(architecture, self.place) | found
        return found


OWN_LAYOUT = (*PER_FEATURE, *JOINT)
ARCHITECTURES_OF_LOADER = {
    "sae_lens": OWN_LAYOUT,
    "gemma_2": ("jumprelu",),
    "gemma_3": ("jumprelu",),
    "gemma_2_transcoder": ("jumprelu_transcoder",),
    "mwhanna_transcoder": ("transcoder",),
    "dictionary_learning_1": (*PER_FEATURE, "topk"),
    "qwen_scope": ("topk",),
    "llama_scope": ("jumprelu",),
    "llama_scope_r1_distill": ("jumprelu",),
    "connor_rob_hook_z": ("standard",),
    "goodfire": ("standard",),
    "deepseek_r1": ("standard",),
    "temporal": ("temporal",),
    "mntss_clt_layer_transcoder": (CLT_LAYER,),
}
"""By sae_lens's functions that read a layout, what they can give."""
PLACE_OF_LOADER = {
    "gemma_2_transcoder": "normed",
    "mwhanna_transcoder": "mlp_in",
    "mntss_clt_layer_transcoder": "mlp_in",
    "connor_rob_hook_z": "hook_z",
}
PLACE_IN_NAME = {
    "embedding": "embed",
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn_out": "hook_z",
    "mlp_out": "mlp_out",
    "transcoder": "mlp_in",
    "-att": "hook_z",
    "-mlp": "mlp_out",
    "_lxa": "attn_out",
    "_lxm": "mlp_out",
}
"""Parts of an SAE's id, of its path, and of its release's name; the first that is found counts."""
FAMILIES = {
    "gpt2": "GPT2",
    "pythia": "GPTNeoX",
    "mistral": "Mistral",
    "gemma-2b": "Gemma",
    "gemma-2-": "Gemma2",
    "gemma-3-": "Gemma3Text",
    "qwen2.5": "Qwen2",
    "qwen3.5-35b-a3b": "Qwen3_5MoeText",
    "qwen3.5": "Qwen3_5Text",
    "qwen3-30b-a3b": "Qwen3Moe",
    "qwen3": "Qwen3",
    "gpt-oss": "GptOss",
    "llama": "Llama",
}
"""Parts of models' names, the narrower first, and transformers' names of their classes."""


def family_of(model: str) -> str:
    """Transformers' name of a registered model's class.

    >>> family_of("deepseek-ai/DeepSeek-R1-Distill-Llama-8B")
    'Llama'
    """
    for part, family in FAMILIES.items():
        if part in model.lower():
            return family
    raise ValueError(f"the family of {model} is not known; add it to coverage.FAMILIES")


def kinds_of(release: str) -> Counter[Kind]:
    """The kinds of a registered release's SAEs, each with its number.

    Raises:
        ValueError: for a layout of sae_lens that is not known here.

    >>> kinds_of("gpt2-small-hook-z-kk")
    Counter({Kind(architectures=('standard',), place='hook_z'): 12})
    """
    listed = registry()[release]
    loader = listed.conversion_func or "sae_lens"
    if loader not in ARCHITECTURES_OF_LOADER:
        raise ValueError(f"the layout {loader!r} of {release} is not known here")
    counts: Counter[Kind] = Counter()
    for sae_id, path in listed.saes_map.items():
        place = PLACE_OF_LOADER.get(loader) or _place_in(sae_id, path, release)
        architectures = ARCHITECTURES_OF_LOADER[loader]
        if loader == "gemma_3" and place == "mlp_in":
            architectures = JUMPRELU_TRANSCODERS
        counts[Kind(architectures, place)] += 1
    return counts


def _place_in(*names: str) -> str:
    for name in names:
        for part, place in PLACE_IN_NAME.items():
            if part in name:
                return place
    return "resid_post"


def coverage() -> pd.DataFrame:
    """One row per registered release and kind of SAE.

    Returns:
        Columns ``release``, ``model``, ``family``, ``reads`` (a hook), ``architecture``, ``saes``
        (their number) and ``refused`` (the functions that refuse them; empty where all are right).
    """
    rows = []
    for release, listed in registry().items():
        for kind, number in kinds_of(release).items():
            refused = kind.refused()
            rows.append(
                {
                    "release": release,
                    "model": listed.model,
                    "family": family_of(listed.model),
                    "reads": PLACES[kind.place],
                    "architecture": kind.architecture,
                    "saes": number,
                    "refused": in_words(refused),
                }
            )
    return pd.DataFrame(rows)
