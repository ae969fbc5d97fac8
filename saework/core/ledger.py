"""Published value, measured value, tolerance, verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from saework.core.errors import unknown

HOLDS, DIFFERS, NOT_RUN, NOT_COMPARABLE = "holds", "differs", "not run", "not comparable"
LEDGER_MIME = "application/vnd.saework.ledger+json"
_SIGN = {HOLDS: "✓", DIFFERS: "✗", NOT_RUN: "–", NOT_COMPARABLE: "?"}


@dataclass(frozen=True)
class Claim:
    """A number (or a list of numbers, or words) that somebody published."""

    id: str
    """Short and unique, such as ``reconstruction/loss``."""
    value: float | int | str | list
    """What was published."""
    unit: str
    """Such as ``nats per token``; empty for a pure number."""
    source: str
    """Where it was published."""
    tolerance: float
    """The largest difference that still holds, in the claim's unit; 0 asks for equality. Words are compared whole."""
    tier: str
    """The release on which it can be measured, such as ``gelu-1l``."""


@dataclass(frozen=True)
class Entry:
    """A claim, and what became of it."""

    claim: Claim
    measured: float | int | str | list | None
    verdict: str
    note: str


class Ledger:
    """Claims and their verdicts, in the order in which the claims were given.

    Args:
        claims: what was published.
        tier: the release at hand. Claims of other tiers are listed as not run, and not counted.
    """

    def __init__(self, claims: Iterable[Claim], *, tier: str):
        self.tier = tier
        self._entries: dict[tuple[str, str], Entry] = {}
        for claim in claims:
            if (claim.tier, claim.id) in self._entries:
                raise ValueError(
                    f"claim {claim.id!r} of {claim.tier!r} is given twice; give each claim of a tier an id of its own"
                )
            self._entries[claim.tier, claim.id] = Entry(claim, None, NOT_RUN, "")

    def record(self, id: str, measured, note: str = "") -> str:
        """Enter a measured value, and return the verdict.

        Raises: UnknownNameError for an id that is not in the ledger; ValueError for a claim of
        another tier, or a value of another form than the claim's.
        """
        claim = self._claim(id)
        verdict = HOLDS if _agrees(claim, measured) else DIFFERS
        self._entries[self.tier, id] = Entry(claim, _without_nan(_plain(measured)), verdict, note)
        return verdict

    def not_comparable(self, id: str, reason: str) -> str:
        """Say that a claim cannot be judged, and why (its corpus cannot be had, for one)."""
        self._entries[self.tier, id] = Entry(self._claim(id), None, NOT_COMPARABLE, reason)
        return NOT_COMPARABLE

    def _claim(self, id: str) -> Claim:
        own = {
            claim_id: entry.claim
            for (tier, claim_id), entry in self._entries.items()
            if tier == self.tier
        }
        if id in own:
            return own[id]
        others = sorted({tier for tier, claim_id in self._entries if claim_id == id})
        if others:
            raise ValueError(
                f"claim {id!r} belongs to {', '.join(others)}, and this ledger is for {self.tier!r}; record only its own"
            )
        raise unknown("claim", id, own, see=f"This ledger has {len(own)} claims of {self.tier!r}.")

    @property
    def entries(self) -> list[Entry]:
        """Each claim with its verdict."""
        return list(self._entries.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many claims of this tier have each verdict."""
        own = [entry.verdict for entry in self.entries if entry.claim.tier == self.tier]
        return {verdict: own.count(verdict) for verdict in _SIGN}

    @property
    def exit_code(self) -> int:
        """0 if each claim of this tier was run and held, 1 if one failed, 3 if one could not be run."""
        counts = self.counts
        if counts[DIFFERS]:
            return 1
        return 3 if counts[NOT_RUN] + counts[NOT_COMPARABLE] else 0

    def to_dict(self) -> dict:
        """All of it as plain values, which ``from_dict`` reads."""
        return {
            "tier": self.tier,
            "entries": [
                {
                    **vars(entry.claim),
                    "measured": entry.measured,
                    "verdict": entry.verdict,
                    "note": entry.note,
                }
                for entry in self.entries
            ],
        }

    @classmethod
    def from_dict(cls, data: dict) -> Ledger:
        """The ledger that ``to_dict`` wrote."""
        claim_keys = Claim.__dataclass_fields__.keys()
        ledger = cls([], tier=data["tier"])
        for row in data["entries"]:
            claim = Claim(**{key: row[key] for key in claim_keys})
            ledger._entries[claim.tier, claim.id] = Entry(
                claim, row["measured"], row["verdict"], row["note"]
            )
        return ledger

    def save(self, path: str | Path) -> Path:
        """Write the ledger as JSON."""
        path = Path(path)
        path.write_text(
            json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return path

    @classmethod
    def merge(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger of several of the same tier; an entry that was run wins over one that was not."""
        ledgers = list(ledgers)
        tiers = {ledger.tier for ledger in ledgers}
        if len(tiers) != 1:
            raise ValueError(
                f"ledgers of {len(tiers)} tiers ({', '.join(sorted(tiers))}) cannot be merged; merge those of one"
            )
        merged = cls([], tier=tiers.pop())
        for ledger in ledgers:
            for key, entry in ledger._entries.items():
                if entry.verdict != NOT_RUN or key not in merged._entries:
                    merged._entries[key] = entry
        return merged

    def summary(self) -> str:
        """One line: how many held, and so on."""
        counted = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items() if n)
        others = sum(entry.claim.tier != self.tier for entry in self.entries)
        return f"{self.tier}: {counted or 'no claims'}" + (
            f"; {others} of other tiers, not run here" if others else ""
        )

    def __repr__(self) -> str:
        rows = [_HEADINGS] + [_cells(entry) for entry in self.entries]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self.summary()])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), "text/html": self._html(), LEDGER_MIME: self.to_dict()}

    def _html(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(entry)) + "</tr>"
            for entry in self.entries
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(self.summary())}</p>"


