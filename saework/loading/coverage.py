"""Which functions work with which SAE: of sae_lens's architectures, and of its table of releases.

``REFUSALS`` is checked cell by cell by ``tests/test_matrix.py``: a function that is named there
refuses, and every other one gives the number of a plain computation.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from saework.loading.sae_ids import registry

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNNING = (
    "scan",
    "recons_score",
    "recons_score, mean",
    "reconstruction_metrics",
    "find_site",
    "feature_activations",
    "active_features",
    "logit_effect",
    "explore",
    "explore, search",
    "steer",
    "steer, clamp",
    "steer without error term",
    "feature_page",
    "write_reference",
)
"""Functions that run the model, or ask what the SAE writes in it."""
FUNCTIONS = (*RUNNING, "rare_features", "compare", "permute_features", "select_features")
"""``write_reference`` stands for ``validate`` too, and ``feature_page`` for ``feature_pages``."""
SPLICING = (
    "recons_score",
    "recons_score, mean",
    "reconstruction_metrics",
    "find_site",
    "steer",
    "steer, clamp",
    "steer without error term",
    "feature_page",
)
"""Functions that put an SAE's output in the place of activations, or compare the two."""
PER_FEATURE = ("standard", "jumprelu", "gated")
JOINT = ("topk", "abstopk", "matching_pursuit")
TRAINING = ("batchtopk", "matryoshka_batchtopk")
TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
JUMPRELU_TRANSCODERS = TRANSCODERS[2:]
CLT_LAYER = "one layer of a cross-layer transcoder"
WHITENED = "any, with whitening not folded in"
OWN = "own object"
OTHERS = (CLT_LAYER, WHITENED, OWN)
"""What sae_lens has no architecture for."""
ARCHITECTURES = (*PER_FEATURE, *JOINT, "temporal", *TRANSCODERS, *TRAINING, *OTHERS)


@dataclass(frozen=True)
class Refusal:
    """Functions that refuse some SAEs, and why."""

    functions: tuple[str, ...]
    why: str
    words: str
    """Part of the error."""
    architectures: tuple[str, ...] = ARCHITECTURES
    places: tuple[str, ...] | None = None
    """Where the SAE reads; None for anywhere."""


REFUSALS = (
    Refusal(
        RUNNING,
        "in training form, a token's features depend on the other tokens of its batch",
        "in its training form",
        TRAINING,
    ),
    Refusal(
        (*SPLICING, "scan"),
        "features depend on earlier tokens of the row",
        "depend on earlier tokens",
        ("temporal",),
    ),
    Refusal(
        RUNNING,
        "its weights read whitened activations, which the hook does not hold",
        "trained on whitened activations",
        (WHITENED,),
    ),
    Refusal(
        SPLICING,
        "alone it reconstructs no layer",
        "one layer of a cross-layer transcoder",
        (CLT_LAYER,),
    ),
    Refusal(
        ("write_reference",),
        "features are only a part of what is reconstructed",
        "only a part of what it reconstructs",
        ("temporal",),
    ),
    Refusal(
        ("permute_features",),
        "its attention layers have an axis of features, which is not known here",
        "counts the features is not known",
        ("temporal",),
    ),
    Refusal(
        ("select_features",),
        "whether a feature is on depends on the others",
        "depends on the others",
        (*JOINT, "temporal", *TRAINING),
    ),
    Refusal(
        ("write_reference",),
        "a reference compares an SAE with what it reads",
        "a reference compares an SAE with what it reads",
        (*TRANSCODERS, CLT_LAYER),
    ),
    Refusal(
        ("write_reference",),
        "a reference names a layer, and the embedding has none",
        "lies in no block",
        places=("embed",),
    ),
    Refusal(
        ("logit_effect", "explore, search"),
        "the hook does not write to the residual stream",
        "does not write to the residual stream",
        tuple(name for name in ARCHITECTURES if name not in (*TRANSCODERS, CLT_LAYER)),
        places=("mlp_in", "normed"),
    ),
    Refusal(
        ("permute_features", "select_features"),
        "an object of one's own lists no parameters",
        "this OwnSae",
        (OWN,),
    ),
)

QWEN_3_5_NORM = Refusal(
    RUNNING,
    "TransformerLens rebuilds the norm with other weights; no registered SAE reads there",
    "does not reach what follows as it should",
    places=("normed",),
)
"""Of Qwen 3.5 alone."""


def refusals(architecture: str, place: str) -> dict[str, Refusal]:
    """The functions that refuse an SAE of this architecture that reads at this place.

    Args:
        architecture: one of ``ARCHITECTURES``.
        place: one of ``PLACES``.

    >>> list(refusals("topk", "resid_post"))
    ['select_features']
    """
    found: dict[str, Refusal] = {}
    for refusal in REFUSALS:
        at_place = refusal.places is None or place in refusal.places
        if architecture in refusal.architectures and at_place:
            for function in refusal.functions:
                found.setdefault(function, refusal)
    return found


PLACES = {
    "embed": "hook_embed",
    "resid_pre": "blocks.L.hook_resid_pre",
    "resid_mid": "blocks.L.hook_resid_mid",
    "resid_post": "blocks.L.hook_resid_post",
    "attn_out": "blocks.L.hook_attn_out",
    "mlp_out": "blocks.L.hook_mlp_out",
    "mlp_in": "blocks.L.mlp.hook_in",
    "normed": "blocks.L.ln2.hook_normalized",
    "hook_z": "blocks.L.attn.hook_z",
    "mlp_post": "blocks.L.mlp.hook_post",
}
"""Where SAEs read, and TransformerLens's names of it."""


@dataclass(frozen=True)
class Kind:
    """What decides which functions work with a registered SAE."""

    architectures: tuple[str, ...]
    """Those that it can have; which one, only its own config says."""
    place: str

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
                    "architecture": " or ".join(kind.architectures),
                    "saes": number,
                    "refused": ", ".join(name for name in FUNCTIONS if name in refused),
                }
            )
    return pd.DataFrame(rows)
