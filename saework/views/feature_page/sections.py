"""The sections of a page: numbers to sentences, tables and charts."""

from __future__ import annotations

import math

import pandas as pd

from saework.views.feature_page.parts import (
    Bars,
    ExampleGroup,
    ExampleList,
    Grid,
    Section,
    decimals,
    percent,
    signed,
)
from saework.views.feature_page.results import Example, Interval, LogitEffect
from saework.views.tables import significant

NEVER_FIRED = "It never fired in these tokens, so there is nothing to show."
TOP_CAPTION = (
    "The strongest firings. Change of loss: of the next token, in nats, "
    "when the feature is ablated (see below)."
)
INTERVAL_CAPTION = (
    "A few firings of each strength, drawn by lot, so that the middle of the range is read too."
)
DIRECT_PATH = (
    "One unit of the feature, by the direct path: "
    "later layers and the final norm's scale are left out."
)
NO_NEXT_TOKEN = "Each firing stands at the end of a row, so there is no next token to predict."
ABLATION_CONVENTION = (
    "x − f·W_dec[feature] takes the place of x at every counted token of the row: "
    "the feature's own contribution goes, the SAE's error stays. "
    "Each interval weighs in by its share of the firings."
)
MUTUAL = "Mutual: of the features of this SAE, this one's decoder row is the nearest to it, too."
PRECISION = (
    "Precision: of the tokens on which the feature fires, the share that has the label. "
    "The base rate is what firing at random would get."
)


def activations_section(histogram: pd.DataFrame) -> Section:
    """How strongly it fires, as a histogram."""
    edges = [*histogram["low"], *histogram["high"].tail(1)]
    counts = tuple(int(n) for n in histogram["firings"])
    bars = Bars(
        title="Histogram of activations",
        x_title="activation, four bars a decade",
        edges=tuple(_edge(edge) for edge in edges),
        counts=counts,
        label_from=_first_power_of_ten(edges),
    )
    return Section("Activations", parts=(bars,))


def _edge(edge: float) -> str:
    return "∞" if math.isinf(edge) else significant(edge)


def _first_power_of_ten(edges: list[float]) -> int:
    """The index of the first edge that is a power of ten; 0 if none is."""
    for i, edge in enumerate(edges):
        if edge and abs(math.log10(edge) % 1) < 1e-6:
            return i
    return 0


def dead_section() -> Section:
    """What stands in place of the activations of a feature that is dead here."""
    return Section("Activations", (NEVER_FIRED,))


def top_section(examples: tuple[Example, ...], max_activation: float) -> Section:
    """The strongest firings in their contexts."""
    shown = ExampleList(TOP_CAPTION, (ExampleGroup("", examples),), max_activation)
    return Section("Top examples", parts=(shown,))


def interval_section(intervals: tuple[Interval, ...], count: int, max_activation: float) -> Section:
    """A few firings of each strength.

    Args:
        count: all firings of the feature.
        max_activation: what the strongest colour stands for.
    """
    groups = []
    for interval in intervals:
        n_shown, n_all = len(interval.examples), interval.firings
        shown = "all" if n_shown == n_all else f"{n_shown} of"
        bounds = _bounds(interval.low, interval.high)
        heading = f"{bounds}: {shown} {n_all:,} firings ({percent(n_all / count)})"
        groups.append(ExampleGroup(heading, interval.examples))
    examples = ExampleList(INTERVAL_CAPTION, tuple(groups), max_activation)
    return Section("Examples by activation", parts=(examples,))


def logits_section(effect: LogitEffect | None, missing: str) -> Section:
    """The tokens that it raises and lowers most, or why there are none."""
    title = "Direct effect on the logits"
    if effect is None:
        return Section(title, (missing,))
    skew, kurtosis = decimals(effect.skew, 2), decimals(effect.kurtosis, 2)
    shape = f"a skew of {skew} and an excess kurtosis of {kurtosis}"
    return Section(
        title,
        sentences=(f"Over the vocabulary the effect has {shape}.",),
        parts=(
            _token_grid("Most raised", effect.raised),
            _token_grid("Most lowered", effect.lowered),
        ),
        notes=(DIRECT_PATH,),
        abreast=True,
    )


def _token_grid(caption: str, frame: pd.DataFrame) -> Grid:
    rows = tuple(
        (token or "(empty)", signed(logit)) for token, logit in zip(frame["token"], frame["logit"])
    )
    return Grid(caption, ("token", "logit"), rows, tokens=(0,))