_HEADINGS = ("verdict", "claim", "published", "measured", "tolerance", "unit", "note", "source")


def _cells(entry: Entry) -> tuple[str, ...]:
    claim = entry.claim
    where = f"needs {claim.tier}" if entry.verdict == NOT_RUN and not entry.note else entry.note
    return (
        f"{_SIGN[entry.verdict]} {entry.verdict}",
        claim.id,
        _shown(claim.value),
        _shown(entry.measured, tolerance=claim.tolerance),
        _shown(claim.tolerance) if not _is_words(claim.value) else "equal",
        claim.unit,
        where,
        claim.source,
    )


def _shown(value, *, tolerance: float = 0, limit: int = 48) -> str:
    """A value as text; a measured one to the decimals of its tolerance, since those beyond may differ elsewhere."""
    if value is None:
        return ""
    if isinstance(value, list):
        text = ", ".join(_shown(item, tolerance=tolerance) for item in value)
        return text if len(text) <= limit else text[: limit - 1] + "…"
    if isinstance(value, float):
        return (
            f"{value:.{max(0, math.ceil(-math.log10(tolerance)))}f}"
            if tolerance > 0
            else f"{value:.5g}"
        )
    return str(value)


def _plain(value):
    """A value as JSON can hold it: tensors and numpy numbers become Python's own."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"a measured value of type {type(value).__name__} cannot be entered; give a number, words, or a list of them"
        )
    return value


def _without_nan(value):
    """JSON has no NaN and no infinity: they become words."""
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value if isinstance(value, str) or math.isfinite(value) else str(value)


def _is_words(value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(map(_is_words, value)))


def _agrees(claim: Claim, measured) -> bool:
    return _close(claim.value, _plain(measured), claim.tolerance)


def _close(expected, measured, tolerance: float) -> bool:
    if isinstance(expected, list) != isinstance(measured, list) or isinstance(
        expected, str
    ) != isinstance(measured, str):
        raise ValueError(
            f"the claim is {_shown(expected)!r} and the measured value {_shown(measured)!r}; they must be of one form"
        )
    if isinstance(expected, list):
        return len(expected) == len(measured) and all(
            _close(e, m, tolerance) for e, m in zip(expected, measured)
        )
    if isinstance(expected, str):
        return expected == measured
    return math.isfinite(measured) and abs(measured - expected) <= tolerance
