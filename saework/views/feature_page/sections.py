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
    "Firings that are not measured were left out by lot, or end a row. "
    "Standard errors take each row of text as one draw, because its firings are alike."
)
UNCLEAR = "Grey: less than two standard errors from zero, or no standard error."
ONE_ROW = "All of them stand in one row of text, so there is no standard error."
MUTUAL = "Mutual: of the features of this SAE, this one's decoder row is the nearest to it, too."
PRECISION = (
    "Precision: of the tokens on which the feature fires, the share that has the label. "
    "The base rate is what firing at random would get. Listed are labels whose precision is above "
    "it by Fisher's exact test, at 5% divided by the number of labels."
)
N_ERRORS = 2
"""Standard errors from zero that make an effect clear."""


def activations_section(histogram: pd.DataFrame, fires_on: pd.DataFrame) -> Section:
    """How strongly it fires, as a histogram, and its most frequent tokens."""
    edges = [*histogram["low"], *histogram["high"].tail(1)]
    counts = tuple(int(n) for n in histogram["firings"])
    bars = Bars(
        title="Histogram of activations",
        x_title="activation, four bars a decade",
        edges=tuple(_edge(edge) for edge in edges),
        counts=counts,
        label_from=_first_power_of_ten(edges),
    )
    rows = tuple((row.token or "(empty)", percent(row.share)) for row in fires_on.itertuples())
    caption = "Tokens on which it fires most often"
    tokens = Grid(caption, ("token", "of its firings"), rows, tokens=(0,))
    return Section("Activations", parts=(bars, tokens))


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
        firings = "one firing" if n_all == 1 else f"{shown} {n_all:,} firings"
        bounds = _bounds(interval.low, interval.high)
        heading = f"{bounds}: {firings} ({percent(n_all / count)})"
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
            _logit_bars(effect.histogram),
            _token_grid("Most raised", effect.raised),
            _token_grid("Most lowered", effect.lowered),
        ),
        notes=(DIRECT_PATH,),
        abreast=True,
    )


def _logit_bars(histogram: pd.DataFrame) -> Bars:
    """The effect over the vocabulary; zero is an edge, so a bar is on one side of it."""
    edges = [*histogram["low"], *histogram["high"].tail(1)]
    n_below = int((histogram["high"] <= 0).sum())
    return Bars(
        title="Histogram of the effect over the vocabulary",
        x_title="change of a token's logit by one unit of the feature",
        edges=tuple(significant(edge) for edge in edges),
        counts=tuple(int(n) for n in histogram["tokens"]),
        heading=("from", "tokens"),
        n_below=n_below,
        label_from=n_below,
    )


def _token_grid(caption: str, frame: pd.DataFrame) -> Grid:
    rows = tuple(
        (token or "(empty)", signed(logit)) for token, logit in zip(frame["token"], frame["logit"])
    )
    return Grid(caption, ("token", "logit"), rows, tokens=(0,))


def ablation_section(table: pd.DataFrame, n_firings: int, count: int) -> Section:
    """What it costs to take the feature out.

    Args:
        table: as ``FeaturePage.ablation``.
        n_firings: all firings from which those of the table were drawn.
        count: the firings that the scan counted.
    """
    title = "Effect of ablating it"
    if not table["tokens"].sum():
        return Section(title, (NO_NEXT_TOKEN,))
    rows = tuple(
        (
            _interval_name(row.interval),
            percent(row.weight),
            f"{row.tokens:,}",
            signed(row.loss_change),
            decimals(row.standard_error),
            percent(row.raised),
        )
        for row in table.itertuples()
    )
    unclear = [
        number
        for number, row in enumerate(table.itertuples())
        if row.interval != "top" and not is_clear(row.loss_change, row.standard_error)
    ]
    grid = Grid(
        "Mean change of the next token's loss, where the feature fires",
        (
            "tokens where it fires at",
            "of all firings",
            "tokens",
            "change of loss, nats",
            "standard error",
            "raised",
        ),
        rows,
        words=(0,),
        faint=tuple(unclear),
    )
    notes = [ABLATION_CONVENTION]
    if unclear:
        notes.append(UNCLEAR)
    if n_firings != count:
        notes.append(f"The scan counted {count:,} firings, and the tokens read here {n_firings:,}.")
    return Section(title, _effect_sentences(table, n_firings), (grid,), tuple(notes))


def _effect_sentences(table: pd.DataFrame, n_firings: int) -> tuple[str, ...]:
    """The effect over all firings, and whether it can be told from zero."""
    everywhere = table.iloc[0]
    n = int(everywhere["tokens"])
    mean, error = everywhere["loss_change"], everywhere["standard_error"]
    firings = f"{n:,} of its {n_firings:,} firings"
    if n == n_firings:
        firings = "its only firing" if n == 1 else f"all its {n:,} firings"
    if not n:
        return (NO_NEXT_TOKEN,)
    of_error = "" if math.isnan(error) else f" (standard error {decimals(error)}, n = {n:,})"
    change = f"the loss of the next token changes by {signed(mean)} nats on average{of_error}"
    if n == 1:
        change = f"the loss of the next token changes by {signed(mean)} nats"
    sentence = f"Over {firings}, {change}."
    if math.isnan(error):
        return (sentence,) if n == 1 else (sentence, ONE_ROW)
    if not is_clear(mean, error):
        return (sentence, "That is less than two standard errors: it may as well be zero.")
    return (sentence,)


def is_clear(mean: float, standard_error: float) -> bool:
    """Whether a mean is two standard errors or more from zero; False if the error is not known."""
    return abs(mean) >= N_ERRORS * standard_error


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
    parts = [Grid("In this SAE", (*columns, "fires on"), own_rows, of_features=True)]
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
    return Section(title, parts=(Grid(caption, columns, rows, of_features=True),))


def labels_section(frame: pd.DataFrame | None, missing: str) -> Section:
    """How well its firing agrees with each label, or why that is not known."""
    title = "Agreement with true labels"
    if frame is None:
        return Section(title, (missing,))
    above = frame[frame["beats_base_rate"]]
    if not len(above):
        n_labels = f"{len(frame)} labels" if len(frame) > 1 else "one label"
        none = f"It fires no more often with a label than by chance; {n_labels} compared."
        return Section(title, (none,), notes=(PRECISION,))
    best = above.iloc[0]
    precision = f"precision {percent(best.precision)} (base rate {percent(best.base_rate)})"
    scores = f"F1 {percent(best.f1)}, {precision}, recall {percent(best.recall)}"
    sentence = f"The best label is “{label_name(above.index[0])}”: {scores}."
    rows = tuple(
        (
            label_name(row.Index),
            percent(row.precision),
            percent(row.base_rate),
            percent(row.recall),
            percent(row.f1),
            f"{row.tokens:,}",
        )
        for row in above.itertuples()
    )
    columns = ("label", "precision", "base rate", "recall", "F1", "tokens with the label")
    grid = Grid("“It fires” as a rule for each label", columns, rows, words=(0,))
    return Section(title, (sentence,), (grid,), (PRECISION,))


def label_name(name: str) -> str:
    """A label's name in words."""
    return name.replace("_", " ")


def _interval_name(interval: str | tuple[float, float]) -> str:
    names = {"all": "any strength", "top": "the top examples"}
    return names[interval] if isinstance(interval, str) else _bounds(*interval)


def _bounds(low: float, high: float) -> str:
    """An interval of activations in words."""
    if not low:
        return f"below {significant(high)}"
    if math.isinf(high):
        return f"{significant(low)} and up"
    return f"{significant(low)} to {significant(high)}"
