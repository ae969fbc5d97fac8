"""Claims and their verdicts: recorded one by one, counted, stored, and shown as two tables."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saework.core import ledger_view
from saework.core.argument_kinds import check_text
from saework.core.claims import (
    CHANGED,
    DIFFERS,
    FLOAT32,
    HOLDS,
    NOT_COMPARABLE,
    NOT_RUN,
    STEPS,
    UNCHANGED,
    Claim,
    Entry,
    plain,
    without_nan,
)
from saework.core.errors import in_words, unknown
from saework.core.files import write_whole

LEDGER_MIME = "application/vnd.saework.ledger+json"
AGAINST, FOR = (DIFFERS, CHANGED), (HOLDS, UNCHANGED)
IN_THIS_ORDER = (*AGAINST, *FOR, NOT_COMPARABLE, NOT_RUN)
"""Of two verdicts on one claim, the first stays."""


class Ledger:
    """Claims and their verdicts, in the order in which the claims were given.

    Args:
        claims: what was published, and what this project recorded.
        tier: the release that is loaded. Claims of other tiers are listed as not run, and not
            counted.
        dtype: of model and SAE, such as ``"bfloat16"``. Tolerances are meant for float32; in
            another dtype a fraction may differ by that dtype's rounding, and values that this
            project recorded are not comparable.

    Raises:
        ValueError: two claims of one tier have the same id, or for a dtype that is not known.
    """

    def __init__(self, claims: Iterable[Claim], *, tier: str, dtype: object = FLOAT32):
        self.tier = tier
        self.dtype = str(dtype).removeprefix("torch.")
        if self.dtype not in (FLOAT32, *STEPS):
            raise ValueError(f"dtype is {dtype!r}; give {FLOAT32}, {' or '.join(STEPS)}")
        self._entries: dict[tuple[str, str], Entry] = {}
        for claim in _all_of(claims, Claim, "claims"):
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
        check_text("note", note)
        claim = self._claim(id)
        value = plain(measured)
        verdict = claim.verdict(value, self.dtype)
        remarks = [note, self._of_dtype(claim)]
        remark = "; ".join(filter(None, remarks))
        entry = Entry(claim, without_nan(value), verdict, remark, self.dtype)
        self._entries[self.tier, id] = entry
        return verdict

    def _of_dtype(self, claim: Claim) -> str:
        """What the dtype does to a comparison; empty if nothing."""
        if self.dtype != FLOAT32 and claim.is_recorded:
            return f"recorded in {FLOAT32}, measured in {self.dtype}"
        if claim.tolerance_in(self.dtype) > claim.tolerance:
            return f"within what {self.dtype} can give; in {FLOAT32} {claim.tolerance:g}"
        return ""

    def not_comparable(self, id: str, reason: str) -> str:
        """Say that a claim cannot be judged, and why: for example, its corpus is not available.

        Raises:
            UnknownNameError: the id is not in the ledger.
            ValueError: the claim is of another tier.
        """
        check_text("reason", reason)
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
        return {verdict: own.count(verdict) for verdict in ledger_view.SIGNS}

    @property
    def exit_code(self) -> int:
        """0 if all claims of this tier agree, 1 if one does not, 3 if one could not be run."""
        counts = self.counts
        if counts[DIFFERS] or counts[CHANGED]:
            return 1
        return 3 if counts[NOT_RUN] or counts[NOT_COMPARABLE] else 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, which ``from_dict`` reads."""
        entries = []
        for entry in self.entries:
            outcome: dict[str, Any] = {
                "kind": "recorded" if entry.claim.is_recorded else "published",
                "measured": entry.measured,
                "verdict": entry.verdict,
                "note": entry.note,
            }
            if entry.dtype != FLOAT32:
                outcome["dtype"] = entry.dtype
            entries.append(vars(entry.claim) | outcome)
        return {
            "tier": self.tier,
            "summary": self.summary(),
            "entries": entries,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ledger:
        """The ledger that ``to_dict`` wrote.

        Raises:
            ValueError: it is something else, or a part of it is missing.
        """
        try:
            ledger = cls([], tier=data["tier"])
            for row in data["entries"]:
                entry = _entry(row)
                ledger._entries[entry.claim.tier, entry.claim.id] = entry
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"this is no ledger ({type(error).__name__}: {error}); "
                "give what to_dict() or ledger.json holds"
            ) from error
        return ledger

    def save(self, path: str | Path) -> Path:
        """Write the ledger as JSON.

        Raises:
            OSError: the file cannot be written; what was there before stays.
            ValueError: a note cannot be written as text.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        return write_whole(path, text + "\n")

    @classmethod
    def merge(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger from several of one tier; an entry that was run replaces one that was not.

        Of two runs that disagree, the one that speaks against the claim stays, with a warning.

        Raises:
            ValueError: the ledgers are of several tiers or claims, or there is none.
        """
        ledgers = _all_of(ledgers, Ledger, "ledgers")
        tiers = {ledger.tier for ledger in ledgers}
        if len(tiers) != 1:
            raise ValueError(
                f"ledgers of {len(tiers)} tiers ({', '.join(sorted(tiers))}) cannot be merged; "
                "merge those of one"
            )
        merged = cls([], tier=tiers.pop())
        for ledger in ledgers:
            for key, entry in ledger._entries.items():
                known = merged._entries.get(key, entry)
                if known.claim != entry.claim:
                    raise ValueError(
                        f"two ledgers have different claims {entry.claim.id!r} of "
                        f"{entry.claim.tier!r}; merge ledgers of one list of claims"
                    )
                merged._entries[key] = _of_two_runs(known, entry)
        return merged

    def summary(self) -> str:
        """One line: how many published claims were run and hold, and how many values repeat."""
        return ledger_view.summary(self.entries)

    def text(self, *, verbose: bool = False) -> str:
        """Both tables as text, at most 80 columns wide; one line for each claim.

        Args:
            verbose: also each claim's tolerance, unit, note and source, and the recorded values
                that are unchanged.
        """
        return ledger_view.as_text(self.entries, verbose=verbose)

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": ledger_view.as_html(self.entries),
            LEDGER_MIME: self.to_dict(),
        }


