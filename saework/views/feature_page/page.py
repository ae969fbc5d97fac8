"""All that was measured of a feature: as numbers, as HTML, as text, as a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from saework.core.files import write_whole
from saework.views.feature_page.html import render
from saework.views.feature_page.parts import Section, decimals, percent
from saework.views.feature_page.results import Example, Interval, LogitEffect
from saework.views.feature_page.sections import (
    ablation_section,
    activations_section,
    cofiring_section,
    dead_section,
    interval_section,
    labels_section,
    logits_section,
    nearest_section,
    top_section,
)
from saework.views.tables import significant


@dataclass(frozen=True)
class FeaturePage:
    """All that was measured of one feature: HTML in notebooks, text elsewhere."""

    feature: int
    source: str
    """Which SAE, of which release, at which hook."""
    counted: str
    """Which tokens count, in words."""
    n_tokens: int
    """Tokens counted."""
    count: int
    """Of them, those on which the feature fires."""
    max_activation: float
    mean_l0: float
    """Features that fire on a token, on average over the whole SAE."""
    rate_bound: float
    """Upper bound of the rate of a feature that never fired, at 95%."""
    histogram: pd.DataFrame
    """Columns ``low``, ``high``, ``firings``: from the lowest bin with a firing to the highest."""
    top: tuple[Example, ...]
    """The strongest firings."""
    intervals: tuple[Interval, ...]
    """Strongest first."""
    ablation: pd.DataFrame
    """One row per ``interval`` (``top`` first): ``tokens``, ``loss_change`` (mean, nats),
    ``variance`` (of that mean), ``raised`` (share of the tokens), ``weight`` (the interval's share
    of all firings)."""
    nearest: pd.DataFrame
    """Columns ``feature``, ``decoder_cosine``, ``encoder_cosine``, ``firing_rate``; highest decoder
    cosine first."""
    chance_cosine: float
    """Cosine of a random direction's nearest decoder row (median)."""
    logits: LogitEffect | None = None
    other: pd.DataFrame | None = None
    """Nearest features of another SAE: ``feature``, ``decoder_cosine``, ``encoder_cosine``,
    ``mutual``."""
    other_source: str = ""
    other_chance: float = math.nan
    cofiring: pd.DataFrame | None = None
    """Columns ``feature``, ``both`` (tokens), ``given_this``, ``base_rate``; the largest difference
    of the last two first."""
    labels: pd.DataFrame | None = None
    """One row per label: ``precision``, ``recall``, ``f1``, ``base_rate``, ``tokens``; highest F1
    first."""
    neuronpedia: str | None = None
    """Address of the feature's page on Neuronpedia: a link, never fetched."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why a section is empty, by section."""

    def __post_init__(self) -> None:
        """Raises: ValueError for an address that is no https link; a page may come in a pack."""
        if self.neuronpedia is not None and not str(self.neuronpedia).startswith("https://"):
            raise ValueError(
                f"neuronpedia is {str(self.neuronpedia)[:80]!r}; give an address that begins with "
                "https://, or None"
            )

    @property
    def firing_rate(self) -> float:
        """Share of the tokens on which the feature fires."""
        return self.count / self.n_tokens

    @property
    def dead(self) -> bool:
        """Whether it never fired in these tokens."""
        return self.count == 0

    @property
    def l0_share(self) -> float:
        """Its share of all firings of the SAE, that is, of the mean L0."""
        return self.firing_rate / self.mean_l0 if self.mean_l0 else 0.0

    @property
    def mean_loss_change(self) -> float:
        """Mean over all firings of the change of loss by ablation, nats.

        Estimated from the intervals' samples, each interval weighted by its share of the firings.
        """
        sampled = self._sampled_ablation()
        if not len(sampled):
            return math.nan
        weighted = sampled["loss_change"] * sampled["weight"]
        return float(weighted.sum() / sampled["weight"].sum())

    @property
    def loss_change_error(self) -> float:
        """Standard error of ``mean_loss_change``, nats.

        NaN if an interval with several firings has one measured token only.
        """
        sampled = self._sampled_ablation()
        if not len(sampled):
            return math.nan
        weighted = sampled["weight"] ** 2 * sampled["variance"]
        return math.sqrt(weighted.sum(skipna=False)) / sampled["weight"].sum()

    def _sampled_ablation(self) -> pd.DataFrame:
        """The intervals with a measured token. The top examples are no random sample."""
        is_top = self.ablation["interval"] == "top"
        return self.ablation[~is_top & (self.ablation["tokens"] > 0)]

    @property
    def headline(self) -> str:
        """The feature in one sentence."""
        if self.dead:
            bound = significant(self.rate_bound)
            never = f"it never fired on {self.n_tokens:,} tokens"
            return f"Dead here: {never}, so its rate is below {bound} (95%)."
        times = "once" if self.count == 1 else f"{self.count:,} times"
        rate = f"{percent(self.firing_rate)} of {self.n_tokens:,} tokens ({times})"
        share_of_l0 = (
            f"{significant(self.firing_rate)} of a mean L0 of {significant(self.mean_l0)} "
            f"({percent(self.l0_share)})"
        )
        return f"Fires on {rate}, at most at {decimals(self.max_activation, 2)}; {share_of_l0}."

    def sections(self) -> list[Section]:
        """The page below its headline. Of a dead feature, only what its weights say."""
        logits = logits_section(self.logits, self.missing.get("logits", ""))
        nearest = nearest_section(
            self.nearest, self.chance_cosine, self.other, self.other_source, self.other_chance
        )
        if self.dead:
            return [dead_section(), logits, nearest]
        return [
            activations_section(self.histogram),
            top_section(self.top, self.max_activation),
            interval_section(self.intervals, self.count, self.max_activation),
            logits,
            ablation_section(
                self.ablation, self.mean_loss_change, self.loss_change_error, self.count
            ),
            nearest,
            cofiring_section(self.cofiring, self.missing.get("cofiring", "")),
            labels_section(self.labels, self.missing.get("labels", "")),
        ]

    def _repr_html_(self) -> str:
        return render("notebook.html", page=self)

    def __repr__(self) -> str:
        paragraphs = [
            f"Feature {self.feature}\n{self.source}\n{self.headline}\n{self.counted}",
            *(section.text() for section in self.sections()),
        ]
        if self.neuronpedia:
            paragraphs.append(f"Neuronpedia: {self.neuronpedia}")
        return "\n\n".join(paragraphs)

    def save(self, path: str | Path) -> Path:
        """Write a self-contained HTML file: no script, nothing fetched, one plain link at most.

        Raises:
            OSError: it cannot be written.
        """
        document = render("feature.html", page=self)
        return write_whole(path, document.encode("utf-8", errors="replace"))