def ablation_section(
    table: pd.DataFrame, mean: float, standard_error: float, count: int
) -> Section:
    """What it costs to take the feature out.

    Args:
        table: as ``FeaturePage.ablation``.
        mean: change of loss over all firings, nats.
        standard_error: of the mean; NaN if it is unknown.
        count: all firings of the feature.
    """
    title = "Effect of ablating it"
    if not table["tokens"].sum():
        return Section(title, (NO_NEXT_TOKEN,))
    rows = tuple(
        (
            _interval_name(row.interval),
            percent(row.weight),
            str(row.tokens),
            signed(row.loss_change),
            percent(row.raised),
        )
        for row in table.itertuples()
    )
    grid = Grid(
        "Mean change of the next token's loss, where the feature fires",
        ("tokens where it fires at", "of all firings", "tokens", "change of loss, nats", "raised"),
        rows,
        words=(0,),
    )
    n_sampled = table.loc[table["interval"] != "top", "tokens"].sum()
    measured_all = n_sampled == count
    basis = (
        "measured on each of them"
        if measured_all
        else f"{n_sampled} tokens drawn by lot estimate it"
    )
    has_error = not math.isnan(standard_error) and standard_error != 0
    error = f" (standard error {decimals(standard_error)})" if has_error else ""
    change = f"the loss of the next token changes by {signed(mean)} nats on average"
    sentence = f"Over all its firings, {change}{error}, as {basis}."
    return Section(title, (sentence,), (grid,), (ABLATION_CONVENTION,))


def nearest_section(
    own: pd.DataFrame,
    chance_cosine: float,
    other: pd.DataFrame | None,
    other_source: str,
    other_chance: float,
) -> Section:
    """The nearest features of this SAE, and of another if there is one."""
    columns = ("feature", "decoder cosine", "encoder cosine")
    own_rows = tuple((*_cosines(row), percent(row.firing_rate)) for row in own.itertuples())
    parts = [Grid("In this SAE", (*columns, "fires on"), own_rows)]
    cosine = decimals(chance_cosine, 2)
    chance = (
        "A random direction's nearest decoder row would have "
        f"a cosine of about {cosine} in this SAE"
    )
    notes = []
    if other is not None:
        other_rows = tuple(
            (*_cosines(row), "yes" if row.mutual else "no") for row in other.itertuples()
        )
        parts.append(Grid(f"In {other_source}", (*columns, "mutual"), other_rows))
        chance += f", and {decimals(other_chance, 2)} in the other"
        notes.append(MUTUAL)
    notes.insert(0, f"{chance}. Listed are the nearest by decoder and by encoder.")
    return Section("Nearest features", (), tuple(parts), tuple(notes), abreast=True)


def _cosines(row) -> tuple[str, str, str]:
    return str(row.feature), decimals(row.decoder_cosine), decimals(row.encoder_cosine)


def cofiring_section(frame: pd.DataFrame | None, missing: str) -> Section:
    """The features whose rate rises most where it fires, or why there are none."""
    title = "Features that fire with it"
    if frame is None:
        return Section(title, (missing,))
    if not len(frame):
        return Section(title, ("No other feature fires more often where it fires.",))
    rows = tuple(
        (str(row.feature), f"{row.both:,}", percent(row.given_this), percent(row.base_rate))
        for row in frame.itertuples()
    )
    caption = "Those whose rate rises most where this feature fires"
    columns = ("feature", "tokens with both", "fires, given this one", "fires anywhere")
    return Section(title, parts=(Grid(caption, columns, rows),))


def labels_section(frame: pd.DataFrame | None, missing: str) -> Section:
    """How well its firing agrees with each label, or why that is not known."""
    title = "Agreement with true labels"
    if frame is None:
        return Section(title, (missing,))
    best = frame.iloc[0]
    precision = f"precision {percent(best.precision)} (base rate {percent(best.base_rate)})"
    scores = f"F1 {percent(best.f1)}, {precision}, recall {percent(best.recall)}"
    sentence = f"The best label is “{label_name(frame.index[0])}”: {scores}."
    rows = tuple(
        (
            label_name(row.Index),
            percent(row.precision),
            percent(row.base_rate),
            percent(row.recall),
            percent(row.f1),
            f"{row.tokens:,}",
        )
        for row in frame.itertuples()
    )
    columns = ("label", "precision", "base rate", "recall", "F1", "tokens with the label")
    grid = Grid("“It fires” as a rule for each label", columns, rows, words=(0,))
    return Section(title, (sentence,), (grid,), (PRECISION,))


def label_name(name: str) -> str:
    """A label's name in words."""
    return name.replace("_", " ")


def _interval_name(interval: str | tuple[float, float]) -> str:
    return "the top examples" if isinstance(interval, str) else _bounds(*interval)


def _bounds(low: float, high: float) -> str:
    """An interval of activations in words."""
    if not low:
        return f"below {significant(high)}"
    if math.isinf(high):
        return f"{significant(low)} and up"
    return f"{significant(low)} to {significant(high)}"
