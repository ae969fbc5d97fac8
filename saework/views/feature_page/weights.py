"""What the weights alone say of a feature: its logit effect, and the features nearest to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.stats import kurtosis, skew

from saework.analysis.features import logit_effects
from saework.analysis.similarity import nearest_rows, unit_rows
from saework.core.arguments import check_finite
from saework.core.formulas import chance_cosine
from saework.core.protocols import SparseAutoencoder, Tokenizer
from saework.core.tokens import token_names
from saework.loading.workbook import Workbook
from saework.views.feature_page.results import LogitEffect

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray
    from torch import Tensor

N_LOGITS = 10
MOST_BINS = 22
"""One more bin on either side may be needed for round edges."""
N_NEAREST = 5
N_NEAREST_IN_OTHER = 3


@dataclass(frozen=True)
class Directions:
    """An SAE's decoder and encoder directions, each of length 1, float32.

    An SAE of one's own may have no encoder weights.

    Memory: 8 bytes times ``d_sae * d_in``.
    """

    decoder: Float[Tensor, "d_sae d_in"]
    encoder: Float[Tensor, "d_sae d_in"] | None

    @classmethod
    def of(cls, sae: SparseAutoencoder) -> Directions:
        """Those of an SAE.

        Raises:
            ValueError: weights that are not finite.
        """
        encoder = getattr(sae, "W_enc", None)
        if encoder is None:
            return cls(unit_rows(sae.W_dec), None)
        return cls(unit_rows(sae.W_dec), unit_rows(encoder.T, "encoder weights"))

    @property
    def chance_cosine(self) -> float:
        """Cosine of a random direction's nearest decoder row, the median."""
        d_sae, d_in = self.decoder.shape
        return chance_cosine(d_in, d_sae)


def logit_effects_of(workbook: Workbook, features: Sequence[int]) -> list[LogitEffect]:
    """What one unit of each feature adds to the logits by the direct path.

    Raises:
        HookError: the hook has no direct path to the logits.
        ValueError: an effect that is not finite.
    """
    effects = logit_effects(workbook.model, workbook.sae, list(features), hook=workbook.hook)
    effects = effects.float().cpu()
    return [
        _logit_effect(check_finite(effect, "logit effects").numpy(), workbook.tokenizer)
        for effect in effects
    ]


def _logit_effect(effect: Float[ndarray, " d_vocab"], tokenizer: Tokenizer) -> LogitEffect:
    highest = np.argsort(-effect, kind="stable")[:N_LOGITS]
    lowest = np.argsort(effect, kind="stable")[:N_LOGITS]
    in_float64 = effect.astype(np.float64)
    return LogitEffect(
        raised=_token_logits(effect, highest, tokenizer),
        lowered=_token_logits(effect, lowest, tokenizer),
        histogram=histogram_of_effect(in_float64),
        skew=float(skew(in_float64)),
        kurtosis=float(kurtosis(in_float64)),
    )


def histogram_of_effect(values: Float[ndarray, " d_vocab"]) -> pd.DataFrame:
    """How many values lie between round edges, of which zero is one; at most 24 bins."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    width = _round_width((high - low) / MOST_BINS)
    first, last = math.floor(low / width), math.ceil(high / width)
    numbers = np.arange(first, max(last, first + 1) + 1)
    # The highest value may lie on the last edge, which numpy counts in.
    edges = numbers * width
    tokens, _ = np.histogram(values, edges)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": tokens})


def _round_width(at_least: float) -> float:
    """The next larger of 1, 2, 5, 10, 20, 50 and so on, or of 0.5, 0.2, 0.1; 1 for nothing."""
    if at_least == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= at_least)


def _token_logits(
    effect: Float[ndarray, " d_vocab"], ids: Int[ndarray, " some"], tokenizer: Tokenizer
) -> pd.DataFrame:
    texts = token_names(ids.tolist(), tokenizer)
    index = pd.Index(ids, name="token_id")
    return pd.DataFrame({"token": texts, "logit": effect[ids]}, index=index)


def nearest_features(
    features: Sequence[int], own: Directions, firing_rate: Float[Tensor, " d_sae"]
) -> list[pd.DataFrame]:
    """The features of the same SAE that are nearest to each, by decoder and by encoder.

    Returns:
        One frame per feature: ``feature``, ``decoder_cosine``, ``encoder_cosine``, ``firing_rate``;
        highest decoder cosine first.
    """
    frames = []
    for frame in _nearest(features, own, own, N_NEAREST, leave_out=features):
        rates = firing_rate.numpy()[frame["feature"]]
        frames.append(frame.assign(firing_rate=rates))
    return frames


def nearest_in_other(
    features: Sequence[int], own: Directions, other: Directions
) -> list[pd.DataFrame]:
    """The features of another SAE that are nearest to each, by decoder and by encoder.

    Returns:
        One frame per feature: ``feature``, ``decoder_cosine``, ``encoder_cosine``, and ``mutual``:
        whether this feature's decoder row is the nearest to the other one's, too.
    """
    frames = []
    for feature, frame in zip(features, _nearest(features, own, other, N_NEAREST_IN_OTHER)):
        other_rows = other.decoder[frame["feature"].tolist()]
        nearest_here, _ = nearest_rows(other_rows, own.decoder, 1)
        mutual = nearest_here[:, 0] == feature
        frames.append(frame.assign(mutual=mutual.numpy()))
    return frames


def _nearest(
    features: Sequence[int],
    own: Directions,
    other: Directions,
    n: int,
    *,
    leave_out: Sequence[int] | None = None,
) -> list[pd.DataFrame]:
    """For each feature, the ``n`` nearest by decoder and the ``n`` by encoder, each once.

    Without encoder weights, those by decoder only; ``encoder_cosine`` is NaN.
    """
    rows = list(features)
    candidates, _ = nearest_rows(own.decoder[rows], other.decoder, n, own=leave_out)
    own_encoder, other_encoder = own.encoder, other.encoder
    if own_encoder is not None and other_encoder is not None:
        by_encoder, _ = nearest_rows(own_encoder[rows], other_encoder, n, own=leave_out)
        candidates = torch.cat([candidates, by_encoder], dim=1)
    frames = []
    for feature, of_feature in zip(features, candidates):
        nearest = of_feature.unique()
        encoder_cosine = torch.full((len(nearest),), math.nan)
        if own_encoder is not None and other_encoder is not None:
            encoder_cosine = other_encoder[nearest] @ own_encoder[feature]
        columns = {
            "feature": nearest,
            "decoder_cosine": other.decoder[nearest] @ own.decoder[feature],
            "encoder_cosine": encoder_cosine,
        }
        frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        frame = frame.sort_values("decoder_cosine", ascending=False, kind="stable")
        frames.append(frame.reset_index(drop=True))
    return frames
