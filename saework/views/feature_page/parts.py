"""The parts of a page: a table, bars, examples in context; each as HTML that needs no script, and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from saework.core.tokens import visible
from saework.views.heatmap import token_heatmap
from saework.views.heatmap_markup import POSITIVE, STRONGEST
from saework.views.tables import significant

WIDTH, HEIGHT, LEFT, BASE, TOP = 640, 190, 8, 150, 22
FEW = 10  # bars that have room for a label at each edge


@dataclass(frozen=True)
class Grid:
    """A table of words and numbers that are already text. The first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    """Columns of words, set to the left."""
    tokens: tuple[int, ...] = ()
    """Columns of tokens, in a font for code."""

    def html(self) -> str:
        """A table with a caption, and headings that say what they head."""
        head = "".join(
            f'<th scope="col"{self._class(i)}>{escape(name)}</th>'
            for i, name in enumerate(self.columns)
        )
        rows = "\n".join(
            f"<tr>{''.join(self._cell(i, cell) for i, cell in enumerate(row))}</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>\n"
        return (
            f"<table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
        )

    def _class(self, i: int) -> str:
        return _class("token" if i in self.tokens else "left" if i in self.words else "")

    def _cell(self, i: int, cell: str) -> str:
        tag = '<th scope="row"{}>{}</th>' if i == 0 else "<td{}>{}</td>"
        return tag.format(self._class(i), escape(cell))

    def text(self) -> str:
        """Columns in line, words to the left and numbers to the right."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        left = {*self.words, *self.tokens}
        pad = lambda i, cell: cell.ljust(widths[i]) if i in left else cell.rjust(widths[i])  # noqa: E731
        return "\n".join(
            [
                self.caption,
                *(
                    "  " + "  ".join(pad(i, cell) for i, cell in enumerate(line)).rstrip()
                    for line in lines
                ),
            ]
        )


@dataclass(frozen=True)
class Bars:
    """A histogram: counts between edges that stand equally far apart."""

    title: str
    """What a reader who cannot see it hears first."""
    x_title: str
    edges: tuple[str, ...]
    """One more than counts."""
    counts: tuple[int, ...]
    heading: tuple[str, str] = ("from", "firings")
    label_from: int = 0
    """The first edge to be labelled, where every second one is; with few bars, all are."""

    def html(self) -> str:
        """Inline SVG, and the same numbers as a table that opens."""
        axis = f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{BASE}" y2="{BASE}" stroke="currentColor" stroke-opacity=".5"/>'
        name = f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(self.x_title)}</text>'
        drawn = f"{self._drawn()}{axis}{''.join(map(self._tick, range(len(self.edges))))}{name}"
        spoken = escape(self._spoken(), quote=True)
        picture = (
            f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{spoken}">{drawn}</svg>'
        )
        return (
            f"{picture}\n<details><summary>The numbers</summary>\n{self._grid().html()}\n</details>"
        )

    def _drawn(self) -> str:
        """The bars, each with its number where there is room; the highest always."""
        step, highest = self._step(), max(self.counts)
        room = step >= 7 * len(f"{highest:,}")
        bars, numbers = [], []
        for i, count in enumerate(self.counts):
            tall = (BASE - TOP) * count / highest
            x, y = LEFT + i * step, BASE - tall
            bars.append(
                f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" height="{tall:.1f}"/>'
                if count
                else ""
            )
            if room or count == highest:
                numbers.append(
                    f'<text x="{x + step / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>'
                )
        return f'<g fill="rgb({POSITIVE})">{"".join(bars)}</g>{"".join(numbers)}'

    def _step(self) -> float:
        return (WIDTH - 2 * LEFT) / len(self.counts)

    def _tick(self, i: int) -> str:
        if len(self.counts) > FEW and i % 2 != self.label_from % 2:
            return ""
        anchor = "start" if i == 0 else "end" if i == len(self.counts) else "middle"
        return f'<text x="{LEFT + i * self._step():.1f}" y="{BASE + 15}" text-anchor="{anchor}">{escape(self.edges[i])}</text>'

    def text(self) -> str:
        """A bar of signs a bin, with its count."""
        highest = max(self.counts, default=0) or 1
        width = max(len(edge) for edge in self.edges)
        return "\n".join(
            [f"{self.title} ({self.x_title})"]
            + [
                f"  {low.rjust(width)} to {high.rjust(width)}  {'█' * math.ceil(30 * n / highest):30}  {n}"
                for low, high, n in self._bins()
            ]
        )

    def _bins(self) -> list[tuple[str, str, int]]:
        return list(zip(self.edges, self.edges[1:], self.counts))

    def _spoken(self) -> str:
        low, high, most = max(self._bins(), key=lambda each: each[2])
        span = f"{self.x_title} from {self.edges[0]} to {self.edges[-1]}"
        return f"{self.title}: {len(self.counts)} bars, {span}; the highest, {low} to {high}, holds {most}."

    def _grid(self) -> Grid:
        rows = tuple((low, high, f"{n:,}") for low, high, n in self._bins())
        return Grid(self.title, (self.heading[0], "to", self.heading[1]), rows)


@dataclass(frozen=True)
class Example:
    """A place where the feature fires, in its context."""

    strings: tuple[str, ...]
    """Tokens around it, as they came."""
    values: tuple[float, ...]
    """The feature's activation on each."""
    at: int
    """Which of them is the example."""
    activation: float
    loss_change: float
    """Nats, by which ablating the feature raises the loss of the next token; NaN where the row ends."""
    row: int
    pos: int

    @property
    def token(self) -> str:
        """The token itself, visible."""
        return visible(self.strings[self.at])

    @property
    def context(self) -> str:
        """``before|token|after``, visible."""
        shown = list(map(visible, self.strings))
        return "".join([*shown[: self.at], "|", shown[self.at], "|", *shown[self.at + 1 :]])


@dataclass(frozen=True)
class ExampleList:
    """Examples in groups, each with a heatmap of its context, all on one scale."""

    caption: str
    groups: tuple[tuple[str, tuple[Example, ...]], ...]
    """A heading (none if empty) and its examples."""
    max_value: float

    def html(self) -> str:
        """A table: the token, its activation, what ablation does to the next token's loss, the context."""
        widths = "".join(
            f'<col class="{name}">' for name in ("of-token", "of-number", "of-number", "of-context")
        )
        names = (
            ("token", "token"),
            ("activation", ""),
            ("change of loss", ""),
            ("context", "left"),
        )
        head = "".join(f'<th scope="col"{_class(kind)}>{name}</th>' for name, kind in names)
        groups = "\n".join(self._group(*group) for group in self.groups)
        caption = f"<caption>{escape(self.caption)} {self._scale()}</caption>"
        return f'<table class="examples">\n{caption}\n<colgroup>{widths}</colgroup>\n<thead><tr>{head}</tr></thead>\n{groups}\n</table>'

    def _scale(self) -> str:
        style = f"background-color:rgba({POSITIVE},{STRONGEST});border-radius:3px;padding:0 .3em"
        return f'Colour: from 0 to <span style="{style}">{decimals(self.max_value, 2)}</span>.'

    def _group(self, heading: str, examples: tuple[Example, ...]) -> str:
        head = (
            f'<tr class="group"><th scope="rowgroup" colspan="4">{escape(heading)}</th></tr>\n'
            if heading
            else ""
        )
        rows = "\n".join(map(self._row, examples))
        return f"<tbody>\n{head}{rows}\n</tbody>"

    def _row(self, example: Example) -> str:
        strings = list(map(visible, example.strings))  # line ends are shown, and not followed
        heatmap = token_heatmap(
            strings, example.values, max_value=self.max_value, mark=example.at
        ).html(style=False, legend=False)
        place = f"row {example.row}, position {example.pos}"
        return (
            f'<tr title="{place}"><th scope="row" class="token">{escape(example.token)}</th><td>{decimals(example.activation, 2)}</td>'
            f'<td>{signed(example.loss_change)}</td><td class="context">{heatmap}</td></tr>'
        )

    def text(self) -> str:
        """A line an example: activation, change of loss, context."""
        lines = [
            self.caption,
            "activation, change of loss (nats), before|token|after (row/position)",
        ]
        for heading, examples in self.groups:
            lines += [heading] if heading else []
            lines += [
                f"  {decimals(e.activation, 2):>8}  {signed(e.loss_change):>7}  {e.context}  ({e.row}/{e.pos})"
                for e in examples
            ]
        return "\n".join(lines)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def signed(value: float, digits: int = 3) -> str:
    """Three decimals with a sign; ``–`` for what is not there; never ``-0.000``."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def decimals(value: float, digits: int = 3) -> str:
    """So many decimals, never ``-0.000``; ``–`` for what is not there."""
    return signed(value, digits).removeprefix("+")


def percent(share: float) -> str:
    """A share in per cent, three significant digits; ``–`` for what is not there."""
    return "–" if math.isnan(share) else f"{significant(100 * share)}%"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and parts below them."""

    title: str
    sentences: tuple[str, ...] = ()
    parts: tuple[Grid | Bars | ExampleList, ...] = ()
    notes: tuple[str, ...] = ()
    """How it was counted; set small below the parts."""
    abreast: bool = False
    """Whether parts may stand side by side."""

    def html(self) -> str:
        """The section, its heading of the second level."""
        parts = "\n".join(part.html() for part in self.parts)
        parts = f'<div class="pair">\n{parts}\n</div>' if self.abreast else parts
        words = [f"<p>{escape(words)}</p>" for words in self.sentences]
        notes = [f'<p class="note">{escape(words)}</p>' for words in self.notes]
        return "\n".join(
            [
                "<section>",
                f"<h2>{escape(self.title)}</h2>",
                *words,
                *filter(None, [parts]),
                *notes,
                "</section>",
            ]
        )

    def text(self) -> str:
        """The same in plain text."""
        return "\n".join(
            [
                self.title.upper(),
                *self.sentences,
                *(part.text() for part in self.parts),
                *self.notes,
            ]
        )
