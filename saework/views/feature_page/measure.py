"""The numbers of many pages at once: one scan, a second look at its examples, and the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.firings import bin_of
from saework.core.errors import HookError
from saework.core.files import DIGEST_CHARACTERS, digest
from saework.core.protocols import SparseAutoencoder
from saework.core.tokens import whole_characters
from saework.engine.architectures import check_reconstructs
from saework.engine.left_out import check_has_logits
from saework.engine.site import site_of
from saework.loading.sae_ids import neuronpedia_id
from saework.loading.workbook import Workbook
from saework.views.feature_page.ablation import ablated_losses
from saework.views.feature_page.contexts import TOKENS_BEFORE, Contexts, read_contexts
from saework.views.feature_page.examples import (
    DRAWN_GROUP,
    TOP_GROUP,
    Places,
    choose,
    interval_bins,
)
from saework.views.feature_page.firings import draw_firings
from saework.views.feature_page.page import FeaturePage
from saework.views.feature_page.results import Example, Interval, LogitEffect
from saework.views.feature_page.scanned import (
    CountedTokens,
    check_examples,
    check_scan,
    counted_tokens,
    scan_for_pages,
)
from saework.views.feature_page.summaries import (
    ablation_row,
    agreement_of,
    cofiring_of,
    frequent_tokens,
    histogram_of,
)
from saework.views.feature_page.weights import (
    Directions,
    logit_effects_of,
    nearest_features,
    nearest_in_other,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from torch import Tensor

FEATURES_AT_ONCE = 64
N_ABLATED = 500
"""Firings of each feature that are ablated; of more, a sample of that size."""
NO_LABELS = "There are no true labels for this text."


@dataclass(frozen=True)
class Measurements:
    """What the pages of one SAE share."""

    workbook: Workbook
    features: list[int]
    """In ascending order, each once."""
    scan: FeatureScan
    counted: CountedTokens
    places: Places
    """The examples of all features, and the firings that are ablated only."""
    n_firings: dict[int, int]
    """All firings of each feature in the counted tokens."""
    contexts: Contexts
    loss_change: Float[ndarray, " example"]
    """By how much ablation raises the loss of the next token, nats; NaN where the row ends."""
    labels: dict[str, Bool[Tensor, "batch pos"]]
    row_texts: dict[int, list[str]]
    """The text of each token of the examples' rows, by row (``whole_characters``)."""
    tokens_digest: str
    directions: Directions
    other_directions: Directions | None
    """Of another SAE, if there is one to compare with."""
    other_source: str
    """The other SAE's name; empty without one."""


def measure(
    workbook: Workbook,
    features: Sequence[int],
    *,
    scan: FeatureScan | None = None,
    other: SparseAutoencoder | None = None,
    other_source: str = "",
    n_ablated: int = N_ABLATED,
    progress: bool = True,
) -> Measurements:
    """Run the model for the pages of some features: scan, choose examples, look again, weights.

    Args:
        features: at least one.
        scan: to use instead of a new one.
        other: another SAE to find the same features in.
        other_source: its name.
        n_ablated: firings of each feature to ablate, at most.
        progress: whether to show bars.

    Raises:
        ValueError: the scan is of another SAE or of other tokens, or has no positions; or one layer
            of a cross-layer transcoder, whose ablation has no meaning.
    """
    check_reconstructs(workbook.sae)
    check_has_logits(workbook.model)
    workbook = replace(workbook, tokens=workbook.tokens.cpu())  # with masks and places, as numpy
    features = sorted(set(features))
    if scan is None:
        scan = scan_for_pages(workbook, features, progress=progress)
    else:
        check_scan(scan, workbook)
    counted = counted_tokens(scan, workbook)
    labels = _labels(workbook) if counted.known else {}

    model, sae, tokens = workbook.model, workbook.sae, workbook.tokens
    hook = site_of(model, sae, workbook.hook).reads
    drawn = draw_firings(
        model,
        sae,
        tokens,
        hook,
        np.asarray(features),
        counted.mask,
        most=n_ablated,
        progress=progress,
    )
    places = Places.concatenate([choose(scan, features), drawn.places])
    contexts = read_contexts(
        model,
        sae,
        tokens,
        hook,
        places,
        features=np.asarray(features),
        rules=_rules(labels, counted.mask),
        progress=progress,
    )
    loss = ablated_losses(model, sae, tokens, hook, places, counted.mask, progress=progress)
    dtype = next(workbook.model.parameters()).dtype
    check_examples(places, contexts.activations[:, TOKENS_BEFORE], dtype)
    return Measurements(
        workbook=workbook,
        features=features,
        scan=scan,
        counted=counted,
        places=places,
        contexts=contexts,
        n_firings=drawn.n_firings,
        loss_change=loss - contexts.loss,
        labels=labels,
        row_texts=_row_texts(workbook, places),
        tokens_digest=digest(tokens.cpu().numpy().tobytes()),
        directions=Directions.of(sae),
        other_directions=None if other is None else Directions.of(other),
        other_source=other_source if other is not None else "",
    )


