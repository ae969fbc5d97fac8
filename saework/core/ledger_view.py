"""A ledger as text and as HTML: published claims first, then what this project recorded.

A recorded value says that the package still gives the number that it gave before. It reproduces
nothing, so it stands apart, folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from saework.core.claims import (
    CHANGED,
    DIFFERS,
    FLOAT32,
    HOLDS,
    NOT_COMPARABLE,
    NOT_RUN,
    UNCHANGED,
    Entry,
    has_words,
)
from saework.core.claims import (
    as_text as value_text,
)

SIGNS = {
    HOLDS: "✓",
    DIFFERS: "✗",
    UNCHANGED: "=",
    CHANGED: "✗",
    NOT_RUN: "–",
    NOT_COMPARABLE: "?",
}
WIDEST = {"verdict": 16, "claim": 34, "value": 13}  # characters; four columns make 80


def summary(entries: Sequence[Entry]) -> str:
    """Both counts in one line."""
    published, recorded = _by_kind(entries)
    parts = []
    if published:
        parts.append(_published_heading(published))
    if recorded:
        parts.append(_recorded_heading(recorded))
    return "; ".join(parts) or "no claims"


def as_text(entries: Sequence[Entry], *, verbose: bool) -> str:
    """Both tables, at most 80 columns wide unless verbose.

    Args:
        entries: the claims with their verdicts.
        verbose: also each claim's details, and the recorded values that are unchanged.
    """
    published, recorded = _by_kind(entries)
    lines = []
    if published:
        lines += [_published_heading(published)]
        lines += _rows(published, "published", verbose)
    if recorded:
        lines += ["", _recorded_heading(recorded)] if published else [_recorded_heading(recorded)]
        shown = [entry for entry in recorded if verbose or entry.verdict != UNCHANGED]
        lines += _rows(shown, "recorded", verbose)
    return "\n".join(lines) or "no claims"


def as_html(entries: Sequence[Entry]) -> str:
    """Both tables; the recorded one is folded unless one of its values has changed."""
    published, recorded = _by_kind(entries)
    parts = []
    if published:
        parts.append(f"<p><strong>{escape(_published_heading(published))}</strong></p>")
        parts.append(_table(published, "published"))
    if recorded:
        has_changed = any(entry.verdict == CHANGED for entry in recorded)
        opened = " open" if has_changed else ""
        heading = escape(_recorded_heading(recorded))
        table = _table(recorded, "recorded")
        parts.append(f"<details{opened}><summary>{heading}</summary>{table}</details>")
    return "".join(parts) or "<p>no claims</p>"


def _by_kind(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    published = [entry for entry in entries if not entry.claim.is_recorded]
    recorded = [entry for entry in entries if entry.claim.is_recorded]
    return published, recorded


def _published_heading(entries: Sequence[Entry]) -> str:
    verdicts = [entry.verdict for entry in entries]
    n_hold, n_differ = verdicts.count(HOLDS), verdicts.count(DIFFERS)
    n_run = n_hold + n_differ
    heading = f"Published: {n_run} of {len(entries)} run here"
    if n_run:
        outcome = f"{n_hold} hold, {n_differ} differ" if n_differ else "all hold"
        heading += f", {outcome}"
        dtypes = dict.fromkeys(entry.dtype for entry in entries if entry.dtype != FLOAT32)
        if dtypes:
            heading += f" (in {', '.join(dtypes)}, within its rounding)"
    # in the order of the ledger, each once
    missing = dict.fromkeys(entry.claim.tier for entry in entries if entry.verdict == NOT_RUN)
    if missing:
        releases = ", ".join(missing)
        heading += f". For the others: saework reproduce {releases}"
    return heading


def _recorded_heading(entries: Sequence[Entry]) -> str:
    verdicts = [entry.verdict for entry in entries]
    heading = f"Recorded: {verdicts.count(UNCHANGED)} of {len(entries)} unchanged"
    n_not_run = verdicts.count(NOT_RUN)
    return f"{heading}, {n_not_run} not run" if n_not_run else heading


def _rows(entries: Sequence[Entry], kind: str, verbose: bool) -> list[str]:
    if not entries:
        return []
    rows = [("verdict", "claim", kind, "measured")]
    for entry in entries:
        claim = entry.claim
        measured = value_text(entry.measured, tolerance=claim.tolerance)
        rows.append((_verdict(entry), claim.id, value_text(claim.value), measured))
    limits = (WIDEST["verdict"], WIDEST["claim"], WIDEST["value"], WIDEST["value"])
    cut = [tuple(map(_shortened, row, limits)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut)]
    lines = []
    for row in cut:
        padded = map(str.ljust, row, widths)
        lines.append(" ".join(padded).rstrip())
    if verbose:
        headings, *table = lines
        details = [f"    {_details(entry)}" for entry in entries]
        lines = [headings, *(line for pair in zip(table, details) for line in pair)]
    return lines


def _details(entry: Entry) -> str:
    """Tolerance, unit, note and source, as one line; and a long name in full."""
    claim = entry.claim
    name = claim.id if len(claim.id) > WIDEST["claim"] else ""
    parts = [name, f"tolerance {_tolerance(entry)}", claim.unit, entry.note, claim.source]
    return "; ".join(part for part in parts if part)


def _tolerance(entry: Entry) -> str:
    claim = entry.claim
    return "equal" if has_words(claim.value) else value_text(entry.tolerance)


def _verdict(entry: Entry) -> str:
    return f"{SIGNS[entry.verdict]} {entry.verdict}"


def _shortened(text: str, widest: int) -> str:
    return text if len(text) <= widest else text[: widest - 1] + "…"


def _table(entries: Sequence[Entry], kind: str) -> str:
    names = ("verdict", "claim", kind, "measured", "tolerance", "unit", "note", "source")
    headings = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for entry in entries:
        claim = entry.claim
        texts = (
            _verdict(entry),
            claim.id,
            value_text(claim.value),
            value_text(entry.measured, tolerance=claim.tolerance),
            _tolerance(entry),
            claim.unit,
            entry.note,
            claim.source,
        )
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        rows.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
