"""The parts of a page: a table, bars, examples in context, sections.

Each part prints itself as text. ``templates/parts.html`` has a macro of the same ``kind`` for HTML.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, NamedTuple

from saework.core.tokens import visible
from saework.views.feature_page.results import Example
from saework.views.heatmap import token_heatmap
from saework.views.heatmap_markup import adaptive
from saework.views.tables import significant

DIGIT_PX = 7
MIN_BAR_PX = 1.0
WIDE_COLUMNS = 4
PHONE_LABELS = 3
"""Of so many labels at the axis, a phone has room for one."""
MOST_LABELLED_BARS = 10
"""With more bars, only every second edge has room for a label."""
LONGEST_TEXT_BAR = 30


@dataclass(frozen=True)
class Grid:
    """A table of words and numbers that are already text. The first column names the row."""

    kind: ClassVar[str] = "grid"

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    """Columns of words, set to the left."""
    tokens: tuple[int, ...] = ()
    """Columns of tokens, in a font for code."""
    faint: tuple[int, ...] = ()
    """Rows that are set in grey, because their number may as well be zero."""
    of_features: bool = False
    """Whether the first column has features of this SAE, to which there may be links."""

    @property
    def is_wide(self) -> bool:
        """Whether it may be wider than a phone, and so must be scrolled, by keyboard too."""
        return len(self.columns) >= WIDE_COLUMNS

    def column_class(self, column: int) -> str:
        """The CSS class of a column's cells; empty for numbers."""
        if column in self.tokens:
            return "token"
        return "left" if column in self.words else ""

    def text(self) -> str:
        """Aligned columns, words to the left and numbers to the right."""
        aligned = []
        for number, cells in enumerate(zip(self.columns, *self.rows)):
            width = max(map(len, cells))
            align = str.ljust if self.column_class(number) else str.rjust
            aligned.append([align(cell, width) for cell in cells])
        lines = [self.caption]
        for cells in zip(*aligned):
            line = "  ".join(cells)
            lines.append(f"  {line.rstrip()}")
        return "\n".join(lines)


class Bin(NamedTuple):
    """One bin of a histogram, its edges in words."""

    low: str
    high: str
    n: int


class DrawnBar(NamedTuple):
    """A bar of a chart, in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float
    n: int
    is_below: bool
    """Whether the bar stands for values below zero."""
    number_x: float
    number_y: float
    has_number: bool
    is_highest: bool


class Tick(NamedTuple):
    """A label below the axis of a chart."""

    x: float
    anchor: str
    """SVG's ``text-anchor``."""
    label: str
    is_shown_on_phones: bool
    """Every third one: letters are larger there."""


