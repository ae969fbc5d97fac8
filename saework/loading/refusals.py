"""Which functions refuse which SAEs: by architecture, and by the place that they read.

``REFUSALS`` is checked cell by cell by ``tests/test_matrix.py``: a function that is named there
refuses, and every other one gives the number of a plain computation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RUNNING = (
    "scan",
    "recons_score",
    "recons_score (mean)",
    "reconstruction_metrics",
    "find_site",
    "feature_activations",
    "active_features",
    "logit_effect",
    "explore",
    "explore (search)",
    "steer",
    "steer (clamp)",
    "steer (no error term)",
    "feature_page",
    "write_reference",
)
"""Functions that run the model, or ask what the SAE writes in it."""
FUNCTIONS = (*RUNNING, "rare_features", "compare", "permute_features", "select_features")
"""In brackets, a way to call it.

``write_reference`` stands for ``validate`` too, and ``recons_score`` for ``recons_scores``.
"""
SPLICING = (
    "recons_score",
    "recons_score (mean)",
    "reconstruction_metrics",
    "find_site",
    "steer",
    "steer (clamp)",
    "steer (no error term)",
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
        ("logit_effect", "explore (search)"),
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


def in_words(functions: Iterable[str]) -> str:
    """Functions in their usual order; where all ways to call one are there, its name alone.

    >>> in_words(["steer (clamp)", "scan", "explore (search)", "explore"])
    'scan, explore, steer (clamp)'
    """
    given = set(functions)
    names = []
    for name in FUNCTIONS:
        if name in given:
            base = _base(name)
            ways = {way for way in FUNCTIONS if _base(way) == base}
            names.append(base if ways <= given else name)
    return ", ".join(dict.fromkeys(names))


def _base(function: str) -> str:
    return function.partition(" (")[0]
