"""All that was measured of a feature: as numbers, as HTML, as text, as a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from saework.core.files import write_whole
from saework.core.tokens import visible
from saework.views.feature_page.html import Made, render
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
    """One row per ``interval`` (``all`` and ``top`` first): ``tokens``, ``loss_change`` (mean,
    nats), ``standard_error``, ``raised`` (share of the tokens), ``weight`` (the interval's share of
    all firings)."""
    n_firings: int
    """All firings from which those of ``ablation`` were drawn; ``count``, unless the scan had a
    mask of its own."""
    fires_on: pd.DataFrame
    """Columns ``token``, ``share``: the most frequent tokens among the firings that were drawn."""
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
    fingerprint: str = ""
    """Digests of the SAE with its hook (``FeatureScan.fingerprint``) and of the tokens."""
    note: str = ""
    """The reader's own words: plain text, in lines."""

    def __post_init__(self) -> None:
        """Raises: ValueError for an address that is no https link, or a note that is no text."""
        if not isinstance(self.note, str):
            raise ValueError(f"note is a {type(self.note).__name__}; give text")
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
        """Mean change of the next token's loss by ablation over the firings, nats."""
        return float(self.ablation["loss_change"].iloc[0])

    @property
    def loss_change_error(self) -> float:
        """Standard error of ``mean_loss_change``, nats; NaN if all firings are in one row."""
        return float(self.ablation["standard_error"].iloc[0])

    @property
    def n_ablated(self) -> int:
        """Firings over which ``mean_loss_change`` is the mean: those with a next token."""
        return int(self.ablation["tokens"].iloc[0])

    @property
    def headline(self) -> str:
        """The feature in one sentence."""
        if self.dead:
            bound = significant(self.rate_bound)
            never = f"it never fired on {self.n_tokens:,} tokens"
            return f"Dead here: {never}, so its rate is below {bound} (95%)."
        times = "once" if self.count == 1 else f"{self.count:,} times"
        rate = f"{percent(self.firing_rate)} of {self.n_tokens:,} tokens ({times})"
        mean_l0 = f"on average {significant(self.mean_l0)} features fire on a token"
        return f"Fires on {rate}, at most at {decimals(self.max_activation, 2)}; {mean_l0}."

    @property
    def near(self) -> list[int]:
        """The other features of this SAE that the page names: nearest, and firing with it."""
        named = self.nearest["feature"].tolist()
        if self.cofiring is not None:
            named += self.cofiring["feature"].tolist()
        return sorted(set(named))

    @property
    def note_lines(self) -> list[str]:
        """The note with nothing hidden in it, line by line; its spaces stay spaces."""
        return [
            " ".join(visible(word) for word in line.split(" "))
            for line in self.note.expandtabs().splitlines()
        ]

    def sections(self) -> list[Section]:
        """The page below its headline. Of a dead feature, only what its weights say."""
        logits = logits_section(self.logits, self.missing.get("logits", ""))
        nearest = nearest_section(
            self.nearest, self.chance_cosine, self.other, self.other_source, self.other_chance
        )
        if self.dead:
            return [dead_section(), logits, nearest]
        return [
            activations_section(self.histogram, self.fires_on),
            top_section(self.top, self.max_activation),
            interval_section(self.intervals, self.count, self.max_activation),
            logits,
            ablation_section(self.ablation, self.n_firings, self.count),
            nearest,
            cofiring_section(self.cofiring, self.missing.get("cofiring", "")),
            labels_section(self.labels, self.missing.get("labels", "")),
        ]

    def _repr_html_(self) -> str:
        return render("notebook.html", page=self)

    def __repr__(self) -> str:
        paragraphs = [
            f"Feature {self.feature}\n{self.source}\n{self.headline}\n{self.counted}",
            *(["\n".join(["NOTE", *self.note_lines])] if self.note else []),
            *(section.text() for section in self.sections()),
        ]
        if self.neuronpedia:
            paragraphs.append(f"Neuronpedia: {self.neuronpedia}")
        return "\n\n".join(paragraphs)

    def save(self, path: str | Path, *, when: datetime | None = None) -> Path:
        """Write a self-contained HTML file: no script, nothing fetched, one plain link at most.

        Args:
            path: the file; what was there before is replaced.
            when: the date in its footer; now by default.

        Raises:
            OSError: it cannot be written.
        """
        return write_whole(path, self.document(when=when).encode("utf-8", errors="replace"))

    def document(
        self, *, when: datetime | None = None, command: str = "", has_index: bool = False
    ) -> str:
        """The page as a whole HTML document.

        Args:
            when: the date in its footer; now by default.
            command: what made it, for the footer.
            has_index: whether pages of other features will stand beside it (``links.py``).
        """
        return render(
            "feature.html",
            page=self,
            has_index=has_index,
            made=Made.now(when, command=command),
        )