def _entry(row: dict[str, Any]) -> Entry:
    """An entry of ``Ledger.to_dict``. Raises: ValueError for a verdict that does not exist."""
    claim = Claim(**{name: row[name] for name in Claim.__dataclass_fields__})
    verdict = row["verdict"]
    if verdict not in ledger_view.SIGNS:
        raise ValueError(
            f"the verdict of {claim.id!r} is {in_words(verdict)}; "
            f"there are {', '.join(ledger_view.SIGNS)}"
        )
    return Entry(
        claim,
        measured=row["measured"],
        verdict=verdict,
        note=row["note"],
        dtype=row.get("dtype", FLOAT32),
    )


def _all_of(values: Any, kind: type, what: str) -> list[Any]:
    """The values as a list. Raises: ValueError if one is of another class."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, dict)):
        raise ValueError(f"{what} is {in_words(values)}; give a list of {kind.__name__} objects")
    listed = list(values)
    for value in listed:
        if not isinstance(value, kind):
            raise ValueError(f"{what} hold {in_words(value)}; give {kind.__name__} objects only")
    return listed


def _of_two_runs(earlier: Entry, later: Entry) -> Entry:
    """The entry that stays of two of one claim; the later one, where their verdicts agree."""
    kept = min(later, earlier, key=lambda entry: IN_THIS_ORDER.index(entry.verdict))
    other = earlier if kept is later else later
    if kept.verdict in AGAINST and other.verdict in FOR:
        warnings.warn(
            f"two runs of claim {kept.claim.id!r} disagree: {other.measured} ({other.verdict}) and "
            f"{kept.measured} ({kept.verdict}); the ledger keeps the second. Run both again, with "
            "the same settings",
            stacklevel=3,
        )
    return kept
