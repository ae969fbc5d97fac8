"""Claims and their verdicts: recorded one by one, counted, stored, and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from saework.core.claims import (
    DIFFERS,
    HOLDS,
    NOT_COMPARABLE,
    NOT_RUN,
    Claim,
    Entry,
    agree,
    as_text,
    has_words,
    plain,
    without_nan,
)
from saework.core.errors import unknown

LEDGER_MIME = "application/vnd.saework.ledger+json"
_SIGN = {
    HOLDS: "✓",
    DIFFERS: "✗",
    NOT_RUN: "–",
    NOT_COMPARABLE: "?",
}
_HEADINGS = ("verdict", "claim", "published", "measured", "tolerance", "unit", "note", "source")


class Ledger:
    """Claims and their verdicts, in the order in which the claims were given.

    Args:
        claims: what was published.
        tier: the release that is loaded. Claims of other tiers are listed as not run, and not
            counted.

    Raises:
        ValueError: two claims of one tier have the same id.
    """

    def __init__(self, claims: Iterable[Claim], *, tier: str):
        self.tier = tier
        self._entries: dict[tuple[str, str], Entry] = {}
        for claim in claims:
            key = (claim.tier, claim.id)
            if key in self._entries:
                raise ValueError(
                    f"claim {claim.id!r} of {claim.tier!r} is given twice; "
                    "give each claim of a tier an id of its own"
                )
            self._entries[key] = Entry(claim, None, NOT_RUN, "")

    def record(self, id: str, measured: Any, note: str = "") -> str:
        """Enter a measured value, and return the verdict.

        Args:
            id: the claim's.
            measured: a value of the claim's form; tensors and arrays too.
            note: a remark, shown in the table.

        Raises:
            UnknownNameError: the id is not in the ledger.
            ValueError: the claim is of another tier, or the value of another form than the claim's.
        """
        claim = self._claim(id)
        value = plain(measured)
        holds = agree(claim.value, value, claim.tolerance)
        verdict = HOLDS if holds else DIFFERS
        self._entries[self.tier, id] = Entry(claim, without_nan(value), verdict, note)
        return verdict

    def not_comparable(self, id: str, reason: str) -> str:
        """Say that a claim cannot be judged, and why: for example, its corpus is not available.

        Raises:
            UnknownNameError: the id is not in the ledger.
            ValueError: the claim is of another tier.
        """
        claim = self._claim(id)
        self._entries[self.tier, id] = Entry(claim, None, NOT_COMPARABLE, reason)
        return NOT_COMPARABLE

    def _claim(self, id: str) -> Claim:
        own = {}
        other_tiers = []
        for (tier, claim_id), entry in self._entries.items():
            if tier == self.tier:
                own[claim_id] = entry.claim
            elif claim_id == id:
                other_tiers.append(tier)
        if id in own:
            return own[id]
        if other_tiers:
            raise ValueError(
                f"claim {id!r} belongs to {', '.join(sorted(other_tiers))}, "
                f"and this ledger is for {self.tier!r}; record only its own"
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
        """0 if all claims of this tier hold, 1 if one differs, 3 if one could not be run."""
        counts = self.counts
        if counts[DIFFERS]:
            return 1
        return 3 if counts[NOT_RUN] or counts[NOT_COMPARABLE] else 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, which ``from_dict`` reads."""
        entries = []
        for entry in self.entries:
            outcome = {
                "measured": entry.measured,
                "verdict": entry.verdict,
                "note": entry.note,
            }
            entries.append(vars(entry.claim) | outcome)
        return {
            "tier": self.tier,
            "entries": entries,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ledger:
        """The ledger that ``to_dict`` wrote."""
        ledger = cls([], tier=data["tier"])
        for row in data["entries"]:
            claim = Claim(**{name: row[name] for name in Claim.__dataclass_fields__})
            ledger._entries[claim.tier, claim.id] = Entry(
                claim,
                measured=row["measured"],
                verdict=row["verdict"],
                note=row["note"],
            )
        return ledger

    def save(self, path: str | Path) -> Path:
        """Write the ledger as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def merge(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger from several of one tier; an entry that was run replaces one that was not.

        Raises:
            ValueError: the ledgers are of several tiers, or there is none.
        """
        ledgers = list(ledgers)
        tiers = {ledger.tier for ledger in ledgers}
        if len(tiers) != 1:
            raise ValueError(
                f"ledgers of {len(tiers)} tiers ({', '.join(sorted(tiers))}) cannot be merged; "
                "merge those of one"
            )
        merged = cls([], tier=tiers.pop())
        for ledger in ledgers:
            for key, entry in ledger._entries.items():
                if entry.verdict != NOT_RUN or key not in merged._entries:
                    merged._entries[key] = entry
        return merged

    def summary(self) -> str:
        """One line: how many claims have each verdict."""
        counted = [f"{n} {verdict}" for verdict, n in self.counts.items() if n]
        counts = ", ".join(counted) or "no claims"
        line = f"{self.tier}: {counts}"
        n_others = sum(tier != self.tier for tier, _ in self._entries)
        if n_others:
            line += f"; {n_others} of other tiers, not run here"
        return line

    def __repr__(self) -> str:
        rows = [_HEADINGS, *(_cells(entry) for entry in self.entries)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = []
        for row in rows:
            padded = map(str.ljust, row, widths)
            lines.append("  ".join(padded).rstrip())
        lines.append(self.summary())
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": self._html(),
            LEDGER_MIME: self.to_dict(),
        }

    def _html(self) -> str:
        headings = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        rows = []
        for entry in self.entries:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in _cells(entry))
            rows.append(f"<tr>{cells}</tr>")
        return (
            f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p>{escape(self.summary())}</p>"
        )


def _cells(entry: Entry) -> tuple[str, ...]:
    """The texts of one row of the table."""
    claim = entry.claim
    note = entry.note
    if entry.verdict == NOT_RUN and not note:
        note = f"needs {claim.tier}"
    return (
        f"{_SIGN[entry.verdict]} {entry.verdict}",
        claim.id,
        as_text(claim.value),
        as_text(entry.measured, tolerance=claim.tolerance),
        "equal" if has_words(claim.value) else as_text(claim.tolerance),
        claim.unit,
        note,
        claim.source,
    )