def _labels(workbook: Workbook) -> dict[str, Tensor]:
    try:
        return workbook.labels()
    except ValueError:
        return {}


def _rules(labels: dict[str, Tensor], counted: Tensor) -> Bool[Tensor, "rule batch pos"] | None:
    """What firings are counted against: each label, and last any counted token at all."""
    if not labels:
        return None
    return torch.stack([*labels.values(), torch.ones_like(counted)]) & counted


def _row_texts(workbook: Workbook, places: Places) -> dict[int, list[str]]:
    shown = places.row[places.group != DRAWN_GROUP]
    return {
        int(row): whole_characters(workbook.tokens[row], workbook.tokenizer)
        for row in np.unique(shown)
    }


def pages(measured: Measurements, features: Sequence[int]) -> Iterator[FeaturePage]:
    """The page of each feature, in the order asked for; all must have been measured."""
    for start in range(0, len(features), FEATURES_AT_ONCE):
        block = features[start : start + FEATURES_AT_ONCE]
        logits, no_logits = _logits(measured.workbook, block)
        own, other = measured.directions, measured.other_directions
        nearest = nearest_features(block, own, measured.scan.firing_rate)
        in_other = [None] * len(block) if other is None else nearest_in_other(block, own, other)
        for i, feature in enumerate(block):
            yield _page(measured, feature, logits[i], no_logits, nearest[i], in_other[i])


def _logits(
    workbook: Workbook, features: Sequence[int]
) -> tuple[list[LogitEffect] | list[None], str]:
    """Each feature's logit effect, or why there is none at this hook."""
    try:
        return logit_effects_of(workbook, features), ""
    except HookError as error:
        return [None] * len(features), f"There is none to show: {error}."


def _page(
    measured: Measurements,
    feature: int,
    logits: LogitEffect | None,
    no_logits: str,
    nearest: pd.DataFrame,
    in_other: pd.DataFrame | None,
) -> FeaturePage:
    workbook, scan = measured.workbook, measured.scan
    other = measured.other_directions
    top, intervals, ablation = _examples(measured, feature)
    cofiring, labels = cofiring_of(scan, feature), _agreement(measured, feature)
    no_cofiring = (
        f"Not counted in this scan; make it with cofiring=[{feature}], or leave scan= out."
    )
    missing = {
        "logits": no_logits,
        "cofiring": no_cofiring if cofiring is None else "",
        "labels": NO_LABELS if labels is None else "",
    }
    return FeaturePage(
        feature=feature,
        source=f"{source_of(workbook)}, at {workbook.hook}",
        counted=measured.counted.description,
        n_tokens=scan.n_tokens,
        count=int(scan.count[feature]),
        max_activation=float(scan.max_activation[feature]),
        mean_l0=scan.mean_l0,
        rate_bound=scan.rate_bound,
        histogram=histogram_of(scan, feature),
        top=top,
        intervals=intervals,
        ablation=ablation,
        n_firings=measured.n_firings[feature],
        fires_on=_frequent_tokens(measured, feature),
        fingerprint=f"SAE {scan.fingerprint[:DIGEST_CHARACTERS]}, tokens {measured.tokens_digest}",
        nearest=nearest,
        chance_cosine=measured.directions.chance_cosine,
        logits=logits,
        other=in_other,
        other_source=measured.other_source,
        other_chance=math.nan if other is None else other.chance_cosine,
        cofiring=cofiring,
        labels=labels,
        neuronpedia=_neuronpedia(workbook, feature),
        missing={section: reason for section, reason in missing.items() if reason},
    )