@dataclass(frozen=True)
class Bars:
    """A histogram: counts between edges that stand equally far apart."""

    kind: ClassVar[str] = "bars"
    # Pixels of the chart; ``top`` and ``base`` are where the highest bar and all bars end.
    width: ClassVar[int] = 640
    height: ClassVar[int] = 190
    margin: ClassVar[int] = 8
    top: ClassVar[int] = 22
    base: ClassVar[int] = 150

    title: str
    """What a reader who cannot see it hears first."""
    x_title: str
    edges: tuple[str, ...]
    """One more than counts."""
    counts: tuple[int, ...]
    heading: tuple[str, str] = ("from", "firings")
    label_from: int = 0
    """The first edge with a label. Every second one has one, or all if there are few bars."""
    n_below: int = 0
    """The first bars, which stand for values below zero."""

    @property
    def _step(self) -> float:
        """Pixels from one bar to the next."""
        room = self.width - 2 * self.margin
        return room / len(self.counts)

    def drawn(self) -> list[DrawnBar]:
        """The bars, each with its number where there is room. The highest always has one."""
        step = self._step
        highest = max(self.counts)
        widest_number = f"{highest:,}"
        widest_px = DIGIT_PX * len(widest_number)
        bars = []
        for i, count in enumerate(self.counts):
            x = self.margin + i * step
            # The few of a long tail must be seen, too.
            height = max((self.base - self.top) * count / highest, MIN_BAR_PX)
            y = self.base - height
            bar = DrawnBar(
                x=x + 0.5,
                y=y,
                width=step - 1,
                height=height,
                n=count,
                is_below=i < self.n_below,
                number_x=x + step / 2,
                number_y=y - 4,
                has_number=count == highest or step >= widest_px,
                is_highest=count == highest,
            )
            bars.append(bar)
        return bars

    def ticks(self) -> list[Tick]:
        """The labels of the edges."""
        last = len(self.counts)
        every = 1 if last <= MOST_LABELLED_BARS else 2
        first = self.label_from % every
        ticks = []
        for i in range(first, last + 1, every):
            # Labels of the outer edges stay inside the chart.
            anchor = "middle"
            if i == 0:
                anchor = "start"
            elif i == last:
                anchor = "end"
            x = self.margin + i * self._step
            number = (i - self.label_from) // every
            ticks.append(Tick(x, anchor, self.edges[i], number % PHONE_LABELS == 0))
        return ticks

    def spoken(self) -> str:
        """The chart in one sentence, for a reader who cannot see it."""
        n_bars = len(self.counts)
        span = f"{self.x_title} from {self.edges[0]} to {self.edges[-1]}"
        highest = max(self._bins(), key=attrgetter("n"))
        place = f"{highest.low} to {highest.high}"
        return f"{self.title}: {n_bars} bars, {span}; the highest, {place}, holds {highest.n}."

    def grid(self) -> Grid:
        """The same numbers as a table."""
        first, last = self.heading
        columns = (first, "to", last)
        rows = []
        for bin_ in self._bins():
            rows.append((bin_.low, bin_.high, f"{bin_.n:,}"))
        return Grid(self.title, columns, tuple(rows))

    def text(self) -> str:
        """One line per bin: a bar of block signs, and the count."""
        highest = max(self.counts, default=0) or 1
        width = max(map(len, self.edges))
        lines = [f"{self.title} ({self.x_title})"]
        for bin_ in self._bins():
            low = bin_.low.rjust(width)
            high = bin_.high.rjust(width)
            length = math.ceil(LONGEST_TEXT_BAR * bin_.n / highest)
            bar = "█" * length
            padded_bar = bar.ljust(LONGEST_TEXT_BAR)
            lines.append(f"  {low} to {high}  {padded_bar}  {bin_.n}")
        return "\n".join(lines)

    def _bins(self) -> list[Bin]:
        highs = self.edges[1:]
        return [Bin(*values) for values in zip(self.edges, highs, self.counts)]


class ExampleGroup(NamedTuple):
    """Examples under one heading, which may be empty."""

    heading: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class ExampleList:
    """Examples in groups, each with a heatmap of its context, all on one scale."""

    kind: ClassVar[str] = "examples"

    caption: str
    groups: tuple[ExampleGroup, ...]
    max_value: float

    @property
    def scale_end(self) -> str:
        """What the strongest colour stands for."""
        return decimals(self.max_value, 2)

    def numbers(self, example: Example) -> tuple[str, str]:
        """Activation, and change of loss."""
        return decimals(example.activation, 2), signed(example.loss_change)

    def heatmap(self, example: Example) -> str:
        """The context as HTML, escaped by ``token_heatmap``. Line ends are shown, not followed."""
        heatmap = token_heatmap(
            [visible(string) for string in example.strings],
            example.values,
            max_value=self.max_value,
            mark=example.at,
        )
        return adaptive(heatmap.html(style=False, legend=False))

    def text(self) -> str:
        """One line per example: activation, change of loss, context."""
        columns = "activation, change of loss (nats), before|token|after (row/position)"
        lines = [self.caption, columns]
        for group in self.groups:
            if group.heading:
                lines.append(group.heading)
            lines.extend(map(self._line, group.examples))
        return "\n".join(lines)

    def _line(self, example: Example) -> str:
        activation, change = self.numbers(example)
        cells = [
            activation.rjust(8),
            change.rjust(7),
            example.context,
            f"({example.row}/{example.pos})",
        ]
        line = "  ".join(cells)
        return f"  {line}"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and parts below them."""

    title: str
    sentences: tuple[str, ...] = ()
    parts: tuple[Grid | Bars | ExampleList, ...] = ()
    notes: tuple[str, ...] = ()
    """How it was counted, in small print below the parts."""
    abreast: bool = False
    """Whether parts may stand side by side."""

    def text(self) -> str:
        """The section in plain text."""
        lines = [self.title.upper()]
        lines.extend(self.sentences)
        lines.extend(part.text() for part in self.parts)
        lines.extend(self.notes)
        return "\n".join(lines)


def signed(value: float, digits: int = 3) -> str:
    """Three decimals with a sign; ``–`` for a missing value; never ``-0.000``."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text


def decimals(value: float, digits: int = 3) -> str:
    """That many decimals, never ``-0.000``; ``–`` for a missing value."""
    return signed(value, digits).removeprefix("+")


def percent(share: float) -> str:
    """A share in per cent, three significant digits; ``–`` for a missing value."""
    if math.isnan(share):
        return "–"
    return f"{significant(100 * share)}%"
