"""What was measured of a feature, piece by piece: examples, intervals, effect on the logits."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from saework.core.tokens import visible


@dataclass(frozen=True)
class Example:
    """A place where the feature fires, in its context."""

    strings: tuple[str, ...]
    """The tokens around it. A character of several tokens stands at the first (``←``: goes on)."""
    values: tuple[float, ...]
    """The feature's activation on each."""
    at: int
    """Which of them is the example."""
    activation: float
    loss_change: float
    """By how much ablating the feature raises the loss of the next token, nats; NaN where the row
    ends."""
    row: int
    pos: int

    @property
    def token(self) -> str:
        """The token itself, visible."""
        return visible(self.strings[self.at])

    @property
    def context(self) -> str:
        """``before|token|after``, visible."""
        shown = [visible(string) for string in self.strings]
        before = "".join(shown[: self.at])
        after = "".join(shown[self.at + 1 :])
        return f"{before}|{shown[self.at]}|{after}"


@dataclass(frozen=True)
class Interval:
    """Firings of similar strength, and a random few of them."""

    low: float
    high: float
    firings: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class LogitEffect:
    """What one unit of the feature adds to the logits by the direct path (see ``logit_effect``)."""

    raised: pd.DataFrame
    """The tokens raised most: columns ``token`` and ``logit``; the index is the token id."""
    lowered: pd.DataFrame
    """The tokens lowered most, lowest first."""
    histogram: pd.DataFrame
    """Columns ``low``, ``high``, ``tokens``: round edges, of which one is zero."""
    skew: float
    """Of the effect over the vocabulary: the third standardized moment (``scipy.stats.skew``)."""
    kurtosis: float
    """Excess: 0 for a normal distribution (``scipy.stats.kurtosis``)."""