def source_of(workbook: Workbook) -> str:
    """What a page calls the workbook's SAE."""
    if workbook.release is None:
        return "an SAE"
    return f"{workbook.release.name} {workbook.sae_id or ''}".strip()


def _neuronpedia(workbook: Workbook, feature: int) -> str | None:
    release = workbook.release.name if workbook.release else None
    sae_there = neuronpedia_id(workbook.sae, release, workbook.sae_id)
    if not sae_there:
        return None
    return f"https://www.neuronpedia.org/{quote(sae_there)}/{feature}"


def _examples(
    measured: Measurements, feature: int
) -> tuple[tuple[Example, ...], tuple[Interval, ...], pd.DataFrame]:
    """The top examples, the intervals with theirs, and the table of ablation."""
    places = measured.places
    own = np.flatnonzero(places.feature == feature)
    own_group = places.group[own]

    def examples(group: int) -> tuple[Example, ...]:
        return tuple(_example(measured, i) for i in own[own_group == group])

    def row(interval: str | tuple[float, float], chosen: ndarray, weight: float) -> dict:
        return ablation_row(interval, measured.loss_change[chosen], places.row[chosen], weight)

    drawn = own[own_group == DRAWN_GROUP]
    drawn_bin = bin_of(np.abs(places.activation[drawn]))
    strongest = row("top", own[own_group == TOP_GROUP], math.nan)
    # No random sample of anything.
    strongest["standard_error"] = math.nan
    rows = [row("all", drawn, 1.0), strongest]
    histogram = measured.scan.histogram[feature].numpy()
    edges = measured.scan.bin_edges.tolist()
    n_all = int(histogram.sum())
    intervals = []
    for number, bins in enumerate(interval_bins(histogram)):
        # Bins are in descending order. Several together are all that is left, down to zero.
        low = 0.0 if len(bins) > 1 else edges[bins[-1]]
        high = edges[bins[0] + 1]
        n_firings = int(histogram[bins].sum())
        intervals.append(Interval(low, high, n_firings, examples(number)))
        of_interval = drawn[np.isin(drawn_bin, bins)]
        rows.append(row((low, high), of_interval, n_firings / n_all))
    return examples(TOP_GROUP), tuple(intervals), pd.DataFrame(rows)


def _frequent_tokens(measured: Measurements, feature: int) -> pd.DataFrame:
    """The tokens on which it fires most often, of the firings that were drawn."""
    places = measured.places
    drawn = (places.feature == feature) & (places.group == DRAWN_GROUP)
    ids = measured.workbook.tokens[places.row[drawn], places.pos[drawn]].numpy()
    return frequent_tokens(ids, measured.workbook.tokenizer)


def _example(measured: Measurements, i: int) -> Example:
    """The i-th of the chosen places, with the tokens around it."""
    places = measured.places
    row, pos = int(places.row[i]), int(places.pos[i])
    window = measured.contexts.activations[i]
    inside = ~np.isnan(window)
    n_before = int(inside[:TOKENS_BEFORE].sum())
    start = pos - n_before
    end = start + int(inside.sum())
    return Example(
        strings=tuple(measured.row_texts[row][start:end]),
        values=tuple(window[inside].tolist()),
        at=n_before,
        activation=float(places.activation[i]),
        loss_change=float(measured.loss_change[i]),
        row=row,
        pos=pos,
    )


def _agreement(measured: Measurements, feature: int) -> pd.DataFrame | None:
    """How well the feature's firing agrees with each label; None without labels."""
    if not measured.labels:
        return None
    column = measured.features.index(feature)
    # The last rule holds on every counted token, so its hits are the feature's firings.
    *n_both, n_fires = measured.contexts.rule_hits[:, column]
    counted = measured.counted.mask
    n_label = [int((label & counted).sum()) for label in measured.labels.values()]
    return agreement_of(
        np.array(n_both),
        int(n_fires),
        np.array(n_label),
        n_tokens=measured.counted.number,
        names=list(measured.labels),
    )
