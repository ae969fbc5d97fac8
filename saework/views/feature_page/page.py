"""What a feature's page says, and in which order: numbers to sections, in HTML and in text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from saework.views.feature_page.parts import (
    Bars,
    Example,
    ExampleList,
    Grid,
    Section,
    decimals,
    percent,
    signed,
)
from saework.views.feature_page.style import STYLE, document
from saework.views.tables import significant

NEVER = "It never fired in these tokens, so there is nothing to show."


@dataclass(frozen=True)
class Interval:
    """Firings of like strength, and a fair few of them."""

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
    skew: float
    """Of the effect over the vocabulary: the third standardized moment (``scipy.stats.skew``)."""
    kurtosis: float
    """Excess: 0 for a normal distribution (``scipy.stats.kurtosis``)."""


@dataclass(frozen=True)
class FeaturePage:
    """All that was measured of one feature. Shows itself as HTML in a notebook and as text elsewhere."""

    feature: int
    source: str
    """Which SAE, of which release, at which hook."""
    counted: str
    """Which tokens count, in words."""
    n_tokens: int
    """Tokens that the numbers rest on."""
    count: int
    """Of them, those on which the feature fires."""
    max_activation: float
    mean_l0: float
    """Features that fire on a token, on average over the whole SAE."""
    rate_bound: float
    """What the rate of a feature that never fired is below, at 95%."""
    histogram: pd.DataFrame
    """Columns ``low``, ``high``, ``firings``: from the lowest bin that holds one to the highest."""
    top: tuple[Example, ...]
    """The strongest firings."""
    intervals: tuple[Interval, ...]
    """Strongest first."""
    ablation: pd.DataFrame
    """By ``interval`` (``top`` first): ``tokens``, ``loss_change`` (mean, nats), ``variance`` (of that mean), ``raised``
    (share of the tokens), ``weight`` (the interval's share of all firings)."""
    nearest: pd.DataFrame
    """Columns ``feature``, ``decoder_cosine``, ``encoder_cosine``, ``firing_rate``, highest decoder cosine first."""
    chance_cosine: float
    """What a random direction's nearest decoder row would have (median)."""
    logits: LogitEffect | None = None
    other: pd.DataFrame | None = None
    """Nearest features of another run: ``feature``, ``decoder_cosine``, ``encoder_cosine``, ``mutual``."""
    other_source: str = ""
    other_chance: float = math.nan
    cofiring: pd.DataFrame | None = None
    """Columns ``feature``, ``both`` (tokens), ``given_this``, ``base_rate``; the largest difference of the two first."""
    labels: pd.DataFrame | None = None
    """By label: ``precision``, ``recall``, ``f1``, ``base_rate``, ``tokens``; highest F1 first."""
    neuronpedia: str | None = None
    """The feature's page there; a link, never fetched."""
    missing: dict[str, str] = field(default_factory=dict)
    """By section: why it is empty."""

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
        """Nats, the mean over all firings as the intervals' samples estimate it: each interval by its share of the firings."""
        fair = self._fair_ablation()
        return (
            float((fair["loss_change"] * fair["weight"]).sum() / fair["weight"].sum())
            if len(fair)
            else math.nan
        )

    @property
    def loss_change_error(self) -> float:
        """Standard error of ``mean_loss_change``, nats; NaN if an interval has one token only of several."""
        fair = self._fair_ablation()
        return (
            math.sqrt((fair["weight"] ** 2 * fair["variance"]).sum(skipna=False))
            / fair["weight"].sum()
            if len(fair)
            else math.nan
        )

    def _fair_ablation(self) -> pd.DataFrame:
        """The intervals in which something was measured; the top examples are no fair draw."""
        return self.ablation[(self.ablation["interval"] != "top") & (self.ablation["tokens"] > 0)]

    @property
    def headline(self) -> str:
        """What it is, in one line."""
        if self.dead:
            bound = significant(self.rate_bound)
            return f"Dead here: it never fired on {self.n_tokens:,} tokens, so its rate is below {bound} (95%)."
        times = "once" if self.count == 1 else f"{self.count:,} times"
        return (
            f"Fires on {percent(self.firing_rate)} of {self.n_tokens:,} tokens ({times}), at most at {decimals(self.max_activation, 2)}; "
            f"{significant(self.firing_rate)} of a mean L0 of {significant(self.mean_l0)} ({percent(self.l0_share)})."
        )

    def sections(self) -> list[Section]:
        """The page below its headline; of a dead feature, only what its weights say."""
        if self.dead:
            return [Section("Activations", (NEVER,)), self._logits(), self._near()]
        return [
            self._activations(),
            self._top(),
            self._by_interval(),
            self._logits(),
            self._ablation(),
            self._near(),
            self._cofiring(),
            self._labels(),
        ]

    def _repr_html_(self) -> str:
        return f'<style>\n{STYLE}\n</style>\n<div class="saework-page">\n{self._body()}\n</div>'

    def __repr__(self) -> str:
        head = f"Feature {self.feature}\n{self.source}\n{self.headline}\n{self.counted}"
        link = [f"Neuronpedia: {self.neuronpedia}"] if self.neuronpedia else []
        return "\n\n".join([head, *(section.text() for section in self.sections()), *link])

    def save(self, path: str | Path) -> Path:
        """Write a self-contained HTML file: no script, nothing fetched, one plain link at most."""
        path = Path(path)
        path.write_text(
            document(f"Feature {self.feature} of {self.source}", self._body()),
            encoding="utf-8",
            errors="replace",
        )
        return path

    def _body(self) -> str:
        head = [f"<h1>Feature {self.feature}</h1>"]
        words = (("source", self.source), ("lead", self.headline), ("note", self.counted))
        head += [f'<p class="{kind}">{escape(text)}</p>' for kind, text in words]
        if self.neuronpedia:
            head.append(
                f'<p><a href="{escape(self.neuronpedia, quote=True)}" rel="noreferrer">This feature on Neuronpedia</a></p>'
            )
        return "\n".join([*head, *(section.html() for section in self.sections())])

    # ---- one section each ----

    def _activations(self) -> Section:
        edges = [*self.histogram["low"], *self.histogram["high"].tail(1)]
        labels = tuple("∞" if math.isinf(edge) else significant(edge) for edge in edges)
        decade = next(
            (i for i, edge in enumerate(edges) if edge and abs(math.log10(edge) % 1) < 1e-6), 0
        )
        counts = tuple(map(int, self.histogram["firings"]))
        bars = Bars(
            "Histogram of activations",
            "activation, four bars a decade",
            labels,
            counts,
            label_from=decade,
        )
        return Section("Activations", parts=(bars,))

    def _top(self) -> Section:
        caption = "The strongest firings. Change of loss: of the next token, in nats, when the feature is ablated (see below)."
        return Section(
            "Top examples", parts=(ExampleList(caption, (("", self.top),), self.max_activation),)
        )

    def _by_interval(self) -> Section:
        groups = []
        for interval in self.intervals:
            n = len(interval.examples)
            shown = "all" if n == interval.firings else f"{n} of"
            of = f"{shown} {interval.firings:,} firings ({percent(interval.firings / self.count)})"
            groups.append((f"{_range(interval.low, interval.high)}: {of}", interval.examples))
        caption = "A few firings of each strength, drawn by lot, so that the middle of the range is read too."
        return Section(
            "Examples by activation",
            parts=(ExampleList(caption, tuple(groups), self.max_activation),),
        )

    def _logits(self) -> Section:
        title, effect = "Direct effect on the logits", self.logits
        if effect is None:
            return Section(title, (self.missing["logits"],))
        tables = []
        for name, frame in (("Most raised", effect.raised), ("Most lowered", effect.lowered)):
            rows = tuple((row.token or "(empty)", signed(row.logit)) for row in frame.itertuples())
            tables.append(Grid(name, ("token", "logit"), rows, tokens=(0,)))
        shape = f"a skew of {decimals(effect.skew, 2)} and an excess kurtosis of {decimals(effect.kurtosis, 2)}"
        notes = (
            "One unit of the feature, by the direct path: later layers and the final norm's scale are left out.",
        )
        return Section(
            title,
            (f"Over the vocabulary the effect has {shape}.",),
            tuple(tables),
            notes,
            abreast=True,
        )

    def _ablation(self) -> Section:
        title = "Effect of ablating it"
        if not self.ablation["tokens"].sum():
            return Section(
                title,
                ("Each firing stands at the end of a row, so there is no next token to predict.",),
            )
        rows = tuple(
            (
                _interval_name(row.interval),
                percent(row.weight),
                str(row.tokens),
                signed(row.loss_change),
                percent(row.raised),
            )
            for row in self.ablation.itertuples()
        )
        columns = (
            "tokens where it fires at",
            "of all firings",
            "tokens",
            "change of loss, nats",
            "raised",
        )
        fair = self.ablation.loc[self.ablation["interval"] != "top", "tokens"].sum()
        error = self.loss_change_error
        within = "" if math.isnan(error) or not error else f" (standard error {decimals(error)})"
        rests = (
            "as measured on each of them"
            if fair == self.count
            else f"as {fair} tokens drawn by lot estimate it"
        )
        change = (
            f"the loss of the next token changes by {signed(self.mean_loss_change)} nats on average"
        )
        sentence = f"Over all its firings, {change}{within}, {rests}."
        convention = (
            "x − f·W_dec[feature] takes the place of x at every counted token of the row: the feature's own contribution goes, "
            "the SAE's error stays. Each interval weighs in by its share of the firings."
        )
        grid = Grid(
            "Mean change of the next token's loss, where the feature fires",
            columns,
            rows,
            words=(0,),
        )
        return Section(title, (sentence,), (grid,), (convention,))

    def _near(self) -> Section:
        columns = ("feature", "decoder cosine", "encoder cosine")
        cosines = lambda row: (
            str(row.feature),
            decimals(row.decoder_cosine),
            decimals(row.encoder_cosine),
        )  # noqa: E731
        own = tuple((*cosines(row), percent(row.firing_rate)) for row in self.nearest.itertuples())
        parts = [Grid("In this SAE", (*columns, "fires on"), own)]
        chance = f"A random direction's nearest decoder row would have a cosine of about {decimals(self.chance_cosine, 2)} in this SAE"
        if self.other is not None:
            rows = tuple(
                (*cosines(row), "yes" if row.mutual else "no") for row in self.other.itertuples()
            )
            parts.append(Grid(f"In {self.other_source}", (*columns, "mutual"), rows))
            chance += f", and {decimals(self.other_chance, 2)} in the other"
        notes = (f"{chance}. Listed are the nearest by decoder and by encoder.",)
        if self.other is not None:
            notes = (
                *notes,
                "Mutual: of the features of this SAE, this one's decoder row is the nearest to it, too.",
            )
        return Section("Nearest features", (), tuple(parts), notes, abreast=True)

    def _cofiring(self) -> Section:
        title, frame = "Features that fire with it", self.cofiring
        if frame is None or not len(frame):
            return Section(
                title,
                (
                    self.missing.get(
                        "cofiring", "No other feature fires more often where it fires."
                    ),
                ),
            )
        rows = tuple(
            (str(r.feature), f"{r.both:,}", percent(r.given_this), percent(r.base_rate))
            for r in frame.itertuples()
        )
        caption = "Those whose rate rises most where this feature fires"
        return Section(
            title,
            (),
            (
                Grid(
                    caption,
                    ("feature", "tokens with both", "fires, given this one", "fires anywhere"),
                    rows,
                ),
            ),
        )

    def _labels(self) -> Section:
        title = "Agreement with true labels"
        if self.labels is None:
            return Section(title, (self.missing["labels"],))
        best = self.labels.iloc[0]
        precision = f"precision {percent(best.precision)} (base rate {percent(best.base_rate)})"
        name = self.labels.index[0].replace("_", " ")
        sentence = f"The best label is “{name}”: F1 {percent(best.f1)}, {precision}, recall {percent(best.recall)}."
        rows = tuple(
            (
                r.Index.replace("_", " "),
                percent(r.precision),
                percent(r.base_rate),
                percent(r.recall),
                percent(r.f1),
                f"{r.tokens:,}",
            )
            for r in self.labels.itertuples()
        )
        columns = ("label", "precision", "base rate", "recall", "F1", "tokens with the label")
        notes = (
            "Precision: of the tokens on which the feature fires, the share that has the label. "
            "The base rate is what firing at random would get.",
        )
        return Section(
            title,
            (sentence,),
            (Grid("“It fires” as a rule for each label", columns, rows, words=(0,)),),
            notes,
        )


def _interval_name(interval) -> str:
    return "the top examples" if isinstance(interval, str) else _range(*interval)


def _range(low: float, high: float) -> str:
    if not low:
        return f"below {significant(high)}"
    return (
        f"{significant(low)} and up"
        if math.isinf(high)
        else f"{significant(low)} to {significant(high)}"
    )
