"""Regression values: what a mini gave when it was made, to be found again wherever it runs.

They stand under the ids of the published claims of the system that the mini stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saework.analysis.features import logit_effect
from saework.analysis.probing import sparse_probe
from saework.analysis.rare import rare_features
from saework.analysis.reconstruction import ReconsScore, reconstruction_metrics
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.token_tables import vocab_df
from saework.engine.forward import sae_input
from saework.loading.corpus import STEERING_PASSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

NATS = "nats per token"
PER_TOKEN = "features per token"
RARE_RATE = 1e-4
# Rows that a notebook measures on: the first 4,096 tokens, and the first 8,192.
FRONTIER_ROWS, CARD_ROWS = 32, 64
PROBE_ROWS = 192
PROBE_SIZES = (1, 50)
PROBED = ("defined_name", "keyword")


@dataclass(frozen=True)
class MeasuredSae:
    """An SAE of a mini as stored, and what was measured of it."""

    id: str
    model: HookedModel
    sae: Any
    """A ``sae_lens.SAE``."""
    bundled: Int[Tensor, "batch pos"]
    """All rows of the bundled text."""
    score: ReconsScore
    """On the bundled text."""
    scan: FeatureScan
    """Of held-out and training text."""


def score_claims(measured: MeasuredSae) -> list[dict[str, Any]]:
    """The reconstruction score, and the rare features."""
    score, scan = measured.score, measured.scan
    reconstruction = f"reconstruction/{measured.id}"
    rare = f"rare/{measured.id}"
    rates = scan.firing_rate
    is_rare = rates < RARE_RATE
    n_dead = int(scan.dead.sum())
    n_rare = int(is_rare.sum())
    claims = [
        regression(f"{reconstruction}/loss", score.loss, NATS, 2e-3),
        regression(f"{reconstruction}/recons_loss", score.recons_loss, NATS, 2e-3),
        regression(f"{reconstruction}/zero_abl_loss", score.ablated_loss, NATS, 2e-3),
        regression(f"{reconstruction}/score", score.score, "fraction", 1e-3),
        regression(f"{rare}/mean_l0", scan.mean_l0, PER_TOKEN, 1e-3),
        regression(f"{rare}/dead", n_dead, "features", 0),
        regression(f"{rare}/rare", n_rare, "features", 0),
    ]
    if is_rare.any():
        found = rare_features(measured.sae, rates)
        cosine = float(found.cosine[is_rare].median())
        claim = regression(f"{rare}/rare_cosine", cosine, "cosine", 1e-3)
        claims.append(claim)
    return claims


def card_claims(measured: MeasuredSae) -> list[dict[str, Any]]:
    """What a release's card says, on the first 8,192 tokens, with BOS."""
    rows = measured.bundled[:CARD_ROWS]
    table = reconstruction_metrics(measured.model, measured.sae, rows, progress=False)
    metrics = table["with_bos"]
    begin = f"card/{measured.id}"
    n_dead = int(measured.scan.dead.sum())
    clean, spliced = metrics["ce_loss_clean"], metrics["ce_loss_spliced"]
    return [
        regression(f"{begin}/ce_loss", clean, NATS, 2e-3),
        regression(f"{begin}/ce_loss_with_sae", spliced, NATS, 2e-3),
        regression(f"{begin}/ce_loss_score", metrics["ce_loss_score"], "fraction", 1e-3),
        regression(f"{begin}/l0", metrics["l0"], PER_TOKEN, 1e-2),
        regression(f"{begin}/dead", n_dead, "features", 0),
    ]


def frontier_claims(measured: MeasuredSae) -> list[dict[str, Any]]:
    """One point of a sparsity frontier, on the first 4,096 tokens, without BOS."""
    rows = measured.bundled[:FRONTIER_ROWS]
    table = reconstruction_metrics(measured.model, measured.sae, rows, progress=False)
    metrics = table["without_bos"]
    l0 = float(metrics["l0"])
    score = float(metrics["ce_loss_score"])
    begin = f"frontier/{measured.id}"
    return [
        regression(f"{begin}/l0", l0, PER_TOKEN, 1e-2),
        regression(f"{begin}/ce_loss_score", score, "fraction", 1e-3),
    ]


def steering_claims(measured: MeasuredSae) -> list[dict[str, Any]]:
    """The passage that the steering notebook reads: variance explained, strongest features."""
    model, sae = measured.model, measured.sae
    passage = model.to_tokens(STEERING_PASSAGE)
    table = reconstruction_metrics(model, sae, passage, progress=False)
    metrics = table["with_bos"]
    explained = float(metrics["variance_explained_global"])
    x = sae_input(model, sae, passage)
    features = sae.encode(x)
    means = features[0, 1:].mean(0)
    top = means.topk(4)
    numbers = top.indices.tolist()
    values = top.values.tolist()
    by_number = "features, in order of number"
    over_passage = "mean activation over the passage"
    one_mean = "fraction, BOS included, one mean"
    return [
        regression("steering/variance_explained", explained, one_mean, 1e-3),
        regression("steering/top_feature", numbers[0], "feature", 0),
        regression("steering/top_features", sorted(numbers), by_number, 0),
        regression("steering/top_values", values, over_passage, 1e-3),
    ]


def feature_claims(measured: MeasuredSae, feature: int) -> list[dict[str, Any]]:
    """The feature that a notebook reads."""
    model: Any = measured.model
    effect = logit_effect(model, measured.sae, feature)
    table = vocab_df(effect, model.tokenizer).head(3)
    rate = float(measured.scan.firing_rate[feature])
    tokens = table["token"].tolist()
    logits = table["logit"].tolist()
    return [
        regression("feature/rate", rate, "fraction of tokens", 1e-6),
        regression("feature/top_logit_tokens", tokens, "", 0),
        regression("feature/top_logits", logits, "logits per unit of activation", 1e-3),
    ]


def probing_claims(
    measured: MeasuredSae, labels: Mapping[str, Bool[Tensor, "batch pos"]]
) -> list[dict[str, Any]]:
    """Sparse probes with 1 and with 50 features or neurons, on the first 192 rows, without BOS."""
    model, sae = measured.model, measured.sae
    x = sae_input(model, sae, measured.bundled[:PROBE_ROWS])[:, 1:]
    sources = {"features": sae.encode(x), "neurons": x}
    unit = "balanced accuracy and F1 at k = 1, then at k = 50"
    claims = []
    for name in PROBED:
        label = labels[name][: len(x), 1:]
        for source, values in sources.items():
            table = sparse_probe(values, label, k=PROBE_SIZES, draws=3)
            scores = table[["accuracy", "f1"]].to_numpy().ravel().tolist()
            claims.append(regression(f"probing/{name}/{source}", scores, unit, 0.02))
    return claims


def regression(id: str, value: Any, unit: str, tolerance: float) -> dict[str, Any]:
    """One entry of ``claims.json``."""
    return {
        "id": id,
        "value": value,
        "unit": unit,
        "source": "regression value: recorded when this mini was made",
        "tolerance": tolerance,
    }
